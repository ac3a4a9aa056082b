"""Losses that train the variance: which gradients flow where, and that their mean is the bound."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quick_jit

from diffusion_jax.process import predictions, schedules, vlb
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.training.losses import DiffusionLoss, Examples, HybridLoss, VLBLoss

STEPS = 5
SCHEDULE = schedules.Betas((0.3,) * STEPS)  # a fifth of the signal is left at t = 1


def examples():
    rng = np.random.default_rng(0)
    x0, eps = rng.uniform(-1, 1, (4, 4, 2)), rng.normal(size=(4, 4, 2))
    rows = [jnp.asarray(np.repeat(a[None], STEPS, 0), jnp.float32) for a in (x0, eps)]
    return Examples(rows[0], None, jnp.arange(1.0, STEPS + 1) / STEPS, rows[1])


def outputs():
    """Of a network with 2 channels of prediction and 2 of variance."""
    return jnp.asarray(np.random.default_rng(1).normal(0, 0.5, (STEPS, 4, 4, 4)), jnp.float32)


def its_parameters(params, x, time, labels):
    """A network whose output is its parameters."""
    return params


def gradient(loss, examples, network=its_parameters):
    return quick_jit(jax.grad(lambda p: loss.per_example(network, p, examples).sum()))(outputs())


@pytest.fixture(scope="module")
def gradients():
    """Of the hybrid loss, the squared error and the bound, for the same output and images."""
    hybrid = HybridLoss(SCHEDULE, predictions.V(), vlb_weight=0.01)
    simple, bound = DiffusionLoss(SCHEDULE, predictions.V()), VLBLoss(SCHEDULE, predictions.V())
    of_simple = gradient(simple, examples(), lambda p, *_: p[..., :2])
    return gradient(hybrid, examples()), of_simple, gradient(bound, examples())


def test_the_prediction_of_a_hybrid_learns_from_the_squared_error_alone(gradients):
    hybrid, simple, bound = gradients
    assert np.abs(bound[..., :2]).max() > 1e-3  # the bound would have moved it
    np.testing.assert_allclose(hybrid[..., :2], simple[..., :2], rtol=1e-6, atol=1e-9)


def test_the_variance_of_a_hybrid_learns_from_the_bound_alone_at_its_weight(gradients):
    hybrid, _, bound = gradients
    np.testing.assert_allclose(hybrid[..., 2:], 0.01 * bound[..., 2:], rtol=1e-4)
    assert np.abs(hybrid[..., 2:]).min() > 0


def test_over_all_steps_the_mean_is_the_bound():
    """Each t stands for all T terms; L_T, what the last x_t still shows, is added to each."""
    loss, seen = VLBLoss(SCHEDULE, predictions.X0()), examples()
    x0_hat, f = jnp.split(outputs(), 2, axis=-1)
    s = jnp.asarray([0.0, 0.2, 0.4, 0.6, 0.8])

    def both():
        here = Denoised(x0_hat, x0_hat, (f + 1) / 2)
        terms = vlb.term(SCHEDULE, seen.x0, here, seen.t, s, "learned")
        expected = terms.sum() + vlb.prior(SCHEDULE, seen.x0)[0]
        return loss.per_example(its_parameters, outputs(), seen).mean(), expected

    found, expected = quick_jit(both)()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_bound_is_of_x0_whatever_is_predicted():
    """Outputs that mean the same x0 have the same bound."""
    seen = examples()
    x0_hat, f = jnp.split(outputs(), 2, axis=-1)

    def bound_by(prediction):
        loss = HybridLoss(SCHEDULE, prediction)
        x_t, alpha, sigma = loss.diffuse(seen)
        output = prediction.target(x0_hat, (x_t - alpha * x0_hat) / sigma, alpha, sigma)
        return loss.parts(lambda *_: jnp.concatenate([output, f], -1), None, seen)["vlb"]

    kinds = (predictions.X0(), predictions.Eps(), predictions.V())
    found = quick_jit(lambda: [bound_by(prediction) for prediction in kinds])()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4)


def test_a_hybrid_weighs_its_squared_error_as_a_diffusion_loss_does():
    hybrid = HybridLoss(SCHEDULE, predictions.V(), vlb_weight=0.25)
    simple = DiffusionLoss(SCHEDULE, predictions.V())

    def each():
        expected = simple.per_example(lambda p, *_: p[..., :2], outputs(), examples())
        whole = hybrid.per_example(its_parameters, outputs(), examples())
        return hybrid.parts(its_parameters, outputs(), examples()), expected, whole

    parts, expected, whole = quick_jit(each)()
    np.testing.assert_allclose(parts["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(whole, expected + 0.25 * parts["vlb"], rtol=1e-6)


@pytest.mark.parametrize("schedule", [schedules.RectifiedFlow(), schedules.Karras()], ids=lambda s: type(s))
@pytest.mark.parametrize("kind", [HybridLoss, VLBLoss])
def test_a_continuous_schedule_has_no_sum_over_steps(kind, schedule):
    with pytest.raises(ValueError, match=f"{kind.__name__} cannot be used with .*use a discrete one such as Cosine"):
        kind(schedule, predictions.V())


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match="vlb_weight = 0.0: must be > 0 and finite"):
        HybridLoss(SCHEDULE, predictions.V(), vlb_weight=0.0)


def test_network_and_loss_must_agree_about_the_variance():
    loss = DiffusionLoss(SCHEDULE, predictions.V())
    with pytest.raises(ValueError, match=r"to \(5, 4, 4, 4\): DiffusionLoss does not train a variance"):
        loss.per_example(its_parameters, outputs(), examples())
    for kind in (HybridLoss, VLBLoss):
        loss, plain = kind(SCHEDULE, predictions.V()), outputs()[..., :2]
        with pytest.raises(ValueError, match=f"{kind.__name__} needs twice .*learn_variance=True"):
            loss.per_example(its_parameters, plain, examples())


def test_held_out_images_are_evaluated_with_a_loss_of_the_same_kind():
    loss = HybridLoss(SCHEDULE, predictions.V(), vlb_weight=0.5, label_drop=0.7, self_condition=0.5)
    expected = dataclasses.replace(loss, label_drop=0.0, self_condition=1.0)
    assert loss.for_evaluation() == expected
