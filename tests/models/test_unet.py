import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import abstract, applied, initial, squares
from oracles import quick_jit

from diffusion_jax.models import UNet

TINY = {"channels": (8, 16), "blocks": 1, "groups": 4, "attention": (4,)}


def tiny(**settings):
    return UNet(**(TINY | settings))


def shallow(**settings):
    """One level, with attention in the middle only: the quickest to compile."""
    return tiny(**({"channels": (8,), "attention": ()} | settings))


def inputs(shape=(4, 8, 8, 1), seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return x, jnp.asarray(rng.uniform(size=shape[0]), jnp.float32)


def parameters(model, image_shape=(8, 8, 1), seed=0):
    """Random parameters, none of them zero: the initial output is zero, which shows nothing."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(centre + rng.normal(size=leaf.shape) / np.sqrt(fan_in), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract(model, image_shape))


def output(model, x, time, labels=None, params=None, **kwargs):
    """The output of a network, by default with random parameters, [B, H, W, C] as numpy."""
    params = parameters(model, x.shape[1:]) if params is None else params
    return np.asarray(applied(model)(params, x, time, labels, **kwargs))


def kernels(tree, part, ending):
    """Shapes of the kernels under a path that contains `part` and ends in `ending`, by name of the block."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = [("/".join(str(key.key) for key in path), leaf.shape) for path, leaf in leaves]
    return [shape for path, shape in paths if part in path and path.endswith(f"{ending}/kernel")]


# Architecture


def conv(inputs, outputs, side=3):
    return side * side * inputs * outputs + outputs


def linear(inputs, outputs):
    return inputs * outputs + outputs


def norm(width):
    return 2 * width


def res_block(inputs, outputs, embedding):
    shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
    first, second = norm(inputs) + conv(inputs, outputs), norm(outputs) + conv(outputs, outputs)
    return first + linear(embedding, outputs) + second + shortcut


def attention(width):
    return norm(width) + 4 * linear(width, width)


def test_the_cifar10_network_of_ddpm_has_its_parameters():
    """35.7 M (Ho et al. 2020, App. B), to the last one those of diffusers' google/ddpm-cifar10-32.

    Counted by hand: widths 128, 256, 256, 256; two blocks per level down, three up; attention at 16x16 and in
    the middle. On the way up each block takes the output of the one below and a skip: the three skips of a level
    are the outputs of its two blocks on the way down and of the convolution before them.
    """
    e = 512
    total = linear(128, e) + linear(e, e) + conv(3, 128)
    total += 2 * res_block(128, 128, e) + conv(128, 128)  # 32x32
    total += res_block(128, 256, e) + res_block(256, 256, e) + 2 * attention(256) + conv(256, 256)
    total += 2 * res_block(256, 256, e) + conv(256, 256)  # 8x8
    total += 2 * res_block(256, 256, e)  # 4x4
    total += 2 * res_block(256, 256, e) + attention(256)  # the middle
    total += 3 * res_block(256 + 256, 256, e) + conv(256, 256)  # 4x4, on the way up
    total += 3 * res_block(256 + 256, 256, e) + conv(256, 256)  # 8x8
    total += 2 * res_block(256 + 256, 256, e) + res_block(256 + 128, 256, e)  # 16x16
    total += 3 * attention(256) + conv(256, 256)
    total += res_block(256 + 128, 128, e) + 2 * res_block(128 + 128, 128, e)  # 32x32
    total += norm(128) + conv(128, 3)
    found = sum(leaf.size for leaf in jax.tree.leaves(abstract(UNet(), (32, 32, 3))))
    assert found == total == 35_746_307


@pytest.mark.parametrize(("channels", "blocks"), [((8, 16), 1), ((8, 16, 24), 2), ((8, 8, 8, 8), 3), ((12, 8), 2)])
def test_skips_are_as_in_diffusers(channels, blocks):
    """Its UpBlock2D: input widths from the widths of the levels alone, without following any image."""
    model = UNet(channels=channels, blocks=blocks, groups=4, attention=())
    side = 2 ** len(channels)
    tree = abstract(model, (side, side, 1))
    down = list(channels)
    expected, previous = [], channels[-1]
    for level in reversed(range(len(channels))):
        width, below = down[level], down[max(level - 1, 0)]
        for j in range(blocks + 1):
            skip = below if j == blocks else width
            expected.append(((previous if j == 0 else width) + skip, width))
        previous = width
    found = [shape[2:] for shape in kernels(tree, "/up", "conv1")]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("where", "blocks", "count"), [((), 2, 1), ((16,), 2, 1 + 2 + 3), ((16, 8), 1, 1 + 2 * (1 + 2))]
)
def test_attention_follows_each_block_of_its_resolutions_and_is_always_in_the_middle(where, blocks, count):
    model = UNet(channels=(8, 16, 24), blocks=blocks, groups=4, attention=where)
    tree = abstract(model, (32, 32, 3))
    widths = sorted(shape[-1] for shape in kernels(tree, "", "q"))
    of_level = {32: 8, 16: 16, 8: 24}
    expected = [24] + [of_level[side] for side in where for _ in range(2 * blocks + 1)]
    assert len(widths) == count
    assert widths == sorted(expected)


