"""Bits per dimension by both ways, against known densities and entropies."""

import dataclasses
import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import KINDS_FIRST, SCHEDULES, Gaussian, posterior_variance, quick_jit, scales, step_variance
from scipy import stats
from slow import slow

import diffusion_jax as dj
from diffusion_jax.process.forward import expand
from diffusion_jax.sampling import likelihood
from diffusion_jax.training.evaluate import LOG_SNR_EDGES

COSINE, STRAIGHT = SCHEDULES["cosine"], SCHEDULES["rectified"]
LEVELS = (np.arange(256) / 127.5 - 1).astype(np.float32).reshape(256, 1, 1, 1)
THREE_KINDS = ["cosine", "rectified", "karras"]  # variance preserving, straight, exploding
KEY = jax.random.key(7)


def _exact(data: Gaussian, schedule):
    """The exact denoiser of `data`; t may be a scalar or one per image."""
    return lambda x_t, t: data.denoised(x_t, expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t))


def _bits(nats, dims: int = 1):
    return np.asarray(nats, np.float64) / dims / math.log(2)


def _run(function, denoise, schedule, x, key=KEY, **kwargs):
    """`function` compiled without optimizations."""
    return jax.device_get(quick_jit(lambda key: function(key, denoise, schedule, x, **kwargs))(key))


# --- the flow's density ----------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS_FIRST)
def test_the_density_is_the_density_of_the_exact_flow_and_of_the_data(name):
    """log N(x_1; 0, sigma_1^2) and the gain of the affine map from the last time before 0 to t = 1."""
    schedule, data = SCHEDULES[name], Gaussian(0.1, 0.5)
    x = np.linspace(-0.9, 1.1, 16, dtype=np.float32).reshape(16, 1, 1, 1)
    found = _run(likelihood.log_density, _exact(data, schedule), schedule, x, steps=200, probes="exact")

    times = dj.grids.UniformLogSNR()(schedule, 200)
    first, last = scales(schedule, times[-2]), scales(schedule, 1.0)
    x_1, shifted = (data.flow(first[0] * x + d, first, last) for d in (0, 1.0))
    of_flow = stats.norm.logpdf(x_1, scale=last[1]) + np.log(first[0] * (shifted - x_1))
    np.testing.assert_allclose(_bits(found.value), _bits(of_flow.ravel()), rtol=0, atol=3e-3)
    assert (found.standard_error == 0).all()
    if name in THREE_KINDS:  # others have signal left at t = 1, or leave more noise
        of_data = stats.norm.logpdf(x.ravel(), data.mean, data.std)
        np.testing.assert_allclose(_bits(found.value), _bits(of_data), rtol=0, atol=0.01)


def test_the_error_falls_with_the_square_of_the_steps():
    schedule, data = STRAIGHT, Gaussian(0.0, 0.3)
    x = np.array([-0.5, 0.1, 0.4], np.float32).reshape(3, 1, 1, 1)
    density = stats.norm.logpdf(x.ravel(), 0, np.hypot(0.3, 1e-3 / (1 - 1e-3)))
    errors = []
    for steps in (25, 50):
        grid = dj.grids.UniformLogSNR()
        found = _run(
            likelihood.log_density,
            _exact(data, schedule),
            schedule,
            x,
            steps=steps,
            grid=grid,
            probes="exact",
        )
        errors.append(np.abs(found.value - density))
    order = np.log2(errors[0] / errors[1])
    assert ((order > 1.7) & (order < 2.6)).all(), order


