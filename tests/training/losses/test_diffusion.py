"""The weighted squared error, for networks whose x0 is known, under each prediction type and weighting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quick_jit
from slow import slow

from diffusion_jax.process import predictions, schedules
from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.training import losses
from diffusion_jax.training.losses import DiffusionLoss, Examples

SCHEDULES = [
    schedules.Cosine(),
    schedules.RectifiedFlow(),
    schedules.Karras(),
    schedules.Shifted(schedules.Cosine(), resolution=256),
    schedules.ZeroTerminalSNR(schedules.LinearBeta()),
]
PREDICTIONS = [
    predictions.Eps(),
    predictions.X0(),
    predictions.V(),
    predictions.Velocity(),
    predictions.Preconditioned(),
]
WEIGHTINGS = [losses.Uniform(), losses.MinSNR(), losses.EDM(), losses.Sigmoid()]


def name_of(value):
    return type(value).__name__


def images(n=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, 4, 4, 2)), jnp.float32)


def noise(n=6, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 4, 4, 2)), jnp.float32)


def at_times(t):
    t = jnp.asarray(t, jnp.float32)
    return Examples(images(len(t)), None, t, noise(len(t)))


# The outputs by which a network says x0, one for each prediction type. The schedule is variance preserving:
# alpha^2 + sigma^2 = 1.


def as_eps(x_t, x0, alpha, sigma):
    return (x_t - alpha * x0) / sigma


def as_x0(x_t, x0, alpha, sigma):
    return x0


def as_v(x_t, x0, alpha, sigma):
    return alpha * as_eps(x_t, x0, alpha, sigma) - sigma * x0


def as_velocity(x_t, x0, alpha, sigma):
    return as_eps(x_t, x0, alpha, sigma) - x0


def as_preconditioned(x_t, x0, alpha, sigma, sigma_data=0.5):
    """F of x0 = c_skip x + c_out F with x = x_t/alpha (Karras et al. 2022, Table 1)."""
    s = sigma / alpha
    c_skip = sigma_data**2 / (s**2 + sigma_data**2)
    c_out = s * sigma_data / jnp.sqrt(s**2 + sigma_data**2)
    return (x0 - c_skip * x_t / alpha) / c_out


OUTPUTS = list(zip(PREDICTIONS, [as_eps, as_x0, as_v, as_velocity, as_preconditioned], strict=True))
every_prediction = pytest.mark.parametrize(("prediction", "as_output"), OUTPUTS, ids=[name_of(p) for p in PREDICTIONS])


@every_prediction
def test_min_snr_is_the_same_loss_for_every_prediction(prediction, as_output):
    """min(SNR, gamma) |x0_hat - x0|^2, where SNR = abar/(1 - abar) from the schedule's float64 table."""
    schedule, gammas = schedules.Cosine(steps=100), (1.0, 5.0)
    steps = np.array([1, 3, 20, 50, 80, 95])
    examples = at_times(steps / 100)
    abar = schedule.abar()[steps]
    alpha, sigma = (jnp.asarray(np.sqrt(x)[:, None, None, None], jnp.float32) for x in (abar, 1 - abar))
    x_t, x0_hat = alpha * examples.x0 + sigma * examples.eps, 0.7 * examples.x0 + 0.1

    def apply(params, x, time, labels):
        return as_output(x_t, x0_hat, alpha, sigma)

    @quick_jit
    def compute():
        each = [DiffusionLoss(schedule, prediction, losses.MinSNR(gamma)) for gamma in gammas]
        return [loss.per_example(apply, None, examples) for loss in each]

    error = np.square(np.asarray(x0_hat - examples.x0)).mean(axis=(1, 2, 3))
    for gamma, found in zip(gammas, compute(), strict=True):
        np.testing.assert_allclose(found, np.minimum(abar / (1 - abar), gamma) * error, rtol=2e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name_of)
