"""What every splat contributes to the pixels of one view: exact leave-one-out error, blend weights and hits.

With alpha and transmittance T of a splat at a pixel, and `behind` what the splats behind it and the background add to
the pixel, removing the splat changes the pixel's colour by

    C - C_without = alpha * (T * color - behind / (1 - alpha))

because everything behind would shine through by 1 / (1 - alpha) more. `behind` is the finished colour less all that was
blended so far, so one more front-to-back pass after the image is known gives the change for every splat and pixel.

Where the image is to resemble a target from which it differs already, removal changes the squared error by
``|C_without - target|^2 - |C - target|^2 = |change|^2 - 2 change . (C - target)``; the last product is summed, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencompress.kernels.blending import (
    AHEAD,
    CENTRE,
    FIRST,
    HALF_LOG2_E,
    LAST,
    PEAK,
    PITCH,
    PLANE,
    REFRESH,
    blend,
    blocks_of,
    cover,
    fetch,
    fill_geometry,
    lines_of,
    open_blocks,
    open_tile,
)
from gencompress.kernels.compiled import Floats, Ints, Longs, inline, jit
from gencompress.kernels.projection import SHARP
from gencompress.kernels.simd import (
    LANES,
    any_lane,
    broadcast,
    lane_numbers,
    largest,
    load,
    maximum,
    prefetch,
    select,
    store,
    total,
)
from gencompress.kernels.tiles import TILE_HEIGHT, TILE_WIDTH

SCORES = 5
ERROR, TOWARD, BLEND_SUM, BLEND_MAX, HITS = range(SCORES)


@inline
def _finish(state: Floats, background: Floats) -> None:
    """Add what the background contributes to the channels."""
    for i in range(0, PLANE, LANES):
        left = load(state, i)
        for c in range(len(background)):
            plane = (c + 1) * PLANE + i
            store(state, plane, load(state, plane) + maximum(left, broadcast(0.0) - left) * background[c])


@inline
def _compare(state: Floats, x0: int, y0: int, image: Floats, target: Floats, residual: Floats) -> None:
    """Write the finished colours to `image` [H, W, D], and twice their distance from `target` to `residual`."""
    height, width, channels = image.shape
    residual[:] = 0
    for y in range(y0, min(y0 + TILE_HEIGHT, height)):
        for x in range(x0, min(x0 + TILE_WIDTH, width)):
            at = (y - y0) * PITCH + x - x0
            for c in range(channels):
                color = state[at + (c + 1) * PLANE]
                image[y, x, c] = color
                if len(target):
                    residual[at + (c + 1) * PLANE] = np.float32(2) * (color - target[y, x, c])


@inline
def _score(
    rows: Floats, features: Floats, splats: Ints, slots: Ints, x0: int, y0: int,
    state: Floats, residual: Floats, geometry: Floats, scores: Floats,
) -> None:  # fmt: skip
    """Blend once more into an opened tile whose channels hold the finished colours."""
    channels, unfinished = features.shape[1], 0
    for i in range(len(splats)):
        if i % REFRESH == 0:
            unfinished = open_blocks(state)
            if unfinished == 0:
                break
        fetch(rows, features, splats, i)
        prefetch(scores, slots[min(i + AHEAD, len(splats) - 1)])
        n = splats[i]
        if blocks_of(rows, n, x0, y0) & unfinished == 0:
            continue
        first, last = lines_of(rows, n, y0)
        fill_geometry(rows, n, x0, y0, first, last, geometry)
        sharp = rows[n, SHARP] * np.float32(HALF_LOG2_E)
        error, toward, blended = broadcast(0.0), broadcast(0.0), broadcast(0.0)
        most, hits = broadcast(0.0), broadcast(0.0)
        for r in range(first, last):
            begin, end = int(geometry[FIRST + r]), int(geometry[LAST + r])
            for x in range(begin, end, LANES):
                at = r * PITCH + x
                transmittance = load(state, at)
                if not any_lane(transmittance > 0.0):
                    continue
                t = lane_numbers() + (np.float32(x) - geometry[CENTRE + r])
                alpha, weight, after = cover(transmittance, t, geometry[PEAK + r], sharp)
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
                        toward += change * load(residual, plane + k * PLANE)
                blended += weight
                most = maximum(most, weight)
                hits += select(hit, 1.0, 0.0)
        scores[slots[i], ERROR] = total(error)
        scores[slots[i], TOWARD] = total(toward)
        scores[slots[i], BLEND_SUM] = total(blended)
        scores[slots[i], BLEND_MAX] = largest(most)
        scores[slots[i], HITS] = total(hits)


@jit
def score_tiles(
    start: int,
    stop: int,
    rows: Floats,
    features: Floats,
    starts: Longs,
    splats: Ints,
    slots: Ints,
    background: Floats,
    target: Floats,
    image: Floats,
    scores: Floats,
) -> None:
    """Fill the rows of `scores` [M, 5], zero before, and the pixels of `image` [H, W, D] of tiles start to stop.

    `target` is [H, W, D], or [0, 0, D] where there is none.
    """
    channels = features.shape[1]
    height, width = image.shape[:2]
    columns = (width + TILE_WIDTH - 1) // TILE_WIDTH
    state = np.empty((1 + channels) * PLANE, np.float32)
    geometry = np.empty(4 * TILE_HEIGHT + LANES, np.float32)
    opened, residual = np.empty(PLANE, np.float32), np.empty((1 + channels) * PLANE, np.float32)
    for tile in range(start, stop):
        x0, y0 = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
        a, b = starts[tile], starts[tile + 1]
        open_tile(state, x0, y0, width, height)
        opened[:] = state[:PLANE]
        blend(rows, features, splats[a:b], x0, y0, state, geometry)
        _finish(state, background)
        _compare(state, x0, y0, image, target, residual)
        state[:PLANE] = opened
        _score(rows, features, splats[a:b], slots[a:b], x0, y0, state, residual, geometry, scores)


@jit
def add_scores(
    start: int, stop: int, first_slots: Longs, scores: Floats, sums: NDArray[np.float64], most: Floats
) -> None:
    """Add one view to `sums` [N, 4] (error, toward, blend weight, hits) and `most` [N] for splats start to stop."""
    for n in range(start, stop):
        for slot in range(first_slots[n], first_slots[n + 1]):
            sums[n, 0] += scores[slot, ERROR]
            sums[n, 1] += scores[slot, TOWARD]
            sums[n, 2] += scores[slot, BLEND_SUM]
            sums[n, 3] += scores[slot, HITS]
            most[n] = max(most[n], scores[slot, BLEND_MAX])
