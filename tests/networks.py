"""What the tests of the networks share: shapes, parameters without zeros, inputs, outputs, the references' input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from oracles import quick_jit


@functools.cache
def abstract(model, image_shape=(8, 8, 1)):
    """The shapes of the parameters, without computing them."""

    def init(key):
        return model.init(key, jnp.zeros((1, *image_shape)), jnp.zeros(1), jnp.zeros(1, int))

    return jax.eval_shape(init, jax.random.key(0))


def initial(model, image_shape=(8, 8, 1), select=lambda params: params):
    """The initial parameters, or those that `select` picks. This generator compiles several times as fast."""

    def init(key):
        return select(model.init(key, jnp.zeros((1, *image_shape)), jnp.zeros(1), jnp.zeros(1, int))["params"])

    return jax.device_get(quick_jit(init)(jax.random.key(0, impl="rbg")))


def randoms(tree, seed=0):
    """Parameters of the shapes of `tree`, none of them zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), tree)


def inputs(shape=(2, 8, 8, 1)):
    rng = np.random.default_rng(1)
    return rng.normal(size=shape).astype(np.float32), np.linspace(0.1, 0.9, shape[0], dtype=np.float32)


def output(model, x, time, labels=None, params=None, **kwargs):
    """The output of a network, by default with random parameters; compiled once per model and kind of arguments."""
    params = randoms(abstract(model, x.shape[1:])) if params is None else params
    return np.asarray(applied(model)(params, x, time, labels, **kwargs))


@functools.cache
def applied(model):
    return quick_jit(model.apply)


@functools.cache
def gradient(model):
    """The gradient of the sum of the cubed outputs, for four labelled images, by the parameters."""
    x, time = inputs((4, 8, 8, 1))
    labels = jnp.array([0, 1, 2, -1])
    params = randoms(abstract(model))
    return quick_jit(jax.grad(lambda p: jnp.sum(model.apply(p, x, time, labels) ** 3)))(params)


def without_effect(model):
    """The parameters that have a gradient of zero."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient(model))
    return {"/".join(str(key.key) for key in path) for path, leaf in leaves if not leaf.any()}


def wave(shape, phase=0.0):
    """The references' input: sin(0.05 n + 0.3 sin(0.011 n) + phase) over the flat NCHW index n."""
    n = np.arange(np.prod(shape))
    return np.sin(0.05 * n + 0.3 * np.sin(0.011 * n) + phase).reshape(shape)


def squares(x, patch):
    """[B, H, W, C], pixel by pixel, as [B, H/patch, W/patch, patch^2 C]: rows of a square, then columns."""
    b, h, w, c = x.shape
    found = np.empty((b, h // patch, w // patch, patch * patch * c), x.dtype)
    for i in range(h):
        for j in range(w):
            place = (i % patch) * patch + j % patch
            found[:, i // patch, j // patch, place * c : (place + 1) * c] = x[:, i, j]
    return found


def params_of_block(theirs, layers):
    """Flax parameters of a block from PyTorch's: `layers` are names and shapes, norms have one dimension."""
    params = {}
    for name, shape in layers.items():
        weight, bias = theirs[f"{name}.weight"], theirs[f"{name}.bias"]
        if len(shape) == 1:
            params[name] = {"GroupNorm_0": {"scale": weight, "bias": bias}}
        else:
            square = len(shape) == 4 and shape[2] > 1
            kernel = weight.transpose(2, 3, 1, 0) if square else weight.reshape(shape[:2]).T
            params[name] = {"kernel": kernel, "bias": bias}
    return {"params": params}


@dataclasses.dataclass(frozen=True)
class Dense:
    """Two matrix products on 8x8x1 images, w2 w1 x: their operations and their bytes are counted by hand."""

    width: int = 128
    num_classes: int = 0

    def init(self, key, x, time, labels):
        w1, w2 = (jax.random.normal(k, (64, self.width)) / 8 for k in jax.random.split(key))
        return {"w1": w1, "w2": w2.T}

    def apply(self, params, x, time, labels=None, train=False, rngs=None):
        return (x.reshape(len(x), 64) @ params["w1"] @ params["w2"]).reshape(x.shape)
