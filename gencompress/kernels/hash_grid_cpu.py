"""The hash grid on the CPU: compiled forward and backward passes without atomics, whatever the number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from gencompress.kernels.compiled import Floats, Longs, inline, jit, parallel
from gencompress.kernels.hash_grid import HashLayout
from gencompress.kernels.hash_index import entry as entry_of

_CHUNK = 1 << 16  # points of one level at a time: its part of the table stays in the cache, the whole table would not
_entry = inline(entry_of)


def encode(points: Tensor, table: Tensor, layout: HashLayout) -> Tensor:
    """As `gencompress.kernels.hash_grid.encode`; both tensors are contiguous fp32."""
    found: Tensor = _Encode.apply(points, table, layout)
    return found


class _Encode(torch.autograd.Function):
    """`encode` with its gradients."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, layout: HashLayout) -> Tensor:
        """Features [N, 2 * levels]."""
        ctx.save_for_backward(points, table)
        ctx.layout = layout
        out = torch.empty(len(points), layout.width)
        levels, chunks = _levels(layout), -(-len(points) // _CHUNK)
        parallel(_look_up, len(levels) * chunks, chunks, _numpy(points), _numpy(table), levels, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of points and table."""
        points, table = ctx.saved_tensors
        levels, gradient = _levels(ctx.layout), _numpy(to_out.contiguous())
        to_points = to_table = None
        if ctx.needs_input_grad[0]:
            to_points, chunks = torch.zeros_like(points), -(-len(points) // _CHUNK)
            arrays = (_numpy(points), _numpy(table), levels, gradient, to_points.numpy())
            parallel(_pull_points, chunks, *arrays)
        if ctx.needs_input_grad[1]:
            to_table = torch.zeros_like(table)
            parallel(_pull_table, len(levels), _numpy(points), levels, gradient, to_table.numpy())
        return to_points, to_table, None


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().numpy()
    return array


def _levels(layout: HashLayout) -> Longs:
    """Resolution, mask and first entry of every level [levels, 3]."""
    rows: NDArray[np.int64] = np.array([layout.resolutions, layout.masks, layout.offsets[:-1]], np.int64)
    return np.ascontiguousarray(rows.T)


@inline
def _cell(x: Any, resolution: Any) -> Any:
    """Cell of a coordinate and the place within it, from 0 to 1; the last face belongs to the last cell."""
    scaled = min(max(x, np.float32(0)), np.float32(1)) * np.float32(resolution)
    cell = min(np.int32(scaled), np.int32(resolution - 1))
    return np.int64(cell), scaled - np.float32(cell)


@inline
def _corner(x: Any, y: Any, z: Any, side: Any, mask: Any, start: Any, corner: Any) -> Any:
    """Entry of one of the eight corners of a cell; unsigned, which spares a test for a negative index."""
    return np.uint64(start + _entry(x + (corner & 1), y + ((corner >> 1) & 1), z + (corner >> 2), side, mask))


@inline
def _weight(u: Any, v: Any, w: Any, corner: Any) -> Any:
    """Trilinear weight of a corner."""
    one = np.float32(1)
    return (u if corner & 1 else one - u) * (v if corner & 2 else one - v) * (w if corner & 4 else one - w)


@jit
def _look_up(start: int, stop: int, chunks: int, points: Floats, table: Floats, levels: Longs, out: Floats) -> None:
    """Features of the chunks start to stop: those of all points in the first level, then in the second."""
    for i in range(start, stop):
        level, first = i // chunks, i % chunks * _CHUNK
        last = min(first + _CHUNK, len(points))
        resolution, mask, base = levels[level, 0], levels[level, 1], levels[level, 2]
        _look_up_level((first, last), points, table, resolution, mask, base, 2 * level, out)


@jit
def _look_up_level(
    rows: tuple[int, int],
    points: Floats,
    table: Floats,
    resolution: int,
    mask: int,
    base: int,
    column: int,
    out: Floats,
) -> None:
    if mask == 0:  # a literal mask compiles into a loop without the choice
        for i in range(rows[0], rows[1]):
            _look_up_point(np.uint64(i), points, table, resolution, 0, base, np.uint64(column), out)
    else:
        for i in range(rows[0], rows[1]):
            _look_up_point(np.uint64(i), points, table, resolution, mask, base, np.uint64(column), out)


@inline
def _look_up_point(
    i: Any, points: Any, table: Any, resolution: Any, mask: Any, base: Any, column: Any, out: Any
) -> None:
    x, u = _cell(points[i, 0], resolution)
    y, v = _cell(points[i, 1], resolution)
    z, w = _cell(points[i, 2], resolution)
    a = b = np.float32(0)
    for corner in range(8):
        at = _corner(x, y, z, resolution + 1, mask, base, corner)
        weight = _weight(u, v, w, corner)
        a += weight * table[at, 0]
        b += weight * table[at, 1]
    out[i, column], out[i, column + np.uint64(1)] = a, b


@jit
def _pull_table(start: int, stop: int, points: Floats, levels: Longs, gradient: Floats, to_table: Floats) -> None:
    """Gradient of the entries of the levels start to stop: every level belongs to one thread."""
    for level in range(start, stop):
        _pull_level(points, levels[level, 0], levels[level, 1], levels[level, 2], 2 * level, gradient, to_table)


@jit
def _pull_level(
    points: Floats, resolution: int, mask: int, base: int, column: int, gradient: Floats, to_table: Floats
) -> None:
    if mask == 0:
        for i in range(len(points)):
            _pull_point(np.uint64(i), points, resolution, 0, base, np.uint64(column), gradient, to_table)
    else:
        for i in range(len(points)):
            _pull_point(np.uint64(i), points, resolution, mask, base, np.uint64(column), gradient, to_table)


@inline
def _pull_point(
    i: Any, points: Any, resolution: Any, mask: Any, base: Any, column: Any, gradient: Any, to_table: Any
) -> None:
    x, u = _cell(points[i, 0], resolution)
    y, v = _cell(points[i, 1], resolution)
    z, w = _cell(points[i, 2], resolution)
    a, b = gradient[i, column], gradient[i, column + np.uint64(1)]
    for corner in range(8):
        at = _corner(x, y, z, resolution + 1, mask, base, corner)
        weight = _weight(u, v, w, corner)
        to_table[at, 0] += weight * a
        to_table[at, 1] += weight * b


@jit
def _pull_points(
    start: int, stop: int, points: Floats, table: Floats, levels: Longs, gradient: Floats, to_points: Floats
) -> None:
    """Gradient of the points of the chunks start to stop, summed over the levels in their order."""
    for chunk in range(start, stop):
        rows = chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(points))
        for level in range(len(levels)):
            resolution, mask, base = levels[level, 0], levels[level, 1], levels[level, 2]
            _pull_points_level(rows, points, table, resolution, mask, base, 2 * level, gradient, to_points)


@jit
def _pull_points_level(
    rows: tuple[int, int],
    points: Floats,
    table: Floats,
    resolution: int,
    mask: int,
    base: int,
    column: int,
    gradient: Floats,
    to_points: Floats,
) -> None:
    if mask == 0:
        for i in range(rows[0], rows[1]):
            _pull_one_point(np.uint64(i), points, table, resolution, 0, base, np.uint64(column), gradient, to_points)
    else:
        for i in range(rows[0], rows[1]):
            _pull_one_point(np.uint64(i), points, table, resolution, mask, base, np.uint64(column), gradient, to_points)


@inline
def _pull_one_point(
    i: Any,
    points: Any,
    table: Any,
    resolution: Any,
    mask: Any,
    base: Any,
    column: Any,
    gradient: Any,
    to_points: Any,
) -> None:
    """Add the gradient through one level; along an axis on which the point lies outside there is none."""
    x, u = _cell(points[i, 0], resolution)
    y, v = _cell(points[i, 1], resolution)
    z, w = _cell(points[i, 2], resolution)
    a, b = gradient[i, column], gradient[i, column + np.uint64(1)]
    one = np.float32(1)
    pulled_x = pulled_y = pulled_z = np.float32(0)
    for corner in range(8):
        at = _corner(x, y, z, resolution + 1, mask, base, corner)
        dot = a * table[at, 0] + b * table[at, 1]
        of_x, of_y, of_z = u if corner & 1 else one - u, v if corner & 2 else one - v, w if corner & 4 else one - w
        pulled_x += (dot if corner & 1 else -dot) * of_y * of_z
        pulled_y += (dot if corner & 2 else -dot) * of_x * of_z
        pulled_z += (dot if corner & 4 else -dot) * of_x * of_y
    scale = np.float32(resolution)
    to_points[i, 0] += scale * pulled_x if 0 <= points[i, 0] <= 1 else np.float32(0)
    to_points[i, 1] += scale * pulled_y if 0 <= points[i, 1] <= 1 else np.float32(0)
    to_points[i, 2] += scale * pulled_z if 0 <= points[i, 2] <= 1 else np.float32(0)
