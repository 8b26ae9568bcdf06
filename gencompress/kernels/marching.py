"""Samples along rays, only where a grid says that something is: numba on the CPU, torch on CUDA.

Of every ray the lattice ``t_first + k * step`` is walked; an interval of it is a sample if its middle lies within the
range of the ray and in an occupied cell, as in nerfacc's traversal (arXiv 2305.04966).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.errors import ConfigError, NumericsError
from gencompress.kernels.compiled import Floats, Longs, inline, jit, parallel

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]
_RAYS = 64  # per call of a kernel, at least
_MOST_STEPS = 1 << 16  # along one ray
_TORCH_RAYS = 4096  # at a time: every interval of theirs is in memory


@torch.no_grad()
def ray_aabb_intersect(
    rays_o: Tensor,
    rays_d: Tensor,
    aabbs: Tensor,
    near_plane: float = -float("inf"),
    far_plane: float = float("inf"),
    miss_value: float = float("inf"),
) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays enter and leave boxes, by the slab method; as nerfacc's function of this name, on every device.

    Args:
        rays_o: origins [n, 3].
        rays_d: directions [n, 3]; components may be zero.
        aabbs: least and greatest corner of boxes [m, 6].
        near_plane: least t given.
        far_plane: greatest t given.
        miss_value: t of rays that miss the box.

    Returns:
        ``(t_mins, t_maxs, hits)``, each [n, m].
    """
    origins, directions = rays_o[:, None].double(), rays_d[:, None].double()
    low, high = aabbs[None, :, :3].double(), aabbs[None, :, 3:].double()
    a, b = (low - origins) / directions, (high - origins) / directions
    entering, leaving = torch.minimum(a, b), torch.maximum(a, b)
    # along a slab: 0 / 0 on its face, and otherwise an infinity on each side of it, or both on one
    within = (low <= origins) & (origins <= high)
    along = directions == 0
    entering = torch.where(along, torch.where(within, -torch.inf, torch.inf), entering)
    leaving = torch.where(along, torch.where(within, torch.inf, -torch.inf), leaving)
    t_mins, t_maxs = entering.amax(2), leaving.amin(2)
    hits = (t_maxs > t_mins) & (t_maxs > 0)
    bounded = (t.clamp(near_plane, far_plane) for t in (t_mins, t_maxs))
    t_mins, t_maxs = (torch.where(hits, t, miss_value).to(rays_o.dtype) for t in bounded)
    return t_mins, t_maxs, hits


