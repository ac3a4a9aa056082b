"""The ConvNeXt U-Net: the reference project's counts, outputs and defects, and the options that correct these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import abstract, gradient, inputs, output, params_of_block, randoms, wave, without_effect
from oracles import quick_jit
from slow import slow
from torch_files import convnext_shapes, filled, sines

from diffusion_jax.interop import mnist
from diffusion_jax.models.convnext_unet import (
    ConvNeXtBlock,
    ConvNeXtUNet,
    DepthwiseConv,
    Upsample,
    _banded_products,
    _grouped_conv,
    interleaved_sinusoid,
)

SHAPE = (8, 8, 1)
# Their network exactly.
EXACT = {"stem": False, "attention": (28, 14, 7, 3), "num_classes": 10}


def tiny(**settings) -> ConvNeXtUNet:
    defaults = {
        "channels": (4, 6),
        "strides": (2,),
        "last_width": 3,
        "attention": (4,),
        "expansion": 2,
        "embedding_width": 8,
    }
    return ConvNeXtUNet(**(defaults | settings))


def shallow(**settings) -> ConvNeXtUNet:
    """Quick to compile, for tests in which levels do not matter."""
    return tiny(**({"channels": (4,), "strides": (), "attention": ()} | settings))


# The reference


def test_the_network_has_as_many_parameters_as_theirs():
    tree = abstract(ConvNeXtUNet(**EXACT), (28, 28, 1))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == 2_038_132


@pytest.mark.parametrize(
    ("module", "count"),
    [
        ("classes", 1_120),
        ("down0", 7_814),
        ("down0_attention", 1_120),
        ("down0_sample", 4_640),
        ("down1", 64_512),
        ("down1_attention", 4_288),
        ("down1_sample", 18_496),
        ("down2", 239_616),
        ("down2_attention", 16_768),
        ("down2_sample", 73_856),
        ("mid", 921_600),
        ("mid_attention", 66_304),
        ("up2_sample", 73_792),
        ("up2", 376_256),
        ("up2_attention", 16_768),
        ("up1_sample", 18_464),
        ("up1", 103_136),
        ("up1_attention", 4_288),
        ("up0_sample", 4_624),
        ("up0", 17_880),
        ("up0_attention", 304),
        ("final", 2_486),
    ],
)
def test_each_stage_has_as_many_parameters_as_theirs(module, count):
    tree = abstract(ConvNeXtUNet(**EXACT), (28, 28, 1))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree[module])) == count


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), *slow(("float32", 1e-5))])
def test_the_output_is_that_of_their_code(dtype, tolerance):
    """Golden values measured on their PyTorch code in float64; in float32 relative to their spread of 9.5."""
    spread = 9.5410051324
    allowed = tolerance * (spread if dtype == "float32" else 1)
    with jax.enable_x64(dtype == "float64"):
        model = ConvNeXtUNet(**EXACT, time_scale=1.0, time_offset=1.0, dtype=dtype)
        shapes = convnext_shapes((16, 32, 64, 128), 8, 3, 10, 112, 500)
        params = mnist.MNIST().convert(filled(shapes), model, (28, 28, 1))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        x = jnp.asarray(wave((2, 1, 28, 28)).transpose(0, 2, 3, 1), dtype)
        time, labels = jnp.asarray([1.0, 377.0], dtype), jnp.array([3, 9])
        y = np.asarray(quick_jit(model.apply)(params, x, time, labels), np.float64)
    assert abs(y.mean() + 2.9525066763) < allowed
    assert abs(y.std() - spread) < allowed
    row = [-6.7371932475, -9.5321377154, -10.8258918563, -11.7589808298]
    np.testing.assert_allclose(y[0, 0, :4, 0], row, rtol=0, atol=allowed)


def test_a_block_is_that_of_their_code():
    """ConvNeXt block (4 -> 6, time 5, class 5, m = 3): its mean, measured on their code in float64."""
    layers = {
        "time": (4, 5),
        "label": (4, 5),
        "depthwise": (4, 1, 7, 7),
        "norm1": (4,),
        "conv1": (18, 4, 3, 3),
        "norm2": (18,),
        "conv2": (6, 18, 3, 3),
        "shortcut": (6, 4, 1, 1),
    }
    shapes = {}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    theirs = filled(shapes)
    x, time, label = wave((1, 4, 5, 5)).transpose(0, 2, 3, 1), wave((1, 5), 0.2), wave((1, 5), 0.9)
    with jax.enable_x64(True):
        block = ConvNeXtBlock(6, 3, jnp.float64)
        y = quick_jit(block.apply)(params_of_block(theirs, layers), x, time, label)
    assert np.asarray(y).mean() == pytest.approx(0.2311201487, abs=1e-9)


def test_the_sinusoid_is_their_table():
    found = interleaved_sinusoid(jnp.arange(1.0, 502.0), 112)
    np.testing.assert_allclose(found, sines(501, 112), atol=5e-5)  # float32 angles up to 425


# Their defects, and the options that correct them


def conditions_in(model, block):
    """The gradients of a block's layers for time and class, relative to that of its first convolution."""
    layers = gradient(model)["params"][block]
    sizes = {name: max(np.abs(leaf).max() for leaf in layers[name].values()) for name in ("time", "label", "conv1")}
    return (sizes["time"] + sizes["label"]) / sizes["conv1"]


