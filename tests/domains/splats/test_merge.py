"""Merging keeps the moments; what it costs the images is predicted; its record makes the same splats again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gencompress.domains.splats import merge as merging
from gencompress.domains.splats.domain import renders
from gencompress.domains.splats.merge import Merges, Pairs, candidate_pairs, merged, neighbour_pairs
from gencompress.domains.splats.reduce import measured
from gencompress.domains.splats.road import Removal, merge
from gencompress.kernels.splats import Splats
from tests.formats.synthetic import FIELDS
from tests.splat_scenes import ball, ring


def pairs_of(first: list[int], second: list[int], opacities: list[float] | None = None) -> Pairs:
    a, b = np.array(first, np.int32), np.array(second, np.int32)
    return Pairs(a, b, np.zeros(len(a), np.float32), np.array(opacities or [0.5] * len(a), np.float32))


def covariance(splats: Splats, n: int) -> np.ndarray:
    """Independent of the code under test: through scipy's rotations."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = splats.quats[n].double().numpy()
    axes = Rotation.from_quat([x, y, z, w]).as_matrix() * splats.scales[n].double().numpy()
    return axes @ axes.T


def mass(splats: Splats, n: int) -> float:
    """Opacity times the root mean square of the projected area over random directions, by quadrature."""
    cov = covariance(splats, n)
    eigenvalues = np.linalg.eigvalsh(cov)
    a, b, c = eigenvalues
    return float(splats.opacities[n]) * 2 * math.pi * math.sqrt((a * b + a * c + b * c) / 3)


def test_moments_are_those_of_the_pair():
    splats = Splats.of(ball(40, sh_degree=2))
    made = merged(splats, pairs_of(list(range(20)), list(range(20, 40))))
    for n in range(20):
        i, j = n, n + 20
        a = mass(splats, i) / (mass(splats, i) + mass(splats, j))
        mean_i, mean_j = (splats.means[k].double().numpy() for k in (i, j))
        mean = a * mean_i + (1 - a) * mean_j
        second = a * (covariance(splats, i) + np.outer(mean_i, mean_i))
        second += (1 - a) * (covariance(splats, j) + np.outer(mean_j, mean_j))
        np.testing.assert_allclose(made.means[n], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(covariance(made, n), second - np.outer(mean, mean), rtol=1e-4, atol=1e-7)
        colors = a * splats.colors[i].double() + (1 - a) * splats.colors[j].double()
        torch.testing.assert_close(made.colors[n], colors.float(), rtol=1e-5, atol=1e-6)


def test_projected_area_is_the_mean_over_directions():
    splats = Splats.of(ball(3))
    cov = merging.covariance(splats)
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(200_000, 3, generator=generator), dim=1)
    for n in range(3):
        adjugate = torch.linalg.inv(cov[n]) * torch.linalg.det(cov[n])
        squared = torch.einsum("di,ij,dj->d", directions.double(), adjugate, directions.double())
        # the constant factor 1/3 of the mean is left out, since only ratios of masses matter
        assert float(merging.projected_area(cov[n : n + 1])) ** 2 / 3 == pytest.approx(float(squared.mean()), rel=0.01)


def test_rotations_and_quaternions_are_inverse():
    generator = torch.Generator().manual_seed(1)
    quats = torch.nn.functional.normalize(torch.randn(500, 4, generator=generator).double(), dim=1)
    half_turns = torch.cat([torch.eye(4, dtype=torch.float64), quats])
    back = merging.quaternions(merging.rotations(half_turns))
    assert float((back * half_turns).sum(1).abs().min()) > 1 - 1e-12
    flat = torch.diag_embed(torch.tensor([[4.0, 1.0, 0.0]], dtype=torch.float64))
    quats, scales = merging.axes_of(flat)
    assert sorted(scales[0].tolist()) == pytest.approx([2e-4, 1, 2], rel=1e-4), "a flat splat stays finite"
    assert float(quats.norm()) == pytest.approx(1)


def twins(opacity: float) -> Splats:
    """Two equal splats before a third one."""
    splats = Splats.of(ball(3, scale=0.4)).take(torch.tensor([0, 0, 2]))
    splats.opacities[:2] = opacity
    return splats


