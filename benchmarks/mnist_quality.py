"""Quality of the MNIST samples. python benchmarks/mnist_quality.py --workdir runs/mnist --num_samples 1000

Trains a small CNN on the run's training images (once: its weights are kept in --classifier), generates samples
with the labels in turn, and prints
- the share of the held-out images that the CNN recognizes, and the share of the samples that it recognizes as the
  requested class, in total and by class;
- the Frechet distance of the samples' features (the CNN's last hidden layer, 64 numbers) to those of all held-out
  images, and the distance of the same number of real training images (drawn without replacement, seed 0);
- seconds per sample; those of the first seed include the compilation.
"""

import time
from pathlib import Path

import command
import jax
import numpy as np
from absl import flags
from classifier import make_classifier, stack_examples

import diffusion_jax as dj
from diffusion_jax.config.text import sampler_from_text
from diffusion_jax.evaluation.metrics import frechet_distance

_WORKDIR = flags.DEFINE_string("workdir", "runs/mnist", "A trained run with classes.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "Number of samples per seed.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds, a line each.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "Default: as in the run's config.")
_SAMPLER = flags.DEFINE_string("sampler", None, "Such as DDIM(eta=0.5); default: as in the run's config.")
_GUIDANCE = flags.DEFINE_float("guidance", None, "Default: as in the run's config.")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "Weights of the CNN; default: WORKDIR/classifier.npz.")


def measure() -> None:
    n, sampler = _NUM_SAMPLES.value, sampler_from_text(_SAMPLER.value) if _SAMPLER.value else None
    run = dj.load(_WORKDIR.value)
    classes = run.network.num_classes
    if not classes:
        raise ValueError(f"--workdir {_WORKDIR.value}: must be a run with classes")
    training, held_out = command.open_data(run)
    if not classes <= n <= len(training):
        raise ValueError(f"--num_samples {n}: must be from {classes} to {len(training)}, the number of training images")

    classify = make_classifier(training, Path(_CLASSIFIER.value or Path(_WORKDIR.value) / "classifier.npz"))
    images, held_out_labels = stack_examples(held_out, np.arange(len(held_out)))
    found, features = classify(images)
    print(f"held-out images recognized by the CNN: {np.mean(found == held_out_labels):.2%}")
    indices = np.random.default_rng(0).permutation(len(training))[:n]
    real = frechet_distance(classify(stack_examples(training, indices)[0])[1], features)

    labels = np.arange(n) % classes
    for seed in range(_SEEDS.value):
        start = time.perf_counter()
        x = run.sample(
            jax.random.key(seed),
            n,
            labels=labels,
            steps=_STEPS.value,
            sampler=sampler,
            guidance=_GUIDANCE.value,
        )
        seconds = (time.perf_counter() - start) / n
        found, generated = classify(dj.pixels.to_uint8(x))
        distance = frechet_distance(generated, features)
        print(
            f"seed {seed}: recognized {np.mean(found == labels):.1%}; Frechet distance {distance:.3f}, "
            f"of {n} real images {real:.3f}, ratio {distance / real:.2f}; {seconds:.3f} s per sample"
        )
        shares = [f"{run.class_name(k)} {np.mean(found[labels == k] == k):.0%}" for k in range(classes)]
        print(f"  by class: {', '.join(shares)}")


if __name__ == "__main__":
    command.run(measure)
