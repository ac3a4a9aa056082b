"""Guidance: the ends bit for bit, and closed forms on Gaussians and a mixture of two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import optimized_jit
from oracles import SCHEDULES, Gaussian, exact_denoiser, quick_jit, scales
from slow import slow

import diffusion_jax as dj
from diffusion_jax.process.predictions import X0, Denoised
from diffusion_jax.sampling.thresholding import dynamic_threshold

SCHEDULE = SCHEDULES["cosine"]


def _network(factor):
    def apply(params, x, time, labels):
        return jnp.tanh(factor * x + 0.1)

    return dj.denoiser(apply, None, SCHEDULE, X0())


COND, UNCOND = _network(0.7), _network(-1.3)
X_T = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)


def _guided(scale, x_t=X_T, t=0.37):
    return dj.guidance.classifier_free(COND, UNCOND, scale)(x_t, t)


@pytest.mark.parametrize(("scale", "model"), [(1.0, COND), (0.0, UNCOND)])
@pytest.mark.parametrize("t", [1.0, 0.37, 0.001])
def test_1_is_the_conditional_and_0_the_unconditional_model_bit_for_bit(scale, model, t):
    found, exact = _guided(scale, t=t), model(X_T, t)
    np.testing.assert_array_equal(found.x0, exact.x0)
    np.testing.assert_array_equal(found.eps, exact.eps)


@pytest.mark.parametrize(("scale", "model"), [(1.0, COND), *slow((0.0, UNCOND))])
def test_both_ends_bit_for_bit_with_the_compiler_options_of_users(scale, model):
    """As users call it: samples under jit, the scale traced, one or one per image, or in an interval."""
    shape, key, times = (6, 4, 4, 3), jax.random.key(0), [1.0, 0.5, 0.1, 0.0]

    def generate(denoise):
        return dj.sample(key, denoise, SCHEDULE, shape, times=times)

    @optimized_jit
    def guided(scale):
        limited = dj.guidance.interval(scale, SCHEDULE, 0.0, np.inf)
        return [generate(dj.guidance.classifier_free(COND, UNCOND, w)) for w in (scale, jnp.full(6, scale), limited)]

    exact = optimized_jit(lambda: generate(model))()
    for found in guided(scale):
        np.testing.assert_array_equal(found, exact)


def test_guidance_is_linear_in_the_scale():
    """Equal steps of the scale are equal steps of both parts, through w = 0, 1 and beyond."""
    row = [np.float64(jax.tree.leaves(_guided(w))) for w in (-1.0, 0.0, 1.0, 2.0, 5.0)]
    step = row[2] - row[1]
    for found, count in zip(row, (-1, 0, 1, 2, 5), strict=True):
        np.testing.assert_allclose(found, row[1] + count * step, rtol=1e-4, atol=1e-4)


def test_each_image_may_have_its_own_scale():
    scales_of_each = np.array([0.0, 1.0, 2.0, 3.0, 7.5, -1.0])
    together = _guided(scales_of_each)
    for i, scale in enumerate(scales_of_each):
        alone = _guided(scale, X_T[i : i + 1])
        np.testing.assert_array_equal(together.x0[i], alone.x0[0])
        np.testing.assert_array_equal(together.eps[i], alone.eps[0])


def test_another_scale_never_recompiles():
    traces = []

    @jax.jit
    def run(scale):
        traces.append(scale)
        return _guided(scale)

    low, high = run(1.5), run(4.0)
    assert len(traces) == 1
    np.testing.assert_allclose(high.x0, _guided(4.0).x0, rtol=1e-4, atol=1e-4)
    assert not np.allclose(low.x0, high.x0)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_both_parts_still_add_up_to_x_t(scale):
    alpha, sigma = scales(SCHEDULE, 0.37)
    x0, eps = map(np.float64, jax.tree.leaves(_guided(scale)))
    np.testing.assert_allclose(alpha * x0 + sigma * eps, X_T, rtol=0, atol=2e-5)


def _two_classes(labels=None):
    """Exact denoiser of 1/2 N(-0.6, 0.2^2) + 1/2 N(0.6, 0.2^2), or of the class where it is given."""
    means = np.array([-0.6, 0.6])

    def denoise(x_t, t):
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        variance = alpha**2 * 0.04 + sigma**2
        surprise = (x_t[..., None] - alpha * means) / variance
        weight = jax.nn.softmax(-(surprise**2) * variance / 2, -1)
        if labels is not None:
            weight = jax.nn.one_hot(labels, 2)
        x0 = jnp.sum(weight * (means + alpha * 0.04 * surprise), -1)
        return dj.Denoised(x0, (x_t - alpha * x0) / sigma)

    return denoise


@pytest.mark.parametrize(("label", "sign"), [(0, -1), (1, 1)])
def test_guidance_moves_the_samples_towards_the_class_and_away_from_the_other(label, sign):
    """w = 0 draws both classes, w = 1 this one, w = 3 lies beyond it on the far side of the other."""

    @jax.jit
    def draw(scale):
        denoise = dj.guidance.classifier_free(_two_classes(label), _two_classes(), scale)
        return dj.sample(jax.random.key(5), denoise, SCHEDULE, (256, 1, 1, 1), steps=20)

    free, plain, strong = (sign * np.asarray(draw(scale)) for scale in (0.0, 1.0, 3.0))
    assert 0.35 < np.mean(free > 0) < 0.65
    assert abs(plain.mean() - 0.6) < 0.05
    assert (plain > 0).mean() > 0.98
    assert strong.mean() > plain.mean() + 0.02
    assert strong.min() > 0


def test_where_a_class_is_likely_guidance_adds_the_difference_of_the_two_x0():
    x_t = jnp.zeros((1, 1, 1, 1)) + 0.1
    cond, uncond = _two_classes(1), _two_classes()
    guided = dj.guidance.classifier_free(cond, uncond, 2.0)(x_t, 0.5).x0
    assert uncond(x_t, 0.5).x0 < cond(x_t, 0.5).x0 < guided


def _log_density(x_t, t, label=None):
    """log p_t of those two classes, or of one of them, up to a constant; float64."""
    alpha, sigma = scales(SCHEDULE, t)
    means = np.array([-0.6, 0.6]) if label is None else np.array([[-0.6, 0.6][label]])
    each = np.exp(-((np.asarray(x_t, np.float64)[..., None] - alpha * means) ** 2) / 2 / (0.04 * alpha**2 + sigma**2))
    return np.log(each.mean(-1))


@pytest.mark.parametrize("t", [0.9, 0.5, 0.2])
def test_the_guided_score_is_the_score_of_the_product_of_the_densities(t):
    """eps = -sigma d/dx [w log p_t(x | y) + (1 - w) log p_t(x)]."""
    x_t, step = np.linspace(-2, 2, 9).reshape(-1, 1, 1, 1), 1e-5
    w = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 7.5, -1.0]).reshape(-1, 1, 1, 1)

    def log_density(x):
        return w * _log_density(x, t, 1) + (1 - w) * _log_density(x, t)

    slope = (log_density(x_t + step) - log_density(x_t - step)) / (2 * step)
    denoise = dj.guidance.classifier_free(_two_classes(1), _two_classes(), w.ravel())
    found = denoise(jnp.asarray(x_t, jnp.float32), t).eps
    np.testing.assert_allclose(found, -scales(SCHEDULE, t)[1] * slope, rtol=1e-4, atol=1e-4)


def test_autoguidance_makes_precisions_add_up():
    """Both models Gaussian: the guided one has the precision w/v + (1 - w)/v_weaker at every t."""
    main, weaker = (exact_denoiser(Gaussian(0.3, std), SCHEDULE, X0()) for std in (0.5, 0.8))
    x_t = 2 * X_T
    for t, w in ((0.9, 2.0), (0.4, 3.0), (0.1, 1.5)):
        alpha, sigma = scales(SCHEDULE, t)
        precision = w / (0.25 * alpha**2 + sigma**2) + (1 - w) / (0.64 * alpha**2 + sigma**2)
        found = dj.guidance.autoguidance(main, weaker, w)(x_t, t)
        np.testing.assert_allclose(found.eps, sigma * precision * (x_t - alpha * 0.3), rtol=2e-5, atol=2e-5)


KARRAS = SCHEDULES["karras"]


def _nan(x_t, t, **kwargs):
    return dj.Denoised(jnp.full_like(x_t, jnp.nan), jnp.full_like(x_t, jnp.nan))


def of_any_schedule(denoise):
    """A denoiser that does not say which schedule it was made for: the levels below are those of another."""
    return lambda x_t, t: denoise(x_t, t)


def test_outside_the_interval_is_the_conditional_model_bit_for_bit_and_inside_is_guidance():
    """low < sigma <= high, each of three images with its own scale; one compile for all intervals.

    With the compiler options of users, which regroup the products inside.
    """
    x_t, w = X_T[:3], np.array([3.0, 1.0, -2.0])
    traces = []

    @optimized_jit
    def limited(scale, low, high, t):
        traces.append(t)
        w = dj.guidance.interval(scale, KARRAS, low, high)
        return dj.guidance.classifier_free(of_any_schedule(COND), of_any_schedule(UNCOND), w)(x_t, t)

    plain = optimized_jit(lambda t: COND(x_t, t))
    guided = optimized_jit(lambda scale, t: dj.guidance.classifier_free(COND, UNCOND, scale)(x_t, t))
    levels = {t: np.float32(KARRAS.sigma(t)) for t in (0.2, 0.5, 0.8)}
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.2, 0.8)):
        for t in levels:
            found = limited(w, levels[low], levels[high], t)
            inside = low < t <= high
            exact, rounding = (guided(w, t), 2e-6) if inside else (plain(t), 0.0)
            np.testing.assert_allclose(found.x0, exact.x0, rtol=rounding, atol=rounding)
            np.testing.assert_allclose(found.eps, exact.eps, rtol=rounding, atol=rounding)
    assert len(traces) == 1
    assert not np.array_equal(guided(w, 0.5).x0, plain(0.5).x0)


def test_outside_the_interval_the_other_model_is_not_called():
    """It would answer with NaN, which no weight of 0 can hide."""
    w = dj.guidance.interval(3.0, KARRAS, 0.3, 3.0)
    denoise = dj.guidance.classifier_free(of_any_schedule(COND), _nan, w)
    outside, inside = KARRAS.time(-2 * np.log(np.array([5.0, 1.0], np.float32)))
    np.testing.assert_array_equal(denoise(X_T, outside).x0, COND(X_T, outside).x0)
    assert np.isnan(denoise(X_T, inside).x0).all()


def test_each_image_is_in_or_out_of_the_interval_by_its_own_time():
    t = SCHEDULE.time(-2 * jnp.log(jnp.array([40.0, 2.0, 1.4, 0.4, 0.12, 0.05])))  # of these sigma/alpha
    w = dj.guidance.interval(3.0, SCHEDULE, 0.1, 1.5)(t)
    np.testing.assert_array_equal(w, [1.0, 1.0, 3.0, 3.0, 3.0, 1.0])


def test_no_signal_at_all_is_outside_of_every_finite_interval():
    flow = SCHEDULES["rectified"]
    assert dj.guidance.interval(3.0, flow, 0.3, 1e30)(1.0) == 1
    assert dj.guidance.interval(3.0, flow, 0.3, np.inf)(1.0) == 3


def _stds(x):
    return np.asarray(x, np.float64).reshape(len(x), -1).std(1)


@pytest.mark.parametrize("name", ["cosine", "rectified", "karras"])
def test_rescaling_sets_the_std_of_each_image_and_keeps_x_t(name):
    """std(x0) = (1 - factor) std(guided) + factor std(cond), by a factor on the whole image."""
    schedule, t = SCHEDULES[name], 0.4

    def network(factor):
        return dj.denoiser(lambda params, x, time, labels: jnp.tanh(factor * x + 0.1), None, schedule, X0())

    cond = network(0.7)
    guided = dj.guidance.classifier_free(cond, network(-1.3), 4.0)

    @quick_jit
    def rescaled(factor):
        return dj.guidance.rescale(guided, cond, schedule, factor)(X_T, t)

    before, wanted = guided(X_T, t), _stds(cond(X_T, t).x0)
    alpha, sigma = scales(schedule, t)
    for factor in (0.0, 0.7, 1.0):
        x0, eps = map(np.float64, jax.tree.leaves(rescaled(factor)))
        between = (1 - factor) * _stds(before.x0) + factor * wanted
        np.testing.assert_allclose(_stds(x0), between, rtol=1e-5)
        gain = (x0 / np.asarray(before.x0)).reshape(len(x0), -1)
        np.testing.assert_allclose(gain, np.broadcast_to(gain[:, :1], gain.shape), rtol=1e-5)
        np.testing.assert_allclose(alpha * x0 + sigma * eps, X_T, atol=2e-5 * (1 + sigma))
    untouched = dj.guidance.rescale(guided, cond, schedule, 0.0)(X_T, t)
    np.testing.assert_array_equal(untouched.x0, before.x0)
    np.testing.assert_array_equal(untouched.eps, before.eps)


def test_rescaling_what_is_not_guided_or_of_one_colour_changes_nothing():
    same = dj.guidance.rescale(COND, COND, SCHEDULE, 0.7)(X_T, 0.4)
    np.testing.assert_array_equal(same.x0, COND(X_T, 0.4).x0)
    pixels = X_T[:, :1, :1, :1]
    guided = dj.guidance.classifier_free(COND, UNCOND, 3.0)
    flat = dj.guidance.rescale(guided, COND, SCHEDULE, 0.7)(pixels, 0.4)
    np.testing.assert_array_equal(flat.x0, guided(pixels, 0.4).x0)


def test_a_rescaled_guidance_calls_its_two_networks_once_each():
    guided = dj.guidance.classifier_free(COND, UNCOND, 3.0)
    rescaled = dj.guidance.rescale(guided, COND, SCHEDULE, 0.7)
    calls = [jax.jit(denoise).lower(X_T, 0.4).compile().as_text().count(" tanh(") for denoise in (guided, rescaled)]
    assert calls == [2, 2]


def _posterior(alpha, sigma, x_t, seen=None, spread=0.4):
    """E[x0 | x_t] of N(0.3, 0.5^2), or E[x0 | x_t, y] with y = x0 + spread z seen; precisions add."""
    precision, mean = 1 / 0.25 + alpha**2 / sigma**2, 0.3 / 0.25 + alpha / sigma**2 * x_t
    if seen is None:
        return mean / precision
    return (mean + seen / spread**2) / (precision + 1 / spread**2)


def test_the_exact_classifier_makes_the_conditional_denoiser():
    """x0 ~ N(0.3, 0.5^2) and y = x0 + 0.4 z: log p(y | x_t) is Gaussian about E[x0 | x_t]."""
    seen, t = 0.9, np.array([0.9, 0.5, 0.1], np.float32)
    x_t = np.random.default_rng(1).normal(size=(3, 2, 2, 1)).astype(np.float32)

    def guided(schedule):
        def log_probability(x, time):
            time = time.reshape(-1, 1, 1, 1)
            alpha, sigma = schedule.alpha(time), schedule.sigma(time)
            spread = 0.4**2 + 1 / (1 / 0.25 + (alpha / sigma) ** 2)
            return -((seen - _posterior(alpha, sigma, x)) ** 2 / (2 * spread)).sum((1, 2, 3))

        prior = exact_denoiser(Gaussian(0.3, 0.5), schedule, X0())
        return dj.guidance.classifier(prior, log_probability, schedule)

    @quick_jit
    def all_of_them(x, t):
        return {name: guided(schedule)(x, t) for name, schedule in SCHEDULES.items()}

    for name, found in all_of_them(x_t, t).items():
        alpha, sigma = (scale.reshape(-1, 1, 1, 1) for scale in scales(SCHEDULES[name], t))
        exact = _posterior(alpha, sigma, np.float64(x_t), seen)
        np.testing.assert_allclose(found.x0, exact, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.eps, (x_t - alpha * exact) / sigma, rtol=2e-4, atol=2e-4)


def _towards(label):
    """log p(label | x_t) of the two classes; that they are equally likely at no signal is in it."""

    def log_probability(x_t, time):
        time = time.reshape(-1, 1, 1, 1)
        alpha, sigma = SCHEDULE.alpha(time), SCHEDULE.sigma(time)
        odds = 2 * 0.6 * alpha * x_t / (alpha**2 * 0.04 + sigma**2)
        return jax.nn.log_sigmoid(odds if label else -odds).sum((1, 2, 3))

    return log_probability


@pytest.mark.slow
def test_the_scale_of_a_classifier_is_each_image_s_own_and_the_two_guidances_agree():
    """With exact models the classifier's w is that of classifier-free guidance: Bayes' rule."""
    x_t, w = jnp.linspace(-1, 1, 5).reshape(-1, 1, 1, 1), np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    for label in (0, 1):
        found = dj.guidance.classifier(_two_classes(), _towards(label), SCHEDULE, w)(x_t, 0.5)
        free = dj.guidance.classifier_free(_two_classes(label), _two_classes(), w)(x_t, 0.5)
        np.testing.assert_allclose(found.x0, free.x0, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.eps, free.eps, rtol=1e-4, atol=1e-5)


def test_with_no_signal_a_classifier_moves_nothing():
    flow = SCHEDULES["rectified"]
    prior = exact_denoiser(Gaussian(), flow, X0())
    denoise = dj.guidance.classifier(prior, lambda x, time: (3 * x).sum((1, 2, 3)), flow, 5.0)
    found, exact = denoise(X_T, 1.0), prior(X_T, 1.0)
    np.testing.assert_array_equal(found.x0, exact.x0)
    np.testing.assert_array_equal(found.eps, exact.eps)
    assert np.abs(denoise(X_T, 0.9).x0 - prior(X_T, 0.9).x0).min() > 1


def test_a_classifier_sees_the_times_of_the_table_one_per_image():
    seen = []

    def log_probability(x_t, time):
        seen.append(np.asarray(time))
        return x_t.sum((1, 2, 3))

    dj.guidance.classifier(COND, log_probability, SCHEDULE)(X_T, 0.50037)
    np.testing.assert_allclose(seen[0], np.full(6, 0.501), rtol=1e-6)


def _wrapped():
    """Each wrapper around networks that insist on x0_hat and learn the variance."""

    def network(x0, fraction):
        def denoise(x_t, t, *, x0_hat):
            return Denoised(x0 + 0 * x_t, x0_hat, fraction + 0 * x_t)

        return denoise

    cond, other = network(0.5, 0.2), network(-3.0, 0.9)
    limited = dj.guidance.interval(2.0, SCHEDULE, 0.0, np.inf)
    return {
        "classifier_free": dj.guidance.classifier_free(cond, other, 2.0),
        "interval": dj.guidance.classifier_free(cond, other, limited),
        "autoguidance": dj.guidance.autoguidance(cond, other, 2.0),
        "rescale": dj.guidance.rescale(cond, other, SCHEDULE, 0.7),
        "classifier": dj.guidance.classifier(cond, _towards(1), SCHEDULE),
        "dynamic_threshold": dynamic_threshold(cond, SCHEDULE),
        "clipped": dj.clipped(cond, SCHEDULE),
    }


def test_every_wrapper_passes_keyword_arguments_on_and_keeps_the_fraction():
    pixels = X_T[:, :1, :1, :1]
    for name, denoise in _wrapped().items():
        found = denoise(pixels, 0.5, x0_hat=7 + 0 * pixels)
        assert found.variance_fraction is not None, name
        np.testing.assert_array_equal(found.variance_fraction, np.full(pixels.shape, np.float32(0.2)), name)
        assert np.asarray(found.eps).mean() > 6, name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dj.guidance.interval(2.0, SCHEDULE, 3.0, 0.3), "low = 3.0: must be below high = 0.3"),
        (lambda: dj.guidance.interval(2.0, SCHEDULE, -1, 1), "low = -1.0: must be >= 0 and finite"),
        (lambda: dj.guidance.interval(2.0, SCHEDULE, float("nan"), 1.0), "low = nan"),
        (lambda: dj.guidance.interval(2.0, SCHEDULE, np.float64(3.0), 0.3), "low = 3.0: must be below high = 0.3"),
        (lambda: dj.guidance.interval("2", SCHEDULE, 0.0, 1.0), "scale = '2': must be a number"),
        (lambda: dj.guidance.classifier_free(COND, COND, float("nan")), "scale = nan: must be finite"),
        (lambda: dj.guidance.autoguidance(COND, COND, [1.0, float("inf")]), "scale = inf: must be finite"),
        (lambda: dj.guidance.classifier(COND, None, SCHEDULE, "1"), "scale = '1': must be a number"),
        (lambda: dj.guidance.rescale(COND, COND, SCHEDULE, np.float32(2)), "factor = 2.0: must be in"),
        (lambda: dj.guidance.rescale(COND, COND, SCHEDULE, 1.5), r"factor = 1.5: must be in \[0, 1\]"),
        (
            lambda: dj.guidance.classifier_free(COND, UNCOND, np.ones(4))(X_T, 0.5),
            r"scale has shape \(4,\): must be one number or \[6\]",
        ),
        (
            lambda: dj.guidance.classifier_free(COND, UNCOND, np.ones((6, 1)))(X_T, 0.5),
            r"scale has shape \(6, 1\)",
        ),
        (
            lambda: dj.guidance.classifier(COND, lambda x, time: x.sum((1, 2, 3)), SCHEDULE, [1.0])(X_T, 0.5),
            r"scale has shape \(1,\)",
        ),
        (
            lambda: dj.guidance.rescale(COND, UNCOND, SCHEDULE, np.ones(5))(X_T, 0.5),
            r"factor has shape \(5,\)",
        ),
        (
            lambda: dj.guidance.classifier(COND, lambda x, time: x, SCHEDULE)(X_T, 0.5),
            r"log_probability\(x_t, time\) has shape \(6, 4, 4, 3\): must be \[6\]",
        ),
        (
            lambda: dj.guidance.classifier(COND, lambda x, time: x.sum(), SCHEDULE)(X_T, 0.5),
            r"log_probability\(x_t, time\) has shape \(\): must be \[6\]",
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
