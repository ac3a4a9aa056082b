"""Checks of samplers against closed forms: one function a check, over what `marched.run` brought back."""

from collections.abc import Iterator

import numpy as np

from diffusion_jax.oracles import chain
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.verify.cases import EQUAL, LAWS, SIGMAS
from diffusion_jax.verify.marched import (
    CORRELATED,
    GAUSSIAN,
    GUIDED,
    MIXTURE,
    ORDER_STEPS,
    POINT,
    Marched,
)
from diffusion_jax.verify.report import Row

# How far the mean and deviation of 40 steps and more may be from the data's. A first order method with the
# noise of the reverse SDE, or less, keeps it; one with twice as much does not.
BIAS = 0.1


def check(marched: Marched, samplers: dict[str, Sampler], where: str) -> list[Row]:
    """Every check of every sampler on one schedule, called `where` in the rows."""
    rows = [*equivalences(marched, where)]
    for name, sampler in samplers.items():
        rows += point_mass(marched, name, where)
        rows.append(by_itself(marched, name, where))
        if marched.deterministic(name):
            rows += order(marched, name, sampler, where)
            rows += flows(marched, name, where)
            rows += to_data(marched, name, sampler, where)
        else:
            rows += many_steps(marched, name, where)
        if name in LAWS:
            rows += exact_law(marched, name, where)
    return rows


def point_mass(marched: Marched, sampler: str, where: str) -> Iterator[Row]:
    """Data of one point are hit exactly, on every grid: the last step lands on clean data, without noise."""
    for prediction in marched.predictions:
        pixels = marched.pixels("point", prediction)
        end = marched.end[sampler][marched.drawing, :, pixels]
        # float32 rounds x_t at the size of sigma(1); and at t = 1 eps -> x0 multiplies the rounding of x_t
        # and of sigma eps, 2^-22 each where they lie between 4 and 8, by sigma/alpha: 20 291 on the cosine.
        alpha, sigma = (scale[0] for scale in marched.scales[0])
        rounding = 2 * 2**-22 * sigma / alpha if prediction == "eps" else 0.0
        check, error = ("point, eps" if rounding else "point mass"), np.abs(end - POINT.mean).max()
        yield Row(check, f"{where}, {prediction}", error, 3e-5 * max(1, sigma) + rounding, subject=sampler)


def by_itself(marched: Marched, sampler: str, where: str) -> Row:
    """A picture depends on its own index: not on its place in the batch, nor on the others."""
    one, other = marched.in_company(sampler)
    return Row("batch", f"{where}, other company", np.abs(one - other).max(), 1e-5, subject=sampler)


def order(marched: Marched, name: str, sampler: Sampler, where: str) -> Iterator[Row]:
    """The error of a deterministic sampler falls as 2^-order when its steps are halved."""
    few, many = marched.order
    alphas, sigmas = marched.scales[many]
    ends = (alphas[0], sigmas[0]), (alphas[-1], sigmas[-1])
    for prediction in marched.predictions:
        pixels = marched.pixels("gaussian", prediction)
        exact = GAUSSIAN.flow(marched.start[few, :, pixels], *ends)
        error = [np.sqrt(np.mean((marched.end[name][i, :, pixels] - exact) ** 2)) for i in (few, many)]
        case = f"{where}, {prediction}"
        measured = np.log2(error[0] / error[1])
        yield Row("order", case, measured, sampler.order - 0.3, at_least=True, subject=name)
        yield Row("gaussian", f"{case}, {ORDER_STEPS[1]} steps", error[1], 0.05, subject=name)


def flows(marched: Marched, name: str, where: str) -> Iterator[Row]:
    """The other data: a deterministic sampler ends where the closed form of the flow does."""
    _, many = marched.order
    alphas, sigmas = marched.scales[many]
    ends = (alphas[0], sigmas[0]), (alphas[-1], sigmas[-1])
    for what, data in (("guided", GUIDED), ("mixture", MIXTURE), ("correlated", CORRELATED)):
        pixels = marched.pixels(what)
        exact = data.flow(marched.start[many, :, pixels], *ends)
        error = np.sqrt(np.mean((marched.end[name][many, :, pixels] - exact) ** 2))
        yield Row(what, f"{where}, {ORDER_STEPS[1]} steps", error, 0.05, subject=name)


