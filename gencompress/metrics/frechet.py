"""Fréchet distance between two sets of features, in float64 and without a matrix square root.

For Gaussians d^2 = |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)) (Dowson and Landau 1982; as FID: Heusel
et al. 2017, eq. 6). With any factors F^T F = S, the eigenvalues of S_a S_b are the squared singular values of
F_a F_b^T, so tr((S_a S_b)^(1/2)) is their plain sum. Singular values are accurate to rounding even where the product
is singular (fewer images than features), where `sqrtm` goes complex and others add a constant to the diagonal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError, NumericsError

Array = NDArray[np.float64]
_ROWS = 4096  # centred at a time, so that large sets are not held twice


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches; the features themselves are not kept.

    Batches are joined by the pairwise update of Chan, Golub and LeVeque 1983, which does not cancel as sums of squares
    would. Statistics of several processes join by `merge`.
    """

    def __init__(self, dimension: int) -> None:
        self.n = 0
        self.mean: Array = np.zeros(dimension)
        self.scatter: Array = np.zeros((dimension, dimension))  # sum of squared deviations from the mean

    @classmethod
    def of(cls, n: int, mean: Array, scatter: Array) -> FeatureStatistics:
        """Statistics that were kept: count, mean [D] and `scatter` [D, D]."""
        statistics = cls(len(mean))
        statistics._join(n, mean, scatter)
        return statistics

    @property
    def covariance(self) -> Array:
        """Unbiased covariance [D, D]; `DataError` with fewer than two rows."""
        if self.n < 2:
            raise DataError(f"a covariance needs two or more images, got {self.n}")
        return self.scatter / (self.n - 1)

    def update(self, features: Array) -> None:
        """Take in a batch [B, D]."""
        batch = check_features(features, "features", least=1)
        if batch.shape[1] != len(self.mean):
            raise DataError(f"features have {batch.shape[1]} dimensions, expected {len(self.mean)}")
        mean = batch.mean(axis=0)
        centred = batch - mean
        self._join(len(batch), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Take in what another accumulator has seen."""
        self._join(other.n, other.mean, other.scatter)

    def _join(self, n: int, mean: Array, scatter: Array) -> None:
        if n == 0:
            return
        total, shift = self.n + n, mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(shift, shift) * (self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total


def frechet_distance(features_a: Array | FeatureStatistics, features_b: Array | FeatureStatistics) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    Args:
        features_a: [N, D] with N >= 2, or the statistics of such.
        features_b: [M, D] with M >= 2, or the statistics of such.

    Returns:
        A number >= 0. It is biased upwards for small N and M (Chong and Forsyth 2020), so compare only at equal sizes.

    Raises:
        DataError: not two-dimensional, fewer than two rows, or different D.
        NumericsError: NaN or infinity inside.
    """
    mean_a, factor_a = _mean_and_factor(features_a, "features_a")
    mean_b, factor_b = _mean_and_factor(features_b, "features_b")
    if mean_a.shape != mean_b.shape:
        raise DataError(f"features_a have {len(mean_a)} dimensions, features_b have {len(mean_b)}")
    cross = float(np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum())
    spread = float((factor_a**2).sum() + (factor_b**2).sum())
    return max(0.0, float(((mean_a - mean_b) ** 2).sum()) + spread - 2 * cross)


def check_features(features: Array, name: str, least: int = 2) -> Array:
    """`features` as finite float64 [N, D] with N >= `least`."""
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < least or array.shape[1] == 0:
        raise DataError(f"{name}: expected [N, D] with N >= {least}, got an array of shape {array.shape}")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise NumericsError(f"{name}: row {int(np.flatnonzero(~finite)[0])} holds NaN or infinity")
    return array


def _mean_and_factor(features: Array | FeatureStatistics, name: str) -> tuple[Array, Array]:
    """Mean [D] and a factor F [min(N, D), D] with F^T F = covariance."""
    if isinstance(features, FeatureStatistics):
        return features.mean, _root(features.covariance)
    array = check_features(features, name)
    if len(array) > array.shape[1]:
        statistics = FeatureStatistics(array.shape[1])
        for start in range(0, len(array), _ROWS):
            statistics.update(array[start : start + _ROWS])
        return statistics.mean, _root(statistics.covariance)
    # With fewer rows than features the centred rows are the smaller factor, and the exact one.
    mean = array.mean(axis=0)
    return mean, (array - mean) / np.sqrt(len(array) - 1)


def _root(covariance: Array) -> Array:
    """F with F^T F = covariance: by Cholesky, ten times faster, or by eigenvalues where the covariance is singular."""
    try:
        return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64).T
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return np.sqrt(values.clip(min=0))[:, None] * vectors.T  # rounding leaves tiny negatives, zero in truth