@pytest.mark.slow
def test_without_a_stem_the_first_block_sees_neither_time_nor_class():
    """The norm of a single channel removes any constant that is added to it."""
    assert conditions_in(shallow(num_classes=3, stem=False), "mid") < 1e-4
    assert conditions_in(tiny(num_classes=3), "down0") > 1e-3


@pytest.mark.parametrize(("where", "count"), [((), 0), ((4,), 1), ((8, 4), 3)])
def test_attention_is_on_the_levels_asked_for(where, count):
    tree = abstract(tiny(attention=where))["params"]
    assert sum(name.endswith("attention") for name in tree) == count


@pytest.mark.parametrize("shape", [*slow(((28, 28, 1),), ((32, 32, 3),), ((14, 14, 2),)), (9, 20, 1), (5, 3, 1)])
def test_any_size_and_any_channels_work(shape):
    model = ConvNeXtUNet(attention=())
    x, time = inputs((2, *shape))
    assert jax.eval_shape(model.apply, abstract(model, shape), x, time).shape == (2, *shape)


def test_labels_matter_if_there_are_classes():
    model, (x, time) = shallow(num_classes=3), inputs()
    params = randoms(abstract(model))
    none = output(model, x, time, params=params)
    np.testing.assert_allclose(output(model, x, time, np.array([-1, -5]), params), none, atol=1e-6)
    some = [output(model, x, time, np.array([i, i]), params) for i in range(3)]
    assert min(np.abs(a - none).max() for a in some) > 1e-3
    assert np.abs(some[0] - some[1]).max() > 1e-3


def test_no_label_is_a_class_embedded_as_zero():
    model, (x, time) = shallow(num_classes=3), inputs()
    params = randoms(abstract(model))
    none = output(model, x, time, np.array([-1, -1]), params)
    table = params["params"]["classes"]["embedding"]
    params["params"]["classes"]["embedding"] = table * np.array([[0], [1], [1]], np.float32)
    np.testing.assert_array_equal(output(model, x, time, np.array([0, 0]), params), none)


def test_the_network_sees_the_time_times_scale_plus_offset():
    x, _ = inputs()
    params = randoms(abstract(shallow()))
    index = np.float32([7, 42])
    plain = output(shallow(time_scale=1.0, time_offset=1.0), x, index, params=params)
    scaled = output(shallow(time_scale=50.0, time_offset=1.0), x, index / 50, params=params)
    np.testing.assert_allclose(scaled, plain, atol=1e-4 * plain.std())
    other = output(shallow(time_scale=1.0, time_offset=1.0), x, index - 1, params=params)
    assert np.abs(other - plain).max() > 0.003 * plain.std()


