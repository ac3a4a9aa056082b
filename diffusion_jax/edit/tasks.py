"""The tasks: what a trained run makes of pictures.

A task takes the run, a key, the paths of the pictures and `Options`, and reads the pictures as it needs them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.edit.pictures import read
from diffusion_jax.run import Run
from diffusion_jax.sampling import editing
from diffusion_jax.sampling.denoiser import Denoise, clipped
from diffusion_jax.sampling.grids import Grid
from diffusion_jax.sampling.loop import sample
from diffusion_jax.sampling.samplers import Sampler
from diffusion_jax.sampling.thresholding import dynamic_threshold

# The steps of a task that goes to noise and back, unless given.
_STEPS_THERE_AND_BACK = 100

_PROJECTIONS = 50  # a white or black block of four pixels comes closer by a quarter each time

Columns = dict[str, np.ndarray]  # caption -> pictures [N, H, W, C] in [-1, 1]


class Edited(NamedTuple):
    """What a task made of what, and what there is to say of it."""

    given: Columns
    made: Columns
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags. None: the config's, or what the docstring of the command says."""

    labels: np.ndarray | None = None  # [N]
    guidance: float | None = None
    clip: bool | None = None
    steps: int | None = None
    sampler: Sampler | None = None
    grid: Grid | None = None
    resize: bool = False
    strength: float = 0.6
    mask: tuple[str, ...] = ()
    resamples: int = 5
    jump_length: int = 1
    frames: int = 9
    factor: int = 2
    noise_std: float = 0.0


def image_to_image(run: Run, key: jax.Array, paths: list[str], options: Options) -> Edited:
    x0 = _read(run, paths, options)
    edited = editing.image_to_image(
        key,
        _denoiser(run, len(x0), options),
        run.schedule,
        x0,
        options.strength,
        **_sampling(run, options),
    )
    return Edited({"input": x0}, {f"strength {options.strength:g}": _shown(edited)})


def inpaint(run: Run, key: jax.Array, paths: list[str], options: Options) -> Edited:
    x0 = _read(run, paths, options)
    if len(options.mask) not in (1, len(paths)):
        raise ValueError(f"--mask: {len(options.mask)} masks for {len(paths)} pictures; give one, or one each")
    known = read(options.mask, run.network.image_shape[:2], 1, options.resize, **_as_trained(run)) > 0
    known = np.broadcast_to(known, (*x0.shape[:3], 1))
    edited = editing.inpaint(
        key,
        _denoiser(run, len(x0), options),
        run.schedule,
        x0,
        known,
        resamples=options.resamples,
        jump_length=options.jump_length,
        **_sampling(run, options),
    )
    return Edited({"input": x0, "known": np.where(known, x0, 0)}, {"inpainted": _shown(edited)})


def reconstruct(run: Run, key: jax.Array, paths: list[str], options: Options) -> Edited:
    x0 = _read(run, paths, options)
    denoise = _denoiser(run, len(x0), options)
    settings = _there_and_back(run, options)
    latents = editing.invert(denoise, run.schedule, x0, **settings)
    again = editing.decode(denoise, run.schedule, latents, **settings)
    first = float(run.schedule.sigma(settings["grid"](run.schedule, settings["steps"])[0]))
    # Noise has deviation 1: the picture's middle grey and two deviations either way.
    noise = np.clip(np.asarray(latents) / (2 * first), -1, 1)
    error = np.abs(np.asarray(again) - x0).mean()
    remark = f"; mean absolute error {error:.4f}, white being 1 and black -1"
    return Edited({"input": x0, "noise": noise}, {"reconstructed": _shown(again)}, remark)


