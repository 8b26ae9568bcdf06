"""Boxes, marching and the occupancy grid: the compiled march against every interval looked up, and known values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gencompress.errors import ConfigError, NumericsError
from gencompress.kernels.marching import march, march_torch, ray_aabb_intersect
from gencompress.kernels.occupancy import OccGridEstimator

BOX = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
OBLONG = torch.tensor([-2.0, 0.0, -0.5, 1.0, 0.7, 4.0])


def rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """From all around towards the middle and past it; every fourth is parallel to an axis or to a plane."""
    dice = torch.Generator().manual_seed(seed)
    origins = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=dice), dim=1)
    origins[::3] *= 0.1
    directions = torch.rand(count, 3, generator=dice) - 0.5 - 0.4 * origins
    directions[::4, 0] = 0
    directions[::8, 1] = 0
    return origins, torch.nn.functional.normalize(directions, dim=1)


def ranges_of(origins: Tensor, directions: Tensor, box: Tensor, t_first: Tensor, far: float = math.inf) -> Tensor:
    t_mins, t_maxs, hits = ray_aabb_intersect(origins, directions, box[None], far_plane=far, miss_value=0.0)
    return torch.stack([t_first, t_mins[:, 0], torch.where(hits[:, 0], t_maxs[:, 0], -math.inf)], 1)


def cells(shape: tuple[int, int, int], part: float, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < part


def test_known_crossings_of_a_box():
    """From outside, from inside, away from it, past it, along a face, and along a slab that is missed."""
    origins = torch.tensor([[-3.0, 0, 0], [0, 0, 0], [2, 0, 0], [-3, 2, 0], [-3, 1, 0], [-3, 0, 1.5]])
    directions = torch.tensor([[1.0, 0, 0]]).repeat(6, 1)
    t_mins, t_maxs, hits = ray_aabb_intersect(origins, directions, BOX[None])
    assert hits[:, 0].tolist() == [True, True, False, False, True, False]
    assert t_mins[:, 0].tolist() == [2, -1, math.inf, math.inf, 2, math.inf]
    assert t_maxs[:, 0].tolist() == [4, 1, math.inf, math.inf, 4, math.inf]
    nearer = ray_aabb_intersect(origins, directions, BOX[None], near_plane=0.0, far_plane=3.0, miss_value=-7.0)
    assert nearer[0][:, 0].tolist() == [2, 0, -7, -7, 2, -7] and nearer[1][:3, 0].tolist() == [3, 1, -7]


def test_crossings_lie_on_the_faces():
    origins, directions = rays(500)
    t_mins, t_maxs, hits = ray_aabb_intersect(origins, directions, torch.stack([BOX, OBLONG]))
    assert t_mins.shape == (500, 2) and 0.1 < float(hits.float().mean()) < 1
    for m, box in enumerate((BOX, OBLONG)):
        hit = hits[:, m]
        for t in (t_mins[hit, m], t_maxs[hit, m]):
            at = origins[hit] + t[:, None] * directions[hit]
            outside = torch.maximum(box[:3] - at, at - box[3:]).amax(1)
            torch.testing.assert_close(outside, torch.zeros_like(outside), rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("box", [BOX, OBLONG], ids=["cube", "oblong"])
def test_the_march_takes_what_looking_everywhere_finds(box, part):
    """Steps both shorter and longer than cells; a middle on a face may fall to either side of it by rounding."""
    origins, directions = rays(300)
    t_first = torch.rand(300, generator=torch.Generator().manual_seed(1)) * 0.5
    binaries = cells((7, 12, 5), part)
    for step in (0.013, 0.37):
        found = march(origins, directions, binaries, box, t_first, math.inf, step)
        ranges = ranges_of(origins, directions, box, t_first)
        expected = march_torch(origins, directions, binaries, box, ranges, step)
        assert abs(len(found[0]) - len(expected[0])) <= 2
        ours, theirs = ({(r, round(t / step * 64)) for r, t in zip(f[0].tolist(), f[1].tolist(), strict=True)}
                        for f in (found, expected))  # fmt: skip
        assert len(ours ^ theirs) <= 4
        assert bool((found[0].diff() >= 0).all())
        assert (len(found[0]) == 0) == (part == 0)


def test_an_axis_parallel_ray_by_hand():
    """Cells of 0.5, the third is occupied, steps of 0.2 from t = 1.9: middles 2.0, 2.2 ... at x = -1, -0.8 ..."""
    binaries = torch.zeros(4, 4, 4, dtype=torch.bool)
    binaries[2, 1, 1] = True
    origin, direction = torch.tensor([[-3.0, -0.1, -0.1]]), torch.tensor([[1.0, 0, 0]])
    found = march(origin, direction, binaries, BOX, torch.tensor([1.95]), math.inf, 0.2)
    assert found[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(found[1], torch.tensor([2.95, 3.15, 3.35]))
    torch.testing.assert_close(found[2], found[1] + 0.2)


def test_samples_tile_the_way_through_a_full_box():
    origins, directions = rays(200)
    rays_found, t_starts, t_ends = march(
        origins, directions, torch.ones(3, 3, 3, dtype=torch.bool), BOX, torch.zeros(200), math.inf, 0.01
    )
    t_mins, t_maxs, hits = ray_aabb_intersect(origins, directions, BOX[None], near_plane=0.0)
    inside = torch.where(hits, t_maxs - t_mins, torch.zeros(()))[:, 0]
    lengths = torch.zeros(200).index_add(0, rays_found, t_ends - t_starts)
    torch.testing.assert_close(lengths, inside, rtol=0, atol=0.0101)
    same = rays_found[1:] == rays_found[:-1]
    torch.testing.assert_close(t_starts[1:][same], t_ends[:-1][same], rtol=0, atol=1e-5)


def test_near_and_far_bound_the_samples():
    origins, directions = rays(100)
    full = torch.ones(2, 2, 2, dtype=torch.bool)
    _, t_starts, t_ends = march(origins, directions, full, BOX, torch.full((100,), 2.5), 3.0, 0.01)
    assert len(t_starts) and float(t_starts.min()) >= 2.5 and float(t_ends.max()) <= 3.0051


def test_no_rays_and_rays_that_miss():
    full = torch.ones(2, 2, 2, dtype=torch.bool)
    for origins in (torch.zeros(0, 3), torch.full((5, 3), 9.0)):
        directions = torch.tensor([[1.0, 0, 0]]).repeat(len(origins), 1)
        t_first = torch.zeros(len(origins))
        looked_up = march_torch(origins, directions, full, BOX, ranges_of(origins, directions, BOX, t_first), 0.1)
        for found in (march(origins, directions, full, BOX, t_first, math.inf, 0.1), looked_up):
            assert [len(t) for t in found] == [0, 0, 0] and found[0].dtype == torch.int64


def test_threads_change_no_bit():
    origins, directions = rays(3000)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(march(origins, directions, cells((9, 9, 9), 0.3), BOX, torch.zeros(3000), math.inf, 0.05))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"rays_d": torch.zeros(3, 2)}, ConfigError, r"rays_d has shape \(3, 2\), expected \(4, 3\)"),
        ({"rays_o": torch.full((4, 3), math.nan)}, NumericsError, "rays_o holds NaN or infinity"),
        ({"t_first": torch.full((4,), math.inf)}, NumericsError, "t_first holds NaN or infinity"),
        ({"binaries": torch.ones(2, 2)}, ConfigError, r"binaries are \(2, 2\) of torch.float32"),
        ({"aabb": torch.zeros(6)}, ConfigError, "second corner must be greater"),
        ({"step": 0.0}, ConfigError, "step=0 must be greater than"),
        ({"step": 1e-6}, ConfigError, "must be greater than .* of which a ray would have 65,536"),
        ({"step": math.nan}, ConfigError, "step=nan must be"),
    ],
)
def test_bad_arguments_have_one_message(change, error, message):
    arguments = {
        "rays_o": torch.zeros(4, 3), "rays_d": torch.ones(4, 3), "binaries": torch.ones(2, 2, 2, dtype=torch.bool),
        "aabb": BOX, "t_first": torch.zeros(4), "far_plane": 9.0, "step": 0.1,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        march(**{**arguments, **change})


def ball(points: Tensor) -> Tensor:
    """Opacity of a ball of radius 0.5 in the middle."""
    return (points.norm(dim=1) < 0.5).float()[:, None]


def test_an_update_finds_a_ball():
    grid = OccGridEstimator(BOX, 16)
    assert not grid.binaries.any()
    grid.update_every_n_steps(0, ball)
    centres = (torch.stack(torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij"), -1) + 0.5) / 8 - 1
    distance, half_diagonal = centres.norm(dim=-1), math.sqrt(3) / 16
    assert bool(grid.binaries[0][distance < 0.5 - half_diagonal].all())
    assert not bool(grid.binaries[0][distance > 0.5 + half_diagonal].any())


def test_occupancy_decays_and_is_kept_up():
    grid = OccGridEstimator(BOX, 4)
    grid.update_every_n_steps(0, lambda x: torch.full((len(x),), 0.5))
    grid.update_every_n_steps(3, lambda x: torch.full((len(x),), 9.0))  # no update at this step
    assert bool((grid.occs == 0.5).all())
    grid.update_every_n_steps(16, lambda x: (x[:, 0] > 0) * 1.0)
    expected = torch.where(torch.arange(64) // 16 >= 2, 1.0, 0.475)
    torch.testing.assert_close(grid.occs, expected)
    assert bool(grid.binaries.all())  # all exceed the threshold of 0.01
    for step in range(32, 32 + 16 * 90, 16):
        grid.update_every_n_steps(step, lambda x: (x[:, 0] > 0) * 1.0, warmup_steps=10**6)
    assert grid.binaries[0, 2:].all() and not grid.binaries[0, :2].any()


def test_after_the_warm_up_half_of_the_cells_are_looked_into():
    grid = OccGridEstimator(BOX, 8)
    seen = []

    def opacity(points: Tensor) -> Tensor:
        seen.append(points)
        return (points[:, 2] < 0).float()

    grid.update_every_n_steps(0, opacity)
    grid.update_every_n_steps(256, opacity)
    assert [len(points) for points in seen] == [512, 256]
    assert float((seen[1][128:, 2] < 0).float().mean()) == 1  # the occupied ones
    again = OccGridEstimator(BOX, 8)
    again.update_every_n_steps(0, opacity)
    assert torch.equal(seen[2], seen[0])  # random places follow from the step alone


def test_a_cell_that_is_drawn_twice_keeps_the_greatest():
    grid = OccGridEstimator(BOX, 1)
    grid.occs.fill_(0.4)
    grid.binaries.fill_(True)
    values = iter([torch.tensor([0.3, 0.1])])
    grid.update_every_n_steps(1024, lambda x: next(values))
    torch.testing.assert_close(grid.occs, torch.tensor([0.38]))


def test_sampling_leaves_out_what_is_not_seen():
    """A wall in front of everything: behind it nothing is reached by light."""
    grid = OccGridEstimator(BOX, 2)
    grid.binaries.fill_(True)
    grid.occs.fill_(1.0)
    origins, directions = torch.tensor([[-3.0, 0.1, 0.2], [-3.0, 5.0, 0.0]]), torch.tensor([[1.0, 0, 0]] * 2)

    def wall(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
        assert not ray_indices.any()
        return torch.where(t_starts + t_ends > 2 * 2.5, 100.0, 0.0)

    everything = grid.sampling(origins, directions, render_step_size=0.1)
    assert len(everything[0]) == 20
    _, t_starts, _ = grid.sampling(origins, directions, wall, render_step_size=0.1, alpha_thre=0.01)
    torch.testing.assert_close(t_starts, torch.tensor([2.5]), rtol=0, atol=1e-5)
    later = grid.sampling(origins, directions, t_min=torch.tensor([0.03, 0.03]), render_step_size=0.1)
    torch.testing.assert_close(later[1], everything[1][: len(later[1])] + 0.03, rtol=0, atol=1e-5)
    missing = grid.sampling(origins[1:], directions[1:], wall, render_step_size=0.1)
    assert [len(t) for t in missing] == [0, 0, 0]


def test_a_density_of_nan_leaves_the_grid_as_it_was():
    grid = OccGridEstimator(BOX, 2)
    grid.update_every_n_steps(0, ball)
    before = grid.occs.clone()
    with pytest.raises(NumericsError, match="occupancy: 8 of 8 densities are NaN"):
        grid.update_every_n_steps(16, lambda x: torch.full((len(x),), math.nan))
    assert torch.equal(grid.occs, before)


@pytest.mark.parametrize(
    "box, resolution, message",
    [(torch.zeros(6), 8, "second greater"), (BOX[:5], 8, "two corners"), (BOX, 0, "resolution=0 must be 1 to 512")],
)
def test_a_bad_grid_is_refused(box, resolution, message):
    with pytest.raises(ConfigError, match=message):
        OccGridEstimator(box, resolution)
