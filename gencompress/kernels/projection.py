"""From splats in the world to ellipses on the image: EWA projection, colour and culling of one view.

The maths of gsplat: covariance J W R S S^T R^T W^T J^T with the Jacobian J of the pinhole camera at the centre (EWA
splatting, Zwicker et al. 2001), 0.3 px^2 added to its diagonal, opacity compensated for that in anti-aliased mode
(Mip-Splatting, arXiv 2311.16493). Computed in double precision from fp32: near the camera the covariance is so close to
singular that its determinant does not survive fp32.

The ellipse is handed on in the completed square: with dy = y - mean_y and t = x - mean_x - slope dy, the exponent of
the splat at (x, y) is -(sharp t^2 + narrow dy^2) / 2. No term cancels another, and a row of pixels has one centre.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gencompress.kernels.compiled import Floats, inline, jit
from gencompress.kernels.harmonics import TERMS, harmonics

Camera = NDArray[np.float64]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

ROW = 8  # floats of a projected splat:
MEAN_X, MEAN_Y, SLOPE, SHARP, NARROW, LOG_OPACITY, ASPECT, HALF_HEIGHT = range(ROW)

EPS2D = 0.3  # px^2
NEAR, FAR = 0.01, 1e10
ALPHA_MIN = 1 / 255
_FARTHEST = 1e18  # px; the squares of larger ellipses do not fit fp32
_DENSEST = 1e9  # opacity; alpha is cut off far below
# a camera as a row of numbers: rotation, translation, intrinsics, centre, limits of x/z and of y/z for the Jacobian
TRANSLATION, FX, FY, CX, CY, POSITION, X_LOW, X_HIGH, Y_LOW, Y_HIGH = 9, 12, 13, 14, 15, 16, 19, 20, 21, 22


def camera_row(viewmat: NDArray[np.float64], K: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """What the kernels read of a camera [23]; the Jacobian is taken inside 1.3 times the view, as in gsplat."""
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    centre = -np.linalg.solve(rotation, translation)
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    limits = (-cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    return np.concatenate([rotation.ravel(), translation, (fx, fy, cx, cy), centre, limits])


@inline
def rotation_of(w: float, x: float, y: float, z: float) -> tuple[float, ...]:
    """Rotation matrix, row by row, of a unit quaternion."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@inline
def unit_quaternion(quats: Floats, n: int) -> tuple[Quaternion, float]:
    """Quaternion `n` at length 1, and its length; zeros turn nothing."""
    w, x, y, z = np.float64(quats[n, 0]), np.float64(quats[n, 1]), np.float64(quats[n, 2]), np.float64(quats[n, 3])
    length = math.sqrt(w * w + x * x + y * y + z * z)
    scale = 1 / length if length > 0 else 0.0
    return (w * scale, x * scale, y * scale, z * scale), length


@inline
def in_camera(means: Floats, n: int, camera: Camera) -> Vector:
    """Centre `n` in camera space."""
    x, y, z = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
    return (
        camera[0] * x + camera[1] * y + camera[2] * z + camera[TRANSLATION],
        camera[3] * x + camera[4] * y + camera[5] * z + camera[TRANSLATION + 1],
        camera[6] * x + camera[7] * y + camera[8] * z + camera[TRANSLATION + 2],
    )


@inline
def jacobian(c: Vector, camera: Camera) -> tuple[float, float, float, float]:
    """dx/dX, dx/dZ, dy/dY and dy/dZ of the image point (x, y) of a point (X, Y, Z) in camera space."""
    x, y = camera[FX] / c[2], camera[FY] / c[2]
    ratio_x = min(max(c[0] / c[2], camera[X_LOW]), camera[X_HIGH])
    ratio_y = min(max(c[1] / c[2], camera[Y_LOW]), camera[Y_HIGH])
    return x, -x * ratio_x, y, -y * ratio_y


@inline
def image_axes(j: tuple[float, float, float, float], camera: Camera) -> tuple[Vector, Vector]:
    """The rows of J W: how a step in the world moves the image point."""
    return (
        (j[0] * camera[0] + j[1] * camera[6], j[0] * camera[1] + j[1] * camera[7], j[0] * camera[2] + j[1] * camera[8]),
        (j[2] * camera[3] + j[3] * camera[6], j[2] * camera[4] + j[3] * camera[7], j[2] * camera[5] + j[3] * camera[8]),
    )


@inline
def along_axes(a: Vector, r: tuple[float, ...]) -> Vector:
    """The row a R: `a` along the axes of a rotation."""
    return (
        a[0] * r[0] + a[1] * r[3] + a[2] * r[6],
        a[0] * r[1] + a[1] * r[4] + a[2] * r[7],
        a[0] * r[2] + a[1] * r[5] + a[2] * r[8],
    )


@inline
def scaled(a: Vector, scales: Floats, n: int) -> Vector:
    """`a` times the scales of splat `n`."""
    return a[0] * scales[n, 0], a[1] * scales[n, 1], a[2] * scales[n, 2]


