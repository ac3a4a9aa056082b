"""Networks in Flax NNX; configs of the tests name the functions."""

import functools

import jax.numpy as jnp
from flax import nnx

import diffusion_jax as dj


class Conv(nnx.Module):
    """Two convolutions, a norm, classes, the time and dropout, once in a list of layers."""

    def __init__(self, width=8, dropout=0.5, *, rngs):
        self.layers = nnx.List([nnx.Conv(1, width, (3, 3), rngs=rngs), nnx.Conv(width, 1, (3, 3), rngs=rngs)])
        self.norm = nnx.GroupNorm(width, num_groups=2, rngs=rngs)
        self.time = nnx.Linear(1, width, rngs=rngs)
        self.classes = nnx.Embed(11, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x, time, labels):
        condition = self.time(time[:, None]) + self.classes(labels + 1)
        y = self.norm(self.layers[0](x)) + condition[:, None, None, :]
        return self.layers[1](self.dropout(nnx.silu(y)))


class MLP(nnx.Module):
    def __init__(self, *, rngs):
        self.inner, self.outer = nnx.Linear(3, 16, rngs=rngs), nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x, time, labels):
        return self.outer(nnx.gelu(self.inner(jnp.concatenate([x, time[:, None]], axis=-1))))


class Learned(nnx.Module):
    """Its own estimate of x0 as input, a variance as output."""

    def __init__(self, *, rngs):
        self.mix = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x, time, labels, x0_hat=None):
        return self.mix(jnp.concatenate([x, jnp.zeros_like(x) if x0_hat is None else x0_hat], axis=-1))


class Noise(nnx.Module):
    """The output is what two layers of dropout leave of ones."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))
        self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, time, labels):
        ones = self.scale * jnp.ones_like(x)
        return jnp.concatenate([self.first(ones), self.second(ones)], axis=-1)


class Tied(nnx.Module):
    """The same layer under two names."""

    def __init__(self, *, rngs):
        self.there = nnx.Linear(1, 1, rngs=rngs)
        self.back = self.there

    def __call__(self, x, time, labels):
        return self.back(self.there(x))


class WithBatchNorm(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(1, 1, rngs=rngs), nnx.BatchNorm(1, rngs=rngs)])


class WithArray(nnx.Module):
    def __init__(self, *, rngs):
        self.frequencies = jnp.arange(4.0)


class Unhashable(nnx.Module):
    def __init__(self, *, rngs):
        self.sizes = nnx.static([1, 2])


def make_model(width=8, num_classes=0):
    """Named by the configs below."""
    return dj.models.from_nnx(functools.partial(Conv, width), num_classes)


def make_batch_norm():
    return dj.models.from_nnx(WithBatchNorm)
