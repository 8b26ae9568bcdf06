"""Which splats touch which tile, in depth order: a radix sort of the depths and a counting sort into tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import KernelError
from gencompress.kernels.compiled import Floats, Ints, inline, jit
from gencompress.kernels.projection import ASPECT, HALF_HEIGHT, MEAN_X, MEAN_Y, SLOPE

TILE_WIDTH, TILE_HEIGHT = 32, 32
_MOST = 2**31 - 1
SLACK = 1.0001  # on squared half-heights: fp32 must not lose a pixel on the rim


@dataclass(frozen=True, eq=False)
class Tiles:
    """The splats of every tile.

    Args:
        starts: where the list of tile t begins and that of t - 1 ends [tiles + 1].
        splats: concatenated lists, each from front to back [M].
        slots: for every entry of the lists its place in an order by splat [M].
        first_slots: the slots of splat n are first_slots[n] to first_slots[n + 1] [N + 1].
        width: of the image in pixels.
        height: of the image in pixels.
    """

    starts: NDArray[np.int64]
    splats: Ints
    slots: Ints
    first_slots: NDArray[np.int64]
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.starts) - 1


def sort_into_tiles(rows: Floats, depths: Floats, width: int, height: int) -> Tiles:
    """The tiles of a `width` x `height` image with the projected splats that reach them.

    Args:
        rows: of `gencompress.kernels.projection.project` [N, 8].
        depths: positive, 0 for splats that are not drawn [N].
        width: in pixels.
        height: in pixels.
    """
    columns, lines = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    starts, first_slots = np.zeros(columns * lines + 1, np.int64), np.zeros(len(rows) + 1, np.int64)
    _count(rows, depths, columns, lines, starts, first_slots)
    if starts[-1] > _MOST:
        raise KernelError(f"the splats reach {starts[-1]:,} tiles of one view, more than {_MOST:,}; filter huge splats")
    splats, slots = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    _fill(rows, _front_to_back(depths.view(np.uint32)), columns, lines, starts[:-1].copy(), first_slots, splats, slots)
    return Tiles(starts, splats, slots, first_slots, width, height)


@inline
def _tile_lines(rows: Floats, n: int, lines: int) -> tuple[int, int]:
    """First and last line of tiles that hold a pixel centre inside the ellipse's bounding box."""
    y, reach = rows[n, MEAN_Y] - np.float32(0.5), rows[n, HALF_HEIGHT]
    first = max(math.ceil(max(y - reach, np.float32(0))), 0) // TILE_HEIGHT
    last = math.floor(min(y + reach, np.float32(lines * TILE_HEIGHT - 1)))
    return first, last // TILE_HEIGHT if last >= 0 else -1


@inline
def _tile_columns(rows: Floats, n: int, line: int, columns: int) -> tuple[int, int]:
    """First and last tile of a line that the ellipse reaches between the line's first and last row of pixels."""
    x, reach = rows[n, MEAN_X] - np.float32(0.5), rows[n, HALF_HEIGHT]
    slope, aspect = rows[n, SLOPE], rows[n, ASPECT]
    top = np.float32(line * TILE_HEIGHT) + np.float32(0.5) - rows[n, MEAN_Y]
    bottom = top + np.float32(TILE_HEIGHT - 1)
    # height of the ellipse's rightmost point; the leftmost one lies opposite
    tip = reach * slope / math.sqrt(slope * slope + aspect * aspect)
    squared = reach * reach * np.float32(SLACK)
    right_y, left_y = min(max(tip, top), bottom), min(max(-tip, top), bottom)
    right = x + slope * right_y + aspect * math.sqrt(max(squared - right_y * right_y, np.float32(0)))
    left = x + slope * left_y - aspect * math.sqrt(max(squared - left_y * left_y, np.float32(0)))
    first = max(math.ceil(min(max(left, np.float32(0)), np.float32(columns * TILE_WIDTH))), 0) // TILE_WIDTH
    last = math.floor(max(min(right, np.float32(columns * TILE_WIDTH - 1)), np.float32(-1)))
    return first, last // TILE_WIDTH if last >= 0 else -1


@jit
def _count(rows: Floats, depths: Floats, columns: int, lines: int, starts: Ints, first_slots: Ints) -> None:
    """Fill `starts` and `first_slots`, both zero before."""
    for n in range(len(depths)):
        touched = 0
        if depths[n] > 0:
            first_line, last_line = _tile_lines(rows, n, lines)
            for line in range(first_line, last_line + 1):
                first, last = _tile_columns(rows, n, line, columns)
                for tile in range(line * columns + first, line * columns + last + 1):
                    starts[tile + 1] += 1
                    touched += 1
        first_slots[n + 1] = first_slots[n] + touched
    for tile in range(len(starts) - 1):
        starts[tile + 1] += starts[tile]


@jit
def _fill(
    rows: Floats, order: Ints, columns: int, lines: int, ends: Ints, first_slots: Ints, splats: Ints, slots: Ints
) -> None:
    """Append every splat of `order` to the lists of its tiles; `ends` moves from their starts to their ends."""
    for n in order:
        slot = first_slots[n]
        first_line, last_line = _tile_lines(rows, n, lines)
        for line in range(first_line, last_line + 1):
            first, last = _tile_columns(rows, n, line, columns)
            for tile in range(line * columns + first, line * columns + last + 1):
                at = ends[tile]
                splats[at] = n
                slots[at] = slot
                ends[tile] = at + 1
                slot += 1


@jit
def _front_to_back(keys: NDArray[np.uint32]) -> Ints:
    """Indices of the keys above 0 in ascending order, equal keys by index; positive floats sort as their bits do."""
    found = 0
    for key in keys:
        found += key > 0
    order, other = np.empty(found, np.int32), np.empty(found, np.int32)
    found = 0
    for i, key in enumerate(keys):
        if key > 0:
            order[found] = i
            found += 1
    for shift in (0, 11, 22):
        ends = np.zeros(2049, np.int64)
        for n in order:
            ends[((keys[n] >> shift) & 2047) + 1] += 1
        for i in range(2048):
            ends[i + 1] += ends[i]
        for n in order:
            digit = (keys[n] >> shift) & 2047
            other[ends[digit]] = n
            ends[digit] += 1
        order, other = other, order
    return order
