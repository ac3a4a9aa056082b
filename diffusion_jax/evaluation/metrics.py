"""Metrics of generated images, in numpy float64."""

import numpy as np
import scipy.linalg

__all__ = ["frechet_distance"]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017, Eq. 6).

    The squared Frechet distance of the Gaussians with the means and covariances of features [N, D] each. Images
    are flattened, which makes raw pixels the features.

    Raises ValueError for fewer than two rows or unequal D.

    >>> features = np.array([[-1.0], [1.0]])
    >>> round(frechet_distance(features, features + 3), 6)
    9.0
    """
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features have shapes {a.shape} and {b.shape}: must be [N, D] with the same D and N >= 2")
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (C_a C_b)^(1/2) from the symmetric C_a^(1/2) C_b C_a^(1/2), whose eigenvalues are real.
    values, vectors = scipy.linalg.eigh(np.atleast_2d(cov_a))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root)
    cross = np.sqrt(np.clip(product, 0, None)).sum()
    mean = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(mean + np.trace(np.atleast_2d(cov_a + cov_b)) - 2 * cross)
