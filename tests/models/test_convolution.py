"""The derivatives are those of JAX's own convolution, and on a CPU its gradients are fast inside loops."""

import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from slow import slow

import diffusion_jax as dj
from diffusion_jax.models.convolution import conv_general_dilated

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
SETTINGS = {
    "plain": {"window_strides": (1, 1), "padding": ((1, 1), (1, 1))},
    "strided": {"window_strides": (2, 2), "padding": ((0, 1), (1, 1))},
    "transposed": {"window_strides": (1, 1), "padding": ((1, 2), (1, 3)), "lhs_dilation": (2, 3)},
    "dilated": {"window_strides": (1, 2), "padding": ((2, 2), (0, 1)), "rhs_dilation": (2, 1)},
}


def pair(name):
    """Our convolution and JAX's, as functions of (x, kernel)."""
    settings = SETTINGS[name] | {"dimension_numbers": DIMENSIONS}
    convolutions = conv_general_dilated, jax.lax.conv_general_dilated
    return [lambda x, w, conv=conv: conv(x, w, **settings) for conv in convolutions]


def normals(*shapes):
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), a, b)


X, W = (3, 5, 6, 2), (3, 3, 2, 4)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_derivative_is_that_of_jax(name):
    ours, theirs = pair(name)
    x, w, dx, dw = normals(X, W, X, W)

    def derivatives(conv):
        y, pull = jax.vjp(conv, x, w)
        tangent = jax.jvp(conv, (x, w), (dx, dw))
        of_x, of_w = (jax.grad(lambda *args: jnp.sum(conv(*args) ** 3), i)(x, w) for i in (0, 1))
        twice = jax.jvp(jax.grad(lambda w: jnp.sum(conv(x, w) ** 3)), (w,), (dw,))
        return y, pull(jnp.cos(y)), tangent, of_x, of_w, twice

    assert_close(*(jax.jit(lambda conv=conv: derivatives(conv))() for conv in (ours, theirs)))


def test_gradients_of_single_examples():
    x, w = normals(X, W)
    losses = [lambda w, x, conv=conv: jnp.sum(conv(x[None], w) ** 2) for conv in pair("plain")]
    assert_close(*(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w, x) for loss in losses))


def test_bfloat16_stays_bfloat16():
    x, w = (jnp.bfloat16(part) for part in normals(X, W))
    y, pull = jax.vjp(pair("plain")[0], x, w)
    assert [part.dtype for part in (y, *pull(y))] == [jnp.bfloat16] * 3


def test_an_argument_without_a_tangent_costs_nothing():
    """A tangent of zeros would be convolved like any other."""
    conv = pair("plain")[0]
    x, w = normals(X, W)
    text = str(jax.make_jaxpr(jax.grad(lambda w: jnp.sum(conv(x, w))))(w))
    assert text.count("conv_general_dilated[") <= 3  # forward, and the gradient on a CPU and elsewhere


NETWORKS = {
    "unet": dj.models.UNet(channels=(8, 16), blocks=1, attention=(), groups=4, num_classes=10),
    "convnext": dj.models.ConvNeXtUNet(channels=(4, 8), strides=(2,), attention=(), num_classes=10),
    "film": dj.models.FiLMUNet(width=8, multipliers=(1, 2), attention=(), num_classes=10),
}


def layouts(fn, *args):
    """The dimension orders of the convolutions inside the loops of a compiled program."""
    return set(re.findall(r"dim_labels=(\S+?)[,\s]", jax.jit(fn).lower(*args).compile().as_text()))


@pytest.mark.parametrize("name", ["unet", *slow("convnext", "film")])
def test_gradients_inside_a_loop_have_the_order_of_the_fast_code(name):
    model = NETWORKS[name]
    x, time, labels = jnp.zeros((2, 8, 8, 1)), jnp.full(2, 0.5), jnp.array([3, -1])
    params = networks.abstract(model)

    def gradients(params, x):
        def loss(params, x):
            return jnp.sum(model.apply(params, x, time, labels) ** 2)

        return jax.lax.scan(lambda carry, _: (carry, jax.grad(loss, (0, 1))(params, x + carry)), 0.0, length=3)[1]

    # XLA itself swaps the arguments in the gradient of a transposed convolution by its kernel.
    swapped = {"01fb_o01i->f01b"} if name == "convnext" else set()
    assert layouts(gradients, params, x) == {"b01f_01io->b01f"} | swapped


@pytest.mark.parametrize("name", ["feature_group_count", "batch_group_count"])
def test_groups_are_refused(name):
    with pytest.raises(ValueError, match=f"^{name} = 2: must be 1; use jax.lax.conv_general_dilated"):
        conv_general_dilated(*normals(X, W), (1, 1), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS, **{name: 2})
