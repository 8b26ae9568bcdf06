"""Which splats touch which tile, from front to back: a counting sort into tiles, then a radix sort of every tile."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import KernelError
from gencompress.kernels.compiled import Floats, Ints, Longs, inline, jit, parallel
from gencompress.kernels.projection import ASPECT, HALF_HEIGHT, MEAN_X, MEAN_Y, SLOPE

TILE_WIDTH, TILE_HEIGHT = 64, 32
_CHUNK = 1 << 14  # splats
_MOST = 2**31 - 1
SLACK = 1.0001  # on half-heights and their squares: fp32 must not lose a pixel on the rim


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

    starts: Longs
    splats: Ints
    slots: Ints
    first_slots: Longs
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
    chunks = -(-len(rows) // _CHUNK)
    # Every chunk of splats knows where its entries go in every list, so chunks are independent and their number is
    # not that of the threads.
    counts, touched = np.zeros((chunks + 1, columns * lines), np.int64), np.zeros(len(rows) + 1, np.int64)
    parallel(_count, chunks, rows, depths, columns, counts, touched)
    starts = np.append(0, counts.sum(0).cumsum())
    if starts[-1] > _MOST:
        raise KernelError(f"the splats reach {starts[-1]:,} tiles of one view, more than {_MOST:,}; filter huge splats")
    first_slots = touched.cumsum()
    ends = counts.cumsum(0) + starts[:-1]
    splats, slots = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    parallel(_fill, chunks, rows, depths, columns, ends, first_slots, splats, slots)
    parallel(_sort, columns * lines, starts, depths.view(np.uint32), splats, slots)
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
def _count(start: int, stop: int, rows: Floats, depths: Floats, columns: int, counts: Longs, touched: Longs) -> None:
    """Entries that chunks start to stop add to every tile, in `counts` one row down, and tiles of every splat."""
    lines = counts.shape[1] // columns
    for chunk in range(start, stop):
        for n in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(depths))):
            if depths[n] == 0:
                continue
            first_line, last_line = _tile_lines(rows, n, lines)
            for line in range(first_line, last_line + 1):
                first, last = _tile_columns(rows, n, line, columns)
                for tile in range(line * columns + first, line * columns + last + 1):
                    counts[chunk + 1, tile] += 1
                    touched[n + 1] += 1


@jit
def _fill(
    start: int, stop: int, rows: Floats, depths: Floats, columns: int, ends: Longs, first_slots: Longs, splats: Ints,
    slots: Ints,
) -> None:  # fmt: skip
    """Append the splats of chunks start to stop to the lists of their tiles; `ends` moves along."""
    lines = ends.shape[1] // columns
    for chunk in range(start, stop):
        for n in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(depths))):
            if depths[n] == 0:
                continue
            slot = first_slots[n]
            first_line, last_line = _tile_lines(rows, n, lines)
            for line in range(first_line, last_line + 1):
                first, last = _tile_columns(rows, n, line, columns)
                for tile in range(line * columns + first, line * columns + last + 1):
                    at = ends[chunk, tile]
                    splats[at] = n
                    slots[at] = slot
                    ends[chunk, tile] = at + 1
                    slot += 1


@jit
def _sort(start: int, stop: int, starts: Longs, keys: NDArray[np.uint32], splats: Ints, slots: Ints) -> None:
    """Sort the lists of tiles start to stop by depth, equal depths by splat; positive floats sort as their bits do."""
    longest = 0
    for tile in range(start, stop):
        longest = max(longest, starts[tile + 1] - starts[tile])
    pairs = np.empty((2, longest, 2), np.int64)  # depth, place in the list
    found = np.empty((longest, 2), np.int32)
    for tile in range(start, stop):
        first, count = starts[tile], starts[tile + 1] - starts[tile]
        for i in range(count):
            pairs[0, i, 0] = keys[splats[first + i]]
            pairs[0, i, 1] = i
            found[i, 0], found[i, 1] = splats[first + i], slots[first + i]
        source = _radix(pairs, count)
        for i in range(count):
            place = pairs[source, i, 1]
            splats[first + i], slots[first + i] = found[place, 0], found[place, 1]


@inline
def _radix(pairs: NDArray[np.int64], count: int) -> int:
    """Sort pairs[0, :count] by their first, stably, with pairs[1] as space; returns where the result is, 0 or 1."""
    ends = np.zeros((4, 257), np.int64)
    for i in range(count):
        for digit in range(4):
            ends[digit, (pairs[0, i, 0] >> (8 * digit) & 255) + 1] += 1
    source = 0
    for digit in range(4):
        if count == 0 or ends[digit, (pairs[0, 0, 0] >> (8 * digit) & 255) + 1] == count:
            continue  # all alike, as the highest digits of near depths are
        for i in range(256):
            ends[digit, i + 1] += ends[digit, i]
        for i in range(count):
            value = pairs[source, i, 0] >> (8 * digit) & 255
            at = ends[digit, value]
            pairs[1 - source, at, 0], pairs[1 - source, at, 1] = pairs[source, i, 0], pairs[source, i, 1]
            ends[digit, value] = at + 1
        source = 1 - source
    return source
