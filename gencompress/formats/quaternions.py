"""Rotations as quaternions, wxyz unless said otherwise, and their storage without the largest component."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.formats.scene import Array


def wxyz(xyzw: NDArray[Any]) -> Array:
    """Quaternions with the real part first [N, 4], from real part last."""
    return np.roll(np.asarray(xyzw, np.float32), 1, axis=-1)


def xyzw(wxyz: NDArray[Any]) -> Array:
    """Quaternions with the real part last [N, 4], from real part first."""
    return np.roll(np.asarray(wxyz, np.float32), -1, axis=-1)


def unit(quats: NDArray[Any]) -> Array:
    """Quaternions of length 1 [N, 4]; those of length 0 become no rotation."""
    length = np.linalg.norm(quats, axis=-1, keepdims=True)
    known = length > 0
    units = np.divide(quats, length, out=np.zeros_like(quats, np.float32), where=known)
    units[:, 0] += ~known[:, 0]
    return units


def smallest_three(quats: Array) -> tuple[NDArray[np.intp], Array]:
    """The index of the largest component [N] and the other three in their order [N, 3], for unit quaternions.

    q and -q are one rotation, so the sign is chosen that makes the largest positive; the others are then within
    1/sqrt(2).
    """
    rows = np.arange(len(quats))[:, None]
    largest = np.abs(quats).argmax(1)
    others = np.arange(3) + (np.arange(3) >= largest[:, None])
    sign = np.where(quats[rows[:, 0], largest] < 0, np.float32(-1), np.float32(1))
    return largest, quats[rows, others] * sign[:, None]


def from_smallest_three(largest: NDArray[Any], others: Array) -> Array:
    """Quaternions [N, 4] of the index of the largest component [N] and the other three [N, 3]."""
    quats = np.empty((len(others), 4), np.float32)
    rows = np.arange(len(others))
    for index in range(3):
        quats[rows, index + (largest <= index)] = others[:, index]
    quats[rows, largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    return quats


def of_matrix(rotation: NDArray[Any]) -> NDArray[np.float64]:
    """The unit quaternion [4] of a rotation matrix [3, 3] (Bar-Itzhack 2000: an eigenvector, safe at every angle)."""
    m = np.asarray(rotation, np.float64)
    symmetric = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    return np.linalg.eigh(symmetric)[1][:, -1]


def matrices(quats: NDArray[Any]) -> NDArray[np.float64]:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] of any length but 0."""
    w, x, y, z = (np.asarray(quats, np.float64) / np.linalg.norm(quats, axis=-1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def product(left: NDArray[Any], right: NDArray[Any]) -> Array:
    """Hamilton's product [N, 4] of one quaternion [4] with many [N, 4]: first `right`, then `left` rotates."""
    w, x, y, z = (np.float32(part) for part in left)
    matrix = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], np.float32)
    return np.asarray(right, np.float32) @ matrix.T
