"""Numbers as indices into 256 levels, chosen by k-means on their histogram."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
_BINS = 1 << 16
_STEPS = 100
_DENSITY = 0.5


def fit_codebook(values: Iterable[NDArray[Any]], low: float, high: float) -> NDArray[np.float32]:
    """256 ascending levels for numbers in [low, high], given in pieces of any shape.

    The mean squared error would be smallest with every number counted once, at the cost of large errors in the tails.
    With the number in a bin counted by its square root the sum of squares grows by 5 %, the largest error halves. If
    the numbers fall into no more than 256 of 65,536 bins, the levels are the numbers.
    """
    counts, sums = np.zeros(_BINS), np.zeros(_BINS)
    scale = (_BINS - 1) / (high - low) if high > low else 0.0
    for piece in values:
        flat = np.asarray(piece, np.float64).reshape(-1)
        bins = ((flat - low) * scale + 0.5).astype(np.int64)
        counts += np.bincount(bins, minlength=_BINS)
        sums += np.bincount(bins, flat, minlength=_BINS)
    used = counts > 0
    middles, weights = sums[used] / counts[used], counts[used] ** _DENSITY
    levels = middles if len(middles) <= LEVELS else _lloyd(middles, weights)
    padded = np.concatenate([levels, np.full(LEVELS - len(levels), levels[-1])])
    return padded.astype(np.float32)


def _lloyd(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels at the weighted means of what is nearest to them, from Panter and Dite's density on."""
    spacing = np.gradient(values)
    density = np.cumsum(spacing * (weights / spacing) ** (1 / 3))
    levels = np.interp((np.arange(LEVELS) + 0.5) / LEVELS * density[-1], density, values)
    mass, moment = (np.concatenate([[0], np.cumsum(part)]) for part in (weights, weights * values))
    for _ in range(_STEPS):
        bounds = np.concatenate([[0], np.searchsorted(values, (levels[1:] + levels[:-1]) / 2), [len(values)]])
        heavy = mass[bounds[1:]] > mass[bounds[:-1]]
        levels[heavy] = np.diff(moment[bounds])[heavy] / np.diff(mass[bounds])[heavy]
    return np.unique(levels)


def nearest_level(values: NDArray[Any], levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The index of the level nearest to each number."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.uint8)
