from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gencompress.formats import deviations, frames, quaternions
from gencompress.formats.morton import morton_order
from gencompress.formats.spherical_harmonics import basis, mixing
from tests.formats.synthetic import synthetic


def turns():
    rng = np.random.default_rng(3)
    for name in ("RUB", "LUF", "RFU", "LDF"):
        yield name, frames.from_axes(name)
    rotation = quaternions.matrices(rng.normal(size=(1, 4)))[0]
    yield "rotation", rotation
    yield "mirror", rotation @ np.diag([1, 1, -1])


def covariances(scene):
    axes = quaternions.matrices(scene.quats) * scene.scales[:, None, :].astype(np.float64)
    return axes @ axes.transpose(0, 2, 1)


@pytest.mark.parametrize(("name", "matrix"), list(turns()))
def test_a_turned_scene_looks_the_same_from_a_turned_camera(name, matrix):
    scene = synthetic(50, degree=4)
    turned = frames.turn(scene, matrix, scale=2.0, shift=np.array([1.0, 2, 3]))
    np.testing.assert_allclose(turned.means, 2 * scene.means @ matrix.T + [1, 2, 3], atol=1e-5)
    expected = 4 * matrix @ covariances(scene) @ matrix.T
    np.testing.assert_allclose(covariances(turned), expected, rtol=1e-4, atol=1e-5 * expected.max())
    directions = np.random.default_rng(1).normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = np.einsum("dk,nkc->ndc", basis(directions, 4)[:, 1:], scene.sh_rest)
    after = np.einsum("dk,nkc->ndc", basis(directions @ matrix.T, 4)[:, 1:], turned.sh_rest)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_harmonics_are_orthonormal_over_the_sphere():
    """Gauss-Legendre in z and equal steps in angle integrate polynomials of degree 8 exactly."""
    z, weight = np.polynomial.legendre.leggauss(8)
    angle = np.arange(16) * 2 * np.pi / 16
    radius = np.sqrt(1 - z**2)
    points = np.stack(
        [np.outer(radius, np.cos(angle)), np.outer(radius, np.sin(angle)), np.outer(z, np.ones(16))], axis=-1
    ).reshape(-1, 3)
    values = basis(points, 4)
    weights = np.repeat(weight, 16) * 2 * np.pi / 16
    np.testing.assert_allclose(values.T @ (values * weights[:, None]), np.eye(25), atol=1e-7)


def test_a_mirror_only_changes_signs_of_harmonics():
    mix = mixing(frames.from_axes("RUB"), 3)
    assert np.array_equal(np.abs(mix), np.eye(15))


def test_quaternions_and_matrices_agree():
    quats = np.random.default_rng(0).normal(size=(100, 4))
    rotations = quaternions.matrices(quats)
    for quat, rotation in zip(quats, rotations, strict=True):
        assert abs(quaternions.of_matrix(rotation) @ quat) == pytest.approx(np.linalg.norm(quat))
    left = quaternions.of_matrix(rotations[0])
    np.testing.assert_allclose(
        quaternions.matrices(quaternions.product(left, quats)), rotations[0] @ rotations, atol=1e-5
    )


def test_smallest_three_lose_only_the_sign():
    quats = quaternions.unit(np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32))
    largest, others = quaternions.smallest_three(quats)
    assert (np.abs(others) <= 0.5**0.5 + 1e-6).all()
    back = quaternions.from_smallest_three(largest, others)
    np.testing.assert_allclose(np.abs((back * quats).sum(1)), 1, atol=1e-6)


def test_a_quaternion_of_zeros_is_no_rotation():
    assert quaternions.unit(np.zeros((1, 4), np.float32)).tolist() == [[1, 0, 0, 0]]


def test_morton_order_visits_octants_one_after_the_other():
    means = np.random.default_rng(0).uniform(-1, 1, size=(4000, 3))
    means = np.concatenate([means, [[-1, -1, -1], [1, 1, 1]]])
    ordered = means[morton_order(means)]
    octant = (ordered > 0) @ [1, 2, 4]
    assert (np.diff(octant) >= 0).all()
    step = np.linalg.norm(np.diff(ordered, axis=0), axis=1).mean()
    assert step < 0.2 * np.linalg.norm(np.diff(means, axis=0), axis=1).mean()


def test_morton_order_is_stable_and_bears_what_is_not_finite():
    assert morton_order(np.zeros((5, 3))).tolist() == [0, 1, 2, 3, 4]
    assert sorted(morton_order(np.array([[np.nan, 0, 0], [1e30, 0, -1e30], [np.inf, 1, 1]]))) == [0, 1, 2]


def test_deviations_are_those_that_were_made():
    before = synthetic(n=200, degree=2)
    after = frames.turn(before, np.eye(3))
    after.means[:, 0] += 0.01
    after.sh_rest[3, 2, 1] += 0.5
    half = np.radians(1.5) / 2
    turned = replace(
        after,
        quats=quaternions.product(np.array([np.cos(half), 0, np.sin(half), 0]), before.quats),
        log_scales=before.log_scales + np.float32(0.25),
    )
    lost = deviations(before, turned)
    diagonal = np.linalg.norm(np.ptp(before.means, axis=0))
    assert lost["position"].rms == pytest.approx(0.01 / diagonal, rel=1e-3)
    assert lost["rotation"] == pytest.approx((1.5, 1.5), rel=1e-3)
    assert lost["scale"] == pytest.approx((0.25, 0.25), rel=1e-4)
    assert lost["harmonics"].largest == pytest.approx(0.5) and lost["opacity"].largest == 0
    assert deviations(before, before)["rotation"].largest == 0


def test_deviations_do_not_mind_how_the_axes_of_a_splat_are_named():
    before = synthetic(n=100, degree=0)
    swap = quaternions.of_matrix(np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]))  # its x is the old y, and so on
    w, *xyz = swap
    quats = quaternions.unit(before.quats).astype(np.float64)
    real = quats[:, 0] * w - quats[:, 1:] @ xyz
    imaginary = quats[:, :1] * xyz + w * quats[:, 1:] + np.cross(quats[:, 1:], xyz)
    renamed = replace(
        before, quats=np.column_stack([real, imaginary]).astype(np.float32), log_scales=before.log_scales[:, [1, 2, 0]]
    )
    np.testing.assert_allclose(covariances(renamed), covariances(before), rtol=1e-4, atol=1e-9)
    lost = deviations(before, renamed)
    assert lost["rotation"].largest < 1e-3 and lost["scale"].largest < 1e-6
