"""Denoisers remember their noise schedule: with another one, every function that takes both refuses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.sampling import likelihood

COSINE, LINEAR = dj.schedules.Cosine(), dj.schedules.LinearBeta()
KEY, IMAGES = jax.random.key(0), np.zeros((2, 4, 4, 1), np.float32)


def made_for(schedule):
    return dj.denoiser(lambda params, x, time, labels: x, {}, schedule, dj.predictions.V())


def guided(schedule):
    pair = made_for(schedule), made_for(schedule)
    return dj.guidance.classifier_free(*pair, dj.guidance.interval(2.0, schedule, 0.1, 1.0))


WRAPPED = {
    "denoiser": made_for,
    "clipped": lambda schedule: dj.clipped(made_for(schedule), schedule),
    "dynamic_threshold": lambda schedule: dj.dynamic_threshold(made_for(schedule), schedule),
    "classifier_free": guided,
    "autoguidance": lambda schedule: dj.guidance.autoguidance(made_for(schedule), made_for(schedule), 2.0),
    "rescale": lambda schedule: dj.guidance.rescale(guided(schedule), made_for(schedule), schedule, 0.7),
    "classifier": lambda schedule: dj.guidance.classifier(made_for(schedule), lambda x, t: x.sum((1, 2, 3)), schedule),
    "conditioned": lambda schedule: dj.editing.conditioned(
        made_for(schedule), schedule, dj.editing.Mask(np.ones((4, 4, 1))), IMAGES
    ),
}
USES = {
    "sample": lambda denoise, schedule: dj.sample(KEY, denoise, schedule, (2, 4, 4, 1), steps=2),
    "clipped": lambda denoise, schedule: dj.clipped(denoise, schedule),
    "dynamic_threshold": lambda denoise, schedule: dj.dynamic_threshold(denoise, schedule),
    "rescale": lambda denoise, schedule: dj.guidance.rescale(denoise, denoise, schedule, 0.7),
    "classifier": lambda denoise, schedule: dj.guidance.classifier(denoise, lambda x, t: x.sum((1, 2, 3)), schedule),
    "conditioned": lambda denoise, schedule: dj.editing.conditioned(
        denoise, schedule, dj.editing.Mask(np.ones((4, 4, 1))), IMAGES
    ),
    "invert": lambda denoise, schedule: dj.editing.invert(denoise, schedule, IMAGES, steps=2),
    "decode": lambda denoise, schedule: dj.editing.decode(denoise, schedule, IMAGES, steps=2),
    "interpolate": lambda denoise, schedule: dj.editing.interpolate(denoise, schedule, IMAGES, IMAGES, [0.5], steps=2),
    "image_to_image": lambda denoise, schedule: dj.editing.image_to_image(
        KEY, denoise, schedule, IMAGES, strength=0.5, steps=2
    ),
    "inpaint": lambda denoise, schedule: dj.editing.inpaint(
        KEY, denoise, schedule, IMAGES, np.ones((4, 4, 1), bool), steps=2
    ),
    "by_ode": lambda denoise, schedule: likelihood.by_ode(KEY, denoise, schedule, IMAGES, steps=2),
    "log_density": lambda denoise, schedule: likelihood.log_density(KEY, denoise, schedule, IMAGES, steps=2),
    "by_vlb": lambda denoise, schedule: likelihood.by_vlb(KEY, denoise, schedule, IMAGES.astype(np.uint8)),
    "by_sampled_vlb": lambda denoise, schedule: likelihood.by_sampled_vlb(
        KEY, denoise, schedule, IMAGES.astype(np.uint8), draws=2
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_every_denoiser_remembers_its_schedule(wrapper):
    message = r"LinearBeta\(.* is not the schedule that denoise was made for, Cosine\(.*; use the same for both"
    with pytest.raises(ValueError, match=message):
        dj.sample(KEY, WRAPPED[wrapper](COSINE), LINEAR, (2, 4, 4, 1))


@pytest.mark.parametrize("use", USES)
def test_every_function_refuses_a_denoiser_of_another_schedule(use):
    with pytest.raises(ValueError, match=r"schedule: LinearBeta\(.*Cosine\("):
        USES[use](made_for(COSINE), LINEAR)


def test_two_denoisers_of_two_schedules_cannot_guide_each_other():
    with pytest.raises(ValueError, match="cond: Cosine.* is not the schedule that uncond was made for"):
        dj.guidance.classifier_free(made_for(COSINE), made_for(LINEAR), 2.0)
    with pytest.raises(ValueError, match="is not the schedule that scale was made for"):
        dj.guidance.classifier_free(made_for(COSINE), made_for(COSINE), dj.guidance.interval(2.0, LINEAR, 0.1, 1.0))


def test_an_equal_schedule_and_a_denoiser_of_one_s_own_are_taken():
    x = dj.sample(KEY, made_for(COSINE), dj.schedules.Cosine(), (2, 4, 4, 1), steps=2)
    own = dj.sample(KEY, lambda x_t, t: made_for(COSINE)(x_t, t), COSINE, (2, 4, 4, 1), steps=2)
    np.testing.assert_array_equal(x, own)
    assert jnp.isfinite(dj.sample(KEY, lambda x_t, t: made_for(COSINE)(x_t, t), LINEAR, (2, 4, 4, 1), steps=2)).all()


def test_the_same_parameter_of_another_value_is_another_schedule():
    short = dj.schedules.Cosine(steps=100)
    with pytest.raises(ValueError, match="steps=100"):
        dj.sample(KEY, made_for(COSINE), short, (2, 4, 4, 1), steps=2)
