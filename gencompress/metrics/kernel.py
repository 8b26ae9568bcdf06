"""Kernel distance (unbiased squared MMD with a cubic kernel), called KID only on Inception features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError
from gencompress.metrics.frechet import check_features
from gencompress.metrics.statistics import Estimate

Array = NDArray[np.float64]
_CELLS = 20_000_000  # kernel values held at a time


def kernel_distance(
    features_a: Array, features_b: Array, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Estimate:
    """Mean over random subsets of the unbiased squared MMD, k(x, y) = (x . y / D + 1)^3 (Bińkowski et al. 2018, eq. 4).

    If neither set is larger than a subset there is only one subset, everything, and no standard error. The value has
    no bias at any sample size and may be slightly negative.

    Args:
        features_a: [N, D].
        features_b: [M, D].
        subsets: how many subsets are drawn, without replacement inside one.
        subset_size: images per subset; the smaller set's size if that is less.
        seed: of the draw.

    Raises:
        DataError: shapes do not fit, or a set has fewer than two rows.
        NumericsError: NaN or infinity inside.
    """
    a, b = check_features(features_a, "features_a"), check_features(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise DataError(f"features_a have {a.shape[1]} dimensions, features_b have {b.shape[1]}")
    size = min(len(a), len(b), subset_size)
    if size < 2 or subsets < 1:
        raise DataError(f"kernel_distance needs subsets of two or more images, got {subsets} of {size}")
    if max(len(a), len(b)) <= subset_size:
        return Estimate.of([_mmd(a, b)], "kernel distance")
    generator = np.random.default_rng(seed)
    draws = [
        _mmd(a[generator.choice(len(a), size, replace=False)], b[generator.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return Estimate.of(draws, "kernel distance")


def mean_gaussian_kernel(features_a: Array, features_b: Array, sigma: float) -> float:
    """Mean of exp(-|x - y|^2 / (2 sigma^2)) over all pairs of [N, D] and [M, D], in blocks."""
    a, b = check_features(features_a, "features_a", 1), check_features(features_b, "features_b", 1)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"features_a have {a.shape[1]} dimensions, features_b have {b.shape[1]}")
    square_b, total, rows = (b**2).sum(axis=1), 0.0, max(1, _CELLS // len(b))
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        distances = (part**2).sum(axis=1)[:, None] + square_b - 2 * part @ b.T
        total += float(np.exp(-distances.clip(min=0) / (2 * sigma**2)).sum())
    return total / (len(a) * len(b))


def _mmd(a: Array, b: Array) -> float:
    """Unbiased squared MMD of two sets (Gretton et al. 2012, eq. 3)."""
    n, m = len(a), len(b)
    within_a, within_b = _kernel(a, a), _kernel(b, b)
    same = (within_a.sum() - np.trace(within_a)) / (n * (n - 1)) + (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(same - 2 * _kernel(a, b).mean())


def _kernel(a: Array, b: Array) -> Array:
    """Cubic polynomial kernel, [N, M]."""
    return (a @ b.T / a.shape[1] + 1) ** 3
