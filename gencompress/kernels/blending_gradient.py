"""The adjoint of blending: gradients of the splats of one tile from those of its pixels, front to back.

A pixel is C = sum_i w_i c_i + T_end background with w_i = alpha_i T_i. With v its gradient and v_A that of its alpha,

    dL/dalpha_i = T_i (c_i . v) - rest_i / (1 - alpha_i)
    rest_i = sum_{j > i} w_j (c_j . v) + T_end (background . v - v_A)

and rest starts as C . v - T_end v_A and loses w_i (c_i . v) with every splat: one number per pixel takes the place of
walking back through the blend. Sums over the pixels of a splat go to a row of their own for every tile, and
`projection_gradient` adds the rows of a splat in a fixed order, so no result depends on which thread came first.
"""

from __future__ import annotations

import numpy as np

from gencompress.kernels.blending import (
    AHEAD,
    ALPHA_MAX,
    CENTRE,
    FIRST,
    HALF_LOG2_E,
    LAST,
    PEAK,
    PITCH,
    PLANE,
    REFRESH,
    blocks_of,
    cover,
    fetch,
    fill_geometry,
    lines_of,
    open_blocks,
    open_tile,
)
from gencompress.kernels.compiled import Floats, Ints, Longs, inline, jit
from gencompress.kernels.projection import MEAN_Y, NARROW, SHARP, SLOPE
from gencompress.kernels.projection_gradient import ABS_X, ABS_Y, G_T, G_TT, G_TY, G_Y, G_YY, HEAD, G
from gencompress.kernels.simd import LANES, absolute, broadcast, lane_numbers, load, prefetch, select, store, total
from gencompress.kernels.tiles import TILE_HEIGHT, TILE_WIDTH

_REST = 1  # plane of the state; the planes behind it hold the gradient of the pixel


@inline
def _fill_pixels(
    x0: int, y0: int, image: Floats, depth: Floats, transmittance: Floats, to_image: Floats, to_depth: Floats,
    to_alpha: Floats, state: Floats,
) -> None:  # fmt: skip
    """Gradients of the pixels of an opened tile, and what `rest` is before the first splat."""
    height, width, channels = image.shape
    for y in range(y0, min(y0 + TILE_HEIGHT, height)):
        for x in range(x0, min(x0 + TILE_WIDTH, width)):
            at = (y - y0) * PITCH + x - x0
            rest = depth[y, x] * to_depth[y, x] - transmittance[y, x] * to_alpha[y, x]
            for c in range(channels):
                rest += image[y, x, c] * to_image[y, x, c]
                state[at + (c + 2) * PLANE] = to_image[y, x, c]
            state[at + (channels + 2) * PLANE] = to_depth[y, x]
            state[at + _REST * PLANE] = rest


