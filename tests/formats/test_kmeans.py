"""k-means by blocks: as good as Lloyd's on all points, and the same whatever the number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from gencompress.formats import kmeans as module
from gencompress.formats.kmeans import kmeans


def mixture(n: int, dims: int, seed: int = 0) -> np.ndarray:
    """Points around centres, some of which are far more crowded than others."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(200, dims))
    which = (200 * rng.random(n) ** 2).astype(int)
    return (centres[which] + rng.normal(size=(n, dims)) * 0.2).astype(np.float32)


def error(points: np.ndarray, centroids: np.ndarray, labels: np.ndarray) -> float:
    return float(((points - centroids[labels]) ** 2).sum(1).mean())


def brute(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    half = (centroids**2).sum(1) / 2
    return (half - points @ centroids.T).argmin(1)


@pytest.mark.filterwarnings("ignore:One of the clusters is empty")
@pytest.mark.parametrize("dims", [9, 24, 45])
def test_error_is_that_of_lloyd(dims):
    points = mixture(6000, dims)
    found = kmeans(points, 1024)
    start = points[np.random.default_rng(1).choice(len(points), 1024, replace=False)]
    centroids, labels = kmeans2(points.astype(np.float64), start.astype(np.float64), iter=25, minit="matrix")
    assert error(points, *found) < 1.01 * error(points, centroids, labels)


def test_labels_are_nearest():
    points = mixture(6000, 24)
    centroids, labels = kmeans(points, 1024)
    best = brute(points, centroids)
    assert (labels == best).mean() > 0.97
    assert error(points, centroids, labels) < 1.002 * error(points, centroids, best)


def test_error_never_grows(monkeypatch):
    points = mixture(3000, 9)
    errors = []
    for rounds in (1, 2, 4, 8, 16):
        monkeypatch.setattr(module, "ROUNDS", rounds)
        errors.append(error(points, *kmeans(points, 600)))
    assert errors == sorted(errors, reverse=True)


def test_same_for_any_number_of_threads_and_the_same_seed():
    points, before = mixture(5000, 9), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(kmeans(points, 2000, seed=3))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other.centroids, found[0].centroids)
        np.testing.assert_array_equal(other.labels, found[0].labels)
    assert not np.array_equal(kmeans(points, 2000, seed=4).centroids, found[0].centroids)


def test_centroids_are_the_means_of_their_points():
    """Up to the last rounds, in which a few points go to a nearer centroid."""
    points = mixture(4000, 9)
    centroids, labels = kmeans(points, 300)
    for index in range(300):
        own = labels == index
        assert own.any()
        mean = points[own].mean(0)
        assert np.abs(centroids[index] - mean).max() < 0.1


def test_as_many_centroids_as_points_or_more():
    points = mixture(300, 9)
    for k in (300, 1024):
        centroids, labels = kmeans(points, k)
        assert len(centroids) == 300 and len(labels) == 300
        np.testing.assert_array_equal(centroids[labels], points)


def test_equal_points():
    points = np.repeat(mixture(5, 9), 400, axis=0)
    centroids, labels = kmeans(points, 1024)
    np.testing.assert_allclose(centroids[labels], points, atol=1e-6)


def test_more_points_than_are_fitted(monkeypatch):
    """The rest finds its centroids nearly as well as by comparing with all."""
    monkeypatch.setattr(module, "TRAINING", 4000)
    points = mixture(15000, 24)
    centroids, labels = kmeans(points, 1024)
    assert len(labels) == 15000
    assert error(points, centroids, labels) < 1.02 * error(points, centroids, brute(points, centroids))


def test_points_of_any_shape():
    """As harmonics of a mapped file are: not contiguous, channel by channel."""
    points = mixture(2000, 24).reshape(-1, 3, 8).transpose(0, 2, 1)
    flat = np.ascontiguousarray(points).reshape(-1, 24)
    np.testing.assert_array_equal(kmeans(points, 300).labels, kmeans(flat, 300).labels)
