"""Real spherical harmonics up to degree 4, in the order and with the signs of 3D Gaussian splatting."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencompress.kernels.compiled import inline

TERMS = 25  # (4 + 1)^2


@inline
def harmonics(x: float, y: float, z: float, degree: int, basis: NDArray[np.float64]) -> None:
    """Fill ``basis[: (degree + 1)^2]`` for the unit direction (x, y, z)."""
    basis[0] = 0.28209479177387814
    if degree < 1:
        return
    basis[1] = -0.4886025119029199 * y
    basis[2] = 0.4886025119029199 * z
    basis[3] = -0.4886025119029199 * x
    if degree < 2:
        return
    xx, yy, zz = x * x, y * y, z * z
    basis[4] = 1.0925484305920792 * x * y
    basis[5] = -1.0925484305920792 * y * z
    basis[6] = 0.31539156525252005 * (2 * zz - xx - yy)
    basis[7] = -1.0925484305920792 * x * z
    basis[8] = 0.5462742152960396 * (xx - yy)
    if degree < 3:
        return
    basis[9] = -0.5900435899266435 * y * (3 * xx - yy)
    basis[10] = 2.890611442640554 * x * y * z
    basis[11] = -0.4570457994644658 * y * (4 * zz - xx - yy)
    basis[12] = 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)
    basis[13] = -0.4570457994644658 * x * (4 * zz - xx - yy)
    basis[14] = 1.445305721320277 * z * (xx - yy)
    basis[15] = -0.5900435899266435 * x * (xx - 3 * yy)
    if degree < 4:
        return
    basis[16] = 2.5033429417967046 * x * y * (xx - yy)
    basis[17] = -1.7701307697799304 * y * z * (3 * xx - yy)
    basis[18] = 0.9461746957575601 * x * y * (7 * zz - 1)
    basis[19] = -0.6690465435572892 * y * z * (7 * zz - 3)
    basis[20] = 0.10578554691520431 * (zz * (35 * zz - 30) + 3)
    basis[21] = -0.6690465435572892 * x * z * (7 * zz - 3)
    basis[22] = 0.47308734787878004 * (xx - yy) * (7 * zz - 1)
    basis[23] = -1.7701307697799304 * x * z * (xx - 3 * yy)
    basis[24] = 0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))


@inline
def harmonics_gradient(
    x: float, y: float, z: float, degree: int, weights: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Gradient with respect to (x, y, z) of ``sum_k weights[k] * basis[k]``, the basis taken as polynomials."""
    if degree < 1:
        return 0.0, 0.0, 0.0
    gx, gy, gz = -0.4886025119029199 * weights[3], -0.4886025119029199 * weights[1], 0.4886025119029199 * weights[2]
    if degree < 2:
        return gx, gy, gz
    a, b, d = 1.0925484305920792 * weights[4], -1.0925484305920792 * weights[5], -1.0925484305920792 * weights[7]
    c, e = 0.31539156525252005 * weights[6], 0.5462742152960396 * weights[8]
    gx += a * y + d * z + 2 * x * (e - c)
    gy += a * x + b * z - 2 * y * (e + c)
    gz += b * y + d * x + 4 * z * c
    if degree < 3:
        return gx, gy, gz
    xx, yy, zz = x * x, y * y, z * z
    a, b, c = -0.5900435899266435 * weights[9], 2.890611442640554 * weights[10], -0.4570457994644658 * weights[11]
    d, e, f = 0.3731763325901154 * weights[12], -0.4570457994644658 * weights[13], 1.445305721320277 * weights[14]
    g = -0.5900435899266435 * weights[15]
    gx += 6 * a * x * y + b * y * z - 2 * c * x * y - 6 * d * x * z + e * (4 * zz - 3 * xx - yy) + 2 * f * x * z
    gx += 3 * g * (xx - yy)
    gy += 3 * a * (xx - yy) + b * x * z + c * (4 * zz - xx - 3 * yy) - 6 * d * y * z - 2 * e * x * y - 2 * f * y * z
    gy -= 6 * g * x * y
    gz += b * x * y + 8 * z * (c * y + e * x) + 3 * d * (2 * zz - xx - yy) + f * (xx - yy)
    if degree < 4:
        return gx, gy, gz
    a, b, c = 2.5033429417967046 * weights[16], -1.7701307697799304 * weights[17], 0.9461746957575601 * weights[18]
    d, e, f = -0.6690465435572892 * weights[19], 0.10578554691520431 * weights[20], -0.6690465435572892 * weights[21]
    g, h, i = 0.47308734787878004 * weights[22], -1.7701307697799304 * weights[23], 0.6258357354491761 * weights[24]
    gx += a * y * (3 * xx - yy) + 6 * b * x * y * z + c * y * (7 * zz - 1) + f * z * (7 * zz - 3)
    gx += 2 * g * x * (7 * zz - 1) + 3 * h * z * (xx - yy) + 4 * i * x * (xx - 3 * yy)
    gy += a * x * (xx - 3 * yy) + 3 * b * z * (xx - yy) + c * x * (7 * zz - 1) + d * z * (7 * zz - 3)
    gy -= 2 * g * y * (7 * zz - 1) + 6 * h * x * y * z + 4 * i * y * (3 * xx - yy)
    gz += b * y * (3 * xx - yy) + 14 * c * x * y * z + 3 * (d * y + f * x) * (7 * zz - 1)
    gz += 20 * e * z * (7 * zz - 3) + 14 * g * z * (xx - yy) + h * x * (xx - 3 * yy)
    return gx, gy, gz
