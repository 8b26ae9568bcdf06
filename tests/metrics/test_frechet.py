from __future__ import annotations

import numpy as np
import pytest
from cleanfid import fid
from scipy import linalg

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.frechet import FeatureStatistics, frechet_distance
from gencompress.metrics.kernel import kernel_distance


def features(n, d, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) / np.sqrt(d) + shift


def by_sqrtm(a, b):
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    shift = a.mean(0) - b.mean(0)
    return shift @ shift + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * np.trace(root.real)


def test_equals_the_closed_form_of_diagonal_gaussians():
    """Signs +-1 in all combinations have exactly zero mean and a diagonal covariance."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    variance = len(signs) / (len(signs) - 1)
    scale_a, scale_b, shift = np.array([1, 2, 3, 4.0]), np.array([2, 2, 0.5, 0.0]), np.array([0.5, 0, -1, 2])
    expected = (shift**2).sum() + variance * ((scale_a - scale_b) ** 2).sum()
    assert frechet_distance(signs * scale_a, signs * scale_b + shift) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [40, 300])
def test_equals_sqrtm_and_clean_fid(n):
    a, b = features(n, 24, 0), features(n + 10, 24, 1, shift=0.3)
    value = frechet_distance(a, b)
    assert value == pytest.approx(by_sqrtm(a, b), rel=1e-6)
    theirs = fid.frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert value == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(16, 20), (16, 400)])
def test_fewer_images_than_features(n, m):
    """The eigenvalues of the cross Gram matrix give the answer without any D x D root."""
    a, b = features(n, 64, 0), features(m, 64, 1)
    x, y = (a - a.mean(0)) / np.sqrt(n - 1), (b - b.mean(0)) / np.sqrt(m - 1)
    gram = x @ y.T
    cross = np.sqrt(np.linalg.eigvalsh(gram @ gram.T).clip(0)).sum()
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + (x**2).sum() + (y**2).sum() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [10, 200])
def test_is_a_distance(n):
    a, b = features(n, 32, 0), features(n, 32, 1)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(32, 32)))[0]
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_streaming_equals_all_at_once_even_far_from_zero():
    a, b = features(500, 16, 0, shift=1e4), features(400, 16, 1, shift=1e4)
    statistics = [FeatureStatistics(16) for _ in range(3)]
    for batch in np.array_split(a[:300], 7):
        statistics[0].update(batch)
    statistics[1].update(a[300:])
    statistics[0].merge(statistics[1])
    statistics[0].merge(FeatureStatistics(16))
    statistics[2].update(b)
    assert statistics[0].n == 500
    np.testing.assert_allclose(statistics[0].covariance, np.cov(a.T), rtol=1e-9)
    assert frechet_distance(statistics[0], statistics[2]) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_statistics_of_few_images_are_singular_and_still_right():
    a, b = features(20, 64, 0), features(30, 64, 1)
    statistics = FeatureStatistics(64), FeatureStatistics(64)
    statistics[0].update(a)
    statistics[1].update(b)
    assert frechet_distance(*statistics) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_bad_features_are_refused():
    a = features(10, 4, 0)
    with pytest.raises(DataError, match="N >= 2"):
        frechet_distance(a[:1], a)
    with pytest.raises(DataError, match="4 dimensions, features_b have 3"):
        frechet_distance(a, a[:, :3])
    with pytest.raises(NumericsError, match="features_b: row 7"):
        frechet_distance(a, np.where(np.arange(10)[:, None] == 7, np.nan, a))
    with pytest.raises(DataError, match="two or more"):
        frechet_distance(FeatureStatistics(4), a)


def test_kernel_distance_equals_clean_fid_on_one_subset():
    a, b = features(60, 12, 0), features(60, 12, 1, shift=0.2)
    theirs = fid.kernel_distance(a, b, num_subsets=1, max_subset_size=60)
    ours = kernel_distance(a, b)
    assert ours.mean == pytest.approx(theirs, rel=1e-6)
    assert ours.se is None


def test_kernel_distance_is_unbiased_where_frechet_is_not():
    """Two samples of one distribution: the kernel distance scatters about zero, the Fréchet distance does not."""
    kernels, frechets = [], []
    for seed in range(60):
        a, b = np.random.default_rng(seed).normal(size=(2, 25, 6))
        kernels.append(kernel_distance(a, b).mean)
        frechets.append(frechet_distance(a, b))
    assert abs(np.mean(kernels)) < 3 * np.std(kernels) / np.sqrt(60)
    assert min(frechets) > 0.1


def test_kernel_distance_of_subsets_is_near_the_whole_and_repeats():
    a, b = features(300, 8, 0), features(250, 8, 1, shift=0.5)
    whole, parts = kernel_distance(a, b), kernel_distance(a, b, subsets=40, subset_size=100)
    assert parts.mean == pytest.approx(whole.mean, abs=4 * parts.se)
    assert parts == kernel_distance(a, b, subsets=40, subset_size=100)
    assert len(parts.per_image) == 40
