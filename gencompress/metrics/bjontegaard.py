"""Bjontegaard deltas: how much rate one method saves at equal quality, and how much quality it wins at equal rate.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33 (2001), with the piecewise cubic
interpolation (PCHIP) of today's video test conditions: unlike one cubic fit, it goes through the points and does not
overshoot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError


@dataclass(frozen=True)
class RateQuality:
    """A rate-quality curve whose quality rises with the rate. Four points or more are good practice, two suffice.

    Args:
        rate: bytes, parameters or operations, positive, [N], N >= 2, in any order.
        quality: higher is better (negate an error such as LPIPS), [N].

    Raises:
        DataError: fewer than two points, lengths that differ, a value that is not finite or a rate that is not
            positive, two equal rates, or a quality that does not rise strictly with the rate.
    """

    rate: Sequence[float] | NDArray[np.float64]
    quality: Sequence[float] | NDArray[np.float64]

    def __post_init__(self) -> None:
        rate, quality = np.asarray(self.rate, np.float64), np.asarray(self.quality, np.float64)
        if rate.ndim != 1 or rate.shape != quality.shape or len(rate) < 2:
            raise DataError(f"a rate-quality curve needs two points or more, got shapes {rate.shape}, {quality.shape}")
        if not (np.isfinite(rate).all() and np.isfinite(quality).all() and (rate > 0).all()):
            raise DataError("a rate-quality curve needs finite qualities and finite positive rates")
        order = np.argsort(rate, kind="stable")
        if (np.diff(rate[order]) <= 0).any() or (np.diff(quality[order]) <= 0).any():
            raise DataError("a rate-quality curve needs distinct rates and a quality that rises with the rate")
        object.__setattr__(self, "rate", rate[order])
        object.__setattr__(self, "quality", quality[order])

    @property
    def log_rate(self) -> NDArray[np.float64]:
        """Natural logarithm of the rates, ascending, [N]."""
        return np.log(self.rate)


def bd_rate(baseline: RateQuality, test: RateQuality) -> float:
    """Mean relative change of the rate at equal quality: -0.2 says that `test` needs 20 % less.

    exp of the mean difference of log rates over the interval of quality that both curves cover, minus 1.

    Raises:
        DataError: the curves cover no common interval of quality.
    """
    first, second = np.asarray(baseline.quality), np.asarray(test.quality)
    return math.expm1(_mean_gap(first, baseline.log_rate, second, test.log_rate, "quality"))


def bd_quality(baseline: RateQuality, test: RateQuality) -> float:
    """Mean gain of quality at equal rate, over the logarithm of the rates that both curves cover (BD-PSNR).

    Raises:
        DataError: the curves cover no common interval of rate.
    """
    first, second = np.asarray(baseline.quality), np.asarray(test.quality)
    return _mean_gap(baseline.log_rate, first, test.log_rate, second, "rate")


def _mean_gap(
    x: NDArray[np.float64], y: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64], name: str
) -> float:
    """Mean of (v over u) - (y over x) over the overlap of x and u, both interpolated."""
    low, high = max(x[0], u[0]), min(x[-1], u[-1])
    if high <= low:
        raise DataError(f"the two curves have no {name} in common, so they cannot be compared at equal {name}")
    return (_integral(u, v, low, high) - _integral(x, y, low, high)) / (high - low)


def _integral(x: NDArray[np.float64], y: NDArray[np.float64], low: float, high: float) -> float:
    from scipy.interpolate import PchipInterpolator

    curve: Any = PchipInterpolator(x, y)
    return float(curve.integrate(low, high))
