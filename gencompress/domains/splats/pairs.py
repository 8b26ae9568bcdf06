"""What it costs the images when one splat stands for two, in closed form and in the units of leave-one-out error.

In one view a splat changes a pixel by ``o G(p) u``: its projected Gaussian G with the pixel filter, its opacity o, and
u, the transmittance in front of it times the contrast of its colour with what lies behind. Leave-one-out scoring has
measured ``|u|^2 = error / (o^2 integral G^2)`` for both splats of the pair, and ``|u_i - u_j|^2 = T^2 |c_i - c_j|^2``
gives the angle between them. With the merged splat's u the mean by mass, the squared error of the exchange

    integral |s (o_i G_i u_i + o_j G_j u_j) - o_m G_m u_m|^2

is a sum of products of Gaussians, each integral known. ``s`` takes off the mass where both cover the same pixels:
alpha compositing gives ``1 - (1 - a)(1 - b)``, not ``a + b``. Deletion and merging are thus compared in one currency.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gencompress.kernels.compiled import Floats, Ints, inline, jit
from gencompress.kernels.projection import EPS2D, NEAR, rotation_of

MOST_OPAQUE = 0.995  # of a merged splat: its logit stays moderate, so that refinement can still move it
_AREA = 2 * math.pi

Doubles = NDArray[np.float64]


@jit
def covariances(start: int, stop: int, quats: Floats, scales: Floats, out: Floats) -> None:
    """Fill `out` [N, 6] (xx, xy, xz, yy, yz, zz) of splats start to stop."""
    for n in range(start, stop):
        w, x, y, z = np.float64(quats[n, 0]), np.float64(quats[n, 1]), np.float64(quats[n, 2]), np.float64(quats[n, 3])
        norm = 1 / math.sqrt(w * w + x * x + y * y + z * z)
        r = rotation_of(w * norm, x * norm, y * norm, z * norm)
        a, b, c = np.float64(scales[n, 0]) ** 2, np.float64(scales[n, 1]) ** 2, np.float64(scales[n, 2]) ** 2
        out[n, 0] = r[0] * r[0] * a + r[1] * r[1] * b + r[2] * r[2] * c
        out[n, 1] = r[0] * r[3] * a + r[1] * r[4] * b + r[2] * r[5] * c
        out[n, 2] = r[0] * r[6] * a + r[1] * r[7] * b + r[2] * r[8] * c
        out[n, 3] = r[3] * r[3] * a + r[4] * r[4] * b + r[5] * r[5] * c
        out[n, 4] = r[3] * r[6] * a + r[4] * r[7] * b + r[5] * r[8] * c
        out[n, 5] = r[6] * r[6] * a + r[7] * r[7] * b + r[8] * r[8] * c


@inline
def mean_area(xx: float, xy: float, xz: float, yy: float, yz: float, zz: float) -> float:
    """Root mean square, over all directions, of the area that a Gaussian covers when projected along them.

    The squared area along n is ``(2 pi)^2 n^T adj(covariance) n``, whose mean is a third of the adjugate's trace.
    """
    trace = yy * zz - yz * yz + xx * zz - xz * xz + xx * yy - xy * xy
    return _AREA * math.sqrt(max(trace, 0.0) / 3)


@inline
def merge_moments(
    means: Floats, cov: Floats, opacities: Floats, i: int, j: int
) -> tuple[float, tuple[float, ...], tuple[float, ...], float]:
    """Weight of i, mean and covariance of the pair by mass, opacity that keeps the mass; mass is opacity times area."""
    area_i = mean_area(cov[i, 0], cov[i, 1], cov[i, 2], cov[i, 3], cov[i, 4], cov[i, 5])
    area_j = mean_area(cov[j, 0], cov[j, 1], cov[j, 2], cov[j, 3], cov[j, 4], cov[j, 5])
    mass_i, mass_j = opacities[i] * area_i, opacities[j] * area_j
    total = mass_i + mass_j
    a = mass_i / total if total > 0 else 0.5
    b = 1 - a
    dx = np.float64(means[i, 0]) - means[j, 0]
    dy = np.float64(means[i, 1]) - means[j, 1]
    dz = np.float64(means[i, 2]) - means[j, 2]
    mean = (means[j, 0] + a * dx, means[j, 1] + a * dy, means[j, 2] + a * dz)
    between = a * b
    spread = (
        a * cov[i, 0] + b * cov[j, 0] + between * dx * dx,
        a * cov[i, 1] + b * cov[j, 1] + between * dx * dy,
        a * cov[i, 2] + b * cov[j, 2] + between * dx * dz,
        a * cov[i, 3] + b * cov[j, 3] + between * dy * dy,
        a * cov[i, 4] + b * cov[j, 4] + between * dy * dz,
        a * cov[i, 5] + b * cov[j, 5] + between * dz * dz,
    )
    area = mean_area(spread[0], spread[1], spread[2], spread[3], spread[4], spread[5])
    return a, mean, spread, total / area if area > 0 else max(opacities[i], opacities[j])


@inline
def _ellipse(
    x: float, y: float, z: float, xx: float, xy: float, xz: float, yy: float, yz: float, zz: float, camera: Doubles
) -> tuple[float, float, float, float, float]:
    """Centre and covariance (x, y, xx, xy, yy) in pixels, pixel filter included, of a Gaussian in front of a camera."""
    cx = camera[0] * x + camera[1] * y + camera[2] * z + camera[9]
    cy = camera[3] * x + camera[4] * y + camera[5] * z + camera[10]
    cz = camera[6] * x + camera[7] * y + camera[8] * z + camera[11]
    fx, fy = camera[12] / cz, camera[13] / cz
    px, py = min(max(cx / cz, camera[19]), camera[20]), min(max(cy / cz, camera[21]), camera[22])
    a0, a1, a2 = (
        fx * (camera[0] - px * camera[6]),
        fx * (camera[1] - px * camera[7]),
        fx * (camera[2] - px * camera[8]),
    )
    b0, b1, b2 = (
        fy * (camera[3] - py * camera[6]),
        fy * (camera[4] - py * camera[7]),
        fy * (camera[5] - py * camera[8]),
    )
    ax, ay, az = xx * a0 + xy * a1 + xz * a2, xy * a0 + yy * a1 + yz * a2, xz * a0 + yz * a1 + zz * a2
    bx, by, bz = xx * b0 + xy * b1 + xz * b2, xy * b0 + yy * b1 + yz * b2, xz * b0 + yz * b1 + zz * b2
    return (
        camera[12] * cx / cz + camera[14],
        camera[13] * cy / cz + camera[15],
        a0 * ax + a1 * ay + a2 * az + EPS2D,
        a0 * bx + a1 * by + a2 * bz,
        b0 * bx + b1 * by + b2 * bz + EPS2D,
    )


@inline
def _overlap(
    a: tuple[float, float, float, float, float], b: tuple[float, float, float, float, float], det_a: float, det_b: float
) -> float:
    """Integral over the image of the product of two Gaussians of height one."""
    xx, xy, yy = a[2] + b[2], a[3] + b[3], a[4] + b[4]
    det = xx * yy - xy * xy
    dx, dy = a[0] - b[0], a[1] - b[1]
    exponent = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (2 * det)
    return _AREA * math.sqrt(det_a * det_b / det) * math.exp(-exponent)


@inline
def _depth(means: Floats, n: int, camera: Doubles) -> float:
    return camera[6] * means[n, 0] + camera[7] * means[n, 1] + camera[8] * means[n, 2] + camera[11]


@jit
def pair_errors(
    start: int,
    stop: int,
    first: Ints,
    second: Ints,
    means: Floats,
    cov: Floats,
    opacities: Floats,
    colors: Floats,
    cameras: Doubles,
    seen: Floats,
    errors: Floats,
    merged_opacities: Floats,
) -> None:
    """Fill `errors` [P] and `merged_opacities` [P] for pairs start to stop.

    Args:
        start: first pair.
        stop: one past the last.
        first: one splat of every pair [P].
        second: the other one [P].
        means: [N, 3].
        cov: covariances [N, 6].
        opacities: [N].
        colors: in linear units of the image, view-independent part [N, 3].
        cameras: `gencompress.kernels.projection.camera_row` of V views [V, 23].
        seen: leave-one-out squared error and sum of blend weights of every splat in every view [N, V, 2].
        errors: output, squared error summed over the views.
        merged_opacities: output, the opacity that makes the error least.
    """
    for p in range(start, stop):
        i, j = first[p], second[p]
        a, mean, spread, conserving = merge_moments(means, cov, opacities, i, j)
        b = 1 - a
        oi, oj = np.float64(opacities[i]), np.float64(opacities[j])
        red, green, blue = colors[i, 0] - colors[j, 0], colors[i, 1] - colors[j, 1], colors[i, 2] - colors[j, 2]
        difference = np.float64(red * red + green * green + blue * blue)
        fixed, linear, square = 0.0, 0.0, 0.0  # error = fixed - 2 o linear + o^2 square
        for v in range(len(cameras)):
            camera = cameras[v]
            energy_i, energy_j = np.float64(seen[i, v, 0]), np.float64(seen[j, v, 0])
            if energy_i <= 0 and energy_j <= 0:
                continue
            if _depth(means, i, camera) < NEAR or _depth(means, j, camera) < NEAR:
                continue
            gi = _ellipse(
                means[i, 0], means[i, 1], means[i, 2],
                cov[i, 0], cov[i, 1], cov[i, 2], cov[i, 3], cov[i, 4], cov[i, 5], camera,
            )  # fmt: skip
            gj = _ellipse(
                means[j, 0], means[j, 1], means[j, 2],
                cov[j, 0], cov[j, 1], cov[j, 2], cov[j, 3], cov[j, 4], cov[j, 5], camera,
            )  # fmt: skip
            gm = _ellipse(
                mean[0], mean[1], mean[2], spread[0], spread[1], spread[2], spread[3], spread[4], spread[5], camera
            )
            det_i, det_j = gi[2] * gi[4] - gi[3] * gi[3], gj[2] * gj[4] - gj[3] * gj[3]
            det_m = gm[2] * gm[4] - gm[3] * gm[3]
            root_i, root_j, root_m = math.sqrt(det_i), math.sqrt(det_j), math.sqrt(det_m)
            both = _overlap(gi, gj, det_i, det_j)
            apart = _AREA * (oi * root_i + oj * root_j)
            ki = energy_i / (oi * oi * root_i * math.pi)
            kj = energy_j / (oj * oj * root_j * math.pi)
            through = seen[i, v, 1] * seen[j, v, 1] / (_AREA * _AREA * oi * oj * root_i * root_j)
            most = math.sqrt(ki * kj)
            kij = min(max((ki + kj - min(through, 1.0) * difference) / 2, -most), most)
            s = 1 - oi * oj * both / apart
            kim, kjm = a * ki + b * kij, a * kij + b * kj
            km = a * kim + b * kjm
            fixed += s * s * (energy_i + energy_j + 2 * oi * oj * kij * both)
            linear += s * (oi * kim * _overlap(gi, gm, det_i, det_m) + oj * kjm * _overlap(gj, gm, det_j, det_m))
            square += km * root_m * math.pi
        best = linear / square if square > 0 else conserving
        best = min(max(best, 0.0), MOST_OPAQUE)
        errors[p] = max(fixed - 2 * best * linear + best * best * square, 0.0)
        merged_opacities[p] = best
