import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import squares

from diffusion_jax.models import ConvNeXtUNet, FiLMUNet, UNet
from diffusion_jax.models.layers import (
    Attention,
    ClassEmbedding,
    GroupNorm,
    attend,
    depth_to_space,
    double_nearest,
    sinusoid,
    space_to_depth,
)


def group_norm(x, groups, epsilon=1e-5):
    """Group normalisation in float64, without scale and bias, from its definition."""
    x = np.asarray(x, np.float64)
    out = np.empty_like(x)
    size = x.shape[-1] // groups
    for b in range(len(x)):
        for first in range(0, x.shape[-1], size):
            part = x[b, ..., first : first + size]
            out[b, ..., first : first + size] = (part - part.mean()) / np.sqrt(part.var() + epsilon)
    return out


def normed(x, groups, dtype=jnp.float32):
    norm = GroupNorm(groups, dtype)
    return norm.apply(norm.init(jax.random.key(0), x), x)


@pytest.mark.parametrize("width", [4, 32, 128])
def test_sinusoid_has_periods_in_geometric_progression(width):
    time = np.array([0.0, 1.0, 37.5, 999.0, 1000.0])
    half = width // 2
    wavelengths = 2 * np.pi * np.geomspace(1, 10_000, half)
    angle = 2 * np.pi * time[:, None] / wavelengths
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    found = sinusoid(jnp.asarray(time, jnp.float32), width)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-4)  # float32 angles up to 1000


def test_sinusoid_distinguishes_neighbouring_steps():
    rows = np.asarray(sinusoid(jnp.arange(1001.0), 32))
    assert np.linalg.norm(np.diff(rows, axis=0), axis=1).min() > 0.5


def test_sinusoid_of_a_bfloat16_time_is_float32():
    assert sinusoid(jnp.zeros(2, jnp.bfloat16), 8).dtype == jnp.float32


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_agrees_with_float64(groups):
    x = np.random.default_rng(0).normal(2, 3, (2, 5, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(normed(x, groups), group_norm(x, groups), atol=1e-5)


def test_group_norm_survives_a_large_mean():
    """In float32 E[x^2] - E[x]^2 loses this variance: 1e6 has no digits left for 0.01."""
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 8, 8, 4))
    x = (1000 + noise).astype(np.float32)
    fast = np.mean(x**2, dtype=np.float32) - np.mean(x, dtype=np.float32) ** 2
    assert abs(fast - x.astype(np.float64).var()) > 0.005  # the fast variance does fail here
    np.testing.assert_allclose(normed(x, 2), group_norm(x, 2), atol=5e-3)