@pytest.mark.parametrize(("opacity", "least"), [(0.1, 55), (0.3, 45), (0.5, 35)])
def test_merging_two_equal_splats_hardly_shows(opacity, least):
    splats, cameras = twins(opacity), ring(4, 64)
    before = renders(splats, cameras)
    seen, lost, _ = measured(splats, cameras, before)
    pairs = candidate_pairs(splats, cameras, seen, 2)
    (place,) = np.flatnonzero((pairs.first == 0) & (pairs.second == 1))
    chosen = pairs.take(np.array([place]))
    assert chosen.errors[0] < 1e-3 * lost[:2].min(), "no error is predicted"
    # both cover 1 - (1 - o)^2 of the light in their middle, somewhat more than the best single Gaussian
    assert 2 * opacity - opacity**2 < float(chosen.opacities[0]) < 2 * opacity
    after = splats.take(torch.tensor([0, 2]))
    after.put_(torch.tensor([0]), merged(splats, chosen))
    assert psnr(renders(after, cameras), before) > least


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a.clamp(0, 1) - b.clamp(0, 1)).square().mean()))


def test_the_predicted_error_is_that_of_the_renders():
    """Every candidate pair of a scene merged alone: the change of the images as predicted, over six decades."""
    splats, cameras = Splats.of(ball(60, seed=3)), ring(6, 48)
    before = renders(splats, cameras)
    seen, _, _ = measured(splats, cameras, before)
    pairs = candidate_pairs(splats, cameras, seen, 3)
    real = []
    for p in range(len(pairs.first)):
        chosen = pairs.take(np.array([p]))
        stays = np.arange(len(splats)) != chosen.second[0]
        after = splats.take(torch.from_numpy(np.flatnonzero(stays)))
        after.put_(torch.from_numpy(np.cumsum(stays)[chosen.first] - 1), merged(splats, chosen))
        real.append(float((renders(after, cameras) - before).square().sum()))
    assert spearmanr(real, pairs.errors).statistic > 0.9
    ratios = np.log2(pairs.errors / np.array(real))
    assert abs(np.median(ratios)) < 1, "no more than a factor of two off in the middle"


def test_pairs_are_told_once_and_only_of_neighbours():
    means = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    first, second = neighbour_pairs(means, 4)
    assert (first < second).all() and len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first)
    distances = np.linalg.norm(means[:, None] - means[None], axis=2)
    near = np.argsort(distances, axis=1)[:, 1:5]
    wanted = {tuple(sorted((i, int(j)))) for i in range(200) for j in near[i]}
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == sorted(wanted)


def chain() -> Merges:
    """0 takes in 1, then 2, which had taken in 3; 4 takes in 5."""
    none = Merges.none()
    first = none.then(np.int32([0, 2]), np.int32([1, 3]), np.float32([0.5, 0.6]))
    return first.then(np.int32([0, 4]), np.int32([2, 5]), np.float32([0.7, 0.4]))


def test_members_follow_chains_of_merges():
    survivors = np.array([True, False, False, False, False, False, True])  # 4 was deleted after it had taken in 5
    assert chain().members(survivors).tolist() == [0, 1, 2, 3, 6]
    inner = chain().among(np.array([0, 1, 2, 3, 6]))
    assert inner.first.tolist() == [0, 2, 0] and inner.second.tolist() == [1, 3, 2]
    assert inner.rounds.tolist() == [0, 0, 1]


def test_a_plan_and_its_merges_make_the_scene(tmp_path):
    scene = ball(7, sh_degree=1)
    gone = np.array([9, 0, 1, 0, 1, 1, 9], np.int32)
    gone[[0, 6]] = np.iinfo(np.int32).max
    removal = Removal.of(gone, chain())
    assert removal.kept.tolist() == [0, 1, 2, 3, 6]
    left = merge(scene.take(removal.kept), removal.merges)
    assert len(left) == 2
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(left, name)[1], getattr(scene, name)[6], err_msg=f"{name} is touched")
    splats = Splats.of(scene)
    pair = merged(splats, pairs_of([0, 2], [1, 3], [0.5, 0.6]))
    whole = merged(pair, pairs_of([0], [1], [0.7]))
    np.testing.assert_allclose(left.means[0], whole.means[0], rtol=1e-6)
    np.testing.assert_allclose(left.opacities[0], 0.7, rtol=1e-5)