@inline
def _pull(
    rows: Floats, features: Floats, splats: Ints, slots: Ints, x0: int, y0: int, absgrad: bool, state: Floats,
    geometry: Floats, more: Floats, gradients: Floats,
) -> None:  # fmt: skip
    """Fill the gradient rows of the listed splats in one tile."""
    channels, unfinished = features.shape[1], 0
    for i in range(len(splats)):
        if i % REFRESH == 0:
            unfinished = open_blocks(state)
            if unfinished == 0:
                break
        fetch(rows, features, splats, i)
        prefetch(gradients, slots[min(i + AHEAD, len(splats) - 1)])
        n = splats[i]
        if blocks_of(rows, n, x0, y0) & unfinished == 0:
            continue
        first, last = lines_of(rows, n, y0)
        fill_geometry(rows, n, x0, y0, first, last, geometry)
        sharp, slope, narrow = rows[n, SHARP], rows[n, SLOPE], rows[n, NARROW]
        g_y, g_yy, g_ty, g_tt = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        g_all, t_all, abs_x, abs_y = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        c0, c1, c2, c3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        more[:] = 0
        for r in range(first, last):
            dy = np.float32(y0 + r + 0.5) - rows[n, MEAN_Y]
            g_row, t_row = broadcast(0.0), broadcast(0.0)
            for x in range(int(geometry[FIRST + r]), int(geometry[LAST + r]), LANES):
                at = r * PITCH + x
                t = lane_numbers() + (np.float32(x) - geometry[CENTRE + r])
                alpha, weight, after = cover(load(state, at), t, geometry[PEAK + r], sharp * np.float32(HALF_LOG2_E))
                store(state, at, after)
                pixel = at + 2 * PLANE
                v0, v1 = load(state, pixel), load(state, pixel + PLANE)
                v2, v3 = load(state, pixel + 2 * PLANE), load(state, pixel + 3 * PLANE)
                value = v0 * features[n, 0] + v1 * features[n, 1] + v2 * features[n, 2] + v3 * features[n, 3]
                for c in range(4, channels):
                    value += load(state, pixel + c * PLANE) * features[n, c]
                c0, c1, c2, c3 = c0 + weight * v0, c1 + weight * v1, c2 + weight * v2, c3 + weight * v3
                for c in range(4, channels):
                    store(more, c * LANES, load(more, c * LANES) + weight * load(state, pixel + c * PLANE))
                gained = weight * value
                rest = load(state, at + _REST * PLANE) - gained
                store(state, at + _REST * PLANE, rest)
                moves = (weight > 0.0) & (broadcast(ALPHA_MAX) > alpha)
                g = select(moves, gained - rest * (alpha / (1.0 - alpha)), 0.0)
                gt = g * t
                g_row += g
                t_row += gt
                g_tt += gt * t
                if absgrad:
                    pull = gt * sharp
                    abs_x += absolute(pull)
                    abs_y += absolute(g * (narrow * dy) - pull * slope)
            g_all += g_row
            t_all += t_row
            g_y += g_row * dy
            g_yy += g_row * (dy * dy)
            g_ty += t_row * dy
        out = gradients[slots[i]]
        out[G], out[G_Y], out[G_YY] = total(g_all), total(g_y), total(g_yy)
        out[G_T], out[G_TY], out[G_TT] = total(t_all), total(g_ty), total(g_tt)
        out[ABS_X], out[ABS_Y] = total(abs_x), total(abs_y)
        out[HEAD], out[HEAD + 1], out[HEAD + 2], out[HEAD + 3] = total(c0), total(c1), total(c2), total(c3)
        for c in range(4, channels):
            out[HEAD + c] = total(load(more, c * LANES))


@jit
def pull_tiles(
    start: int,
    stop: int,
    rows: Floats,
    features: Floats,
    starts: Longs,
    splats: Ints,
    slots: Ints,
    absgrad: bool,
    image: Floats,
    depth: Floats,
    transmittance: Floats,
    to_image: Floats,
    to_depth: Floats,
    to_alpha: Floats,
    gradients: Floats,
) -> None:
    """Fill the gradient rows [M, 8 + F], zero before, that belong to tiles start to stop.

    `image` [H, W, D], `depth` and `transmittance` [H, W] are the render, `to_*` are the gradients that came back.
    """
    height, width, _ = image.shape
    columns = (width + TILE_WIDTH - 1) // TILE_WIDTH
    state = np.empty((2 + features.shape[1]) * PLANE, np.float32)
    geometry = np.empty(4 * TILE_HEIGHT + LANES, np.float32)
    more = np.empty(features.shape[1] * LANES, np.float32)
    for tile in range(start, stop):
        x0, y0 = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
        a, b = starts[tile], starts[tile + 1]
        open_tile(state, x0, y0, width, height)
        _fill_pixels(x0, y0, image, depth, transmittance, to_image, to_depth, to_alpha, state)
        _pull(rows, features, splats[a:b], slots[a:b], x0, y0, absgrad, state, geometry, more, gradients)