def test_the_time_of_adm_scales_and_shifts():
    """The time gives each block twice as many numbers."""
    adds, scales = (kernels(abstract(tiny(scale_shift=on)), "", "time") for on in (False, True))
    assert [shape[-1] for shape in scales] == [2 * shape[-1] for shape in adds]


@pytest.mark.parametrize(("channels", "out_channels", "found"), [(1, 0, 1), (3, 0, 3), (3, 6, 6)])
def test_the_output_has_the_channels_of_the_input_by_default(channels, out_channels, found):
    model = tiny(out_channels=out_channels)
    shape = jax.eval_shape(model.apply, abstract(model, (8, 8, channels)), *inputs((2, 8, 8, channels)))
    assert shape.shape == (2, 8, 8, found)


# Initial parameters


@pytest.fixture(scope="module")
def started():
    model = tiny(num_classes=3)
    return model, {"params": initial(model)}


def test_the_initial_output_is_zero(started):
    model, params = started
    found = output(model, *inputs(), jnp.arange(4) - 1, params=params)
    assert found.shape == (4, 8, 8, 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, 0)


def test_only_the_last_layer_of_each_branch_starts_at_zero(started):
    """Second convolutions, attention's and the network's output: each block starts as the identity."""
    leaves = jax.tree_util.tree_leaves_with_path(started[1])
    zero = {
        "/".join(str(key.key) for key in path[-2:])
        for path, leaf in leaves
        if path[-1].key in ("kernel", "embedding") and not np.asarray(leaf).any()
    }
    assert zero == {"conv2/kernel", "out/kernel", "conv_out/kernel"}


# Inputs


@pytest.mark.parametrize("size", [(8, 8), (4, 8), (12, 4), (2, 2)])
@pytest.mark.parametrize("padding", [0, 1])
def test_any_size_that_divides_works(size, padding):
    model = tiny(attention=(), downsample_padding=padding)
    x, time = inputs((2, *size, 3))
    shape = jax.eval_shape(model.apply, abstract(model, (*size, 3)), x, time)
    assert shape.shape == (2, *size, 3)