def interpolate(run: Run, key: jax.Array, paths: list[str], options: Options) -> Edited:
    if len(paths) % 2:
        raise ValueError(f"--image: {len(paths)} pictures; give pairs, from the first to the second, ...")
    if options.frames < 2:
        raise ValueError(f"--frames {options.frames}: show at least two")
    x0 = _read(run, paths, options)
    weights = np.linspace(0, 1, options.frames)
    denoise = _denoiser(run, len(x0) // 2, options)
    settings = _there_and_back(run, options)
    between = editing.interpolate(denoise, run.schedule, x0[0::2], x0[1::2], weights, **settings)
    made = {f"{weight:.3g}": _shown(x) for weight, x in zip(weights.tolist(), between, strict=True)}
    return Edited({"from": x0[0::2], "to": x0[1::2]}, made)


def super_resolve(run: Run, key: jax.Array, paths: list[str], options: Options) -> Edited:
    height, width, channels = run.network.image_shape
    measurement = editing.Downsample(options.factor)
    small = jax.eval_shape(measurement.forward, jnp.zeros((1, height, width, channels))).shape
    y = read(paths, small[1:3], channels, options.resize, **_as_trained(run))
    return _restored(run, key, measurement, y, _shown(measurement.pinv(jnp.asarray(y))), options)


def colorise(run: Run, key: jax.Array, paths: list[str], options: Options) -> Edited:
    measurement = editing.Grayscale()
    jax.eval_shape(measurement.forward, jnp.zeros((1, *run.network.image_shape)))  # refuses grey networks
    y = read(paths, run.network.image_shape[:2], 1, options.resize, **_as_trained(run))
    return _restored(run, key, measurement, y, np.repeat(y, run.network.image_shape[2], -1), options)


def _restored(
    run: Run,
    key: jax.Array,
    measurement: editing.Measurement,
    y: np.ndarray,
    shown: np.ndarray,
    options: Options,
) -> Edited:
    """Pictures that measure as y, beside y as it is `shown`.

    Clipped unless asked not to: what C of a network lacks (see `conditioned`) makes some pictures leave
    [-1, 1] for good, with the guidance of the digits' run one in five.
    """
    # A clipped pixel has no gradient.
    plain = run.denoiser(len(y), labels=options.labels, guidance=options.guidance, clip=False, threshold=0.0)
    denoise = editing.conditioned(plain, run.schedule, measurement, y, options.noise_std)
    if run.sampling.threshold:
        denoise = dynamic_threshold(denoise, run.schedule, run.sampling.threshold)
    if options.clip is not False:
        denoise = clipped(denoise, run.schedule)
    shape = (len(y), *run.network.image_shape)
    restored = sample(key, denoise, run.schedule, shape, **_sampling(run, options))
    if options.noise_std == 0:
        restored = _consistent(restored, measurement, jnp.asarray(y))
    return Edited({"input": shown}, {"restored": _shown(restored)})


def _consistent(x: jax.Array, measurement: editing.Measurement, y: jax.Array) -> jax.Array:
    """x within [-1, 1] and measuring as y, which clipping and few iterations leave it short of.

    By projecting onto one and the other in turn (Bregman 1965).
    """
    for _ in range(_PROJECTIONS):
        x = jnp.clip(measurement.project(x, y), -1, 1)
    return x


def _read(run: Run, paths: list[str], options: Options) -> np.ndarray:
    height, width, channels = run.network.image_shape
    return read(paths, (height, width), channels, options.resize, **_as_trained(run))


def _as_trained(run: Run) -> dict[str, str]:
    """How the folder of pictures that the run was trained on is cut and laid on a background."""
    data = run.config.get("data", {})
    given = data if data.get("name") == "Folder" else {}
    return {name: given[name] for name in ("crop", "background") if name in given}


def _denoiser(run: Run, n: int, options: Options) -> Denoise:
    return run.denoiser(n, labels=options.labels, guidance=options.guidance, clip=options.clip)


def _sampling(run: Run, options: Options) -> dict[str, Any]:
    """How `sample` is to draw."""
    chosen = run.sampling
    return {
        "sampler": run.network.adapt_sampler(options.sampler or chosen.sampler),
        "steps": options.steps or chosen.steps,
        "grid": options.grid or chosen.grid,
    }


def _there_and_back(run: Run, options: Options) -> dict[str, Any]:
    return {"steps": options.steps or _STEPS_THERE_AND_BACK, "grid": options.grid or run.sampling.grid}


def _shown(x: Any) -> np.ndarray:
    """Pictures within [-1, 1]. Raises ValueError where they are not finite."""
    x = np.asarray(x)
    if not np.isfinite(x).all():
        raise ValueError("pictures are not finite; use more steps, or an earlier checkpoint")
    return np.clip(x, -1, 1)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a task does, and the flags that have a meaning for it."""

    run: Callable[[Run, jax.Array, list[str], Options], Edited]
    flags: tuple[str, ...]


_ALL = ("labels", "guidance", "clip", "steps", "grid")
TASKS = {
    "image_to_image": Task(image_to_image, (*_ALL, "sampler", "strength")),
    "inpaint": Task(inpaint, (*_ALL, "sampler", "mask", "resamples", "jump_length")),
    "reconstruct": Task(reconstruct, _ALL),
    "interpolate": Task(interpolate, (*_ALL, "frames")),
    "super_resolve": Task(super_resolve, (*_ALL, "sampler", "factor", "noise_std")),
    "colorise": Task(colorise, (*_ALL, "sampler", "noise_std")),
}
