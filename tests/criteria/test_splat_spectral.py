"""Neighbours against brute force, the random walk against dense matrices, the samplings against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gencompress.criteria.spectral import (
    SignalWeights,
    high_all_scores,
    high_pass_response,
    paper_strict_scores,
    spectral_contribution_scores,
)
from gencompress.kernels.neighbours import RandomWalk, morton_order, nearest_neighbours
from gencompress.kernels.splats import Splats
from tests.splat_scenes import ball


def dense_walk(points, k):
    """D^-1 W with self-tuning weights on the union of all k-nearest-neighbour edges, by matrices."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1)
    width = distances[np.arange(len(points)), order[:, min(7, k) - 1]]
    edges = np.zeros(distances.shape, dtype=bool)
    np.put_along_axis(edges, order[:, :k], True, axis=1)
    edges |= edges.T
    weights = np.where(edges, np.exp(-(np.where(edges, distances, 0) ** 2) / np.outer(width, width)), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def test_neighbours_are_those_of_brute_force():
    points = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    found = nearest_neighbours(points, 9)
    assert found.index.dtype == np.int32 and np.array_equal(found.index, np.argsort(distances, axis=1)[:, :9])
    assert np.allclose(found.distance, np.sort(distances, axis=1)[:, :9], rtol=1e-6)


def test_duplicates_are_neighbours_but_never_of_themselves():
    points = np.repeat(np.random.default_rng(0).normal(size=(6, 3)), 5, axis=0).astype(np.float32)
    found = nearest_neighbours(points, 4)
    assert (found.index != np.arange(30)[:, None]).all() and (found.distance == 0).all()
    assert (found.index // 5 == (np.arange(30) // 5)[:, None]).all()
    walked = RandomWalk.among(points, 4) @ points
    assert np.allclose(walked, points, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_points_than_neighbours(count):
    points = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    assert nearest_neighbours(points, 16).index.shape == (count, count - 1)


def test_the_curve_keeps_near_points_together():
    points = np.random.default_rng(0).uniform(size=(4096, 3))
    order = morton_order(points)
    assert np.array_equal(np.sort(order), np.arange(4096))
    steps = np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean()
    assert steps < 0.2 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()


def test_the_walk_is_that_of_dense_matrices():
    rng = np.random.default_rng(1)
    points, signal = rng.normal(size=(300, 3)), rng.normal(size=(300, 4))
    assert np.allclose(RandomWalk.among(points, 10) @ signal, dense_walk(points, 10) @ signal, atol=1e-5)


def test_the_response_by_hand():
    splats = Splats.of(ball(200))
    points = splats.means.numpy().astype(np.float64)
    walk = dense_walk(points, 16)
    signal = (points - points.mean(0)) / points.std(0, ddof=1).max()
    expected = np.linalg.norm(signal - walk @ signal, axis=1)
    assert np.allclose(high_pass_response(splats).numpy(), expected, atol=1e-4)
    opacity = splats.opacities.numpy().astype(np.float64)[:, None]
    signal = 2 * (opacity - opacity.mean()) / opacity.std(ddof=1)
    expected = np.linalg.norm(signal - walk @ signal, axis=1)
    found = high_pass_response(splats, SignalWeights(0, 0, 2, 0))
    assert np.allclose(found.numpy(), expected, atol=1e-4)


def test_what_differs_from_its_neighbours_responds_most():
    scene = ball(400)
    scene.sh0[:] = 0.3
    scene.sh0[57] = 3
    response = high_pass_response(Splats.of(scene), SignalWeights(0, 1, 0, 0))
    assert int(response.argmax()) == 57


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0])
def test_the_strict_sample_takes_both_ends_at_every_budget(gamma):
    response = torch.rand(101, generator=torch.Generator().manual_seed(0))
    scores = paper_strict_scores(response, gamma)["splats"]
    ascending = response.argsort().tolist()
    assert len(scores.unique()) == 101
    for budget in (1, 10, 37, 100):
        kept = set(scores.topk(budget).indices.tolist())
        high = round(budget * gamma)
        assert kept == set(ascending[: budget - high]) | set(ascending[101 - high :])


def test_the_stochastic_sample_follows_its_probabilities():
    response = torch.tensor([0.0, 1.0, 2.0, 5.0])
    expected = 0.5 * response / 8 + 0.5 / 4
    first = torch.stack([high_all_scores(response, 0.5, seed)["splats"].argmax() for seed in range(4000)])
    assert torch.allclose(torch.bincount(first, minlength=4) / 4000, expected, atol=0.03)
    assert torch.equal(high_all_scores(response, 0.5, 3)["splats"], high_all_scores(response, 0.5, 3)["splats"])
    alike = high_all_scores(torch.zeros(50), 0.5, 0)["splats"]
    assert bool(torch.isfinite(alike).all())


def test_the_product_with_a_contribution():
    response, contribution = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 9.0])
    assert spectral_contribution_scores(response, contribution)["splats"].tolist() == [3.0, 1.0, 0.0]