@pytest.mark.parametrize(
    ("settings", "image_shape", "says"),
    [
        ({}, (7, 8, 1), "2 levels: images must be divisible by 2, got 7x8"),
        ({}, (8, 9, 1), "images must be divisible by 2, got 8x9"),
        ({"channels": (8, 16, 16)}, (10, 8, 1), "3 levels: images must be divisible by 4"),
        ({"channels": (8, 18)}, (8, 8, 1), r"groups = 4: must divide channels = \(8, 18\)"),
        ({"channels": ()}, (8, 8, 1), r"channels = \(\): must be one or more integers"),
        ({"channels": (1,)}, (8, 8, 1), r"channels\[0\] = 1: must be an integer >= 2"),
        ({"channels": (7, 8), "groups": 1}, (8, 8, 1), r"channels = \(7, 8\): the first must be even"),
        ({"blocks": 0}, (8, 8, 1), "blocks = 0: must be an integer from 1 to 100"),
        ({"attention": (5,)}, (8, 8, 1), r"attention = \(5,\): .* resolutions of the levels, \[4, 8\]"),
        ({"attention": (8, 2)}, (8, 16, 1), r"resolutions of the levels, \[4, 8\]"),
        ({"heads": 3}, (8, 8, 1), r"heads = 3: must divide channels = \(8, 16\)"),
        ({"heads": 0}, (8, 8, 1), "heads = 0: must be an integer >= 1"),
        ({"heads": -1}, (8, 8, 1), "heads = -1: must be an integer >= 0"),
        ({"head_channels": 3}, (8, 8, 1), r"head_channels = 3: must divide channels = \(8, 16\)"),
        ({"head_channels": 16}, (8, 8, 1), r"head_channels = 16: must divide channels = \(8, 16\)"),
        ({"groups": 0}, (8, 8, 1), "groups = 0"),
        ({"blocks": 10**6}, (8, 8, 1), "blocks = 1000000: must be an integer from 1 to 100"),
        ({"patch": 0}, (8, 8, 1), "patch = 0: must be an integer >= 1"),
        ({"patch": 3}, (8, 9, 1), r"patch = 3: must divide height, width = \(8, 9\)"),
        ({"patch": 2, "attention": (8,)}, (8, 8, 1), r"resolutions of the levels, \[2, 4\]"),
        ({"patch": 8, "attention": ()}, (8, 8, 1), "2 levels: images must be divisible by 2, got 1x1"),
        ({"num_classes": -1}, (8, 8, 1), "num_classes = -1"),
        ({"out_channels": -1}, (8, 8, 1), "out_channels = -1"),
        ({"dropout": 1.0}, (8, 8, 1), r"dropout = 1.0: must be in \[0, 1\)"),
        ({"downsample_padding": 2}, (8, 8, 1), "downsample_padding = 2: must be 0 or 1"),
        ({"dtype": "float64"}, (8, 8, 1), 'dtype = "float64"'),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(settings, image_shape, says):
    model = tiny(**settings)
    with pytest.raises(ValueError, match=says) as error:
        model.check(image_shape)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=says):
        model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), jnp.zeros(1))


def test_check_accepts_settings_that_fit():
    tiny().check((8, 8, 1))
    tiny(heads=4, attention=(8, 4)).check((8, 16, 3))
    UNet().check((32, 32, 3))


# Patches, a learned variance, its own guess: the plain network between two rearrangements


OPTIONS = {"patch": 2, "learn_variance": True, "self_condition": True}


def test_the_options_rearrange_the_input_and_output_of_a_plain_network():
    """The guess follows x, each square becomes channels, and pixels again with twice the channels."""
    x, time = inputs((2, 4, 8, 3))
    guess = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)  # some beyond [-1, 1]
    params = parameters(shallow(**OPTIONS), (4, 8, 3))
    found = output(shallow(**OPTIONS), x, time, params=params, x0_hat=guess)
    seen = squares(np.concatenate([x, np.clip(guess, -1, 1)], -1), 2)
    inside = output(shallow(out_channels=2 * 3 * 4), jnp.asarray(seen), time, params=params)
    assert found.shape == (2, 4, 8, 6)
    np.testing.assert_allclose(squares(found, 2), inside, rtol=1e-6, atol=1e-6)


def test_no_guess_is_a_guess_of_zeros():
    model, (x, time) = shallow(**OPTIONS), inputs((2, 4, 8, 3))
    found = output(model, x, time)
    np.testing.assert_array_equal(found, output(model, x, time, x0_hat=jnp.zeros_like(x)))
    assert np.abs(found - output(model, x, time, x0_hat=0.1 * x)).max() > 1e-3


def test_a_guess_for_a_network_without_self_conditioning_is_refused():
    x, time = inputs()
    with pytest.raises(ValueError, match="x0_hat: must be None, .*; use self_condition="):
        jax.eval_shape(lambda params: shallow().apply(params, x, time, x0_hat=x), abstract(shallow()))