@torch.no_grad()
def march(
    rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabb: Tensor, t_first: Tensor, far_plane: float, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The samples of rays, packed.

    Args:
        rays_o: origins [n, 3].
        rays_d: unit directions [n, 3].
        binaries: cells in which something is [X, Y, Z], bool.
        aabb: least and greatest corner of the box that the cells divide [6].
        t_first: where the lattice of each ray begins [n]; nothing is sampled before.
        far_plane: nothing is sampled beyond.
        step: length of a sample.

    Returns:
        ``(ray_indices, t_starts, t_ends)``: ray of every sample [N], int64, ascending, and its range [N], fp32.

    Raises:
        ConfigError: a shape is wrong, the box is empty, or the step is no positive part of it.
        NumericsError: a ray holds NaN or infinity.
    """
    _check(rays_o, rays_d, binaries, aabb, t_first, step)
    t_mins, t_maxs, hits = ray_aabb_intersect(rays_o, rays_d, aabb[None], far_plane=far_plane, miss_value=0.0)
    ranges = torch.stack([t_first, t_mins[:, 0], torch.where(hits[:, 0], t_maxs[:, 0], -torch.inf)], 1).float()
    if rays_o.device.type != "cpu":
        return march_torch(rays_o, rays_d, binaries, aabb, ranges, step)
    origins, directions = (t.float().contiguous().numpy() for t in (rays_o, rays_d))
    cells, box = binaries.contiguous().numpy(), aabb.double().numpy()
    rays = (origins, directions, cells, box, ranges.numpy(), step)
    counts = torch.zeros(len(rays_o), dtype=torch.int64)
    parallel(_count, len(counts), *rays, counts.numpy(), grain=_RAYS)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    ray_indices = torch.empty(total, dtype=torch.int64)
    t_starts, t_ends = torch.empty(total), torch.empty(total)
    starts = (ends - counts).numpy()
    parallel(_fill, len(counts), *rays, starts, ray_indices.numpy(), t_starts.numpy(), t_ends.numpy(), grain=_RAYS)
    return ray_indices, t_starts, t_ends


def _check(rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabb: Tensor, t_first: Tensor, step: float) -> None:
    count = len(rays_o)
    shapes = {"rays_o": (rays_o, (count, 3)), "rays_d": (rays_d, (count, 3)), "t_first": (t_first, (count,))}
    for name, (tensor, shape) in {**shapes, "aabb": (aabb, (6,))}.items():
        if tuple(tensor.shape) != shape:
            raise ConfigError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
        if not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"{name} holds NaN or infinity")
    if binaries.ndim != 3 or binaries.dtype != torch.bool or not binaries.numel():
        raise ConfigError(f"binaries are {tuple(binaries.shape)} of {binaries.dtype}, expected (X, Y, Z) of bool")
    sides = (aabb[3:] - aabb[:3]).double()
    if not bool((sides > 0).all()):
        raise ConfigError(f"aabb {aabb.tolist()}: the second corner must be greater than the first on every axis")
    if not float(sides.norm()) / _MOST_STEPS < step < float("inf"):
        least = float(sides.norm()) / _MOST_STEPS
        raise ConfigError(f"step={step:g} must be greater than {least:g}, of which a ray would have {_MOST_STEPS:,}")


def march_torch(
    rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabb: Tensor, ranges: Tensor, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The samples with every interval looked up: on CUDA, and as the reference of the tests.

    Args:
        rays_o: as in `march`, and so are those without a line here.
        rays_d: see `march`.
        binaries: see `march`.
        aabb: see `march`.
        ranges: start of the lattice, of the box and end of the box along each ray [n, 3]; fp32.
        step: see `march`.
    """
    found = []
    for begin in range(0, len(rays_o), _TORCH_RAYS):
        rows = slice(begin, begin + _TORCH_RAYS)
        rays, t_starts, t_ends = _march_some(rays_o[rows], rays_d[rows], binaries, aabb, ranges[rows].double(), step)
        found.append((rays + begin, t_starts, t_ends))
    if not found:
        none = ranges.new_zeros(0)
        return none.long(), none, none
    ray_indices, t_starts, t_ends = (torch.cat(parts) for parts in zip(*found, strict=True))
    return ray_indices, t_starts, t_ends


def _march_some(
    rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabb: Tensor, ranges: Tensor, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    t_first, t_min, t_max = ranges.unbind(1)
    first = torch.ceil((t_min - t_first) / step - 0.5).clamp(min=0)
    most = max(0, int(((t_max - t_min.clamp(min=t_first)) / step).clamp(min=-1).max()) + 2)
    numbers = first[:, None] + torch.arange(most, device=ranges.device)
    starts = t_first[:, None] + numbers * step
    middle = starts + 0.5 * step
    at = rays_o[:, None].double() + middle[..., None] * rays_d[:, None].double()
    low, high = aabb[:3].double(), aabb[3:].double()
    shape = torch.tensor(binaries.shape, device=ranges.device)
    cell = ((at - low) * (shape / (high - low))).long().clamp(min=torch.zeros_like(shape), max=shape - 1)
    occupied = binaries[cell[..., 0], cell[..., 1], cell[..., 2]]
    kept = occupied & (middle >= t_min[:, None]) & (middle <= t_max[:, None])
    rays, _ = torch.nonzero(kept, as_tuple=True)
    return rays, starts[kept].float(), (starts + step)[kept].float()


@jit
def _count(
    start: int, stop: int, origins: Floats, directions: Floats, cells: Bools, box: Doubles, ranges: Floats, step: float,
    counts: Longs,
) -> None:  # fmt: skip
    """Number of samples of the rays start to stop."""
    nothing = np.empty(0, np.float32)
    for ray in range(start, stop):
        counts[ray] = _walk(origins[ray], directions[ray], cells, box, ranges[ray], step, -1, nothing, nothing)


@jit
def _fill(
    start: int, stop: int, origins: Floats, directions: Floats, cells: Bools, box: Doubles, ranges: Floats, step: float,
    places: Longs, ray_indices: Longs, t_starts: Floats, t_ends: Floats,
) -> None:  # fmt: skip
    """Samples of the rays start to stop; those of a ray begin at its place."""
    for ray in range(start, stop):
        place = places[ray]
        count = _walk(origins[ray], directions[ray], cells, box, ranges[ray], step, place, t_starts, t_ends)
        ray_indices[place : place + count] = ray


@jit
def _walk(
    origin: Floats, direction: Floats, cells: Bools, box: Doubles, span: Floats, step: float, place: int,
    t_starts: Floats, t_ends: Floats,
) -> int:  # fmt: skip
    """Number of samples of a ray, which are written from `place` on unless that is negative."""
    t_first, t_min, t_max = np.float64(span[0]), np.float64(span[1]), np.float64(span[2])
    number, count = max(np.ceil((t_min - t_first) / step - 0.5), 0.0), 0
    while True:
        begin = t_first + number * step
        middle = begin + 0.5 * step
        if not middle <= t_max:
            return count
        ahead = _ahead(origin, direction, cells, box, middle)
        if ahead < 0 and middle >= t_min:
            if place >= 0:
                t_starts[place + count], t_ends[place + count] = begin, begin + step
            count += 1
        number += max(np.floor(ahead / step), 1.0)


@inline
def _ahead(origin: Floats, direction: Floats, cells: Bools, box: Doubles, t: float) -> Any:
    """Negative if the place at t is in an occupied cell, else how much of the ray remains within the empty cell."""
    x, left_x = _axis(origin, direction, cells.shape[0], box, t, 0)
    y, left_y = _axis(origin, direction, cells.shape[1], box, t, 1)
    z, left_z = _axis(origin, direction, cells.shape[2], box, t, 2)
    return -1.0 if cells[x, y, z] else min(left_x, left_y, left_z)


@inline
def _axis(origin: Floats, direction: Floats, size: int, box: Doubles, t: float, axis: int) -> Any:
    """Cell along one axis, and what remains until the ray leaves it."""
    scale = size / (box[3 + axis] - box[axis])
    place = (origin[axis] + t * np.float64(direction[axis]) - box[axis]) * scale
    cell = min(max(int(place), 0), size - 1)
    speed = direction[axis] * scale
    if speed == 0:
        return cell, np.inf
    return cell, (cell + (1 if speed > 0 else 0) - place) / speed
