"""How good are the MNIST samples? python benchmarks/mnist_quality.py --workdir runs/mnist --num_samples 1000

Trains a small CNN on the run's training pictures (once: its weights stay in --classifier), draws samples
with the labels in turn, and prints
- how many of the held-out pictures the CNN reads right, and how many samples it reads as the class that was
  asked for, in all and by class;
- the Frechet distance of the samples' features (the CNN's last hidden layer, 64 numbers) to those of all the
  held-out pictures, beside that of as many real training pictures (drawn without replacement, seed 0);
- seconds a sample; those of the first seed include the compile.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from flax.traverse_util import flatten_dict, unflatten_dict

import diffusion_jax as dj
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.evaluation.metrics import frechet_distance
from diffusion_jax.experiment import open_dataset_section, sampler_from_text
from diffusion_jax.runtime.checkpoint import CheckpointError
from diffusion_jax.runtime.files import make_writable

_WORKDIR = flags.DEFINE_string("workdir", "runs/mnist", "A trained run with classes.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "How many samples a seed.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of batches of samples, a line each.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "In place of the run's own.")
_SAMPLER = flags.DEFINE_string("sampler", None, "In place of the run's own, as in DDIM(eta=0.5).")
_GUIDANCE = flags.DEFINE_float("guidance", None, "In place of the run's own.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are, in place of the run's own.")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "The CNN's weights; WORKDIR/classifier.npz by default.")

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # uint8 [N, H, W, C] -> classes [N], features


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    try:
        measure()
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")


def measure() -> None:
    n, sampler = _NUM_SAMPLES.value, sampler_from_text(_SAMPLER.value) if _SAMPLER.value else None
    run = dj.load(_WORKDIR.value)
    classes = run.network.num_classes
    if not classes:
        raise ValueError(f"--workdir {_WORKDIR.value}: was trained without classes; name a run with classes")
    moved = {"data_dir": _DATA_DIR.value} if _DATA_DIR.value else {}
    config = run.config | {"data": run.config["data"] | moved}
    training, held_out = open_dataset_section(config, allow_code=False).open()
    if not classes <= n <= len(training):
        raise ValueError(
            f"--num_samples {n}: must be from {classes} to {len(training)}, the training pictures"
        )

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
        found, drawn = read(dj.images.to_uint8(x))
        distance = frechet_distance(drawn, features)
        print(
            f"seed {seed}: read as asked {np.mean(found == labels):.1%}; Frechet distance {distance:.3f}, "
            f"of {n} real pictures {real:.3f}, ratio {distance / real:.2f}; {seconds:.3f} s a sample"
        )
        shares = [f"{run.class_name(k)} {np.mean(found[labels == k] == k):.0%}" for k in range(classes)]
        print(f"  by class: {', '.join(shares)}")


def pictures(source: dj.sources.Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of a source: uint8 [N, H, W, C] and labels [N]."""
    rows = [source.rows[int(i)] for i in indices]
    return np.stack([row["image"] for row in rows]), np.stack([row["label"] for row in rows])


class CNN(nn.Module):
    """Two convolutions of stride 2 and a hidden layer: (logits, features [B, 64])."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        for width in (32, 64):
            x = nn.relu(nn.Conv(width, (5, 5), strides=2)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x.reshape(len(x), -1))
        features = nn.relu(nn.Dense(64)(x))
        return nn.Dense(self.classes)(features), features


def classifier(training: dj.sources.Source, path: Path) -> Read:
    """A CNN for the classes of `training`: with the weights in `path`, or trained and written there."""
    cnn = CNN(training.num_classes)
    if not path.exists():
        make_writable(path.parent)
        print("training the CNN")
        beside = path.with_name(path.name + ".new.npz")  # a kill leaves no half-written file
        weights = flatten_dict(train(cnn, training), sep="/")
        np.savez(beside, fingerprint=training.fingerprint, **weights)
        beside.replace(path)
    params = load(path, training)

    @jax.jit
    def apply(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = dj.losses.to_float(images)
        logits, features = jax.lax.map(lambda one: cnn.apply(params, one[None]), x, batch_size=500)
        return jnp.argmax(logits[:, 0], axis=-1), features[:, 0]

    return lambda images: jax.device_get(apply(images))


def load(path: Path, training: dj.sources.Source) -> Any:
    """The parameters in `path`. Raises ValueError where they are unreadable or of other data."""
    try:
        with np.load(path, allow_pickle=False) as file:
            weights = dict(file)
        fingerprint = str(weights.pop("fingerprint"))
    except Exception as error:  # what numpy and zipfile raise for a damaged file is not listed anywhere
        raise ValueError(f"--classifier {path}: cannot be read as .npz; delete it") from error
    if fingerprint != training.fingerprint:
        raise ValueError(f"--classifier {path}: was trained on other data; name another file")
    return unflatten_dict(weights, sep="/")


def train(cnn: CNN, training: dj.sources.Source, epochs: int = 4, batch_size: int = 128) -> Any:
    """AdamW on pictures moved by up to 2 pixels, a batch at a time; the parameters."""
    # In memory: decoding a PNG takes longer than learning from it, and each is seen `epochs` times.
    rows = [training.rows[i] for i in range(len(training))]
    batches = Batches(dataclasses.replace(training, rows=rows), batch_size).iterate(threads=1)
    steps = -(-epochs * len(rows) // batch_size)
    tx = optax.adamw(optax.cosine_onecycle_schedule(steps, 3e-3))

    @jax.jit
    def step(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        shift_key, dropout_key = jax.random.split(key)
        x = jnp.roll(dj.losses.to_float(batch["image"]), jax.random.randint(shift_key, (2,), -2, 3), (1, 2))

        def loss(params: Any) -> jax.Array:
            logits, _ = cnn.apply(params, x, train=True, rngs={"dropout": dropout_key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    key = jax.random.key(0)
    params = jax.jit(cnn.init)(key, jnp.zeros((1, *training.image_shape)))
    state = tx.init(params)
    for k, batch in enumerate(itertools.islice(batches, steps)):
        params, state = step(params, state, batch, jax.random.fold_in(key, k))
    return params


if __name__ == "__main__":
    app.run(main)
