"""The hash grid of the CPU against the torch formulation in fp64, and what both must do at grid points and edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from gencompress.errors import ConfigError, NumericsError
from gencompress.kernels import HashLayout, encode, hash_grid_torch
from gencompress.kernels.hash_index import PRIMES, entry

LAYOUTS = {
    "dense": HashLayout((1, 2, 5), 12),
    "hashed": HashLayout((40, 77), 6),
    "both": HashLayout.geometric(6, 4, 100, 10),
    "one level": HashLayout((9,), 10),
}


def points_of(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))


def table_of(layout: HashLayout, seed: int = 1) -> Tensor:
    return torch.randn(layout.entries, 2, generator=torch.Generator().manual_seed(seed))


def away_from_faces(points: Tensor, layout: HashLayout) -> Tensor:
    """Points whose cells are the same in fp32 and fp64: the gradient jumps from cell to cell."""
    parts = torch.stack([(points.double() * r).frac() for r in layout.resolutions])
    return points[((parts > 1e-3) & (parts < 1 - 1e-3)).all(2).all(0)]


def grid_points(side: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(side), repeat=3)))


@pytest.mark.parametrize("side", [2, 3, 7, 16])
def test_dense_levels_give_every_grid_point_an_entry_of_its_own(side):
    found = entry(*grid_points(side).unbind(1), side, 0)
    assert sorted(found.tolist()) == list(range(side**3))


def test_hashed_entries_are_those_of_arithmetic_with_32_bits():
    rng = np.random.default_rng(0)
    x, y, z = rng.integers(0, 65537, (3, 1000))
    mask = (1 << 19) - 1
    short = x.astype(np.uint32) ^ (y.astype(np.uint32) * np.uint32(PRIMES[0]))
    short ^= z.astype(np.uint32) * np.uint32(PRIMES[1])
    assert np.array_equal(entry(x, y, z, 65537, mask), short & np.uint32(mask))
    assert [entry(3, 5, 7, 2049, mask), entry(0, 0, 0, 2049, mask)] == [
        (3 ^ (5 * 2654435761) % 2**32 ^ (7 * 805459861) % 2**32) % 2**19,
        0,
    ]


def test_hashed_entries_are_spread_evenly():
    """Of 2^15 points in 2^12 entries: a uniform hash leaves about exp(-8) of them out."""
    found = entry(*grid_points(32).unbind(1), 32, (1 << 12) - 1)
    counts = torch.bincount(found, minlength=1 << 12)
    assert len(counts) == 1 << 12 and int((counts == 0).sum()) < 40 and int(counts.max()) < 40


def test_levels_lie_one_behind_the_other():
    layout = HashLayout((3, 9, 50), 10)
    assert layout.masks == (0, 0, 1023)
    assert layout.offsets == (0, 64, 1064, 2088)
    assert layout.entries == 2088 and layout.width == 6


def test_resolutions_grow_by_one_factor_and_reach_the_finest():
    layout = HashLayout.geometric(16, 16, 2048, 19)
    assert layout.resolutions[:3] == (16, 22, 30) and layout.resolutions[-1] == 2048
    assert HashLayout.geometric(5, 8, 128, 19).resolutions == (8, 16, 32, 64, 128)
    # the count of parameters that Instant-NGP is quoted with, less its two networks
    assert 2 * HashLayout.geometric(16, 16, 1024, 19).entries == pytest.approx(11.48e6, rel=0.03)


@pytest.mark.parametrize("name", LAYOUTS)
def test_grid_points_have_their_own_features(name):
    layout = LAYOUTS[name]
    table = table_of(layout)
    rng = np.random.default_rng(0)
    for level, side in enumerate(layout.sides):
        corners = torch.from_numpy(rng.integers(0, side, (200, 3)))
        corners[:2] = torch.tensor([[0, 0, 0], [side - 1] * 3])
        found = encode(corners / (side - 1), table, layout)[:, 2 * level : 2 * level + 2]
        expected = table[layout.offsets[level] + entry(*corners.unbind(1), side, layout.masks[level])]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # i / r * r is i but for rounding


def test_on_powers_of_two_grid_points_are_exact():
    layout = HashLayout((8, 64), 10)
    table = table_of(layout)
    corners = grid_points(9)
    found = encode(corners / 8, table, layout)
    assert torch.equal(found[:, :2], table[entry(*corners.unbind(1), 9, 0)])
    assert torch.equal(found[:, 2:], table[729 + entry(*(8 * corners).unbind(1), 65, 1023)])


@pytest.mark.parametrize("name", LAYOUTS)
def test_features_and_gradients_equal_the_reference(name):
    layout = LAYOUTS[name]
    points = away_from_faces(points_of(3000), layout).requires_grad_()
    table = table_of(layout).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (points, table)]
    found, expected = encode(points, table, layout), hash_grid_torch.encode(*exact, layout)
    assert float(((found - expected).abs().max() / expected.abs().max()).detach()) <= 1e-5
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for ours, reference in zip((points, table), exact, strict=True):
        assert float((ours.grad.double() - reference.grad).norm() / reference.grad.norm()) <= 1e-5


def test_the_gradients_of_the_reference_are_those_of_finite_differences():
    layout = HashLayout((2, 5), 5)
    points = away_from_faces(points_of(30), layout)[:3].double().requires_grad_()
    table = table_of(layout).double().requires_grad_()
    torch.autograd.gradcheck(lambda p, t: hash_grid_torch.encode(p, t, layout), (points, table), eps=1e-7, atol=1e-5)


def test_the_gradient_of_positions_is_that_of_finite_differences():
    """In fp32, within one cell, where the features are cubic polynomials."""
    layout = HashLayout((4, 8), 8)
    table, step = table_of(layout), 1 / 64
    points = (torch.tensor([[0.28, 0.55, 0.81], [0.15, 0.66, 0.44]])).requires_grad_()
    encode(points, table, layout).sum().backward()
    for axis in range(3):
        shift = step * torch.eye(3)[axis]
        ahead, behind = (encode(points.detach() + s, table, layout).sum(1) for s in (shift, -shift))
        torch.testing.assert_close(points.grad[:, axis], (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-3)


def test_points_that_share_entries_add_up():
    layout = LAYOUTS["hashed"]
    table = table_of(layout).requires_grad_()
    one = points_of(1)
    encode(one, table, layout).sum().backward()
    single = table.grad.clone()
    table.grad = None
    encode(one.expand(1000, 3), table, layout).sum().backward()
    torch.testing.assert_close(table.grad, 1000 * single, rtol=1e-4, atol=1e-4)


def test_corners_that_collide_add_up():
    layout = HashLayout((40,), 1)
    table = torch.ones(2, 2, requires_grad=True)
    found = encode(points_of(50), table, layout)
    torch.testing.assert_close(found, torch.ones(50, 2))
    found.sum().backward()
    torch.testing.assert_close(table.grad.sum(0), torch.full((2,), 50.0))


def test_points_outside_are_moved_to_the_nearest_face():
    layout = LAYOUTS["both"]
    table = table_of(layout)
    outside = torch.tensor([[-0.5, 0.3, 0.4], [0.2, 1.7, 0.4], [0.2, 0.3, 3e38], [1.0, 0.0, 1.0]]).requires_grad_()
    found = encode(outside, table, layout)
    assert torch.equal(found, encode(outside.detach().clamp(0, 1), table, layout))
    found.sum().backward()
    assert [outside.grad[i, i].item() for i in range(3)] == [0, 0, 0]
    assert bool((outside.grad[3] != 0).all()) and bool((outside.grad[:3] != 0).sum(1).eq(2).all())


def test_threads_change_no_bit():
    layout = LAYOUTS["both"]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            points, table = points_of(70_000).requires_grad_(), table_of(layout).requires_grad_()
            out = encode(points, table, layout)
            (out * torch.linspace(-1, 1, layout.width)).sum().backward()
            found.append((out.detach(), points.grad, table.grad))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_no_points_have_no_features():
    layout = LAYOUTS["both"]
    points, table = torch.empty(0, 3, requires_grad=True), table_of(layout).requires_grad_()
    found = encode(points, table, layout)
    found.sum().backward()
    assert found.shape == (0, layout.width) and points.grad.shape == (0, 3) and not table.grad.any()


def test_other_layouts_and_types_of_tensors_are_taken():
    layout = LAYOUTS["both"]
    points, table = points_of(100), table_of(layout)
    turned = points.t().contiguous().t(), table.t().contiguous().t()
    assert torch.equal(encode(*turned, layout), encode(points, table, layout))
    double = points.double().requires_grad_()
    encode(double, table.half(), layout).sum().backward()
    assert double.grad.dtype == torch.float64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_points_that_are_no_numbers_are_refused(value):
    points = points_of(5)
    points[3, 1] = value
    with pytest.raises(NumericsError, match="points: 1 of 5 are NaN or infinite"):
        encode(points, table_of(LAYOUTS["dense"]), LAYOUTS["dense"])


@pytest.mark.parametrize(
    "points, table, message",
    [
        (torch.zeros(5, 2), torch.zeros(251, 2), r"points has shape \(5, 2\), expected \(N, 3\)"),
        (torch.zeros(5, 3), torch.zeros(250, 2), r"table has shape \(250, 2\), expected \(251, 2\)"),
        (torch.zeros(5, 3), torch.zeros(251, 4), r"table has shape"),
        (torch.zeros(5, 3, device="meta"), torch.zeros(251, 2), "points are on meta, the table is on cpu"),
    ],
)
def test_bad_tensors_have_one_message(points, table, message):
    with pytest.raises(ConfigError, match=message):
        encode(points, table, LAYOUTS["dense"])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HashLayout((), 10), "0 levels; 1 to 32"),
        (lambda: HashLayout((0, 4), 10), "must be 1 to 65,536 cells"),
        (lambda: HashLayout((4,), 25), "log2_entries=25 must be 1 to 24"),
        (lambda: HashLayout.geometric(1, 16, 32, 10), "two levels or more"),
        (lambda: HashLayout.geometric(4, 64, 32, 10), "finer last"),
    ],
)
def test_bad_layouts_have_one_message(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