@pytest.mark.parametrize("name", THREE_KINDS)
def test_a_point_mass_has_the_density_of_the_remaining_noise(name):
    """Exactly, in the fewest steps, for any remaining noise."""
    schedule, data, grid = SCHEDULES[name], Gaussian(0.25, 0.0), dj.grids.UniformLogSNR(last=0.2)
    alpha, sigma = scales(schedule, grid(schedule, 2)[-2])
    x = (0.25 + sigma / alpha * np.linspace(-2, 2, 9, dtype=np.float32)).reshape(9, 1, 1, 1)
    settings = dict(steps=2, grid=grid, probes="exact")
    found = _run(likelihood.log_density, _exact(data, schedule), schedule, x, **settings)
    density = stats.norm.logpdf(np.float64(np.float32(x)).ravel(), 0.25, sigma / alpha)
    at_one = np.divide(*scales(schedule, 1.0))  # the signal left there is ignored
    np.testing.assert_allclose(found.value, density, rtol=0, atol=2e-3 + 3 * 0.25 * at_one)


MEAN = np.array([0.5, -0.5, 0.0, 0.2])
FACTOR = np.array([[0.6, 0, 0, 0], [0.4, 0.3, 0, 0], [-0.2, 0.3, 0.2, 0], [0.1, -0.3, 0.2, 0.4]])
VALUES, VECTORS = np.linalg.eigh(FACTOR @ FACTOR.T)


def _correlated(x_t, t):
    """The exact denoiser of N(MEAN, FACTOR FACTOR^T) over images of 2x2 pixels."""
    alpha, sigma = STRAIGHT.alpha(t), STRAIGHT.sigma(t)
    along = (x_t.reshape(-1, 4) - alpha * MEAN) @ VECTORS / (alpha**2 * VALUES + sigma**2)
    x0, eps = MEAN + (alpha * VALUES * along) @ VECTORS.T, sigma * along @ VECTORS.T
    return dj.Denoised(x0.reshape(x_t.shape), eps.reshape(x_t.shape))


def test_correlated_pixels_have_their_density():
    x = (np.random.default_rng(1).normal(size=(8, 4)) @ FACTOR.T + MEAN).astype(np.float32)
    found = _run(likelihood.log_density, _correlated, STRAIGHT, x.reshape(8, 2, 2, 1), steps=200, probes="exact")
    density = stats.multivariate_normal(MEAN, FACTOR @ FACTOR.T).logpdf(x)
    np.testing.assert_allclose(_bits(found.value, 4), _bits(density, 4), rtol=0, atol=0.01)


def test_the_standard_error_of_the_trace_is_honest():
    """1 000 estimates of one density: unbiased, with the stated standard error, covered as Student's t predicts."""
    probes, x = 8, np.broadcast_to(np.float32(MEAN + 0.1), (1001, 4)).reshape(1001, 2, 2, 1)
    exact = _run(likelihood.log_density, _correlated, STRAIGHT, x[:1], steps=25, probes="exact").value[0]
    found = _run(likelihood.log_density, _correlated, STRAIGHT, x[1:], steps=25, probes=probes)
    off = found.value - exact
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(1000)
    assert np.sqrt(np.mean(found.standard_error**2)) == pytest.approx(off.std(), rel=0.15)
    inside = np.abs(off) < stats.t(probes - 1).ppf(0.95) * found.standard_error
    assert inside.mean() == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 1000))
    assert off.std() == pytest.approx(_std_of_traces(25) / np.sqrt(probes), rel=0.1)


def _std_of_traces(steps: int) -> float:
    """Standard deviation of one Rademacher vector's integral of the trace: var(v^T J v) = 2 sum of J_ij^2, i != j."""
    times = dj.grids.UniformLogSNR()(STRAIGHT, steps)[:-1]
    variances = []
    for alpha, sigma in zip(*scales(STRAIGHT, times), strict=True):
        shrinkage = alpha * VALUES / (alpha**2 * VALUES + sigma**2)
        jacobian = np.hypot(alpha, sigma) * (VECTORS * shrinkage) @ VECTORS.T
        variances.append(2 * (np.sum(jacobian**2) - np.sum(np.diag(jacobian) ** 2)))
    alphas, sigmas = scales(STRAIGHT, times)
    places = np.log(np.tan(np.arctan2(sigmas, alphas) / 2))  # d phi / sin(phi), by the trapezoidal rule
    widths = np.abs(np.diff(places))
    weights = (np.append(0, widths) + np.append(widths, 0)) / 2
    return np.sqrt(np.sum(weights**2 * variances))