def test_bfloat16_computes_nearly_the_same_and_gives_float32():
    x, time = inputs()
    params = randoms(abstract(shallow()))
    exact, found = (output(shallow(dtype=d), x, time, params=params) for d in ("float32", "bfloat16"))
    assert found.dtype == np.float32
    assert (found != exact).any()
    assert np.sqrt(np.mean((found - exact) ** 2)) / exact.std() < 0.05


@pytest.mark.slow
def test_every_parameter_has_an_effect():
    # A key's bias adds the same to all scores of a query, which leaves the softmax unchanged.
    assert {path for path in without_effect(tiny(num_classes=3)) if not path.endswith("k/bias")} == set()


# Layers


@pytest.mark.parametrize("shape", [(2, 5, 9, 3), (1, 7, 7, 2), (1, 2, 3, 1)])
def test_both_depthwise_convolutions_are_the_same_function(shape):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=shape), rng.normal(size=(7, 7, 1, shape[-1]))
    with jax.enable_x64(True):
        found, expected = (
            np.asarray(f(jnp.asarray(x), jnp.asarray(kernel))) for f in (_banded_products, _grouped_conv)
        )
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_depthwise_convolution_keeps_channels_apart():
    """A 1 in the corner of the kernel moves the image by 3 pixels both ways, for that channel alone."""
    x, _ = inputs((1, 8, 8, 2))
    kernel = np.zeros((7, 7, 1, 2), np.float32)
    kernel[0, 0, 0, 0] = 1
    bias = np.float32([0, 5])
    y = DepthwiseConv(7, jnp.float32).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = np.zeros((1, 8, 8, 2), np.float32)
    expected[:, 3:, 3:, 0] = x[:, :-3, :-3, 0]
    expected[..., 1] = 5
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize(("stride", "side"), [(2, 7), (2, 8), (3, 7), (3, 8), (3, 9)])
def test_upsample_is_a_transposed_convolution_padded_by_one(stride, side):
    """As PyTorch defines it: each pixel adds its kernel at stride times its position, minus the padding."""
    rng = np.random.default_rng(0)
    small = (side - 1) // stride + 1
    x, kernel = rng.normal(size=(2, small, small, 3)), rng.normal(size=(3, 3, 3, 2))  # [h, w, in, out]
    expected = np.zeros((2, side + 4, side + 4, 2))
    for i, j in np.ndindex(small, small):
        top, left = i * stride + 1, j * stride + 1  # 1 behind 2 of margin: the padding
        expected[:, top : top + 3, left : left + 3] += np.einsum("bc,hwco->bhwo", x[:, i, j], kernel)
    # ConvTranspose correlates with the kernel turned by 180 degrees.
    params = {"conv": {"kernel": kernel[::-1, ::-1].astype(np.float32), "bias": np.zeros(2, np.float32)}}
    y = Upsample(stride, (2, side, side, 2), jnp.float32).apply({"params": params}, x.astype(np.float32))
    np.testing.assert_allclose(y, expected[:, 2:-2, 2:-2], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"channels": ()}, r"channels = \(\): must be one or more integers"),
        ({"channels": (4, 0)}, r"channels\[1\] = 0: must be an integer >= 1"),
        ({"channels": (4,) * 101, "strides": (2,) * 100}, r"channels = \(4, .*: must be at most 100 integers"),
        ({"strides": (2, 2)}, r"strides = \(2, 2\): must be 1 integers >= 2"),
        ({"strides": (1,)}, r"strides = \(1,\)"),
        ({"last_width": 0}, "last_width = 0"),
        ({"expansion": 0}, "expansion = 0"),
        ({"embedding_width": 7}, "embedding_width = 7: must be even"),
        ({"embedding_width": 0}, "embedding_width = 0: must be an integer >= 2"),
        ({"num_classes": -1}, "num_classes = -1"),
        ({"out_channels": -1}, "out_channels = -1"),
        ({"attention": (7,)}, r"attention = \(7,\): must be among the resolutions of the levels, \[4, 8\]"),
        ({"dtype": "half"}, 'dtype = "half"'),
    ],
)
def test_what_does_not_fit_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        tiny(**settings).check(SHAPE)
