"""Quality by the number of network calls. python benchmarks/quality_vs_calls.py --workdir runs/digits

Generates --num_samples images with the labels in turn and no guidance, so that one call of the denoiser is one call
of the network, with every sampler at 5, 10, 20, 50, 100 and 250 calls on --grid. Prints a table of the Frechet
distance of their features (the last hidden layer, 64 numbers, of a CNN trained on the run's training images; its
weights are kept in --classifier) to those of all training images, and the distance of the same number of held-out
images (all, if there are fewer). A sampler with two calls per step takes half as many steps. All samplers use the
same noise and the same keys. --plot plots the table (needs matplotlib, of the extra "notebook").
"""

import sys
import time
from itertools import pairwise
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from classifier import make_classifier, stack_examples

import diffusion_jax as dj
from diffusion_jax.config.text import grid_from_text, sampler_from_text
from diffusion_jax.evaluation.metrics import frechet_distance
from diffusion_jax.sampling.randomness import first_noise, fold, image_keys

_SAMPLERS = [
    "DDPM",
    "DDPM(variance='large')",
    "DDIM",
    "Heun",
    "Midpoint",
    "DPMSolverPP2S",
    "DPMSolverPP(order=2)",
    "DPMSolverPP(order=3)",
    "DPMSolverPP(order=2, eta=1.0)",
    "UniPC(order=2)",
    "DEIS(order=3)",
]
_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "A trained run with classes.")
_SAMPLER = flags.DEFINE_multi_string("sampler", _SAMPLERS, "A sampler; may be repeated.")
_GRID = flags.DEFINE_string("grid", None, "A grid of times; default: as in the run's config.")
_CLIP = flags.DEFINE_bool("clip", None, "Clip x0 to [-1, 1] at each step; default: as in the run's config.")
_CALLS = flags.DEFINE_list("calls", ["5", "10", "20", "50", "100", "250"], "Network calls per image.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "Number of images.", lower_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.", lower_bound=0)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds, from --seed on: mean +- error.", lower_bound=1)
_CLASSIFIER = flags.DEFINE_string("classifier", None, "Weights of the CNN; default: WORKDIR/classifier.npz.")
_PLOT = flags.DEFINE_string("plot", None, "PNG file for the plot.")


def measure() -> None:
    calls = [int(number) for number in _CALLS.value]
    samplers = {text: sampler_from_text(text) for text in _SAMPLER.value}
    grid = _GRID.value and grid_from_text(_GRID.value)
    run = dj.load(_WORKDIR.value)
    if not run.network.num_classes:
        raise ValueError(f"--workdir {_WORKDIR.value}: must be a run with classes")
    training, held_out = command.open_data(run)
    n = _NUM_SAMPLES.value
    classify = make_classifier(training, Path(_CLASSIFIER.value or Path(_WORKDIR.value) / "classifier.npz"))
    features = classify(stack_examples(training, np.arange(len(training)))[0])[1]
    indices = np.random.default_rng(0).permutation(len(held_out))[:n]
    images, labels = stack_examples(held_out, indices)
    found, held_out_features = classify(images)
    real = frechet_distance(held_out_features, features)
    print(f"held-out images recognized by the CNN: {np.mean(found == labels):.2%}")
    print(f"Frechet distance of {len(indices)} held-out images: {real:.2f}; of {n} samples by the number of calls:\n")
    print("| sampler | " + " | ".join(map(str, calls)) + " |\n|---|" + "---|" * len(calls))
    rows = {}
    for text, sampler in samplers.items():
        start = time.perf_counter()
        generated = generate(run, sampler, grid or run.sampling.grid, n, calls)
        found = [[frechet_distance(classify(dj.pixels.to_uint8(x))[1], features) for x in seeds] for seeds in generated]
        rows[text] = [float(np.mean(distances)) for distances in found]
        print(f"| {text} | " + " | ".join(map(format_cell, found)) + " |", flush=True)
        print(f"{text}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if _PLOT.value:
        # A smaller number of held-out images would be farther away by their number alone.
        plot(rows, calls, real if len(indices) == n else None, _PLOT.value)


def format_cell(distances: list[float]) -> str:
    """The mean, with its standard error if there are several."""
    error = f" +- {np.std(distances, ddof=1) / np.sqrt(len(distances)):.2f}" if len(distances) > 1 else ""
    return f"{np.mean(distances):.2f}{error}"


def generate(
    run: dj.Run, sampler: dj.samplers.Sampler, grid: dj.grids.Grid, n: int, calls: list[int]
) -> list[list[np.ndarray]]:
    """Returns n images for each number of calls and each seed.

    Does what `run.sample` does without guidance, except that the loop is in Python: one compiled step serves all
    numbers of steps.
    """
    schedule, shape = run.schedule, run.network.image_shape
    indices = jnp.arange(n)
    labels = jnp.asarray(np.arange(n) % run.network.num_classes)
    clip = run.sampling.clip if _CLIP.value is None else _CLIP.value
    seeds = range(_SEED.value, _SEED.value + _SEEDS.value)

    @jax.jit
    def step(params, keys, i, x, t, s, memory):
        denoise = dj.denoiser(run.network.model.apply, params, schedule, run.prediction, labels, clip=clip)
        return sampler.step(fold(keys, i + 1), denoise, schedule, x, t, s, memory)

    generated: list[list[np.ndarray]] = []
    for number in calls:
        times = grid(schedule, count_steps(sampler, schedule, number)).astype(np.float32)
        generated.append([])
        for key in map(jax.random.key, seeds):
            x = schedule.sigma(times[0]) * first_noise(key, indices, shape)
            keys, memory = image_keys(key, indices), sampler.init(x)
            for i, (t, s) in enumerate(pairwise(times)):
                x, memory = step(run.params, keys, i, x, t, s, memory)
            generated[-1].append(np.clip(np.asarray(x), -1, 1))
    return generated


def count_steps(sampler: dj.samplers.Sampler, schedule: dj.schedules.Schedule, calls: int) -> int:
    """Returns the largest number of steps that take at most `calls` calls of the denoiser."""
    counted = []

    def denoise(x_t, t):
        jax.debug.callback(lambda: counted.append(1))
        return dj.Denoised(x_t, x_t)

    dj.sample(jax.random.key(0), denoise, schedule, (2, 1, 1, 1), sampler=sampler, steps=10)
    jax.effects_barrier()
    return calls if len(counted) <= 10 else (calls + 1) // 2  # two per step, but one in the step to data


def plot(rows: dict[str, list[float]], calls: list[int], real: float | None, path: str) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, (text, distances) in enumerate(rows.items()):
        axes.plot(calls, distances, "os^vD"[i % 5] + ("-" if i < 10 else "--"), label=text, markersize=4)
    if real is not None:
        axes.axhline(real, color="gray", linestyle=":", label="the same number of held-out images")
    axes.set(xscale="log", yscale="log", xlabel="network calls per image", ylabel="Fréchet distance")
    axes.set_xticks(calls, [str(number) for number in calls])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    command.run(measure)