def test_the_network_is_only_called_at_the_times_of_the_grid():
    """It is not trained between the steps of a table."""
    seen = set()

    def denoise(x_t, t):
        jax.debug.callback(lambda t: seen.add(float(t)), t)
        return Gaussian().denoised(x_t, COSINE.alpha(t), COSINE.sigma(t))

    jax.block_until_ready(_run(likelihood.log_density, denoise, COSINE, LEVELS[:2], steps=25, probes=2))
    jax.effects_barrier()
    times = dj.grids.UniformLogSNR()(COSINE, 25)[:-1]
    assert seen == {float(t) for t in times.astype(np.float32)}


# --- bits per dimension ----------------------------------------------------------------------

HALF = 256 / 255  # the bins of the 256 values fill [-HALF, HALF]


def _uniform(schedule):
    """The exact denoiser of pixels uniform on [-HALF, HALF]: the mean of a truncated normal distribution.

    By Gauss-Legendre quadrature over the part of the interval that the posterior N(x_t/alpha, (sigma/alpha)^2) reaches.
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)

    def denoise(x_t, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        reach = 7 * sigma / jnp.maximum(alpha, 1e-6)
        nearest = jnp.clip(x_t / jnp.maximum(alpha, 1e-6), -HALF, HALF)
        low, high = jnp.maximum(nearest - reach, -HALF), jnp.minimum(nearest + reach, HALF)
        x = ((low + high) / 2)[..., None] + ((high - low) / 2)[..., None] * nodes
        mass = jax.nn.softmax(np.log(weights) - ((alpha * x - x_t[..., None]) / sigma) ** 2 / 2, -1)
        x0 = (mass * x).sum(-1)
        return dj.Denoised(x0, (x_t - alpha * x0) / sigma)

    return denoise


def test_uniform_images_take_eight_bits_by_the_flow():
    for schedule in (STRAIGHT, COSINE):
        found = _run(likelihood.by_ode, _uniform(schedule), schedule, LEVELS, steps=200, probes=2)
        inner = slice(4, 252)  # at the edges the noise that the flow leaves has an effect
        np.testing.assert_allclose(found.value[inner], 8.0, rtol=0, atol=0.03)
        assert found.value.mean() == pytest.approx(8.0, abs=0.01)


# --- the variational bound -------------------------------------------------------------------


def _expected_terms(data: Gaussian, schedule, x0: float, times, variance: str) -> list[float]:
    """The bound's terms for one pixel in nats, each exact in expectation over x_t; float64.

    With the best x0-hat = x0 - (1 - k alpha)(x0 - mean) + k sigma eps, its squared error has a known
    expectation, and so has the KL of two Gaussians; the decoder's is an integral over eps.
    """
    at = [tuple(float(part) for part in scales(schedule, t)) for t in times]
    terms = []
    for (alpha, sigma), at_s in pairwise(at[:-1]):
        q = posterior_variance((alpha, sigma), at_s)
        p = q if variance == "small" else step_variance((alpha, sigma), at_s)
        gain = at_s[0] - np.sqrt(at_s[1] ** 2 - q) / sigma * alpha  # of x0, in the posterior's mean
        k = alpha * data.std**2 / (alpha**2 * data.std**2 + sigma**2)
        error = ((1 - k * alpha) * (x0 - data.mean)) ** 2 + (k * sigma) ** 2
        terms.append((np.log(p / q) + (q + gain**2 * error) / p - 1) / 2)
    alpha, sigma = at[-2]
    std = sigma
    if variance == "small" and schedule.steps is not None:
        first, second = (scales(schedule, k / schedule.steps) for k in (1, 2))
        std = np.sqrt(posterior_variance(second, first))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x0_hat = np.asarray(data.denoised(alpha * x0 + sigma * nodes, alpha, sigma).x0, np.float64)
    # How far the bin's edges lie from x0-hat, on the side where the distribution has a tail.
    near, far = (stats.norm.logcdf((side / 255 - abs(x0 - x0_hat)) / std) for side in (1, -1))
    if x0 == 1:
        near, far = stats.norm.logsf(1 - 1 / 255, x0_hat, std), -np.inf
    return [*terms, -(weights * (near + np.log1p(-np.exp(far - near)))).sum() / weights.sum()]


@pytest.mark.parametrize("name", ["cosine", *slow("rectified", "karras")])
def test_every_term_of_the_bound_is_its_expectation(name):
    """Mean over 4 096 samples of x_t, within the error of that mean; two pixels, one of the last value."""
    schedule, data, steps = SCHEDULES[name], Gaussian(0.3, 0.5), 10
    grid = dj.grids.UniformLogSNR()
    x0 = np.broadcast_to(LEVELS[[100, 255]].reshape(1, 1, 2, 1), (4096, 1, 2, 1))

    def both(key, *args, **kwargs):
        return [likelihood.by_vlb(key, *args, variance=v, **kwargs) for v in ("small", "large")]

    found = _run(both, _exact(data, schedule), schedule, x0, steps=steps, grid=grid)
    times = grid(schedule, steps)
    signal = np.divide(*scales(schedule, 1.0)) ** 2 / 2 * np.mean(x0**2)
    for bound, variance in zip(found, ("small", "large"), strict=True):
        exact = [_expected_terms(data, schedule, float(x), times, variance) for x in x0[0].ravel()]
        terms = np.asarray([*bound.diffusion, bound.decoder], np.float64)
        error = terms.std(1) / np.sqrt(4096)
        assert (np.abs(terms.mean(1) - _bits(np.mean(exact, 0))) < 5 * error + 1e-5).all()
        correlation = np.corrcoef(terms[1:])  # the terms have independent noise; the first may not depend on it
        np.testing.assert_allclose(correlation, np.eye(steps - 1), rtol=0, atol=0.1)
        np.testing.assert_allclose(bound.prior, _bits(signal), rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(bound.total, bound.prior + terms.sum(0), rtol=1e-5)
        np.testing.assert_allclose(bound.times, times[:-1], rtol=1e-6)


@pytest.mark.slow
def test_the_bound_falls_to_the_entropy_as_the_steps_grow():
    """With the exact denoiser of uint8 pixels, averaged over all values with their probabilities."""
    x0, levels = np.tile(LEVELS, (8, 1, 1, 1)), LEVELS.ravel()

    @quick_jit
    def totals(mass):
        def denoise(x_t, t):
            alpha, sigma = STRAIGHT.alpha(t), STRAIGHT.sigma(t)
            far = (x_t[..., None] - alpha * levels) / sigma
            best = jax.nn.softmax(jnp.log(mass) - far**2 / 2) @ levels
            return dj.Denoised(best, (x_t - alpha * best) / sigma)

        settings = dict(grid=dj.grids.UniformLogSNR())
        return [likelihood.by_vlb(KEY, denoise, STRAIGHT, x0, steps=s, **settings).total for s in (40, 160)]

    edges = np.concatenate([[-np.inf], levels[1:] - 1 / 255, [np.inf]])
    uniform, normal = np.full(256, 1 / 256), np.diff(stats.norm.cdf(edges, 0.1, 0.3))
    for mass, entropy in ((uniform, 8.0), (normal, -(normal * np.log2(normal)).sum())):
        found = totals(mass)
        coarse, fine = (float(np.mean(total.reshape(8, 256) @ mass)) for total in found)
        assert entropy < fine < coarse < entropy + 1
        # The gap is proportional to the length of the steps.
        assert fine + (fine - coarse) / 3 == pytest.approx(entropy, abs=0.07)


def test_a_learned_variance_at_the_ends_of_its_range_is_small_or_large():
    exact = _exact(Gaussian(), STRAIGHT)

    def totals(key, _, schedule, x0):
        def total(variance, denoise):
            return likelihood.by_vlb(key, denoise, schedule, x0, variance=variance, steps=4).total

        def learned(fraction):
            return lambda x_t, t: dataclasses.replace(exact(x_t, t), variance_fraction=jnp.full_like(x_t, fraction))

        sides = (("small", 0.0), ("large", 1.0))
        return [(total(name, exact), total("learned", learned(fraction))) for name, fraction in sides]

    small, large = _run(totals, None, STRAIGHT, LEVELS[::32])
    np.testing.assert_allclose(*small, rtol=1e-5)
    np.testing.assert_allclose(*large, rtol=1e-5)
    assert not np.isclose(small[0], large[0], rtol=1e-2).any()


def test_a_few_sampled_terms_estimate_the_bound_with_an_honest_standard_error():
    x0, draws, schedule = np.broadcast_to(LEVELS[90], (1000, 1, 1, 1)), 32, STRAIGHT
    settings = dict(steps=20, grid=dj.grids.UniformLogSNR())

    def totals(key, *args):
        full = likelihood.by_vlb(key, *args, **settings)
        return full, likelihood.by_sampled_vlb(jax.random.fold_in(key, 0), *args, draws=draws, **settings)

    bound, few = _run(totals, _exact(Gaussian(0.3, 0.5), schedule), schedule, x0)
    full = bound.total
    error = np.hypot(full.std(), few.value.std()) / np.sqrt(1000)
    assert abs(few.value.mean() - full.mean()) < 4 * error
    assert np.sqrt(np.mean(few.standard_error**2)) == pytest.approx(few.value.std(), rel=0.1)
    inside = np.abs(few.value - full.mean()) < stats.t(draws - 1).ppf(0.95) * few.standard_error
    assert inside.mean() == pytest.approx(0.9, abs=0.04)
    # A draw is S - 1 times a random diffusion term, plus a decoder term: its variance from the terms themselves.
    of_a_draw = len(bound.diffusion) ** 2 * bound.diffusion.var() + bound.decoder.var()
    assert few.value.std() == pytest.approx(np.sqrt(of_a_draw / draws), rel=0.1)


def test_terms_are_binned_by_the_log_snr_of_their_time():
    def both(key, denoise, schedule, x0):
        bound = likelihood.by_vlb(key, denoise, schedule, x0, steps=10)
        return bound, likelihood.by_log_snr(bound, schedule, LOG_SNR_EDGES)

    bound, binned = _run(both, _exact(Gaussian(), COSINE), COSINE, LEVELS[:3])
    edges = [-np.inf, *LOG_SNR_EDGES, np.inf]
    # cosine: abar(t) = cos^2(pi/2 (t + 0.008)/1.008), up to its clipped last step
    angles = np.pi / 2 * (bound.times[1:-1] + 0.008) / 1.008
    log_snr = np.append(-np.inf, -2 * np.log(np.tan(angles)))
    for low, high, found in zip(edges[:-1], edges[1:], binned, strict=True):
        chosen = (low <= log_snr) & (log_snr < high)
        np.testing.assert_allclose(found, bound.diffusion[chosen].sum(0), rtol=1e-5)


# --- both ------------------------------------------------------------------------------------

WAYS = [
    (likelihood.by_vlb, {}),
    (likelihood.by_sampled_vlb, {"draws": 2}),
    (likelihood.by_ode, {"probes": 2}),
]
every_way = pytest.mark.parametrize(("way", "settings"), WAYS, ids=lambda way: getattr(way, "__name__", ""))


@every_way
def test_an_image_has_the_same_figure_in_any_batch(way, settings):
    denoise, x0 = _exact(Gaussian(), STRAIGHT), LEVELS[:64].reshape(4, 4, 4, 1)

    @quick_jit
    def figure(x0, indices):
        return way(KEY, denoise, STRAIGHT, x0, steps=4, indices=indices, **settings)[0]

    together = figure(x0, jnp.arange(4))
    alone, elsewhere = (figure(x0[[3, 1]], jnp.array(indices)) for indices in ([3, 1], [0, 1]))
    np.testing.assert_allclose(alone, together[jnp.array([3, 1])], rtol=2e-6)
    assert not np.isclose(elsewhere[0], alone[0], rtol=2e-5)


@pytest.mark.parametrize(("way", "settings"), [WAYS[0], WAYS[2]], ids=["vlb", "ode"])
def test_memory_does_not_grow_with_the_steps(way, settings):
    schedule, x0, needed = STRAIGHT, LEVELS.reshape(1, 16, 16, 1), []
    denoise = _exact(Gaussian(), schedule)
    for steps in (4, 64):
        run = quick_jit(lambda key, n=steps: way(key, denoise, schedule, x0, steps=n, **settings))
        needed.append(run.lower(KEY).compile().memory_analysis().temp_size_in_bytes)
    assert needed[1] - needed[0] < 4 * x0.size * 16  # 60 more states would be 60 times x0.size


def _call(way, x0=LEVELS[:2], **kwargs):
    return way(KEY, _exact(Gaussian(), COSINE), COSINE, x0, **kwargs)


@pytest.mark.parametrize(
    ("way", "wrong", "message"),
    [
        (likelihood.by_vlb, {"variance": "medium"}, "variance = 'medium'"),
        (likelihood.by_vlb, {"steps": 1}, "steps = 1: must be an integer >= 2"),
        (likelihood.by_vlb, {"steps": 2000}, "steps = 2000: must be at most 1000"),
        (
            likelihood.by_vlb,
            {"grid": dj.grids.Leading(), "steps": 10},
            "grid Leading starts at t = 0.901: must start at t = 1",
        ),
        (
            likelihood.by_ode,
            {"grid": dj.grids.Leading(), "steps": 10},
            "grid Leading starts at t = 0.901: must start at t = 1",
        ),
        (likelihood.by_vlb, {"x0": LEVELS[:2] + 0.003}, "x0 contains -0.997: must be uint8 values k/127.5 - 1; or use"),
        (likelihood.by_ode, {"x0": LEVELS[:2] * 1.5}, "x0 contains -1.5"),
        (likelihood.by_ode, {"x0": LEVELS[:2] * np.nan}, "x0 has values that are not finite"),
        (likelihood.by_ode, {"x0": np.zeros((2, 1, 1, 1), np.uint8)}, "x0 has dtype uint8: must be floats"),
        (likelihood.by_ode, {"x0": LEVELS[0, 0, 0, 0]}, r"x0 has shape \(\): must be \[B, ...\]"),
        (likelihood.log_density, {"x0": np.full((2, 1, 1, 1), np.inf)}, "x has values that are not finite"),
        (likelihood.log_density, {"x0": np.zeros(3)}, r"x has shape \(3,\): must be \[B, ...\]"),
        (likelihood.by_ode, {"probes": 1}, 'probes = 1: must be "exact" or an integer >= 2'),
        (likelihood.by_ode, {"probes": True}, "probes = True: must be"),
        (likelihood.by_ode, {"probes": "all"}, "probes = 'all': must be .exact. or an integer"),
        (likelihood.by_sampled_vlb, {"draws": 1}, "draws = 1: must be an integer >= 2"),
        (likelihood.by_ode, {"indices": [0, 1, 2]}, r"indices has shape \(3,\)"),
        (likelihood.by_vlb, {"indices": [0.0, 1.0], "steps": 2}, r"indices = \[0.0, 1.0\]: must be integers"),
    ],
)
def test_bad_arguments_are_refused(way, wrong, message):
    with pytest.raises(ValueError, match=message):
        _call(way, **wrong)


@pytest.mark.parametrize("edges", [(4.0, 0.0), (0.0, 0.0), ((0.0, 1.0),), (0.0, float("nan"))])
def test_edges_that_do_not_increase_are_refused(edges):
    bound = likelihood.Bound(*[np.zeros((1, 2))] * 4, np.array([1.0, 0.5]))
    with pytest.raises(ValueError, match="^edges = "):
        likelihood.by_log_snr(bound, COSINE, edges)
