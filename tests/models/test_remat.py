"""What the gradient of a network computes again instead of keeping it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import abstract, inputs, randoms
from slow import slow

from diffusion_jax.models import ConvNeXtUNet, FiLMUNet, UNet

KINDS = ("none", "activations", "blocks")
NETWORKS = {
    "UNet": lambda **kwargs: UNet(channels=(8, 16), blocks=1, attention=(4,), groups=4, dropout=0.3, **kwargs),
    "FiLMUNet": lambda **kwargs: FiLMUNet(
        width=8, multipliers=(1, 2), attention=(4,), heads=2, head_channels=4, **kwargs
    ),
    "ConvNeXtUNet": lambda **kwargs: ConvNeXtUNet(
        channels=(4, 8), strides=(2,), attention=(4,), embedding_width=8, **kwargs
    ),
}
# Blocks of each network above, and the convolutions of a block that its gradient needs the output of: not the last
# one where nothing but the addition of the input follows.
AGAIN = {"UNet": (8, 1), "FiLMUNet": (7, 2), "ConvNeXtUNet": (4, 1)}


def mean_square(model):
    x, time = inputs()

    def function(params):
        y = model.apply(params, x, time, train=True, rngs={"dropout": jax.random.key(5)})
        return jnp.mean(jnp.square(y - x))

    return function


@pytest.mark.parametrize("remat", ["activations", *slow("blocks")])
@pytest.mark.parametrize("name", ["UNet", *slow("FiLMUNet", "ConvNeXtUNet")])
def test_parameters_output_and_gradient_stay(name, remat):
    """With the same dropout; another mask in the second computation would give another gradient."""
    plain, other = NETWORKS[name](), NETWORKS[name](remat=remat)
    params = randoms(abstract(plain))
    assert jax.tree.structure(abstract(other)) == jax.tree.structure(abstract(plain))
    expected, found = (jax.jit(jax.value_and_grad(mean_square(model)))(params) for model in (plain, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def count_convolutions(function, params) -> int:
    return jax.jit(function).lower(params).as_text().count("stablehlo.convolution")


@pytest.mark.parametrize("name", ["UNet", *slow("FiLMUNet", "ConvNeXtUNet")])
def test_convolutions_are_computed_again_for_blocks_only(name):
    models = {remat: NETWORKS[name](remat=remat) for remat in KINDS}
    params = randoms(abstract(models["none"]))
    counts = {remat: count_convolutions(jax.grad(mean_square(models[remat])), params) for remat in KINDS}
    blocks, again = AGAIN[name]
    assert counts["activations"] == counts["none"] > count_convolutions(mean_square(models["none"]), params)
    assert counts["blocks"] - counts["none"] == blocks * again


def count_kept(model, params) -> int:
    """Bytes that the forward pass hands to the gradient, without the parameters."""
    kept = jax.eval_shape(lambda params: jax.vjp(mean_square(model), params)[1], params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept) if leaf.shape not in shapes)


@pytest.mark.parametrize("name", NETWORKS)
def test_less_is_kept(name):
    models = [NETWORKS[name](remat=remat, dtype="bfloat16") for remat in KINDS]
    params = randoms(abstract(models[0]))
    none, activations, blocks = (count_kept(model, params) for model in models)
    assert blocks < 0.7 * activations < 0.7 * 0.7 * none


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match='remat = .all.: must be "none", "activations" or "blocks"'):
        abstract(UNet(channels=(8, 16), groups=4, remat="all"))