def test_group_norm_of_bfloat16_has_float32_statistics():
    """8 bits of mantissa would round mean and variance by up to 0.4%; only the result is rounded."""
    noise = np.random.default_rng(0).normal(3, 1, (2, 16, 16, 4))
    x = jnp.asarray(noise, jnp.bfloat16)
    found = normed(x, 2, jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    expected = jnp.asarray(group_norm(np.asarray(x, np.float64), 2), jnp.float32)
    rounded = expected.astype(jnp.bfloat16)
    differing = np.mean(np.asarray(found, np.float32) != np.asarray(rounded, np.float32))
    assert differing < 0.01


def test_group_norm_keeps_its_parameters_in_float32():
    norm = GroupNorm(2, jnp.bfloat16)
    params = norm.init(jax.random.key(0), jnp.zeros((1, 2, 2, 4), jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_classes_have_a_row_each_and_all_negative_labels_share_one_more():
    embedding = ClassEmbedding(num_classes=3, width=8)
    params = embedding.init(jax.random.key(0), jnp.zeros(1, jnp.int32))
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(4, 8)]
    rows = np.asarray(embedding.apply(params, jnp.array([0, 1, 2, -1, -5])))
    np.testing.assert_array_equal(rows[3], rows[4])
    assert len(np.unique(rows, axis=0)) == 4


@pytest.mark.parametrize("label", [3, 4, 5, 1000, 2**31 - 1])
def test_a_label_that_is_not_a_class_is_not_taken_for_none(label):
    embedding = ClassEmbedding(num_classes=3, width=8)
    params = embedding.init(jax.random.key(0), jnp.zeros(1, jnp.int32))
    assert np.isnan(embedding.apply(params, jnp.array([label]))).all()


# Pixels


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_space_to_depth_puts_the_pixels_of_a_square_behind_one_another(patch):
    x = np.random.default_rng(0).normal(size=(2, 6, 12, 3)).astype(np.float32)
    found = space_to_depth(x, patch)
    np.testing.assert_array_equal(found, squares(x, patch))
    np.testing.assert_array_equal(depth_to_space(found, patch), x)


def test_double_nearest_repeats_each_pixel():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    found = double_nearest(x)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(found[:, i::2, j::2], x)


# Attention


def test_attention_is_a_softmax_over_all_positions_head_by_head():
    """From its definition in float64; the first channels of q, k and v belong to the first head."""
    heads, d, (batch, height, width, channels) = 2, 3, (2, 2, 3, 4)
    rng = np.random.default_rng(0)
    layer = Attention(heads, d, groups=2, dtype=jnp.float32)
    x = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found = layer.apply(params, x)

    layers = params["params"]
    norm = layers["norm"]["GroupNorm_0"]
    h = (group_norm(x, 2) * norm["scale"] + norm["bias"]).reshape(batch, -1, channels)
    q, k, v = (h @ layers[name]["kernel"] + layers[name]["bias"] for name in "qkv")
    parts = []
    for head in range(heads):
        one = slice(head * d, (head + 1) * d)
        scores = np.exp(q[..., one] @ k[..., one].swapaxes(1, 2) / np.sqrt(d))
        parts.append(scores / scores.sum(-1, keepdims=True) @ v[..., one])
    out = np.concatenate(parts, -1) @ layers["out"]["kernel"] + layers["out"]["bias"]
    np.testing.assert_allclose(found, x + out.reshape(x.shape), atol=1e-4)


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says that it has a GPU; cuDNN's attention is replaced by JAX's own. Returns its calls."""
    calls, own = [], jax.nn.dot_product_attention

    def attention(q, k, v, *, implementation):
        calls.append((implementation, q.shape))
        return own(q, k, v, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return calls


def attention_inputs():
    return jax.random.normal(jax.random.key(0), (3, 2, 16, 4, 8)).astype(jnp.bfloat16)


def test_the_fused_attention_is_the_same_function(gpu):
    found = attend(*attention_inputs(), kernel="cudnn")
    assert gpu == [("cudnn", (2, 16, 4, 8))]
    np.testing.assert_allclose(found.astype(np.float32), attend(*attention_inputs()).astype(np.float32), atol=0.02)
    assert len(gpu) == 1


def test_without_a_gpu_the_attention_is_that_of_xla():
    found = attend(*attention_inputs(), kernel="cudnn")
    np.testing.assert_array_equal(found, attend(*attention_inputs()), strict=True)


HEADS = {
    "UNet": (lambda **kwargs: UNet(channels=(8, 24), attention=(4,), groups=4, **kwargs), 2, 12),
    "FiLMUNet": (lambda **kwargs: FiLMUNet(attention=(4,), head_channels=kwargs.pop("heads") * 6, **kwargs), 2, 12),
    "ConvNeXtUNet": (lambda heads, **kwargs: ConvNeXtUNet((8, 4 * heads), (2,), attention=(4,), **kwargs), 3, 12),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_network_has_the_fused_attention_and_refuses_heads_that_it_cannot_have(name, gpu):
    make, heads, channels = HEADS[name]
    with pytest.raises(ValueError, match=f'^attention_kernel = "cudnn": needs heads of .* 128, got {channels}; use'):
        make(heads=heads, attention_kernel="cudnn", dtype="bfloat16").check((8, 8, 1))
    with pytest.raises(ValueError, match='^attention_kernel = "cudnn": needs dtype = "bfloat16", got "float32"; use'):
        make(heads=heads, attention_kernel="cudnn").check((8, 8, 1))
    model = make(heads={"UNet": 1, "FiLMUNet": 4, "ConvNeXtUNet": 4}[name], attention_kernel="cudnn", dtype="bfloat16")
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1)), jnp.zeros(2))
    assert {implementation for implementation, _ in gpu} == {"cudnn"}


def test_heads_of_more_than_128_channels_are_refused_for_the_fused_attention():
    with pytest.raises(ValueError, match="got 256; use"):
        UNet(channels=(8, 256), groups=4, attention=(), attention_kernel="cudnn", dtype="bfloat16").check((8, 8, 1))