def to_data(marched: Marched, name: str, sampler: Sampler, where: str) -> Iterator[Row]:
    """On every grid that starts at t = 1, a deterministic sampler ends where the flow does at t = 0."""
    limit = 0.2 if sampler.order == 1 else 0.05
    for i in marched.to_data():
        alphas, sigmas = marched.scales[i]
        ends = (alphas[0], sigmas[0]), (alphas[-1], sigmas[-1])
        errors = [
            GAUSSIAN.flow(marched.start[i, :, pixels], *ends) - marched.end[name][i, :, pixels]
            for pixels in (marched.pixels("gaussian", p) for p in marched.predictions)
        ]
        grid = marched.rows[i][0]
        yield Row("to data", f"{where}, {grid}", np.sqrt(np.mean(np.square(errors))), limit, subject=name)


def many_steps(marched: Marched, name: str, where: str) -> Iterator[Row]:
    """Samples of 40 uniform steps and more have the moments of the data, but for a small bias."""
    end = marched.end[name][marched.many_steps]
    each = [end[..., marched.pixels("gaussian", p)].ravel() for p in marched.predictions]
    yield from _moments("gaussian", np.concatenate(each), GAUSSIAN.mean, GAUSSIAN.std, name, where)
    guided = end[..., marched.pixels("guided")].ravel()
    yield from _moments("guided", guided, GUIDED.mean, GUIDED.std, name, where)
    mixture = np.sort(end[..., marched.pixels("mixture")].ravel())
    steps = np.arange(len(mixture) + 1) / len(mixture)
    cdf = MIXTURE.cdf(mixture)
    distance = max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())  # Kolmogorov and Smirnov's
    limit = BIAS / 2 + 2 / np.sqrt(len(mixture))
    yield Row("mixture", f"{where}, distance of the cdf", distance, limit, subject=name)
    both = end[..., marched.pixels("correlated")].reshape(-1, 2)
    apart = np.linalg.inv(np.linalg.cholesky(CORRELATED.covariance)) @ (both - CORRELATED.mean).T
    error = np.abs(np.cov(apart) - np.eye(2)).max()
    limit = 2 * BIAS + SIGMAS * np.sqrt(2 / len(both))
    yield Row("correlated", f"{where}, whitened covariance", error, limit, subject=name)


def _moments(check: str, x: np.ndarray, mean: float, std: float, name: str, where: str) -> Iterator[Row]:
    off, spread = abs(x.mean() - mean) / std, abs(x.std() / std - 1)
    yield Row(check, f"{where}, mean", off, BIAS + SIGMAS / np.sqrt(x.size), subject=name)
    yield Row(check, f"{where}, deviation", spread, BIAS + SIGMAS / np.sqrt(2 * x.size), subject=name)


def exact_law(marched: Marched, name: str, where: str) -> Iterator[Row]:
    """Samples have the exact law of the discretised chain on every grid; in standard errors."""
    whitened = []
    for i in marched.drawing:
        alphas, sigmas = marched.scales[i]
        if len(alphas) == 2:
            continue  # one step always ends on the mean
        mean, std = chain.law(GAUSSIAN, alphas, sigmas, *LAWS[name])
        each = [marched.end[name][i, :, marched.pixels("gaussian", p)] for p in marched.predictions]
        whitened.append((np.concatenate(each) - mean) / std)
    x = np.concatenate(whitened).ravel()
    yield Row("exact law", f"{where}, mean", abs(x.mean()) * np.sqrt(x.size), SIGMAS, subject=name)
    deviation = abs(x.std() - 1) * np.sqrt(2 * x.size)
    yield Row("exact law", f"{where}, deviation", deviation, SIGMAS, subject=name)


def equivalences(marched: Marched, where: str) -> Iterator[Row]:
    """Two names of one method give the same pictures from the same noise."""
    sigma = max(1.0, marched.scales[0][1][0])  # float32 rounds x_t at the size of sigma(1)
    for one, other in EQUAL.items():
        if one in marched.end and other in marched.end:
            apart = np.abs(marched.end[one] - marched.end[other])[marched.drawing].max()
            yield Row(f"{one} = {other}", where, apart, 2e-4 * sigma)
