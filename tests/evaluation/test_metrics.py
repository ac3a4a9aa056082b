import numpy as np
import pytest
import scipy.linalg

from diffusion_jax.evaluation.metrics import frechet_distance


def features(n=200, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_identical_features_are_at_distance_zero():
    assert frechet_distance(features(), features()) == pytest.approx(0, abs=1e-9)


def test_a_shift_adds_its_squared_length():
    move = np.array([1.0, -2.0, 0.0, 3.0, 0.5])
    distance = frechet_distance(features(), features() + move)
    assert distance == pytest.approx(1 + 4 + 9 + 0.25, rel=1e-9)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (3.0, 1.0), (0.0, 2.5), (-1.5, 0.1)])
def test_one_feature_has_the_closed_form(mean, std):
    """Two points m - s/sqrt(2), m + s/sqrt(2) have sample mean m and sample standard deviation s exactly."""
    half = np.sqrt(0.5)
    a = np.array([[-half], [half]])
    b = mean + std * a
    assert frechet_distance(a, b) == pytest.approx(mean**2 + (1 - std) ** 2, abs=1e-12)


def test_independent_features_add_up():
    a = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(0.75)  # covariance is the identity
    b = a * [3.0, 0.5] + [1.0, 2.0]
    assert frechet_distance(a, b) == pytest.approx((2**2 + 0.5**2) + (1 + 4), rel=1e-9)


def test_symmetric():
    a, b = features(seed=1), features(150, seed=2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, b) > 1


def test_a_rotation_of_both_changes_nothing():
    a, b, turn = features(seed=1), features(seed=2), rotation(5)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_a_rotation_of_one_changes_it():
    """The whole covariances count, not only their diagonals."""
    a = np.random.default_rng(0).normal(size=(500, 2)) * [3.0, 0.2]
    centred = a - a.mean(0)
    assert frechet_distance(centred, centred @ rotation(2)) > 0.1


@pytest.mark.parametrize(("n", "d"), [(300, 6), (40, 64)])
def test_agrees_with_the_matrix_square_root(n, d):
    """The textbook's tr sqrtm(C_a C_b); with fewer rows than features the covariances are singular."""
    a, b = features(n, d, seed=3), features(n + 7, d, seed=4)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5 if d > n else 1e-9)


def test_images_are_flattened():
    a, b = features(20, 12, seed=1), features(20, 12, seed=2)
    shape = (20, 2, 2, 3)
    assert frechet_distance(a.reshape(shape), b.reshape(shape)) == frechet_distance(a, b)


def test_flat_rows_are_one_feature_each():
    a, b = features(50, 1, seed=1), features(50, 1, seed=2)
    assert frechet_distance(a[:, 0], b[:, 0]) == pytest.approx(frechet_distance(a, b))


def test_float32_features_are_computed_in_float64():
    a = (features(seed=1) + 1000).astype(np.float32)
    b = (features(seed=2) + 1000).astype(np.float32)
    exact = frechet_distance(a.astype(np.float64), b.astype(np.float64))
    assert frechet_distance(a, b) == exact


@pytest.mark.parametrize(("a", "b"), [((1, 4), (9, 4)), ((9, 4), (1, 4)), ((9, 4), (9, 5)), ((9, 2, 2), (9, 5))])
def test_refuses_one_row_or_other_features(a, b):
    with pytest.raises(ValueError, match="same D and N >= 2"):
        frechet_distance(np.zeros(a), np.zeros(b))
