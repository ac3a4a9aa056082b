"""Checks of samplers against closed forms: one function per column of the table, on the results of `sample_all`."""

from collections.abc import Iterator

import numpy as np

from diffusion_jax.oracles import ancestral_law
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify.batch import Results
from diffusion_jax.verify.cases import EQUAL_SAMPLERS, LAWS, STANDARD_ERRORS
from diffusion_jax.verify.problems import CORRELATED, GAUSSIAN, GUIDED, MIXTURE, POINT
from diffusion_jax.verify.report import Row
from diffusion_jax.verify.routes import HALF, MANY_STEPS, ORDER_ROUTES, ORDER_STEPS, OTHER_BATCH, TWENTY_STEPS

# Largest bias of mean and standard deviation with 40 steps or more. First-order methods with the noise of the reverse
# SDE, or less, stay below it; a method with twice that noise does not.
BIAS = 0.1

_MANY = tuple(f"Uniform, {steps} steps" for steps in MANY_STEPS)


def check_samplers(results: Results, samplers: dict[str, Sampler], where: str) -> list[Row]:
    """Every check of every sampler on one schedule, which the rows call `where`."""
    rows = [*_check_equal_samplers(results, where)]
    for name, sampler in samplers.items():
        rows += _check_point_mass(results, name, where)
        rows.append(_check_other_batch(results, name, where))
        if results.is_deterministic(name):
            rows += _check_order(results, name, sampler, where)
            rows += _check_other_data(results, name, where)
            rows += _check_every_grid(results, name, sampler, where)
        else:
            rows += _check_moments_of_gaussians(results, name, where)
            rows.append(_check_distribution_of_mixture(results, name, where))
            rows.append(_check_covariance_of_pair(results, name, where))
        if name in LAWS:
            rows += _check_exact_law(results, name, where)
    return rows


def _check_point_mass(results: Results, sampler: str, where: str) -> Iterator[Row]:
    """A point mass is hit exactly on every grid: the last step ends on clean data, without noise."""
    for prediction in results.predictions:
        ends = [results.ends(sampler, route, prediction)[:, 1] for route in results.to_data]
        column = "point mass, eps" if prediction == "eps" else "point mass"
        error, limit = np.abs(np.array(ends) - POINT.mean).max(), point_mass_limit(results, prediction)
        yield Row(column, f"{where}, {prediction}", error, limit, subject=sampler)


def point_mass_limit(results: Results, prediction: str) -> float:
    """The largest error on a point mass that rounding explains.

    float32 rounds x_t at the size of sigma(1). At t = 1, eps -> x0 multiplies the rounding errors of x_t and of sigma
    eps, 2^-22 each if they lie between 4 and 8, by sigma/alpha, which is 20 291 for the cosine.
    """
    alpha, sigma = (scale[0] for scale in results.scales[TWENTY_STEPS])
    return 3e-5 * max(1, sigma) + (2 * 2**-22 * sigma / alpha if prediction == "eps" else 0.0)


def _check_other_batch(results: Results, sampler: str, where: str) -> Row:
    """An image depends on its own index, not on its place in the batch or on the other images."""
    image = results.end[sampler][TWENTY_STEPS][:HALF]
    elsewhere = results.end[sampler][OTHER_BATCH][:HALF][::-1]
    return Row("other batch", f"{where}, reversed", np.abs(image - elsewhere).max(), 1e-5, subject=sampler)


def _check_order(results: Results, name: str, sampler: Sampler, where: str) -> Iterator[Row]:
    """When the steps are halved, the error of a deterministic sampler falls by a factor 2^order."""
    for prediction in results.predictions:
        few, many = (_rms(results, name, route, prediction, slice(1)) for route in ORDER_ROUTES)
        case = f"{where}, {prediction}"
        yield Row("order", case, np.log2(few / many), sampler.order - 0.3, at_least=True, subject=name)
        yield Row("gaussian", f"{case}, {ORDER_STEPS[1]} steps", many, 0.05, subject=name)


def _check_other_data(results: Results, name: str, where: str) -> Iterator[Row]:
    """A deterministic sampler ends where the probability flow of the other data does."""
    for problem in ("guided", "mixture", "correlated"):
        error = _rms(results, name, ORDER_ROUTES[1], problem)
        yield Row(problem, f"{where}, {ORDER_STEPS[1]} steps", error, 0.05, subject=name)


