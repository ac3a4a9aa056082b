"""Quality of the digits. python benchmarks/digits_quality.py --workdir runs/digits

Generates 1 000 class-conditional samples, 100 per class, with the run's sampler and guidance, and prints
- the share that an SVM (scikit-learn's SVC with its defaults, trained on the real training digits) recognizes as
  the requested class, and the share of the held-out digits that it recognizes;
- the Frechet distance of the raw pixels (in [-1, 1]) of the same samples to the 180 held-out digits, and the
  distance of 1 000 real training digits (drawn without replacement, seed 0).
"""

import time

import command
import jax
import numpy as np
from absl import flags
from sklearn.svm import SVC

import diffusion_jax as dj
from diffusion_jax.evaluation.metrics import frechet_distance

_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "A trained run of configs/digits.py.")
_GUIDANCE = flags.DEFINE_float("guidance", None, "Default: as in the run's config.")
_STEPS = flags.DEFINE_integer("steps", None, "Default: as in the run's config.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds, with 1 000 samples and a line each.")


def measure() -> None:
    training, held_out = (flat_examples(source) for source in dj.sources.Digits().open())
    svm = SVC().fit(*training)
    indices = np.random.default_rng(0).permutation(len(training[0]))[:1000]
    real = frechet_distance(training[0][indices], held_out[0])
    print(f"held-out digits recognized by the SVM: {svm.score(*held_out):.1%}")

    run = dj.load(_WORKDIR.value)
    labels = np.repeat(np.arange(10), 100)
    for seed in range(_SEEDS.value):
        start = time.perf_counter()
        x = run.sample(
            jax.random.key(seed),
            1000,
            labels=labels,
            guidance=_GUIDANCE.value,
            steps=_STEPS.value,
            batch_size=250,
        )
        seconds = time.perf_counter() - start
        # The samples as they would be saved: rounded to the levels of uint8.
        flat = np.asarray(dj.pixels.to_float(dj.pixels.to_uint8(x))).reshape(1000, -1)
        distance = frechet_distance(flat, held_out[0])
        print(
            f"seed {seed}: recognized {svm.score(flat, labels):.1%}; Frechet distance {distance:.3f}, "
            f"of 1 000 real digits {real:.3f}, ratio {distance / real:.2f}; {seconds:.1f} s"
        )


def flat_examples(source: dj.sources.Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images of a source, pixels in [-1, 1], [N, 64], and their labels."""
    rows = [source.rows[i] for i in range(len(source))]
    images = np.asarray(dj.pixels.to_float(np.stack([row["image"] for row in rows])))
    return images.reshape(len(rows), -1), np.stack([row["label"] for row in rows])


if __name__ == "__main__":
    command.run(measure)