@pytest.mark.parametrize("schedule", [*SCHEDULES[:3], *slow(*SCHEDULES[3:])], ids=name_of)
def test_losses_and_gradients_are_finite_at_both_ends(schedule, prediction):
    try:
        prediction.check(schedule)
    except ValueError:
        pytest.skip("these do not go together")
    examples = at_times([0.0, 1e-6, 1e-3, 0.5, 0.999, 1.0])

    def total(params):
        """params has a number for each weighting and example, so that each has its own gradient."""
        values = jnp.stack(
            [
                DiffusionLoss(schedule, prediction, weighting).per_example(
                    lambda factor, x, time, labels: factor * x + time.reshape(-1, 1, 1, 1),
                    factors.reshape(-1, 1, 1, 1),
                    examples,
                )
                for weighting, factors in zip(WEIGHTINGS, params, strict=True)
            ]
        )
        return values.sum(), values

    params = jnp.full((len(WEIGHTINGS), 6), 0.3)
    (_, values), grads = quick_jit(jax.value_and_grad(total, has_aux=True))(params)
    assert values.shape == grads.shape == params.shape
    assert jnp.isfinite(values).all()
    assert (values >= 0).all()
    assert jnp.isfinite(grads).all()


def test_uniform_is_the_plain_squared_error():
    """For a network whose output is 0, the loss is the mean square of the target."""
    schedule, examples = schedules.Karras(), at_times([0.1, 0.25, 0.5, 0.75, 0.9])

    @quick_jit
    def compute():
        alpha, sigma = (f(examples.t).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        targets = [prediction.target(examples.x0, examples.eps, alpha, sigma) for prediction in PREDICTIONS]
        each = [DiffusionLoss(schedule, prediction, losses.Uniform()) for prediction in PREDICTIONS]
        return targets, [loss.per_example(lambda p, x, *_: jnp.zeros_like(x), None, examples) for loss in each]

    for target, found in zip(*compute(), strict=True):
        expected = [np.mean(np.square(row, dtype=np.float64)) for row in np.asarray(target)]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@every_prediction
def test_a_perfect_network_has_no_loss(prediction, as_output):
    schedule, t = schedules.Cosine(), [0.1, 0.3, 0.5, 0.7, 0.9]
    examples = at_times(t)

    @quick_jit
    def compute():
        alpha, sigma = (f(examples.t).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        output = as_output(alpha * examples.x0 + sigma * examples.eps, examples.x0, alpha, sigma)
        each = [DiffusionLoss(schedule, prediction, weighting) for weighting in WEIGHTINGS]
        return [loss.per_example(lambda *_: output, None, examples) for loss in each]

    for found in compute():
        np.testing.assert_allclose(found, 0, atol=1e-6)


def test_the_network_receives_the_noised_images_the_time_and_the_labels():
    schedule = schedules.RectifiedFlow()
    examples = at_times([0.25, 0.75])._replace(labels=jnp.array([3, NO_LABEL]))
    seen = {}

    def apply(params, x, time, labels, train):
        seen.update(params=params, x=x, time=time, labels=labels, train=train)
        return x

    DiffusionLoss(schedule, predictions.X0()).per_example(apply, "params", examples, train=True)
    for i, t in enumerate([0.25, 0.75]):
        expected = (1 - t) * examples.x0[i] + t * examples.eps[i]
        np.testing.assert_allclose(seen["x"][i], expected, atol=1e-6)
    np.testing.assert_array_equal(seen["time"], [0.25, 0.75])
    np.testing.assert_array_equal(seen["labels"], [3, NO_LABEL])
    assert (seen["params"], seen["train"]) == ("params", True)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ZeroTerminalSNR(schedules.LinearBeta()),
        schedules.Cosine(max_beta=1.0),
        schedules.RectifiedFlow(),
    ],
    ids=name_of,
)
def test_eps_is_refused_where_the_terminal_snr_is_zero(schedule):
    with pytest.raises(ValueError, match="Eps cannot be used with .*use V, X0 or Velocity"):
        DiffusionLoss(schedule, predictions.Eps())
    DiffusionLoss(schedule, predictions.V())


def test_an_output_of_another_shape_is_refused():
    """Three channels against one would broadcast, and the loss would look plausible."""
    loss = DiffusionLoss(schedules.Cosine(), predictions.V())
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4, 2\) to \(2, 4, 4, 3\): must be the same shape"):
        loss.per_example(lambda p, x, t, labels: np.zeros((2, 4, 4, 3)), {}, at_times([0.2, 0.8]))
