"""Real spherical harmonics in the order and with the signs of 3D Gaussian Splatting, and how a rotation mixes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.formats.scene import SH_C0


def basis(directions: NDArray[Any], degree: int) -> NDArray[np.float64]:
    """Values [n, (degree + 1)^2] at unit directions [n, 3], degree 0 to 4 (Sloan, "Stupid Spherical Harmonics", A2)."""
    x, y, z = np.asarray(directions, np.float64).T
    xx, yy, zz = x * x, y * y, z * z
    bands = [
        [np.full_like(x, SH_C0)],
        [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x],
        [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ],
        [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ],
        [
            2.5033429417967046 * x * y * (xx - yy),
            -1.7701307697799304 * y * z * (3 * xx - yy),
            0.9461746957575601 * x * y * (7 * zz - 1),
            -0.6690465435572892 * y * z * (7 * zz - 3),
            0.10578554691520431 * (zz * (35 * zz - 30) + 3),
            -0.6690465435572892 * x * z * (7 * zz - 3),
            0.47308734787878004 * (xx - yy) * (7 * zz - 1),
            -1.7701307697799304 * x * z * (xx - 3 * yy),
            0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
        ],
    ]
    return np.stack([function for band in bands[: degree + 1] for function in band], axis=1)


def mixing(turn: NDArray[Any], degree: int) -> NDArray[np.float64]:
    """The matrix [K, K], K = (degree + 1)^2 - 1, by which higher coefficients follow an orthogonal `turn` [3, 3].

    Coefficients c become ``mixing @ c``: the colour seen from ``turn @ d`` is then what was seen from d. Every band
    mixes within itself, so the matrix follows from the values at a few directions.
    """
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = basis(directions, degree)[:, 1:]
    after = basis(directions @ np.asarray(turn, np.float64).T, degree)[:, 1:]
    matrix, *_ = np.linalg.lstsq(after, before, rcond=None)
    return np.round(matrix, 12)  # the zeros and ones of a reflection are exact
