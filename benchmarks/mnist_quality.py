"""How good are the MNIST samples? python benchmarks/mnist_quality.py --workdir runs/mnist --num_samples 1000

Trains a small CNN on the run's training pictures (once: its weights stay in --classifier), draws samples
with the labels in turn, and prints
- how many of the held-out pictures the CNN reads right, and how many samples it reads as the class that was
  asked for, in all and by class;
- the Frechet distance of the samples' features (the CNN's last hidden layer, 64 numbers) to those of all the
  held-out pictures, beside that of as many real training pictures (drawn without replacement, seed 0);
- seconds a sample; those of the first seed include the compile.
"""

import time
from pathlib import Path

import command
import jax
import numpy as np
from absl import flags
from classifier import classifier, pictures

import diffusion_jax as dj
from diffusion_jax.config.experiment import build_dataset
from diffusion_jax.config.text import sampler_from_text
from diffusion_jax.evaluation.metrics import frechet_distance

_WORKDIR = flags.DEFINE_string("workdir", "runs/mnist", "A trained run with classes.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "How many samples a seed.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of batches of samples, a line each.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "In place of the run's own.")
_SAMPLER = flags.DEFINE_string("sampler", None, "In place of the run's own, as in DDIM(eta=0.5).")
_GUIDANCE = flags.DEFINE_float("guidance", None, "In place of the run's own.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are, in place of the run's own.")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "The CNN's weights; WORKDIR/classifier.npz by default.")


def measure() -> None:
    n, sampler = _NUM_SAMPLES.value, sampler_from_text(_SAMPLER.value) if _SAMPLER.value else None
    run = dj.load(_WORKDIR.value)
    classes = run.network.num_classes
    if not classes:
        raise ValueError(f"--workdir {_WORKDIR.value}: was trained without classes; name a run with classes")
    moved = {"data_dir": _DATA_DIR.value} if _DATA_DIR.value else {}
    config = run.config | {"data": run.config["data"] | moved}
    training, held_out = build_dataset(config, allow_code=False).open()
    if not classes <= n <= len(training):
        raise ValueError(f"--num_samples {n}: must be from {classes} to {len(training)}, the training pictures")

    read = classifier(training, Path(_CLASSIFIER.value or Path(_WORKDIR.value) / "classifier.npz"))
    images, held_out_labels = pictures(held_out, np.arange(len(held_out)))
    found, features = read(images)
    print(f"held-out pictures read right by the CNN: {np.mean(found == held_out_labels):.2%}")
    some = np.random.default_rng(0).permutation(len(training))[:n]
    real = frechet_distance(read(pictures(training, some)[0])[1], features)

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
        found, drawn = read(dj.pixels.to_uint8(x))
        distance = frechet_distance(drawn, features)
        print(
            f"seed {seed}: read as asked {np.mean(found == labels):.1%}; Frechet distance {distance:.3f}, "
            f"of {n} real pictures {real:.3f}, ratio {distance / real:.2f}; {seconds:.3f} s a sample"
        )
        shares = [f"{run.class_name(k)} {np.mean(found[labels == k] == k):.0%}" for k in range(classes)]
        print(f"  by class: {', '.join(shares)}")


if __name__ == "__main__":
    command.run(measure)
