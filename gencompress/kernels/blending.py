"""Front-to-back blending of the splats of one tile, forward."""

from __future__ import annotations

import math

import numpy as np

from gencompress.kernels.compiled import Floats, Ints, Longs, inline, jit
from gencompress.kernels.projection import (
    ALPHA_MIN,
    ASPECT,
    HALF_HEIGHT,
    LOG_OPACITY,
    MEAN_X,
    MEAN_Y,
    NARROW,
    SHARP,
    SLOPE,
)
from gencompress.kernels.simd import (
    LANES,
    Lanes,
    absolute,
    any_lane,
    broadcast,
    exp2,
    lane_numbers,
    load,
    maximum,
    minimum,
    prefetch,
    select,
    square_root,
    store,
)
from gencompress.kernels.tiles import SLACK, TILE_HEIGHT, TILE_WIDTH

ALPHA_MAX, TRANSMITTANCE_MIN = 0.999, 1e-4
LOG_ALPHA_MIN = math.log2(ALPHA_MIN)
HALF_LOG2_E = 0.5 / math.log(2)

# The state of a tile is planes of fp32 in one flat array: transmittance, then one plane per channel. A group of eight
# lanes starts at any pixel of a row, so the rows are padded by one group.
PITCH = TILE_WIDTH + LANES
PLANE = TILE_HEIGHT * PITCH
BLOCK, BLOCKS = LANES, TILE_WIDTH // LANES  # pixels along a block of a tile, blocks along a line
_EVERY_LINE = sum(1 << (BLOCKS * i) for i in range(TILE_HEIGHT // BLOCK))
AHEAD = 8  # splats that memory is asked for in advance: they lie anywhere, and waiting costs half of the time
REFRESH = 32  # splats after which a tile is looked at for blocks that are finished
CENTRE, PEAK, FIRST, LAST = range(0, 4 * TILE_HEIGHT, TILE_HEIGHT)  # parts of the rows' geometry


@inline
def open_tile(state: Floats, x0: int, y0: int, width: int, height: int) -> None:
    """Transmittance 1 in the pixels of the image, -1 (nothing more is drawn) in those beside it, other planes 0."""
    state[:] = 0
    for r in range(TILE_HEIGHT):
        for c in range(PITCH):
            inside = y0 + r < height and x0 + c < width and c < TILE_WIDTH
            state[r * PITCH + c] = np.float32(1) if inside else np.float32(-1)


@inline
def lines_of(rows: Floats, n: int, y0: int) -> tuple[int, int]:
    """First line of the tile that splat `n` reaches, and one past the last."""
    y, reach = rows[n, MEAN_Y] - np.float32(y0 + 0.5), rows[n, HALF_HEIGHT] * np.float32(SLACK)
    first = max(y - reach + np.float32(0.999), np.float32(0))
    last = min(y + reach + np.float32(1), np.float32(TILE_HEIGHT))
    return int(first), int(max(last, np.float32(0)))


@inline
def fill_geometry(rows: Floats, n: int, x0: int, y0: int, first: int, last: int, geometry: Floats) -> None:
    """For lines first to last: centre of the splat in the line, exponent there, first pixel, and one past the last."""
    mean_x = rows[n, MEAN_X] - np.float32(x0 + 0.5)
    squared = rows[n, HALF_HEIGHT] * rows[n, HALF_HEIGHT] * np.float32(SLACK)
    narrow = rows[n, NARROW] * np.float32(HALF_LOG2_E)
    for r in range(first, last, LANES):
        dy = lane_numbers() + (np.float32(y0 + r + 0.5) - rows[n, MEAN_Y])
        centre = dy * rows[n, SLOPE] + mean_x
        half = square_root(maximum(squared - dy * dy, 0.0)) * rows[n, ASPECT]
        store(geometry, CENTRE + r, centre)
        store(geometry, PEAK + r, rows[n, LOG_OPACITY] - dy * dy * narrow)
        store(geometry, FIRST + r, maximum(centre - half + 0.999, 0.0))
        store(geometry, LAST + r, maximum(minimum(centre + half + 1.0, float(TILE_WIDTH)), 0.0))


@inline
def cover(transmittance: Lanes, t: Lanes, peak: float, sharp: float) -> tuple[Lanes, Lanes, Lanes]:
    """Alpha, blend weight and next transmittance of eight pixels at distance `t` from the line's centre.

    Transmittance turns negative where the pixel has stopped; its size then stays that of the finished pixel.
    """
    exponent = peak - t * t * sharp
    alpha = minimum(exp2(exponent), ALPHA_MAX)
    after = transmittance - transmittance * alpha
    drawn = exponent >= LOG_ALPHA_MIN
    goes_on = after > TRANSMITTANCE_MIN
    weight = select(drawn & goes_on, alpha * transmittance, 0.0)
    stopped = broadcast(0.0) - absolute(transmittance)
    return alpha, weight, select(drawn, select(goes_on, after, stopped), transmittance)


@inline
def open_blocks(state: Floats) -> int:
    """Blocks of 8 x 8 pixels in which some pixel can still be drawn to, as bits, row by row."""
    found = 0
    for y in range(0, TILE_HEIGHT, BLOCK):
        for x in range(0, TILE_WIDTH, BLOCK):
            best = broadcast(-1.0)
            for r in range(BLOCK):
                best = maximum(best, load(state, (y + r) * PITCH + x))
            found |= int(any_lane(best > 0.0)) << (y // BLOCK * BLOCKS + x // BLOCK)
    return found


@inline
def blocks_of(rows: Floats, n: int, x0: int, y0: int) -> int:
    """Blocks of the tile at (x0, y0) that splat `n` may reach, as bits: those of a box around its ellipse."""
    half_y = rows[n, HALF_HEIGHT] * np.float32(SLACK)
    half_x = half_y * (abs(rows[n, SLOPE]) + rows[n, ASPECT])
    x, y = rows[n, MEAN_X] - np.float32(x0 + 0.5), rows[n, MEAN_Y] - np.float32(y0 + 0.5)
    zero, right, bottom = np.float32(0), np.float32(TILE_WIDTH - 1), np.float32(TILE_HEIGHT - 1)
    first, last = int(min(max(x - half_x, zero), right)) // BLOCK, int(min(max(x + half_x, zero), right)) // BLOCK
    top, end = int(min(max(y - half_y, zero), bottom)) // BLOCK, int(min(max(y + half_y, zero), bottom)) // BLOCK
    columns = (1 << (last + 1)) - (1 << first)
    lines = (1 << ((end + 1) * BLOCKS)) - (1 << (top * BLOCKS))
    return (columns * _EVERY_LINE) & lines


@inline
def fetch(rows: Floats, features: Floats, splats: Ints, i: int) -> None:
    """Ask for what will be read of a splat a little behind splat `i` of a list."""
    ahead = splats[min(i + AHEAD, len(splats) - 1)]
    prefetch(rows, ahead)
    prefetch(features, ahead)


@inline
def blend(rows: Floats, features: Floats, splats: Ints, x0: int, y0: int, state: Floats, geometry: Floats) -> None:
    """Blend the listed splats into the opened tile at (x0, y0)."""
    channels, unfinished = features.shape[1], 0
    for i in range(len(splats)):
        if i % REFRESH == 0:
            unfinished = open_blocks(state)
            if unfinished == 0:
                break
        fetch(rows, features, splats, i)
        n = splats[i]
        if blocks_of(rows, n, x0, y0) & unfinished == 0:
            continue
        first, last = lines_of(rows, n, y0)
        fill_geometry(rows, n, x0, y0, first, last, geometry)
        sharp = rows[n, SHARP] * np.float32(HALF_LOG2_E)
        for r in range(first, last):
            begin, end = int(geometry[FIRST + r]), int(geometry[LAST + r])
            for x in range(begin, end, LANES):
                at = r * PITCH + x
                transmittance = load(state, at)
                t = lane_numbers() + (np.float32(x) - geometry[CENTRE + r])
                _, weight, after = cover(transmittance, t, geometry[PEAK + r], sharp)
                store(state, at, after)
                for c in range(0, channels, 4):
                    plane = at + (c + 1) * PLANE
                    for k in range(4):
                        store(state, plane + k * PLANE, load(state, plane + k * PLANE) + weight * features[n, c + k])


@jit
def render_tiles(
    start: int,
    stop: int,
    rows: Floats,
    features: Floats,
    starts: Longs,
    splats: Ints,
    background: Floats,
    image: Floats,
    depth: Floats,
    transmittance: Floats,
) -> None:
    """Draw tiles start to stop into `image` [H, W, D], `depth` and the remaining `transmittance` [H, W].

    `features` hold the D colours and the depth, then zeros.
    """
    height, width, channels = image.shape
    columns = (width + TILE_WIDTH - 1) // TILE_WIDTH
    state = np.empty((1 + features.shape[1]) * PLANE, np.float32)
    geometry = np.empty(4 * TILE_HEIGHT + LANES, np.float32)
    for tile in range(start, stop):
        x0, y0 = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
        open_tile(state, x0, y0, width, height)
        blend(rows, features, splats[starts[tile] : starts[tile + 1]], x0, y0, state, geometry)
        for y in range(y0, min(y0 + TILE_HEIGHT, height)):
            for x in range(x0, min(x0 + TILE_WIDTH, width)):
                at = (y - y0) * PITCH + x - x0
                left = abs(state[at])
                transmittance[y, x] = left
                depth[y, x] = state[at + (channels + 1) * PLANE]
                for c in range(channels):
                    image[y, x, c] = state[at + (c + 1) * PLANE] + left * background[c]