@inline
def dot(a: Vector, b: Vector) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inline
def squared_cross(a: Vector, b: Vector) -> float:
    """|a x b|^2 = det [[a.a, a.b], [a.b, b.b]] without cancellation."""
    x = a[1] * b[2] - a[2] * b[1]
    y = a[2] * b[0] - a[0] * b[2]
    z = a[0] * b[1] - a[1] * b[0]
    return x * x + y * y + z * z


@inline
def misses(centre: float, half: float, size: int) -> bool:
    """Whether no pixel centre of the image lies within `half` of `centre`."""
    return math.ceil(max(centre - half, 0.0) - 0.5) > math.floor(min(centre + half, float(size)) - 0.5)


@inline
def direction(means: Floats, n: int, camera: Camera) -> tuple[Vector, float]:
    """From the camera to centre `n`, at length 1, and the distance."""
    x = means[n, 0] - camera[POSITION]
    y = means[n, 1] - camera[POSITION + 1]
    z = means[n, 2] - camera[POSITION + 2]
    length = math.sqrt(x * x + y * y + z * z)
    return (x / length, y / length, z / length), length


@inline
def color_of(colors: Floats, n: int, terms: int, basis: NDArray[np.float64]) -> Vector:
    """0.5 + SH of splat `n`, before negative values are cut off."""
    r, g, b = 0.5, 0.5, 0.5
    for k in range(terms):
        r += basis[k] * colors[n, 3 * k]
        g += basis[k] * colors[n, 3 * k + 1]
        b += basis[k] * colors[n, 3 * k + 2]
    return r, g, b


@inline
def _shade(
    n: int, means: Floats, colors: Floats, sh_degree: int, camera: Camera, basis: NDArray[np.float64], features: Floats
) -> None:
    """Write the colour of splat `n` as the camera sees it to its features."""
    if sh_degree < 0:
        for channel in range(colors.shape[1]):
            features[n, channel] = colors[n, channel]
        return
    towards = direction(means, n, camera)[0]
    harmonics(towards[0], towards[1], towards[2], sh_degree, basis)
    red, green, blue = color_of(colors, n, (sh_degree + 1) ** 2, basis)
    features[n, 0], features[n, 1], features[n, 2] = max(red, 0.0), max(green, 0.0), max(blue, 0.0)


@jit
def project(
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
    width: int,
    height: int,
    antialiased: bool,
    depth_channel: int,
    rows: Floats,
    features: Floats,
    depths: Floats,
) -> None:
    """Fill `rows` [N, 8], `features` [N, F] and `depths` [N] (0 where the splat is culled) for splats start to stop.

    Args:
        start: first splat.
        stop: one past the last.
        means: [N, 3].
        quats: [N, 4].
        scales: [N, 3].
        opacities: [N].
        gates: factors of the opacity [N].
        colors: [N, D], or spherical harmonics [N, K * 3] if `sh_degree` >= 0.
        sh_degree: degree to evaluate, or -1.
        camera: `camera_row`.
        width: in pixels.
        height: in pixels.
        antialiased: compensate the opacity for the added 0.3 px^2.
        depth_channel: channel of `features` that takes the depth, or -1.
        rows: output.
        features: output; channels beyond those written must be 0 already.
        depths: output, z in camera space.
    """
    basis = np.empty(TERMS)
    for n in range(start, stop):
        depths[n] = 0
        c = in_camera(means, n, camera)
        if not NEAR <= c[2] <= FAR:
            continue
        rotation = rotation_of(*unit_quaternion(quats, n)[0])
        axis_x, axis_y = image_axes(jacobian(c, camera), camera)
        m0 = scaled(along_axes(axis_x, rotation), scales, n)
        m1 = scaled(along_axes(axis_y, rotation), scales, n)
        xx, xy, yy, det = dot(m0, m0), dot(m0, m1), dot(m1, m1), squared_cross(m0, m1)
        blurred = det + EPS2D * (xx + yy) + EPS2D * EPS2D
        xx += EPS2D
        yy += EPS2D
        opacity = min(np.float64(opacities[n]) * gates[n], _DENSEST)
        if antialiased:
            opacity *= math.sqrt(det / blurred)
        if not opacity >= ALPHA_MIN:
            continue
        mean_x, mean_y = camera[FX] * c[0] / c[2] + camera[CX], camera[FY] * c[1] / c[2] + camera[CY]
        reach = math.sqrt(2 * math.log(opacity / ALPHA_MIN))  # standard deviations to where alpha is 1/255
        half_x, half_y = reach * math.sqrt(xx), reach * math.sqrt(yy)
        if not max(half_x, half_y) < _FARTHEST or misses(mean_x, half_x, width) or misses(mean_y, half_y, height):
            continue
        depths[n] = c[2]
        rows[n, MEAN_X] = mean_x
        rows[n, MEAN_Y] = mean_y
        rows[n, SLOPE] = xy / yy
        rows[n, SHARP] = yy / blurred
        rows[n, NARROW] = 1 / yy
        rows[n, LOG_OPACITY] = math.log2(opacity)
        rows[n, ASPECT] = math.sqrt(blurred) / yy
        rows[n, HALF_HEIGHT] = half_y
        if depth_channel >= 0:
            features[n, depth_channel] = c[2]
        _shade(n, means, colors, sh_degree, camera, basis, features)
