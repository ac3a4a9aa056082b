"""Bits per dimension of the held-out images. python benchmarks/bits_per_dim.py --workdir runs/digits

Two upper bounds on -log2 P(image) / (H W C), where P is the probability of the 256 levels of uint8:
- by the variational bound of ancestral sampling over all steps of the run's schedule. Its decoder gives each
  level a probability, so there is no dequantisation. Printed term by term, the diffusion terms by log-SNR.
- by the probability-flow ODE, with uniform dequantisation: noise as wide as a level is added to the images.
They use the EMA weights and, if the run has classes, the labels of the images; no guidance.

"+-" is one standard error of the mean over images, which includes the noise, the dequantisation and the trace.
The error of the trace is also printed alone. Data of fewer levels need fewer bits: their number is printed.
"""

from collections.abc import Callable
from typing import Any

import command
import jax
import numpy as np
from absl import flags

import diffusion_jax as dj
from diffusion_jax.data.pipeline import in_order
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling import likelihood
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.training.evaluate import LOG_SNR_EDGES

_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "A trained run.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 0, "Number of held-out images, the first ones; 0: all.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 180, "Images at a time.", lower_bound=1)
_VARIANCE = flags.DEFINE_enum("variance", "large", ["small", "large", "learned"], "Variance of the reverse step.")
_VLB_STEPS = flags.DEFINE_integer("vlb_steps", None, "Steps of the bound; default: all, or 1 000.")
_ODE_STEPS = flags.DEFINE_integer("ode_steps", 100, "Steps of the ODE.")
_PROBES = flags.DEFINE_integer("probes", 4, "Number of Rademacher vectors for the trace.")
_LABELS = flags.DEFINE_bool("labels", True, "Give the network the classes of the images, if it has classes.")
_CLIP = flags.DEFINE_bool("clip", False, "Clip x0-hat to [-1, 1].")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all noise.")


def measure() -> None:
    run = dj.load(_WORKDIR.value)
    _, held_out = command.open_data(run)
    describe(run, held_out)
    print_bound(*evaluate(held_out, run, by_vlb))
    print_flow(*evaluate(held_out, run, by_ode))


def by_vlb(key: jax.Array, denoise: Denoise, schedule: Schedule, x0: jax.Array, **kwargs: Any) -> Any:
    settings = dict(variance=_VARIANCE.value, steps=_VLB_STEPS.value)
    bound = likelihood.by_vlb(key, denoise, schedule, x0, **settings, **kwargs)
    return bound.total, bound.prior, likelihood.by_log_snr(bound, schedule, LOG_SNR_EDGES), bound.decoder


def by_ode(key: jax.Array, denoise: Denoise, schedule: Schedule, x0: jax.Array, **kwargs: Any) -> Any:
    settings = dict(steps=_ODE_STEPS.value, probes=_PROBES.value)
    return likelihood.by_ode(key, denoise, schedule, x0, **settings, **kwargs)


def evaluate(source: dj.sources.Source, run: dj.Run, bound: Callable[..., Any]) -> Any:
    """Evaluates `bound` for all images, batch by batch; images are the last axis of the arrays that it returns."""

    @jax.jit
    def batch(params: Any, x0: jax.Array, labels: jax.Array | None, indices: jax.Array) -> Any:
        apply, schedule = run.network.model.apply, run.schedule
        denoise = dj.denoiser(apply, params, schedule, run.prediction, labels, clip=_CLIP.value)
        return bound(jax.random.key(_SEED.value), denoise, schedule, x0, indices=indices)

    n = count_images(source)
    size, parts = min(n, _BATCH_SIZE.value), []
    for i, (rows, _) in enumerate(in_order(source, size, n)):
        labels = rows["label"] if uses_labels(run) else None
        indices = np.arange(i * size, (i + 1) * size)
        parts.append(jax.device_get(batch(run.params, dj.pixels.to_float(rows["image"]), labels, indices)))
    # The last batch is filled up with images that do not count.
    return jax.tree.map(lambda *parts: np.concatenate(parts, -1)[..., :n], *parts)


def count_images(source: dj.sources.Source) -> int:
    return min(_NUM_IMAGES.value or len(source), len(source))


def uses_labels(run: dj.Run) -> bool:
    return _LABELS.value and run.network.num_classes > 0


def describe(run: dj.Run, source: dj.sources.Source) -> None:
    n = count_images(source)
    levels = len(np.unique([source.rows[i]["image"] for i in range(n)]))
    print(
        f"{n} held-out images {'x'.join(map(str, source.image_shape))}, "
        f"{'with their labels' if uses_labels(run) else 'without labels'}, weights of step {run.step}; "
        f"they use {levels} of 256 levels, log2 {levels} = {np.log2(levels):.2f}"
    )


def print_bound(total: np.ndarray, prior: np.ndarray, binned: np.ndarray, decoder: np.ndarray) -> None:
    print(
        f"variational bound, variance {_VARIANCE.value}, {_VLB_STEPS.value or 'all'} steps, "
        f"no dequantisation: {format_mean(total)} bits/dim"
    )
    print(f"  prior {prior.mean():.4f}, diffusion {binned.sum(0).mean():.4f}, decoder {decoder.mean():.4f}")
    edges = [f"{edge:g}" for edge in (-np.inf, *LOG_SNR_EDGES, np.inf)]
    bins = zip(edges[:-1], edges[1:], binned.mean(1), strict=True)
    print("  diffusion by log-SNR: " + ", ".join(f"{low} to {high}: {bits:.4f}" for low, high, bits in bins))


def print_flow(bits: np.ndarray, trace: np.ndarray) -> None:
    print(
        f"probability-flow ODE, {_ODE_STEPS.value} steps, {_PROBES.value} probes, "
        f"uniform dequantisation: {format_mean(bits)} bits/dim"
    )
    of_one, of_mean = np.sqrt(np.mean(trace**2)), np.sqrt(np.sum(trace**2)) / len(trace)
    print(f"  of which the trace: +- {of_mean:.4f} for the mean, +- {of_one:.4f} for one image")


def format_mean(bits: np.ndarray) -> str:
    return f"{bits.mean():.4f} +- {bits.std(ddof=1) / np.sqrt(len(bits)):.4f}"


if __name__ == "__main__":
    command.run(measure)
