"""How good are the digits? python benchmarks/digits_quality.py --workdir runs/digits

Draws 1 000 class-conditional samples, 100 a class, with the run's own sampler and guidance, and prints
- how many an SVM (scikit-learn's SVC as it comes, fitted on the real training digits) reads as the class
  that was asked for, beside how many of the held-out digits it reads right;
- the Frechet distance of the raw pixels (in [-1, 1]) of the same samples to the 180 held-out digits, beside
  that of 1 000 real training digits (drawn without replacement, seed 0).
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
_GUIDANCE = flags.DEFINE_float("guidance", None, "In place of the run's own.")
_STEPS = flags.DEFINE_integer("steps", None, "In place of the run's own.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of batches of 1 000 samples, a line each.")


def measure() -> None:
    training, held_out = (pictures(source) for source in dj.sources.Digits().open())
    svm = SVC().fit(*training)
    some = np.random.default_rng(0).permutation(len(training[0]))[:1000]
    real = frechet_distance(training[0][some], held_out[0])
    print(f"held-out digits read right by the SVM: {svm.score(*held_out):.1%}")

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
        # The samples as files would have them: whole levels of uint8.
        flat = np.asarray(dj.pixels.to_float(dj.pixels.to_uint8(x))).reshape(1000, -1)
        distance = frechet_distance(flat, held_out[0])
        print(
            f"seed {seed}: read as asked {svm.score(flat, labels):.1%}; Frechet distance {distance:.3f}, "
            f"of 1 000 real digits {real:.3f}, ratio {distance / real:.2f}; {seconds:.1f} s"
        )


def pictures(source: dj.sources.Source) -> tuple[np.ndarray, np.ndarray]:
    """All of a source: pixels in [-1, 1], [N, 64], and labels."""
    rows = [source.rows[i] for i in range(len(source))]
    images = np.asarray(dj.pixels.to_float(np.stack([row["image"] for row in rows])))
    return images.reshape(len(rows), -1), np.stack([row["label"] for row in rows])


if __name__ == "__main__":
    command.run(measure)
