"""The tasks of `diffusion-jax edit`: each reads the images of a job and edits them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.edit.job import Job
from diffusion_jax.sampling import editing
from diffusion_jax.sampling.denoiser import clipped
from diffusion_jax.sampling.loop import sample
from diffusion_jax.sampling.thresholding import dynamic_threshold

_PROJECTIONS = 50  # an all-white or all-black block of four pixels gets closer by a quarter each time

Columns = dict[str, np.ndarray]  # caption -> images [N, H, W, C] in [-1, 1]


class Edited(NamedTuple):
    """The result of a task: a table with columns of inputs and outputs, and a remark to print."""

    inputs: Columns
    outputs: Columns
    remark: str = ""


def image_to_image(job: Job, *, strength: float) -> Edited:
    """Adds noise up to time `strength` and samples from there."""
    x0 = job.read()
    edited = editing.image_to_image(job.key, job.denoiser(len(x0)), job.run.schedule, x0, strength, **job.sampling())
    return Edited({"input": x0}, {f"strength {strength:g}": clip_images(edited)})


def inpaint(job: Job, *, mask: list[str], invert_mask: bool, resamples: int, jump_length: int) -> Edited:
    """Repaints the black pixels (the white ones if inverted) of `mask`: the files of one mask, or of one per image."""
    x0 = job.read()
    if len(mask) not in (1, len(x0)):
        raise ValueError(f"--mask: {len(mask)} masks for {len(x0)} images; give one mask, or one per image")
    white = np.broadcast_to(job.read(mask, channels=1) > 0, (*x0.shape[:3], 1))
    known = ~white if invert_mask else white
    if known.all():
        colour = "white" if invert_mask else "black"
        raise ValueError(f"--mask: no pixel is {colour}, so that nothing is repainted; transparent pixels are white")
    edited = editing.inpaint(
        job.key,
        job.denoiser(len(x0)),
        job.run.schedule,
        x0,
        known,
        resamples=resamples,
        jump_length=jump_length,
        **job.sampling(),
    )
    return Edited({"input": x0, "known": np.where(known, x0, 0)}, {"inpainted": clip_images(edited)})


def reconstruct(job: Job) -> Edited:
    """Finds the noise from which DDIM generates each image, and generates the image from it again."""
    x0 = job.read()
    denoise, settings, schedule = job.denoiser(len(x0)), job.there_and_back(), job.run.schedule
    latents = editing.invert(denoise, schedule, x0, **settings)
    decoded = editing.decode(denoise, schedule, latents, **settings)
    first = float(schedule.sigma(settings["grid"](schedule, settings["steps"])[0]))
    # The noise has standard deviation `first`: mid-grey is 0, black and white are two standard deviations away.
    noise = np.clip(np.asarray(latents) / (2 * first), -1, 1)
    error = np.abs(np.asarray(decoded) - x0).mean()
    remark = f"; mean absolute error {error:.4f} on a scale where black is -1 and white is 1"
    return Edited({"input": x0, "noise": noise}, {"reconstructed": clip_images(decoded)}, remark)


def interpolate(job: Job, *, frames: int) -> Edited:
    """Interpolates between the first and second image, the third and fourth, ..., through their noises."""
    if len(job.paths) % 2:
        raise ValueError(f"--image: {len(job.paths)} images; give pairs: from the first to the second, ...")
    x0 = job.read()
    weights = np.linspace(0, 1, frames)
    denoise = job.denoiser(len(x0) // 2)
    between = editing.interpolate(denoise, job.run.schedule, x0[0::2], x0[1::2], weights, **job.there_and_back())
    outputs = {f"{weight:.3g}": clip_images(x) for weight, x in zip(weights.tolist(), between, strict=True)}
    return Edited({"from": x0[0::2], "to": x0[1::2]}, outputs)


def super_resolve(job: Job, *, factor: int, noise_std: float) -> Edited:
    """Generates images of `factor` times the height and width."""
    height, width, channels = job.run.network.image_shape
    measurement = editing.Downsample(factor)
    small = jax.eval_shape(measurement.forward, jnp.zeros((1, height, width, channels))).shape
    y = job.read(size=small[1:3])
    return _restore(job, measurement, y, noise_std, clip_images(measurement.pinv(jnp.asarray(y))))


def colorise(job: Job, *, noise_std: float) -> Edited:
    """Generates colours for grey images."""
    channels = job.run.network.image_shape[2]
    if channels != 3:
        raise ValueError(f"colorise: this run generates images of {channels} channel(s); use a run of colour images")
    y = job.read(channels=1)
    return _restore(job, editing.Grayscale(), y, noise_std, np.repeat(y, channels, -1))


def _restore(job: Job, measurement: editing.Measurement, y: np.ndarray, noise_std: float, shown: np.ndarray) -> Edited:
    """Generates images whose measurement is y, next to y as displayed in `shown`.

    Clips unless --noclip: the approximation of the posterior covariance in `editing.conditioned` drives some images
    out of [-1, 1] for good; with the guidance of the digits' run, one in five.
    """
    run = job.run
    # A clipped pixel has no gradient.
    plain = run.denoiser(len(y), labels=job.labels, guidance=job.guidance, clip=False, threshold=0.0)
    denoise = editing.conditioned(plain, run.schedule, measurement, y, noise_std)
    if run.sampling.threshold:
        denoise = dynamic_threshold(denoise, run.schedule, run.sampling.threshold)
    if job.clip is not False:
        denoise = clipped(denoise, run.schedule)
    restored = sample(job.key, denoise, run.schedule, (len(y), *run.network.image_shape), **job.sampling())
    if noise_std == 0:
        restored = project(restored, measurement, jnp.asarray(y))
    return Edited({"input": shown}, {"restored": clip_images(restored)})


def project(x: jax.Array, measurement: editing.Measurement, y: jax.Array) -> jax.Array:
    """Brings x into [-1, 1] and its measurement to y; clipping and few iterations leave it short of both.

    Projects onto one and the other in turn (Bregman 1965).

    >>> project(3 * jnp.ones((1, 4, 4, 1)), dj.editing.Downsample(2), jnp.zeros((1, 2, 2, 1))).max().item()
    0.0
    """
    for _ in range(_PROJECTIONS):
        x = jnp.clip(measurement.project(x, y), -1, 1)
    return x


def clip_images(x: Any) -> np.ndarray:
    """Clips images to [-1, 1]. Raises ValueError if they are not finite.

    >>> clip_images([-2.0, 0.5]).tolist()
    [-1.0, 0.5]
    """
    x = np.asarray(x)
    if not np.isfinite(x).all():
        raise ValueError("the images are not finite; use more steps, or an earlier checkpoint")
    return np.clip(x, -1, 1)
