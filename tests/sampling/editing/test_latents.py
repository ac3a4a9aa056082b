"""Interpolation along arcs: angles, norms and both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.sampling.editing import slerp


def noises(n=4, seed=0, length=None) -> tuple[np.ndarray, np.ndarray]:
    """Twice n noises, each scaled to the norm `length` unless it is None."""
    both = np.random.default_rng(seed).standard_normal((2, n, 4, 3, 2)).astype(np.float32)
    if length is not None:
        both *= length / norm(both)[..., None, None, None]
    return both[0], both[1]


def norm(x) -> np.ndarray:
    return np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, axis=(-3, -2, -1)))


def angle(a, b) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.arccos(np.sum(a * b, axis=(-3, -2, -1)) / norm(a) / norm(b))


@pytest.mark.parametrize("weight", [0.0, 0.1, 1 / 3, 0.5, 1.0])
def test_a_right_angle_is_a_walk_around_the_circle(weight):
    x = slerp([[1.0, 0.0]], [[0.0, 1.0]], weight)
    around = np.exp(0.5j * np.pi * weight)
    np.testing.assert_allclose(x, [[around.real, around.imag]], rtol=0, atol=1e-6)


def test_the_angle_does_not_depend_on_the_norms():
    """Halfway between arms at 60 degrees, each has the weight 1 / (2 cos 30 degrees)."""
    a, b = np.array([[2.0, 0.0]]), 3 * np.array([[0.5, np.sqrt(0.75)]])
    np.testing.assert_allclose(slerp(a, b, 0.5), (a + b) / np.sqrt(3), rtol=1e-6)


@pytest.mark.parametrize("weight", [0.2, 0.5, 0.9])
def test_norms_are_kept_and_the_angle_is_shared_by_weight(weight):
    a, b = noises(length=5.0)
    x = slerp(a, b, weight)
    np.testing.assert_allclose(norm(x), 5.0, rtol=1e-5)
    np.testing.assert_allclose(angle(a, x), weight * angle(a, b), rtol=1e-4)
    np.testing.assert_allclose(angle(x, b), (1 - weight) * angle(a, b), rtol=1e-4)


def test_half_of_a_half_is_a_quarter():
    a, b = noises(length=5.0)
    np.testing.assert_allclose(slerp(a, slerp(a, b, 0.5), 0.5), slerp(a, b, 0.25), atol=1e-5)


@pytest.mark.parametrize("nearness", [1.0, 1e-3, 1e-7, 0.0])
def test_both_ends_are_exact(nearness):
    a, other = noises()
    b = a + np.float32(nearness) * other
    np.testing.assert_array_equal(slerp(a, b, 0.0), a)
    np.testing.assert_array_equal(slerp(a, b, 1.0), b)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 3.0])
def test_between_opposite_points_the_ends_are_exact_and_the_rest_is_finite(ratio):
    a, _ = noises()
    b = -np.float32(ratio) * a
    for compute in (slerp, jax.jit(slerp)):
        np.testing.assert_array_equal(compute(a, b, 0.0), a)
        np.testing.assert_array_equal(compute(a, b, 1.0), b)
        assert np.isfinite(compute(a, b, 0.3)).all()


@pytest.mark.parametrize("nearness", [1e-2, 1e-4, 1e-7, 0.0])
def test_on_a_short_arc_it_is_the_straight_line(nearness):
    a, other = noises()
    b = a + np.float32(nearness) * other
    np.testing.assert_allclose(slerp(a, b, 0.3), 0.7 * a + 0.3 * b, rtol=0, atol=nearness**2 + 1e-6)


def test_each_image_has_its_own_arc():
    a, b = noises()
    weight = np.array([0.0, 0.25, 0.5, 1.0], np.float32)
    together = jax.jit(slerp)(a, b, weight)
    for i in range(4):
        alone = slerp(a[i : i + 1], b[i : i + 1], float(weight[i]))
        np.testing.assert_allclose(together[i], alone[0], rtol=0, atol=1e-6)


def test_zeros_are_not_divided_by():
    a, _ = noises()
    assert np.isfinite(slerp(np.zeros_like(a), a, 0.5)).all()
    assert np.isfinite(jax.jit(slerp)(a, jnp.zeros_like(a), 0.5)).all()


@pytest.mark.parametrize(
    ("a", "b", "weight", "message"),
    [
        ((2, 4), (3, 4), (), r"b has shape \(3, 4\): must be \[2, 4\]"),
        ((2,), (2,), (), r"a has shape \(2,\): must be \[N, ...\]"),
        ((2, 4), (2, 4), (3,), r"weight has shape \(3,\): must be one number or \[2\]"),
        ((2, 4), (2, 4), (2, 1), "weight has shape"),
    ],
)
def test_other_shapes_are_refused(a, b, weight, message):
    with pytest.raises(ValueError, match=message):
        slerp(np.ones(a), np.ones(b), np.zeros(weight))
