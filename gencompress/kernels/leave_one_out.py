"""What every splat contributes to the pixels of one view: exact leave-one-out error, blend weights and hits.

With alpha and transmittance T of a splat at a pixel, and `behind` what the splats behind it and the background add to
the pixel, removing the splat changes the pixel's colour by

    C - C_without = alpha * (T * color - behind / (1 - alpha))

because everything behind would shine through by 1 / (1 - alpha) more. `behind` is the finished colour less all that was
blended so far, so one more front-to-back pass after the image is known gives the change for every splat and pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencompress.kernels.blending import (
    CENTRE,
    FIRST,
    HALF_LOG2_E,
    LAST,
    PEAK,
    PITCH,
    PLANE,
    any_open,
    blend,
    cover,
    fill_geometry,
    lines_of,
    open_tile,
)
from gencompress.kernels.compiled import Floats, Ints, inline, jit
from gencompress.kernels.projection import SHARP
from gencompress.kernels.simd import LANES, broadcast, lane_numbers, largest, load, maximum, select, store, total
from gencompress.kernels.tiles import TILE_HEIGHT, TILE_WIDTH

SCORES = 4
ERROR, BLEND_SUM, BLEND_MAX, HITS = range(SCORES)


@inline
def _finish(state: Floats, background: Floats) -> None:
    """Add what the background contributes to the channels."""
    for i in range(0, PLANE, LANES):
        left = load(state, i)
        for c in range(len(background)):
            plane = (c + 1) * PLANE + i
            store(state, plane, load(state, plane) + maximum(left, broadcast(0.0) - left) * background[c])


@inline
def _score(
    rows: Floats, features: Floats, splats: Ints, slots: Ints, x0: int, y0: int,
    state: Floats, geometry: Floats, scores: Floats,
) -> None:  # fmt: skip
    """Blend once more into an opened tile whose channels hold the finished colours."""
    channels = features.shape[1]
    for i in range(len(splats)):
        if i % 32 == 31 and not any_open(state):
            break
        n = splats[i]
        first, last = lines_of(rows, n, y0)
        fill_geometry(rows, n, x0, y0, first, last, geometry)
        sharp = rows[n, SHARP] * np.float32(HALF_LOG2_E)
        error, blended, most, hits = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        for r in range(first, last):
            begin, end = int(geometry[FIRST + r]), int(geometry[LAST + r])
            for x in range(begin, end, LANES):
                at = r * PITCH + x
                t = lane_numbers() + (np.float32(x) - geometry[CENTRE + r])
                alpha, weight, after = cover(load(state, at), t, geometry[PEAK + r], sharp)
                store(state, at, after)
                hit = weight > 0.0
                shadow = select(hit, alpha / (1.0 - alpha), 0.0)
                for c in range(0, channels, 4):
                    plane = at + (c + 1) * PLANE
                    for k in range(4):
                        added = weight * features[n, c + k]
                        behind = load(state, plane + k * PLANE) - added
                        store(state, plane + k * PLANE, behind)
                        change = added - shadow * behind
                        error += change * change
                blended += weight
                most = maximum(most, weight)
                hits += select(hit, 1.0, 0.0)
        scores[slots[i], ERROR] = total(error)
        scores[slots[i], BLEND_SUM] = total(blended)
        scores[slots[i], BLEND_MAX] = largest(most)
        scores[slots[i], HITS] = total(hits)


@jit
def score_tiles(
    start: int,
    stop: int,
    rows: Floats,
    features: Floats,
    starts: Ints,
    splats: Ints,
    slots: Ints,
    background: Floats,
    width: int,
    height: int,
    scores: Floats,
) -> None:
    """Fill the rows of `scores` [M, 4], zero before, that belong to tiles start to stop."""
    channels = features.shape[1]
    columns = (width + TILE_WIDTH - 1) // TILE_WIDTH
    state = np.empty((1 + channels) * PLANE, np.float32)
    geometry = np.empty(4 * TILE_HEIGHT + LANES, np.float32)
    opened = np.empty(PLANE, np.float32)
    for tile in range(start, stop):
        x0, y0 = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
        a, b = starts[tile], starts[tile + 1]
        open_tile(state, x0, y0, width, height)
        opened[:] = state[:PLANE]
        blend(rows, features, splats[a:b], x0, y0, state, geometry)
        _finish(state, background)
        state[:PLANE] = opened
        _score(rows, features, splats[a:b], slots[a:b], x0, y0, state, geometry, scores)


@jit
def add_scores(
    start: int, stop: int, first_slots: Ints, scores: Floats, sums: NDArray[np.float64], most: Floats
) -> None:
    """Add one view to `sums` [N, 3] (error, blend weight, hits) and `most` [N] for splats start to stop."""
    for n in range(start, stop):
        for slot in range(first_slots[n], first_slots[n + 1]):
            sums[n, 0] += scores[slot, ERROR]
            sums[n, 1] += scores[slot, BLEND_SUM]
            sums[n, 2] += scores[slot, HITS]
            most[n] = max(most[n], scores[slot, BLEND_MAX])
