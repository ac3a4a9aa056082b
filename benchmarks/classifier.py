"""A small CNN that classifies the images of a run; the benchmarks use its last hidden layer as features."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

import diffusion_jax as dj
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.runtime.files import make_writable

Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # uint8 [N, H, W, C] -> classes [N], features


def stack_examples(source: dj.sources.Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of some examples, uint8 [N, H, W, C], and their labels [N]."""
    rows = [source.rows[int(i)] for i in indices]
    return np.stack([row["image"] for row in rows]), np.stack([row["label"] for row in rows])


class CNN(nn.Module):
    """Two convolutions of stride 2 and a hidden layer; returns (logits, features [B, 64])."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        for width in (32, 64):
            x = nn.relu(nn.Conv(width, (5, 5), strides=2)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x.reshape(len(x), -1))
        features = nn.relu(nn.Dense(64)(x))
        return nn.Dense(self.classes)(features), features


def make_classifier(training: dj.sources.Source, path: Path) -> Classify:
    """Returns a CNN for the classes of `training`, with the weights in `path`, or trained and saved there."""
    cnn = CNN(training.num_classes)
    if not path.exists():
        make_writable(path.parent)
        print("training the CNN")
        new = path.with_name(path.name + ".new.npz")  # a kill leaves no incomplete file
        weights = flatten_dict(train(cnn, training), sep="/")
        np.savez(new, fingerprint=training.fingerprint, **weights)
        new.replace(path)
    params = load(path, training)

    @jax.jit
    def apply(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = dj.pixels.to_float(images)
        logits, features = jax.lax.map(lambda one: cnn.apply(params, one[None]), x, batch_size=500)
        return jnp.argmax(logits[:, 0], axis=-1), features[:, 0]

    return lambda images: jax.device_get(apply(images))


def load(path: Path, training: dj.sources.Source) -> Any:
    """Loads the parameters in `path`. Raises ValueError if they cannot be read or belong to other data."""
    try:
        with np.load(path, allow_pickle=False) as file:
            weights = dict(file)
        fingerprint = str(weights.pop("fingerprint"))
    except Exception as error:  # numpy and zipfile do not document what they raise for damaged files
        raise ValueError(f"--classifier {path}: cannot be read as .npz; delete it") from error
    if fingerprint != training.fingerprint:
        raise ValueError(f"--classifier {path}: was trained on other data; use another file")
    return unflatten_dict(weights, sep="/")


def train(cnn: CNN, training: dj.sources.Source, epochs: int = 4, batch_size: int = 128) -> Any:
    """Trains with AdamW on images that are shifted by up to 1/14 of their side, one shift per batch.

    Returns the parameters after `epochs`, or after 1 000 steps if that is more.
    """
    # In memory: decoding a PNG takes longer than training on it, and each is used `epochs` times.
    rows = [training.rows[i] for i in range(len(training))]
    batches = Batches(dataclasses.replace(training, rows=rows), batch_size).iterate(threads=1)
    steps = max(1000, -(-epochs * len(rows) // batch_size))
    limit = training.image_shape[0] // 14
    tx = optax.adamw(optax.cosine_onecycle_schedule(steps, 3e-3))

    @jax.jit
    def step(params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        shift_key, dropout_key = jax.random.split(key)
        x = jnp.roll(dj.pixels.to_float(batch["image"]), jax.random.randint(shift_key, (2,), -limit, limit + 1), (1, 2))

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