@pytest.mark.parametrize(("settings", "seen", "made"), [({}, 3, 3), (OPTIONS, 2 * 3 * 4, 2 * 3 * 4)])
def test_the_options_add_parameters_at_both_ends_only(settings, seen, made):
    e = 4 * 8
    total = linear(8, e) + linear(e, e) + conv(seen, 8) + 3 * res_block(8, 8, e) + attention(8)
    total += 2 * res_block(8 + 8, 8, e) + norm(8) + conv(8, made)
    tree = abstract(shallow(**settings), (8, 8, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == total


# Behaviour, with random parameters


def test_no_labels_are_the_same_as_negative_labels():
    model, (x, time) = shallow(num_classes=3), inputs()
    unlabelled = output(model, x, time)
    np.testing.assert_array_equal(output(model, x, time, jnp.full(4, -1)), unlabelled)


def test_each_label_has_its_own_output():
    model, (x, time) = shallow(num_classes=3), inputs()
    x, time = jnp.repeat(x[:1], 4, 0), jnp.repeat(time[:1], 4)
    rows = output(model, x, time, jnp.array([-1, 0, 1, 2]))
    for i in range(4):
        for j in range(i):
            assert np.abs(rows[i] - rows[j]).max() > 1e-3


def test_a_network_without_classes_ignores_labels():
    model, (x, time) = shallow(), inputs()
    labelled = output(model, x, time, jnp.arange(4))
    np.testing.assert_array_equal(labelled, output(model, x, time))


def test_the_time_matters():
    model, (x, time) = shallow(), inputs()
    moved = output(model, x, time + 0.001)  # one of DDPM's thousand steps
    assert np.abs(moved - output(model, x, time)).max() > 1e-4


def test_time_scale_multiplies_the_time():
    x, time = inputs()
    params = parameters(shallow())
    scaled = output(shallow(time_scale=1.0), x, time * 1000, params=params)
    np.testing.assert_allclose(scaled, output(shallow(), x, time, params=params), atol=1e-4)


def test_each_image_is_computed_independently():
    """Sampling in batches of any size relies on this."""
    model, (x, time) = tiny(num_classes=3), inputs()
    others, other_time = inputs(seed=1)
    labels = jnp.array([0, 1, 2, -1])
    for i in range(4):
        mixed = output(
            model,
            others.at[i].set(x[i]),
            other_time.at[i].set(time[i]),
            jnp.zeros(4, jnp.int32).at[i].set(labels[i]),
        )
        np.testing.assert_array_equal(mixed[i], output(model, x, time, labels)[i])


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        (shallow, {"scale_shift": True}),
        (shallow, {"heads": 2}),
        (shallow, {"attention": (8,)}),
        (tiny, {"downsample_padding": 0}),
    ],
)
def test_each_setting_changes_the_function(base, settings):
    x, time = inputs()
    other = output(base(**settings), x, time)
    assert np.isfinite(other).all()
    assert np.abs(other - output(base(), x, time)).max() > 1e-3


SAME_HEADS = ({"heads": 2}, {"head_channels": 8})


def test_heads_can_be_set_by_their_width():
    """A width of 16 with 8 channels per head has 2 heads."""
    by_number, by_width = (shallow(channels=(16,), **s) for s in SAME_HEADS)
    x, time = inputs()
    found = output(by_width, x, time)
    np.testing.assert_array_equal(found, output(by_number, x, time))


def test_dropout_is_random_in_training_and_absent_otherwise():
    model, (x, time) = shallow(dropout=0.5), inputs()
    params = parameters(model)

    in_training = quick_jit(functools.partial(model.apply, train=True))

    def train(seed):
        return np.asarray(in_training(params, x, time, rngs={"dropout": jax.random.key(seed)}))

    plain = output(model, x, time, params=params)
    same = output(shallow(), x, time, params=params)
    np.testing.assert_array_equal(plain, same)
    np.testing.assert_array_equal(train(0), train(0))
    assert np.abs(train(0) - plain).max() > 1e-2
    assert np.abs(train(0) - train(1)).max() > 1e-2


def test_bfloat16_computes_nearly_the_same_and_gives_float32():
    x, time = inputs()
    params = parameters(tiny())
    exact = output(tiny(), x, time, params=params)
    found = output(tiny(dtype="bfloat16"), x, time, params=params)
    assert found.dtype == np.float32
    assert (found != exact).any()  # it did compute in bfloat16
    error = np.sqrt(np.mean((found - exact) ** 2)) / exact.std()
    assert error < 0.03


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_float32(dtype):
    tree = abstract(tiny(dtype=dtype, num_classes=3))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


def test_every_parameter_has_an_effect():
    """With random parameters each receives a gradient: none is unused."""
    model, (x, time) = tiny(num_classes=3, attention=()), inputs()
    params = parameters(model)

    def total(params):
        return jnp.sum(model.apply(params, x, time, jnp.array([0, 1, 2, -1])) ** 3)

    gradient = quick_jit(jax.grad(total))
    leaves = jax.tree_util.tree_leaves_with_path(gradient(params))
    silent = {"/".join(str(k.key) for k in path) for path, leaf in leaves if not leaf.any()}
    # A key's bias adds the same to all scores of a query, which leaves the softmax unchanged.
    assert {path for path in silent if not path.endswith("k/bias")} == set()
