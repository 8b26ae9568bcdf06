"""Numbers as indices into at most 256 levels, chosen by weighted k-means on their histogram."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
_BINS = 1 << 16
_STEPS = 100


def fit_codebook(values: NDArray[Any], weights: NDArray[Any], tolerance: float = 0.0) -> NDArray[np.float32]:
    """256 ascending levels for numbers [N, C] of which each row counts by its weight [N] > 0.

    No more of them are different than brings the weighted root mean square error down to `tolerance`: what follows,
    a lossless coder, is paid by the bit. If the numbers fall into no more than 256 of 65,536 bins, the levels are the
    numbers themselves.
    """
    middles, mass = _histogram(values, weights)
    levels = middles if len(middles) <= LEVELS else _fewest(middles, mass, tolerance)
    return np.concatenate([levels, np.full(LEVELS - len(levels), levels[-1])]).astype(np.float32)


def nearest_level(values: NDArray[Any], levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The index of the level nearest to each number."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.uint8)


def _histogram(values: NDArray[Any], weights: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weighted mean and the weight of the numbers in each bin that has any."""
    low, high = float(values.min()), float(values.max())
    scale = (_BINS - 1) / (high - low) if high > low else 0.0
    mass, moment = np.zeros(_BINS), np.zeros(_BINS)
    for column in values.T:
        bins = ((column.astype(np.float64) - low) * scale + 0.5).astype(np.int64)
        mass += np.bincount(bins, weights, _BINS)
        moment += np.bincount(bins, weights * column, _BINS)
    used = mass > 0
    return moment[used] / mass[used], mass[used]


def _fewest(middles: NDArray[np.float64], mass: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    levels = _lloyd(middles, mass, LEVELS)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, middles)
    error = np.sqrt((mass * (levels[nearest] - middles) ** 2).sum() / mass.sum())
    if error >= tolerance:
        return levels
    return _lloyd(middles, mass, max(2, int(np.ceil(LEVELS * error / tolerance))))  # the error falls as 1 / levels


def _lloyd(middles: NDArray[np.float64], mass: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Levels at the weighted means of what is nearest to them, from the density of Panter and Dite (1951) on.

    A level to which nothing is nearest goes where the error is largest: there, one becomes two.
    """
    width = np.gradient(middles)
    rank = np.cumsum(width * (mass / width) ** (1 / 3))
    levels = np.interp((np.arange(count) + 0.5) / count * rank[-1], rank, middles)
    sums = [np.concatenate([[0], np.cumsum(mass * middles**power)]) for power in range(3)]
    for _ in range(_STEPS):
        inner = np.searchsorted(middles, (levels[1:] + levels[:-1]) / 2)
        bounds = np.concatenate([[0], inner, [len(middles)]])
        bounds = bounds[np.concatenate([[True], np.diff(bounds) > 0])]
        weight, first, second = (np.diff(part[bounds]) for part in sums)
        levels = first / weight
        variance = np.maximum(second / weight - levels**2, 0)
        worst = np.argsort(-weight * variance, kind="stable")[: count - len(levels)]
        spread = np.sqrt(variance[worst])
        levels = np.sort(np.concatenate([np.delete(levels, worst), levels[worst] - spread, levels[worst] + spread]))
    return np.unique(levels)