def _check_every_grid(results: Results, name: str, sampler: Sampler, where: str) -> Iterator[Row]:
    """On every grid that starts at t = 1, a deterministic sampler ends where the probability flow does at t = 0."""
    limit = 0.2 if sampler.order == 1 else 0.05
    for route in results.to_data:
        # Not Karras with 20 steps: from a very low SNR its first steps of log-SNR are so long that a polynomial through
        # the previous steps overshoots.
        if route.endswith((" 20 steps", " 50 steps")) and not route.startswith(("Leading", "Karras, 20")):
            errors = [_rms(results, name, route, prediction, slice(1)) for prediction in results.predictions]
            yield Row("every grid", f"{where}, {route}", np.sqrt(np.mean(np.square(errors))), limit, subject=name)


def _rms(results: Results, sampler: str, route: str, problem: str, pixels: slice = slice(None)) -> float:
    """Root mean square distance from the end of the probability flow."""
    errors = results.ends(sampler, route, problem) - results.flow(route, problem)
    return np.sqrt(np.mean(errors[:, pixels] ** 2))


def _check_moments_of_gaussians(results: Results, name: str, where: str) -> Iterator[Row]:
    """With 40 uniform steps or more, samples have the data's mean and standard deviation, up to a small bias."""
    each = [results.ends(name, route, p)[:, 0] for p in results.predictions for route in _MANY]
    guided = [results.ends(name, route, "guided") for route in _MANY]
    for column, x, data in (("gaussian", np.concatenate(each), GAUSSIAN), ("guided", np.concatenate(guided), GUIDED)):
        mean, std = abs(x.mean() - data.mean) / data.std, abs(x.std() / data.std - 1)
        yield Row(column, f"{where}, mean", mean, BIAS + STANDARD_ERRORS / np.sqrt(x.size), subject=name)
        yield Row(column, f"{where}, std", std, BIAS + STANDARD_ERRORS / np.sqrt(2 * x.size), subject=name)


def _check_distribution_of_mixture(results: Results, name: str, where: str) -> Row:
    """Distance of Kolmogorov and Smirnov between the samples and the mixture."""
    x = np.sort(np.concatenate([results.ends(name, route, "mixture") for route in _MANY]), axis=None)
    cdf, empirical = MIXTURE.cdf(x), np.arange(len(x) + 1) / len(x)
    distance = max(np.abs(cdf - empirical[1:]).max(), np.abs(cdf - empirical[:-1]).max())
    return Row("mixture", f"{where}, distance of the cdf", distance, BIAS / 2 + 2 / np.sqrt(len(x)), subject=name)


def _check_covariance_of_pair(results: Results, name: str, where: str) -> Row:
    """Samples of the correlated pair, whitened with the data's covariance, have unit covariance."""
    pairs = np.concatenate([results.ends(name, route, "correlated") for route in _MANY])
    white = np.linalg.inv(np.linalg.cholesky(CORRELATED.covariance)) @ (pairs - CORRELATED.mean).T
    error, limit = np.abs(np.cov(white) - np.eye(2)).max(), 2 * BIAS + STANDARD_ERRORS * np.sqrt(2 / len(pairs))
    return Row("correlated", f"{where}, whitened covariance", error, limit, subject=name)


def _check_exact_law(results: Results, name: str, where: str) -> Iterator[Row]:
    """On every grid samples have the exact law of the discretised chain; in standard errors."""
    standardized = []
    for route in results.to_data:
        alphas, sigmas = results.scales[route]
        if len(alphas) == 2:
            continue  # a single step always ends on the mean
        mean, std = ancestral_law(GAUSSIAN, alphas, sigmas, *LAWS[name])
        standardized += [(results.ends(name, route, p)[:, 0] - mean) / std for p in results.predictions]
    x = np.concatenate(standardized)
    yield Row("exact law", f"{where}, mean", abs(x.mean()) * np.sqrt(x.size), STANDARD_ERRORS, subject=name)
    deviation = abs(x.std() - 1) * np.sqrt(2 * x.size)
    yield Row("exact law", f"{where}, std", deviation, STANDARD_ERRORS, subject=name)


def _check_equal_samplers(results: Results, where: str) -> Iterator[Row]:
    """Two names of one method give the same images from the same noise."""
    sigma = results.scales[TWENTY_STEPS][1][0]  # float32 rounds x_t at the size of sigma(1)
    for one, other in EQUAL_SAMPLERS.items():
        if one in results.end and other in results.end:
            distances = [np.abs(results.end[one][r] - results.end[other][r]).max() for r in results.to_data]
            yield Row(f"{one} = {other}", where, max(distances), 2e-4 * max(1, sigma))
