"""Precision, recall, density and coverage: how many images fall into the other set's k-nearest-neighbour balls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError
from gencompress.metrics.frechet import check_features

Array = NDArray[np.float64]
PRECISION_K, COVERAGE_K = 3, 5  # the values of the two papers
_CELLS = 20_000_000  # distances held at a time


@dataclass(frozen=True)
class Manifold:
    """How the two sets cover each other.

    Args:
        precision: part of the images inside a reference ball, k = 3 (Kynkäänniemi et al. 2019, eq. 1 to 3).
        recall: part of the reference images inside an image's ball, k = 3.
        density: mean number of reference balls around an image over k, k = 5; may exceed 1 (Naeem et al. 2020, eq. 3).
        coverage: part of the reference balls that hold an image, k = 5 (Naeem et al. 2020, eq. 4).
    """

    precision: float
    recall: float
    density: float
    coverage: float

    def to_json(self) -> dict[str, float]:
        """All fields."""
        return asdict(self)


def manifold_scores(reference: Array, features: Array) -> Manifold:
    """Precision, recall, density and coverage of `features` [M, D] to `reference` [N, D].

    Raises:
        DataError: a set with no more than 5 rows, or different D.
        NumericsError: NaN or infinity inside.
    """
    least = COVERAGE_K + 1
    real, fake = check_features(reference, "reference", least), check_features(features, "features", least)
    if real.shape[1] != fake.shape[1]:
        raise DataError(f"reference has {real.shape[1]} dimensions, features have {fake.shape[1]}")
    radii = _radii(real)
    inside, dense, covered = [], 0.0, np.zeros(len(real), dtype=bool)
    for distances in _distances(fake, real):
        inside.append((distances <= radii[PRECISION_K]).any(axis=1))
        within = distances < radii[COVERAGE_K]
        dense += float(within.sum())
        covered |= within.any(axis=0)
    own = _radii(fake)[PRECISION_K]
    found = [(distances <= own).any(axis=1) for distances in _distances(real, fake)]
    precision, recall = float(np.concatenate(inside).mean()), float(np.concatenate(found).mean())
    return Manifold(precision, recall, dense / (COVERAGE_K * len(fake)), float(covered.mean()))


def _radii(points: Array) -> dict[int, Array]:
    """Squared distance of every point to its k-th nearest other point, by k."""
    parts: dict[int, list[Array]] = {PRECISION_K: [], COVERAGE_K: []}
    for distances in _distances(points, points):
        nearest = np.partition(distances, (PRECISION_K, COVERAGE_K), axis=1)  # place 0 is the point itself
        for k, found in parts.items():
            found.append(nearest[:, k].copy())
    return {k: np.concatenate(found) for k, found in parts.items()}


def _distances(a: Array, b: Array) -> Iterator[Array]:
    """Squared distances in blocks of rows, [rows, M]; those of a point to itself are exactly zero."""
    square_b = (b**2).sum(axis=1)
    rows = max(1, _CELLS // len(b))
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        block = (part**2).sum(axis=1)[:, None] + square_b - 2 * part @ b.T
        if a is b:
            block[np.arange(len(part)), start + np.arange(len(part))] = 0
        yield block.clip(min=0)
