"""Bits per dimension of the held-out pictures. python benchmarks/bits_per_dim.py --workdir runs/digits

Two upper bounds on -log2 P(picture) / (H W C), P the probability of the 256 levels of uint8:
- by the variational bound of ancestral sampling over all steps of the run's schedule. Its decoder gives each
  level a probability: no dequantisation. Term by term, and the diffusion terms by log-SNR.
- by the probability-flow ODE, with uniform dequantisation: noise as wide as a level is added to the pictures.
With the EMA weights and, where the run has classes, the pictures' labels; no guidance.

"+-" is one standard error of the mean over pictures; the noise, the dequantisation and the trace are all in
it. That of the trace alone is beside it. Data of fewer levels take fewer bits: their number is printed.
"""

from collections.abc import Callable
from typing import Any

import command
import jax
import numpy as np
from absl import flags

import diffusion_jax as dj
from diffusion_jax.config.experiment import build_dataset
from diffusion_jax.data.pipeline import in_order
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import likelihood
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.training.evaluate import LOG_SNR_EDGES

_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "A trained run.")
_NUM_PICTURES = flags.DEFINE_integer("num_pictures", 0, "The first so many held-out pictures; 0: all.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 180, "Pictures at once.", lower_bound=1)
_VARIANCE = flags.DEFINE_enum("variance", "large", ["small", "large", "learned"], "Of the reverse step.")
_VLB_STEPS = flags.DEFINE_integer("vlb_steps", None, "Steps of the bound; all, or 1 000, by default.")
_ODE_STEPS = flags.DEFINE_integer("ode_steps", 100, "Steps of the ODE.")
_PROBES = flags.DEFINE_integer("probes", 4, "Rademacher vectors for the trace.")
_LABELS = flags.DEFINE_bool("labels", True, "Tell the network the pictures' classes, if there are any.")
_CLIP = flags.DEFINE_bool("clip", False, "Clip x0-hat to [-1, 1].")
_SEED = flags.DEFINE_integer("seed", 0, "Of all noise.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are, in place of the run's own.")


def measure() -> None:
    run = dj.load(_WORKDIR.value)
    moved = {"data_dir": _DATA_DIR.value} if _DATA_DIR.value else {}
    _, held_out = build_dataset(run.config | {"data": run.config["data"] | moved}, False).open()
    describe(run, held_out)
    print_bound(*over(held_out, run, by_vlb))
    print_flow(*over(held_out, run, by_ode))


def by_vlb(key: jax.Array, denoise: Denoise, schedule: Schedule, x0: jax.Array, **given: Any) -> Any:
    settings = dict(variance=_VARIANCE.value, steps=_VLB_STEPS.value)
    bound = likelihood.by_vlb(key, denoise, schedule, x0, **settings, **given)
    return bound.total, bound.prior, likelihood.by_log_snr(bound, schedule, LOG_SNR_EDGES), bound.decoder


def by_ode(key: jax.Array, denoise: Denoise, schedule: Schedule, x0: jax.Array, **given: Any) -> Any:
    settings = dict(steps=_ODE_STEPS.value, probes=_PROBES.value)
    return likelihood.by_ode(key, denoise, schedule, x0, **settings, **given)


def over(source: dj.sources.Source, run: dj.Run, way: Callable[..., Any]) -> Any:
    """`way` of all pictures asked for, batch by batch; they are the last axis of what it returns."""

    @jax.jit
    def batch(params: Any, x0: jax.Array, labels: jax.Array | None, indices: jax.Array) -> Any:
        apply, schedule = run.network.model.apply, run.schedule
        denoise = dj.denoiser(apply, params, schedule, run.prediction, labels, clip=_CLIP.value)
        return way(jax.random.key(_SEED.value), denoise, schedule, x0, indices=indices)

    n = number(source)
    size, parts = min(n, _BATCH_SIZE.value), []
    for i, (rows, _) in enumerate(in_order(source, size, n)):
        labels = rows["label"] if labelled(run) else None
        indices = np.arange(i * size, (i + 1) * size)
        parts.append(jax.device_get(batch(run.params, dj.pixels.to_float(rows["image"]), labels, indices)))
    # The last batch is filled up with pictures that do not count.
    return jax.tree.map(lambda *parts: np.concatenate(parts, -1)[..., :n], *parts)


def number(source: dj.sources.Source) -> int:
    return min(_NUM_PICTURES.value or len(source), len(source))


def labelled(run: dj.Run) -> bool:
    return _LABELS.value and run.network.num_classes > 0


def describe(run: dj.Run, source: dj.sources.Source) -> None:
    n = number(source)
    levels = len(np.unique([source.rows[i]["image"] for i in range(n)]))
    print(
        f"{n} held-out pictures {'x'.join(map(str, source.image_shape))}, "
        f"{'their labels given' if labelled(run) else 'no labels'}, weights of step {run.step}; "
        f"they use {levels} of 256 levels, log2 {levels} = {np.log2(levels):.2f}"
    )


def print_bound(total: np.ndarray, prior: np.ndarray, binned: np.ndarray, decoder: np.ndarray) -> None:
    print(
        f"variational bound, variance {_VARIANCE.value}, {_VLB_STEPS.value or 'all'} steps, "
        f"no dequantisation: {with_error(total)} bits/dim"
    )
    print(f"  prior {prior.mean():.4f}, diffusion {binned.sum(0).mean():.4f}, decoder {decoder.mean():.4f}")
    edges = [f"{edge:g}" for edge in (-np.inf, *LOG_SNR_EDGES, np.inf)]
    bins = zip(edges[:-1], edges[1:], binned.mean(1), strict=True)
    print("  diffusion by log-SNR: " + ", ".join(f"{low} to {high}: {bits:.4f}" for low, high, bits in bins))


def print_flow(bits: np.ndarray, trace: np.ndarray) -> None:
    print(
        f"probability-flow ODE, {_ODE_STEPS.value} steps, {_PROBES.value} probes, "
        f"uniform dequantisation: {with_error(bits)} bits/dim"
    )
    of_one, of_mean = np.sqrt(np.mean(trace**2)), np.sqrt(np.sum(trace**2)) / len(trace)
    print(f"  of which the trace: +- {of_mean:.4f} of the mean, +- {of_one:.4f} of one picture")


def with_error(bits: np.ndarray) -> str:
    return f"{bits.mean():.4f} +- {bits.std(ddof=1) / np.sqrt(len(bits)):.4f}"


if __name__ == "__main__":
    command.run(measure)
