"""The FiLM U-Net: the reference project's counts and outputs, and the options that it does not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import abstract, initial, inputs, output, params_of_block, randoms, wave, without_effect
from oracles import quick_jit
from slow import slow
from torch_files import filled, film_shapes

from diffusion_jax.interop import pokemon
from diffusion_jax.models.film_unet import FiLMBlock, FiLMUNet

SHAPE = (8, 8, 1)


def tiny(**settings) -> FiLMUNet:
    defaults = {"width": 8, "multipliers": (1, 2), "attention": (4,), "heads": 2, "head_channels": 4}
    return FiLMUNet(**(defaults | settings))


def shallow(**settings) -> FiLMUNet:
    """Quick to compile, for tests in which levels do not matter."""
    return tiny(**({"multipliers": (1,), "attention": ()} | settings))


# The reference


@pytest.mark.parametrize(
    ("settings", "image_shape", "count"),
    [
        ({}, (64, 64, 3), 22_171_779),
        ({"width": 16}, (64, 64, 3), 1_550_883),
        ({"width": 32}, (64, 64, 3), 5_763_139),
        ({"width": 128}, (64, 64, 3), 86_925_571),
        ({"blocks": 2}, (64, 64, 3), 31_419_395),
        ({"multipliers": (1, 2, 4), "attention": (32, 16)}, (64, 64, 1), 6_265_025),
    ],
)
def test_the_network_has_as_many_parameters_as_theirs(settings, image_shape, count):
    tree = abstract(FiLMUNet(**settings), image_shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == count


@pytest.mark.parametrize(
    ("module", "count"),
    [
        ("conv_in", 256),
        ("down0_block0 down0_sample", 123_456),
        ("down1_block0 down1_sample", 361_728),
        ("down2_block0 down2_block0_attention down2_sample", 1_445_120),
        ("down3_block0 down3_block0_attention", 4_200_448),
        ("mid_block0 mid_attention mid_block1", 10_233_344),
        ("up3_block0 up3_block0_attention up3_sample", 4_066_560),
        ("up2_block0 up2_block0_attention up2_sample", 1_083_008),
        ("up1_block0 up1_sample", 270_976),
        ("up0_block0", 152_128),
        ("final_block", 152_128),
        ("conv_out", 195),
        ("time0 time1", 82_432),
    ],
)
def test_each_stage_has_as_many_parameters_as_theirs(module, count):
    tree = abstract(FiLMUNet(), (64, 64, 3))["params"]
    assert sum(leaf.size for name in module.split() for leaf in jax.tree.leaves(tree[name])) == count


@pytest.mark.parametrize(("dtype", "tolerance", "pixel"), [("float64", 1e-9, 1e-9), *slow(("float32", 1e-5, 5e-5))])
def test_the_output_is_that_of_their_code(dtype, tolerance, pixel):
    """Golden values measured on their PyTorch code in float64, with weights filled by a rule.

    In float32 rounding grows from layer to layer, to 4e-5 of the output's standard deviation in the root mean
    square: its mean and standard deviation are within 1e-5, a single pixel is not.
    """
    with jax.enable_x64(dtype == "float64"):
        model = FiLMUNet(width=16, attention=(8, 4), time_scale=1.0, time_offset=0.0, dtype=dtype)
        shapes = film_shapes(16, (1, 2, 4, 8), (False, False, True, True), inner=128)
        params = pokemon.Pokemon().convert(filled(shapes), model, (32, 32, 3))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        x = jnp.asarray(wave((2, 3, 32, 32)).transpose(0, 2, 3, 1), dtype)
        y = np.asarray(quick_jit(model.apply)(params, x, jnp.asarray([0.0, 57.0], dtype)), np.float64)
    assert abs(y.mean() - 0.3152455846) < tolerance
    assert abs(y.std() - 0.4924630832) < tolerance
    row = [0.09790932165, 0.08508504208, 0.34415970655, 0.60378395585]
    np.testing.assert_allclose(y[0, 0, :4, 0], row, rtol=0, atol=pixel)


def test_a_block_is_that_of_their_code():
    """ResBlock(4 -> 8, time 6, groups 4): its mean, measured on their code in float64."""
    layers = {
        "conv1": (8, 4, 3, 3),
        "norm1": (8,),
        "conv2": (8, 8, 3, 3),
        "norm2": (8,),
        "shortcut": (8, 4, 1, 1),
        "time": (16, 6),
    }
    shapes = {}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    theirs = filled(shapes)
    x, embedding = wave((1, 4, 4, 4)).transpose(0, 2, 3, 1), wave((1, 6), 0.5)
    with jax.enable_x64(True):
        y = quick_jit(FiLMBlock(8, 4, jnp.float64).apply)(params_of_block(theirs, layers), x, embedding)
    assert np.asarray(y).mean() == pytest.approx(0.2479487393, abs=1e-9)


def test_layers_start_as_in_pytorch():
    """Weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)): uniform has std bound/sqrt(3)."""
    conv, dense = initial(tiny(width=32), select=lambda params: (params["down0_block0"]["conv1"], params["time1"]))
    for layer, fan_in in ((conv, 9 * 32), (dense, 128)):
        for leaf in layer.values():
            assert np.abs(leaf).max() <= fan_in**-0.5
            assert np.std(leaf) == pytest.approx((3 * fan_in) ** -0.5, rel=0.3)
            assert abs(np.mean(leaf)) < 3 * fan_in**-0.5 / np.sqrt(3 * leaf.size)


# Options


@pytest.mark.parametrize("shape", [(8, 8, 1), (4, 12, 3), (2, 2, 4)])
def test_any_size_that_divides_and_any_channels_work(shape):
    model = tiny(attention=())
    x, time = inputs((2, *shape))
    assert jax.eval_shape(model.apply, abstract(model, shape), x, time).shape == (2, *shape)


@pytest.mark.parametrize(("where", "count"), [((), 1), ((8,), 3), ((8, 4), 5)])
def test_attention_is_on_the_levels_asked_for_and_in_the_middle(where, count):
    tree = abstract(tiny(attention=where))["params"]
    assert sum(name.endswith("attention") for name in tree) == count


def test_the_network_sees_the_time_times_scale_plus_offset():
    """Indices 0 .. T - 1 for the times 1/T .. 1."""
    x, time = inputs()
    params = randoms(abstract(shallow()))
    index = np.float32([7, 42])
    plain = output(shallow(time_scale=1.0, time_offset=0.0), x, index, params=params)
    scaled = output(shallow(time_scale=50.0, time_offset=-1.0), x, (index + 1) / 50, params=params)
    np.testing.assert_allclose(scaled, plain, atol=1e-3 * plain.std())
    assert np.abs(output(shallow(), x, time, params=params) - plain).max() > 0.01 * plain.std()


def test_labels_matter_if_there_are_classes_and_no_class_is_one_more():
    model, (x, time) = shallow(num_classes=3), inputs()
    params = randoms(abstract(model))
    none = output(model, x, time, params=params)
    for labels in ([-1, -1], [-7, -1]):
        np.testing.assert_array_equal(output(model, x, time, np.array(labels), params), none)
    some = [output(model, x, time, np.array([i, i]), params) for i in range(3)]
    assert min(np.abs(a - none).max() for a in some) > 1e-3
    assert np.abs(some[0] - some[1]).max() > 1e-3


def test_a_network_without_classes_ignores_labels():
    x, time = inputs()
    np.testing.assert_array_equal(output(shallow(), x, time, np.array([0, 1])), output(shallow(), x, time))


def test_bfloat16_computes_nearly_the_same_and_gives_float32():
    x, time = inputs()
    params = randoms(abstract(shallow()))
    exact, found = (output(shallow(dtype=d), x, time, params=params) for d in ("float32", "bfloat16"))
    assert found.dtype == np.float32
    assert (found != exact).any()
    assert np.sqrt(np.mean((found - exact) ** 2)) / exact.std() < 0.05


@pytest.mark.slow
def test_every_parameter_has_an_effect():
    assert without_effect(tiny(num_classes=3)) == set()


@pytest.mark.parametrize(
    ("settings", "image_shape", "says"),
    [
        ({}, (7, 8, 1), "2 levels: images must be divisible by 2, got 7x8"),
        ({"multipliers": ()}, SHAPE, r"multipliers = \(\): must be one or more integers"),
        ({"multipliers": (1, 0)}, SHAPE, r"multipliers\[1\] = 0: must be an integer >= 1"),
        ({"width": 7}, SHAPE, "width = 7: must be even"),
        ({"blocks": 0}, SHAPE, "blocks = 0: must be an integer from 1 to 100"),
        ({"groups": 0}, SHAPE, "groups = 0: must be an integer >= 1"),
        ({"groups": 3}, SHAPE, "groups = 3: must divide width = 8"),
        ({"heads": 0}, SHAPE, "heads = 0"),
        ({"head_channels": 0}, SHAPE, "head_channels = 0"),
        ({"attention": (16,)}, SHAPE, r"attention = \(16,\): .* resolutions of the levels, \[4, 8\]"),
        ({"num_classes": -1}, SHAPE, "num_classes = -1"),
        ({"out_channels": -1}, SHAPE, "out_channels = -1"),
        ({"dtype": "float16"}, SHAPE, 'dtype = "float16"'),
        ({"dtype": "float64"}, SHAPE, 'dtype = "float64": needs JAX_ENABLE_X64=1'),
    ],
)
def test_what_does_not_fit_is_refused(settings, image_shape, says):
    with pytest.raises(ValueError, match=says):
        tiny(**settings).check(image_shape)
