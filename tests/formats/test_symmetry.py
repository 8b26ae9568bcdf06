"""Axes named anew describe the same ellipsoid, turned no more than needed."""

from __future__ import annotations

import numpy as np

from gencompress.formats import quaternions
from gencompress.formats.symmetry import _CUBE, least_turned


def rotations(n: int = 500, seed: int = 0) -> np.ndarray:
    return quaternions.unit(np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32))


def covariances(quats: np.ndarray, log_scales: np.ndarray) -> np.ndarray:
    axes = quaternions.matrices(quats) * np.exp(log_scales[:, None].astype(np.float64))
    return axes @ axes.transpose(0, 2, 1)


def test_the_rotations_of_a_cube():
    matrices = quaternions.matrices(_CUBE)
    assert len({tuple(np.rint(m).astype(int).reshape(-1)) for m in matrices}) == 24
    np.testing.assert_allclose(matrices, np.rint(matrices), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrices), 1)


def test_the_ellipsoid_is_the_same():
    quats, log_scales = rotations(), np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    turned = least_turned(quats, log_scales)
    np.testing.assert_allclose(covariances(*turned), covariances(quats, log_scales), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.sort(turned[1], 1), np.sort(log_scales, 1))


def test_it_is_turned_least():
    """By at most 62.8 degrees, with the real part the largest, and never more than before."""
    quats = rotations(5000)
    turned, _ = least_turned(quats, np.zeros((5000, 3), np.float32))
    real = np.abs(turned[:, 0])
    assert (real >= np.abs(quats[:, 0]) - 1e-6).all() and (real >= np.abs(turned).max(1) - 1e-6).all()
    assert np.degrees(2 * np.arccos(real.min())) < 62.81
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-5)


def test_once_is_enough():
    turned = least_turned(rotations(), np.zeros((500, 3), np.float32))
    again = least_turned(*turned)
    np.testing.assert_allclose(np.abs(again[0][:, 0]), np.abs(turned[0][:, 0]), atol=1e-6)
