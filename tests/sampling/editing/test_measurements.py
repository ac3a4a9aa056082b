"""Each measurement against its own dense matrix, and against Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.sampling.editing import Downsample, Grayscale, Mask

SHAPE = (4, 6, 3)
KNOWN = np.random.default_rng(0).integers(0, 2, (4, 6, 1))
MEASUREMENTS = {"downsample": Downsample(2), "grayscale": Grayscale(), "mask": Mask(KNOWN)}

every_measurement = pytest.mark.parametrize("name", MEASUREMENTS)


def matrix(measurement, shape=SHAPE) -> np.ndarray:
    """A, one row per measured value, by measuring one pixel at a time."""
    pixels = np.eye(np.prod(shape), dtype=np.float32).reshape(-1, *shape)
    return np.asarray(measurement.forward(pixels)).reshape(len(pixels), -1).T


def measured(measurement, n=5) -> jax.Array:
    x = np.random.default_rng(1).normal(size=(n, *SHAPE)).astype(np.float32)
    y = measurement.forward(x)
    return jnp.asarray(np.random.default_rng(2).normal(size=y.shape), jnp.float32)


def rows(x) -> np.ndarray:
    return np.asarray(x).reshape(len(x), -1)


@every_measurement
def test_the_adjoint_is_the_transpose(name):
    measurement = MEASUREMENTS[name]
    y = measured(measurement)
    np.testing.assert_allclose(rows(measurement.adjoint(y)), rows(y) @ matrix(measurement), atol=1e-6)
    assert measurement.adjoint(y).shape == (5, *SHAPE)


@every_measurement
def test_pinv_is_the_moore_penrose_inverse(name):
    measurement = MEASUREMENTS[name]
    y, inverse = measured(measurement), np.linalg.pinv(matrix(measurement))
    np.testing.assert_allclose(rows(measurement.pinv(y)), rows(y) @ inverse.T, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_every_block_becomes_its_mean(factor):
    x = np.random.default_rng(3).normal(size=(2, 8, 4, 3)).astype(np.float32)
    y = np.asarray(Downsample(factor).forward(x))
    assert y.shape == (2, 8 // factor, 4 // factor, 3)
    for i, j in np.ndindex(y.shape[1:3]):
        block = x[:, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        np.testing.assert_allclose(y[:, i, j], block.mean((1, 2)), atol=1e-6)


def test_grayscale_is_pillow_s():
    levels = np.random.default_rng(4).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(levels).convert("L"), np.float64)
    x = levels[None] / 127.5 - 1
    ours = (np.asarray(Grayscale().forward(x))[0, ..., 0] + 1) * 127.5
    np.testing.assert_allclose(ours, pillow, rtol=0, atol=0.51)  # it rounds


def test_each_image_may_have_its_own_mask():
    known = np.zeros((2, 3, 3, 1), bool)
    known[0, 0], known[1, 2] = True, True
    x = np.arange(1.0, 37).reshape(2, 3, 3, 2)
    y = np.asarray(Mask(known).forward(x))
    np.testing.assert_array_equal(y[0, 0], x[0, 0])
    np.testing.assert_array_equal(y[1, 2], x[1, 2])
    assert not y[0, 1:].any()
    assert not y[1, :2].any()


def test_measurements_go_through_jit_and_another_mask_does_not_recompile():
    compiled = []

    @jax.jit
    def forward(measurement, x):
        compiled.append(measurement)
        return measurement.forward(x)

    x = np.ones((1, 4, 6, 3), np.float32)
    for known in (KNOWN, 1 - KNOWN):
        np.testing.assert_array_equal(forward(Mask(known), x), np.broadcast_to(known, x.shape))
    assert len(compiled) == 1
    assert forward(Downsample(2), x).shape == (1, 2, 3, 3)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: Downsample(0), "factor = 0: must be an integer >= 1"),
        (lambda: Mask(KNOWN[:1]).forward(np.ones((1, 4, 6, 3))), "mask has shape"),
        (lambda: Mask(0.5 * KNOWN).forward(np.ones((1, 4, 6, 3))), "mask has values other than 0 and 1"),
        (lambda: Downsample(2.0), "factor = 2.0: must be an integer >= 1"),
        (
            lambda: Downsample(4).forward(np.ones((1, 4, 6, 3))),
            r"factor = 4: must divide height, width = \(4, 6\)",
        ),
        (
            lambda: Grayscale().forward(np.ones((1, 4, 4, 1))),
            r"images has shape \(1, 4, 4, 1\): must be \[B, H, W, 3\]",
        ),
    ],
)
def test_bad_arguments_are_refused(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()
