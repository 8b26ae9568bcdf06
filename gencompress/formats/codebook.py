"""Numbers as indices into at most 256 levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
_BINS = 1 << 16
_STEPS = 100


def fit_codebook(values: NDArray[Any], weights: NDArray[Any], tolerance: float = 0.0) -> NDArray[np.float32]:
    """256 ascending levels for numbers [N, C] of which each row counts by its weight [N] > 0.

    What follows is an entropy coder, paid by the bit, so no more levels are different than bring the root mean square
    error down to `tolerance`, and they are evenly spaced where 256 suffice for that: of all quantisers this needs the
    fewest bits (Gish and Pierce, 1968), and no error is larger than half a step. Where far outliers need more, levels
    are placed by k-means. If the numbers fall into no more than 256 of 65,536 bins, the levels are the numbers.
    """
    middles, mass = _histogram(values, weights)
    step = tolerance * 12**0.5
    if len(middles) <= LEVELS:
        levels = middles
    elif middles[-1] - middles[0] < (LEVELS - 2) * step:
        levels = np.arange(np.floor(middles[0] / step), np.ceil(middles[-1] / step) + 1) * step
    else:
        levels = _fewest(middles, mass, tolerance)
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
    """Levels by k-means, as few as keep to the tolerance, or all of them."""
    too_few, enough = 0, LEVELS
    levels = _lloyd(middles, mass, LEVELS)
    while _rms(middles, mass, levels) < tolerance and enough - too_few > 1:
        count = (too_few + enough) // 2
        fewer = _lloyd(middles, mass, count)
        if _rms(middles, mass, fewer) <= tolerance:
            enough, levels = count, fewer
        else:
            too_few = count
    return levels


def _rms(middles: NDArray[np.float64], mass: NDArray[np.float64], levels: NDArray[np.float64]) -> float:
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, middles)
    return float(np.sqrt((mass * (levels[nearest] - middles) ** 2).sum() / mass.sum()))


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
