"""From gradients of the ellipses on the image to gradients of the splats in the world: the adjoint of `projection`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencompress.kernels.compiled import Floats, Longs, inline, jit
from gencompress.kernels.harmonics import TERMS, harmonics, harmonics_gradient
from gencompress.kernels.projection import (
    EPS2D,
    NARROW,
    SHARP,
    SLOPE,
    X_HIGH,
    X_LOW,
    Y_HIGH,
    Y_LOW,
    Camera,
    Quaternion,
    Vector,
    along_axes,
    color_of,
    direction,
    dot,
    image_axes,
    in_camera,
    jacobian,
    rotation_of,
    scaled,
    squared_cross,
    unit_quaternion,
)

# A gradient row of a splat in a tile. With g = alpha dL/dalpha at a pixel, t and dy as in `projection`, sums over its
# pixels of g, g dy, g dy^2, g t, g t dy and g t^2, of the absolute gradients of the centre, then those of the features.
HEAD = 8
G, G_Y, G_YY, G_T, G_TY, G_TT, ABS_X, ABS_Y = range(HEAD)


@inline
def _ellipse(sums: NDArray[np.float64], row: Floats) -> tuple[float, float, float, float, float]:
    """Gradients of centre x and y and of the blurred covariance xx, xy (once, not twice) and yy."""
    sharp, slope, narrow = np.float64(row[SHARP]), np.float64(row[SLOPE]), np.float64(row[NARROW])
    mean_x = sharp * sums[G_T]
    mean_y = narrow * sums[G_Y] - slope * mean_x
    # sharp = 1 / (xx - xy^2 / yy), slope = xy / yy, narrow = 1 / yy
    conditional = 0.5 * sharp * sharp * sums[G_TT]
    along = narrow * sharp * sums[G_TY]
    yy = slope * slope * conditional - slope * along + 0.5 * narrow * narrow * sums[G_YY]
    return mean_x, mean_y, conditional, along - 2 * slope * conditional, yy


@inline
def _compensation(log_opacity: float, m0: Vector, m1: Vector) -> tuple[float, float, float]:
    """Gradient of the covariance from that of the log of sqrt(det / blurred det), `log_opacity`."""
    xx, xy, yy, det = dot(m0, m0), dot(m0, m1), dot(m1, m1), squared_cross(m0, m1)
    blurred = det + EPS2D * (xx + yy) + EPS2D * EPS2D
    by_det, by_blurred = 0.5 * log_opacity / det, -0.5 * log_opacity / blurred
    both = by_det + by_blurred
    return both * yy + by_blurred * EPS2D, -2 * xy * both, both * xx + by_blurred * EPS2D


@inline
def _plus(x: float, a: Vector, y: float, b: Vector) -> Vector:
    """The vector x a + y b."""
    return x * a[0] + y * b[0], x * a[1] + y * b[1], x * a[2] + y * b[2]


@inline
def _rotated(r: tuple[float, ...], a: Vector) -> Vector:
    """The vector R a."""
    return dot((r[0], r[1], r[2]), a), dot((r[3], r[4], r[5]), a), dot((r[6], r[7], r[8]), a)


@inline
def _camera_point(
    c: Vector, mean_x: float, mean_y: float, to_axis_x: Vector, to_axis_y: Vector, camera: Camera
) -> Vector:
    """Gradient of the centre in camera space from those of its image point and of the rows of J W."""
    j = jacobian(c, camera)
    ratio_x, ratio_y = c[0] / c[2], c[1] / c[2]
    to_jacobian = _rotated(camera, to_axis_x), _rotated(camera, to_axis_y)
    x_z, y_z = to_jacobian[0][2], to_jacobian[1][2]
    # j[1] = -j[0] * ratio_x and j[3] = -j[2] * ratio_y, the ratios held at the border of the view
    x_x = to_jacobian[0][0] + x_z * j[1] / j[0]
    y_y = to_jacobian[1][1] + y_z * j[3] / j[2]
    to_ratio_x = j[0] * c[2] * mean_x
    to_ratio_y = j[2] * c[2] * mean_y
    if camera[X_LOW] <= ratio_x <= camera[X_HIGH]:
        to_ratio_x -= j[0] * x_z
    if camera[Y_LOW] <= ratio_y <= camera[Y_HIGH]:
        to_ratio_y -= j[2] * y_z
    gz = -(x_x * j[0] + y_y * j[2] + to_ratio_x * ratio_x + to_ratio_y * ratio_y) / c[2]
    return to_ratio_x / c[2], to_ratio_y / c[2], gz


@inline
def _quaternion(q: Quaternion, length: float, v: tuple[float, ...]) -> Quaternion:
    """Gradient of a quaternion of some length, `q` at length 1, from that of its rotation matrix."""
    if length == 0:
        return 0.0, 0.0, 0.0, 0.0
    w, x, y, z = q
    gw = x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1])
    gx = w * (v[7] - v[5]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) - 2 * x * (v[4] + v[8])
    gy = w * (v[2] - v[6]) + x * (v[1] + v[3]) + z * (v[5] + v[7]) - 2 * y * (v[0] + v[8])
    gz = w * (v[3] - v[1]) + x * (v[2] + v[6]) + y * (v[5] + v[7]) - 2 * z * (v[0] + v[4])
    radial = w * gw + x * gx + y * gy + z * gz
    scale = 2 / length
    return (gw - radial * w) * scale, (gx - radial * x) * scale, (gy - radial * y) * scale, (gz - radial * z) * scale


@inline
def _harmonics(
    n: int, means: Floats, colors: Floats, degree: int, camera: Camera, sums: NDArray[np.float64],
    basis: NDArray[np.float64], weights: NDArray[np.float64], to_colors: Floats,
) -> Vector:  # fmt: skip
    """Add the gradient of the coefficients of splat `n`; returns that of its centre."""
    terms = (degree + 1) ** 2
    towards, distance = direction(means, n, camera)
    harmonics(towards[0], towards[1], towards[2], degree, basis)
    red, green, blue = color_of(colors, n, terms, basis)
    r = sums[HEAD] if red > 0 else 0.0
    g = sums[HEAD + 1] if green > 0 else 0.0
    b = sums[HEAD + 2] if blue > 0 else 0.0
    for k in range(terms):
        weights[k] = r * colors[n, 3 * k] + g * colors[n, 3 * k + 1] + b * colors[n, 3 * k + 2]
        to_colors[n, 3 * k] += r * basis[k]
        to_colors[n, 3 * k + 1] += g * basis[k]
        to_colors[n, 3 * k + 2] += b * basis[k]
    v = harmonics_gradient(towards[0], towards[1], towards[2], degree, weights)
    radial = dot(v, towards)
    return (
        (v[0] - radial * towards[0]) / distance,
        (v[1] - radial * towards[1]) / distance,
        (v[2] - radial * towards[2]) / distance,
    )


@jit
def project_gradient(
    start: int,
    stop: int,
    means: Floats,
    quats: Floats,
    scales: Floats,
    opacities: Floats,
    gates: Floats,
    colors: Floats,
    sh_degree: int,
    camera: Camera,
    antialiased: bool,
    depth_channel: int,
    rows: Floats,
    first_slots: Longs,
    slot_gradients: Floats,
    to_means: Floats,
    to_quats: Floats,
    to_scales: Floats,
    to_opacities: Floats,
    to_gates: Floats,
    to_colors: Floats,
    absolute: Floats,
) -> None:
    """Add the gradients of splats start to stop to those of the arguments of `project` that `to_*` name.

    Args:
        start: first splat.
        stop: one past the last.
        means: as in `project`, and so are those up to `rows`.
        quats: [N, 4].
        scales: [N, 3].
        opacities: [N].
        gates: [N].
        colors: [N, D] or [N, K * 3].
        sh_degree: degree, or -1.
        camera: `camera_row`.
        antialiased: opacities were compensated.
        depth_channel: channel of the depth.
        rows: [N, 8].
        first_slots: of `Tiles` [N + 1].
        slot_gradients: gradient rows [M, 8 + F].
        to_means: [N, 3].
        to_quats: [N, 4].
        to_scales: [N, 3].
        to_opacities: [N].
        to_gates: [N].
        to_colors: like colors.
        absolute: absolute gradients of the centres on the image [N, 2], overwritten where the splat is drawn.
    """
    basis, weights, sums = np.empty(TERMS), np.empty(TERMS), np.empty(slot_gradients.shape[1])
    for n in range(start, stop):
        if first_slots[n] == first_slots[n + 1]:
            continue
        sums[:] = 0
        for slot in range(first_slots[n], first_slots[n + 1]):
            for i in range(len(sums)):
                sums[i] += slot_gradients[slot, i]
        absolute[n, 0], absolute[n, 1] = sums[ABS_X], sums[ABS_Y]
        c = in_camera(means, n, camera)
        q, length = unit_quaternion(quats, n)
        rotation = rotation_of(*q)
        axis_x, axis_y = image_axes(jacobian(c, camera), camera)
        p0, p1 = along_axes(axis_x, rotation), along_axes(axis_y, rotation)
        m0, m1 = scaled(p0, scales, n), scaled(p1, scales, n)
        mean_x, mean_y, to_xx, to_xy, to_yy = _ellipse(sums, rows[n])
        if antialiased:
            by_xx, by_xy, by_yy = _compensation(sums[G], m0, m1)
            to_xx, to_xy, to_yy = to_xx + by_xx, to_xy + by_xy, to_yy + by_yy
        to_opacities[n] += sums[G] / opacities[n]
        to_gates[n] += sums[G] / gates[n]
        v0, v1 = _plus(2 * to_xx, m0, to_xy, m1), _plus(to_xy, m0, 2 * to_yy, m1)
        for k in range(3):
            to_scales[n, k] += v0[k] * p0[k] + v1[k] * p1[k]
        v0, v1 = scaled(v0, scales, n), scaled(v1, scales, n)
        to_rotation = (
            *_plus(axis_x[0], v0, axis_y[0], v1),
            *_plus(axis_x[1], v0, axis_y[1], v1),
            *_plus(axis_x[2], v0, axis_y[2], v1),
        )
        to_quat = _quaternion(q, length, to_rotation)
        for k in range(4):
            to_quats[n, k] += to_quat[k]
        point = _camera_point(c, mean_x, mean_y, _rotated(rotation, v0), _rotated(rotation, v1), camera)
        if sh_degree < 0:
            moved = (0.0, 0.0, 0.0)
            for channel in range(colors.shape[1]):
                to_colors[n, channel] += sums[HEAD + channel]
        else:
            moved = _harmonics(n, means, colors, sh_degree, camera, sums, basis, weights, to_colors)
        depth = point[2] + sums[HEAD + depth_channel]
        for k in range(3):
            to_means[n, k] += point[0] * camera[k] + point[1] * camera[3 + k] + depth * camera[6 + k] + moved[k]
