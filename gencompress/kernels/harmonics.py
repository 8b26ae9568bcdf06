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
