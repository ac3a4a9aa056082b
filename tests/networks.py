"""What the tests of the networks share: parameters without zeros, inputs, outputs, the reference's input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from oracles import quick_jit


def abstract(model, image_shape=(8, 8, 1)):
    def init(key):
        return model.init(key, jnp.zeros((1, *image_shape)), jnp.zeros(1), jnp.zeros(1, int))

    return jax.eval_shape(init, jax.random.key(0))


def randoms(tree, seed=0):
    """Parameters of the shapes of `tree`, none of them zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), tree)


def inputs(shape=(2, 8, 8, 1)):
    rng = np.random.default_rng(1)
    return rng.normal(size=shape).astype(np.float32), np.linspace(0.1, 0.9, shape[0], dtype=np.float32)


def output(model, x, time, labels=None, params=None):
    params = randoms(abstract(model, x.shape[1:])) if params is None else params
    return np.asarray(applied(model)(params, x, time, labels))


@functools.cache
def applied(model):
    return quick_jit(model.apply)


def wave(shape, phase=0.0):
    """The reference's input: sin(0.05 n + 0.3 sin(0.011 n) + phase) over the flat NCHW index n."""
    n = np.arange(np.prod(shape))
    return np.sin(0.05 * n + 0.3 * np.sin(0.011 * n) + phase).reshape(shape)
