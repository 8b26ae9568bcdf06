"""Codebooks of 256 levels: near the optimum, no more levels than wanted, safe at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from gencompress.formats.codebook import LEVELS, fit_codebook, nearest_level


def rms(values: np.ndarray, levels: np.ndarray, weights: np.ndarray | None = None) -> float:
    squares = (levels[nearest_level(values, levels)] - values) ** 2
    return float(np.sqrt(np.average(squares.mean(1), weights=weights)))


@pytest.mark.filterwarnings("ignore:One of the clusters is empty")
def test_better_than_lloyd_from_a_lucky_start():
    values = np.random.default_rng(0).laplace(size=(6000, 1))
    tries = [kmeans2(values, LEVELS, iter=60, minit="++", rng=seed)[0] for seed in range(3)]
    best = min(rms(values, np.sort(levels[:, 0])) for levels in tries)
    assert rms(values, fit_codebook(values, np.ones(len(values)))) < best


@pytest.mark.parametrize(("shape", "optimum"), [("normal", 3**0.5 * np.pi / 2), ("laplace", 9.0), ("uniform", 1 / 12)])
def test_error_of_many(shape, optimum):
    """Within 2 % of the least possible for many levels, (integral of density^(1/3))^3 / 12 (Panter and Dite)."""
    values = getattr(np.random.default_rng(0), shape)(size=(200_000, 3))
    assert rms(values, fit_codebook(values, np.ones(len(values)))) ** 2 < 1.02 * optimum / LEVELS**2


def test_tolerance_is_met_with_even_levels():
    values = np.random.default_rng(0).normal(size=(50_000, 3))
    levels = fit_codebook(values, np.ones(len(values)), 0.05)
    different = np.unique(levels)
    assert 0.049 < rms(values, levels) < 0.051
    np.testing.assert_allclose(np.diff(different), 0.05 * 12**0.5, rtol=1e-5)
    assert 0 in levels  # which many a coefficient is
    assert np.abs(levels[nearest_level(values, levels)] - values).max() < 0.0501 * 3**0.5


def test_tolerance_is_met_with_few_levels_where_even_ones_do_not_reach():
    values = np.append(np.random.default_rng(0).normal(size=50_000), 100)[:, None]
    levels = fit_codebook(values, np.ones(len(values)), 0.05)
    assert 0.044 < rms(values, levels) <= 0.05
    assert len(np.unique(levels)) < 60


def test_even_levels_take_fewer_bits():
    """At the same error the entropy of their indices is lower than that of levels by k-means."""
    values = np.random.default_rng(0).laplace(size=(50_000, 1))
    even = fit_codebook(values, np.ones(len(values)), 0.05)
    placed = fit_codebook(np.append(values, [[1000]], 0), np.ones(len(values) + 1), 0.05)

    def bits(levels: np.ndarray) -> float:
        counts = np.bincount(nearest_level(values, levels)[:, 0])
        share = counts[counts > 0] / counts.sum()
        return float(-(share * np.log2(share)).sum())

    assert bits(even) < bits(placed) - np.log2(rms(values, even) / rms(values, placed)) - 0.1


def test_heavy_numbers_are_nearer_to_their_levels():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50_000, 1))
    weights = np.where(values[:, 0] > 1, 50, 1)
    weighed = fit_codebook(values, weights)
    assert rms(values, weighed, weights) < 0.7 * rms(values, fit_codebook(values, np.ones(len(values))), weights)


@pytest.mark.parametrize("count", [1, 2, 255, 256])
def test_few_different_numbers_are_kept(count):
    numbers = np.sort(np.random.default_rng(0).normal(size=count)).astype(np.float32)
    values = np.random.default_rng(1).choice(numbers, (1000, 3)).astype(np.float32)
    values[:count, 0] = numbers
    levels = fit_codebook(values, np.random.default_rng(2).uniform(0.1, 9, 1000))
    assert levels.shape == (LEVELS,) and (np.diff(levels) >= 0).all()
    np.testing.assert_allclose(levels[nearest_level(values, levels)], values, atol=1e-6)


def test_far_outliers_cost_the_rest_little():
    values = np.random.default_rng(0).normal(size=(50_000, 1))
    plain = rms(values, fit_codebook(values, np.ones(50_000)))
    with_outliers = np.concatenate([values, [[-300.0], [500.0]]])
    levels = fit_codebook(with_outliers, np.ones(50_002))
    assert rms(values, levels) < 1.6 * plain
    assert np.abs(levels[nearest_level(with_outliers[-2:], levels)] - with_outliers[-2:]).max() < 1


def test_nearest_level_is_nearest():
    rng = np.random.default_rng(0)
    levels = np.sort(rng.normal(size=LEVELS)).astype(np.float32)
    values = rng.normal(size=(500, 2)).astype(np.float32)
    found = np.abs(levels[nearest_level(values, levels)] - values)
    np.testing.assert_array_equal(found, np.abs(values[..., None] - levels).min(-1))
