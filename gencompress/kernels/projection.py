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

ROW = 8  # floats of a projected splat:
MEAN_X, MEAN_Y, SLOPE, SHARP, NARROW, LOG_OPACITY, ASPECT, HALF_HEIGHT = range(ROW)

EPS2D = 0.3  # px^2
NEAR, FAR = 0.01, 1e10
ALPHA_MIN = 1 / 255
_REACH = 3.33  # standard deviations beyond which gsplat draws nothing
# a camera as a row of numbers: rotation (9), translation (3), fx, fy, cx, cy, centre (3), limits of x/z and y/z (4)
CAMERA = 23


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
    camera: NDArray[np.float64],
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
        x, y, z = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
        cx = camera[0] * x + camera[1] * y + camera[2] * z + camera[9]
        cy = camera[3] * x + camera[4] * y + camera[5] * z + camera[10]
        cz = camera[6] * x + camera[7] * y + camera[8] * z + camera[11]
        if not NEAR <= cz <= FAR:
            continue
        fx, fy = camera[12], camera[13]
        m0, m1 = _screen_axes(quats, scales, n, camera, cx, cy, cz)
        xx = m0[0] * m0[0] + m0[1] * m0[1] + m0[2] * m0[2]
        xy = m0[0] * m1[0] + m0[1] * m1[1] + m0[2] * m1[2]
        yy = m1[0] * m1[0] + m1[1] * m1[1] + m1[2] * m1[2]
        det = _squared_cross(m0, m1)
        blurred = det + EPS2D * (xx + yy) + EPS2D * EPS2D
        xx += EPS2D
        yy += EPS2D
        opacity = np.float64(opacities[n]) * gates[n]
        if antialiased:
            opacity *= math.sqrt(det / blurred)
        if not opacity >= ALPHA_MIN or not blurred < np.inf:
            continue
        reach = min(math.sqrt(2 * math.log(opacity / ALPHA_MIN)), _REACH)
        mean_x, mean_y = fx * cx / cz + camera[14], fy * cy / cz + camera[15]
        half_x, half_y = reach * math.sqrt(xx), reach * math.sqrt(yy)
        # between these a pixel centre can lie inside
        if (
            math.ceil(max(mean_x - half_x, 0.0) - 0.5) > math.floor(min(mean_x + half_x, width) - 0.5)
            or math.ceil(max(mean_y - half_y, 0.0) - 0.5) > math.floor(min(mean_y + half_y, height) - 0.5)
        ):
            continue
        depths[n] = cz
        rows[n, MEAN_X] = mean_x
        rows[n, MEAN_Y] = mean_y
        rows[n, SLOPE] = xy / yy
        rows[n, SHARP] = yy / blurred
        rows[n, NARROW] = 1 / yy
        rows[n, LOG_OPACITY] = math.log2(opacity)
        rows[n, ASPECT] = math.sqrt(blurred) / yy
        rows[n, HALF_HEIGHT] = half_y
        if depth_channel >= 0:
            features[n, depth_channel] = cz
        if sh_degree < 0:
            for c in range(colors.shape[1]):
                features[n, c] = colors[n, c]
        else:
            dx, dy, dz = x - camera[16], y - camera[17], z - camera[18]
            norm = 1 / math.sqrt(dx * dx + dy * dy + dz * dz)
            harmonics(dx * norm, dy * norm, dz * norm, sh_degree, basis)
            r, g, b = 0.5, 0.5, 0.5
            for k in range((sh_degree + 1) ** 2):
                r += basis[k] * colors[n, 3 * k]
                g += basis[k] * colors[n, 3 * k + 1]
                b += basis[k] * colors[n, 3 * k + 2]
            features[n, 0] = max(r, 0.0)
            features[n, 1] = max(g, 0.0)
            features[n, 2] = max(b, 0.0)


@inline
def _screen_axes(
    quats: Floats, scales: Floats, n: int, camera: NDArray[np.float64], cx: float, cy: float, cz: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The rows of J W R S: how the splat's own three axes move the image point."""
    w, x, y, z = np.float64(quats[n, 0]), np.float64(quats[n, 1]), np.float64(quats[n, 2]), np.float64(quats[n, 3])
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if norm > 0:  # a quaternion of zeros turns nothing
        w, x, y, z = w / norm, x / norm, y / norm, z / norm
    r = rotation_of(w, x, y, z)
    fx, fy = camera[12], camera[13]
    j0, j1 = fx / cz, fy / cz
    j02 = -j0 * min(max(cx / cz, camera[19]), camera[20])
    j12 = -j1 * min(max(cy / cz, camera[21]), camera[22])
    a0, a1, a2 = j0 * camera[0] + j02 * camera[6], j0 * camera[1] + j02 * camera[7], j0 * camera[2] + j02 * camera[8]
    b0, b1, b2 = j1 * camera[3] + j12 * camera[6], j1 * camera[4] + j12 * camera[7], j1 * camera[5] + j12 * camera[8]
    s0, s1, s2 = np.float64(scales[n, 0]), np.float64(scales[n, 1]), np.float64(scales[n, 2])
    return (
        (
            (a0 * r[0] + a1 * r[3] + a2 * r[6]) * s0,
            (a0 * r[1] + a1 * r[4] + a2 * r[7]) * s1,
            (a0 * r[2] + a1 * r[5] + a2 * r[8]) * s2,
        ),
        (
            (b0 * r[0] + b1 * r[3] + b2 * r[6]) * s0,
            (b0 * r[1] + b1 * r[4] + b2 * r[7]) * s1,
            (b0 * r[2] + b1 * r[5] + b2 * r[8]) * s2,
        ),
    )


@inline
def _squared_cross(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """|a x b|^2 = det [[a.a, a.b], [a.b, b.b]] without cancellation."""
    x = a[1] * b[2] - a[2] * b[1]
    y = a[2] * b[0] - a[0] * b[2]
    z = a[0] * b[1] - a[1] * b[0]
    return x * x + y * y + z * z
