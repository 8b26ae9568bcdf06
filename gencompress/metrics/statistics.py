"""Means with their standard error, and paired gains with bootstrap intervals, so that noise is not sold as progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError, NumericsError

_DRAWS_AT_ONCE = 2_000_000  # bootstrap indices held in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Args:
        mean: arithmetic mean of the values.
        se: standard error of the mean, s / sqrt(n) with n - 1 in s; None for a single image.
        per_image: the values in the order of the images.
    """

    mean: float
    se: float | None
    per_image: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64], name: str = "values") -> Estimate:
        """Mean and standard error of one number per image, [N]; `DataError` if empty, `NumericsError` on NaN."""
        array = _finite(values, name)
        se = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else None
        return cls(float(array.mean()), se, tuple(array.tolist()))

    def to_json(self) -> dict[str, Any]:
        """``{"mean", "se", "per_image"}`` in plain JSON types."""
        return {"mean": self.mean, "se": self.se, "per_image": list(self.per_image)}


@dataclass(frozen=True)
class PairedGain:
    """How much larger `a` is than `b` on the same images, with a bootstrap confidence interval of the mean.

    Args:
        mean: mean of a - b.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: nominal coverage of the interval.
        n: number of pairs.
        resamples: bootstrap resamples drawn.
    """

    mean: float
    low: float
    high: float
    confidence: float
    n: int
    resamples: int

    @property
    def significant(self) -> bool:
        """True if the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """All fields and ``significant``."""
        return {**asdict(self), "significant": self.significant}


def paired_gain(
    a: Sequence[float] | NDArray[np.float64],
    b: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedGain:
    """Mean of a - b over pairs (same image, same seed) and its bootstrap interval.

    The interval is the percentile bootstrap with expanded percentiles: the plain one is too narrow for few pairs, so
    its tail probability is replaced by Phi(-sqrt(n / (n - 1)) t_{alpha/2, n-1}) (Hesterberg, "What Teachers Should
    Know About the Bootstrap", 2015, section 5.3).

    Args:
        a: one value per pair, [N], N >= 2.
        b: one value per pair, [N], in the same order.
        confidence: nominal coverage, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the resampling, so that the interval can be recomputed.

    Raises:
        DataError: lengths differ, or fewer than two pairs.
        NumericsError: a value is NaN or infinite.
    """
    from scipy import stats

    first, second = _finite(a, "a"), _finite(b, "b")
    if first.shape != second.shape or len(first) < 2:
        raise DataError(
            f"paired_gain needs two equally long lists of two or more values, got {len(first)} and {len(second)}"
        )
    difference = first - second
    n = len(difference)
    tail = stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
    low, high = np.quantile(_resampled_means(difference, resamples, seed), [tail, 1 - tail])
    return PairedGain(float(difference.mean()), float(low), float(high), confidence, n, resamples)


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of `resamples` draws with replacement, [resamples]."""
    generator = np.random.default_rng(seed)
    n = len(values)
    chunk = max(1, _DRAWS_AT_ONCE // n)
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    return np.concatenate([values[generator.integers(n, size=(size, n))].mean(axis=1) for size in sizes])


def _finite(values: Sequence[float] | NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """`values` as a non-empty finite float64 vector."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name}: expected one number per image, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise NumericsError(f"{name}: entry {int(np.flatnonzero(~np.isfinite(array))[0])} is NaN or infinite")
    return array
