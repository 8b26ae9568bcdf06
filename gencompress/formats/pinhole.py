"""One camera as a file gives it, checked and brought to the convention of `Cameras`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats.scene import Array

MAX_CAMERAS = 100_000
MAX_SIDE = 1 << 16  # pixels
_ORTHONORMAL = 1e-2  # what rounding in text files leaves


@dataclass(frozen=True, eq=False)
class Pinhole:
    """World to camera [4, 4] in OpenCV's axes, intrinsics [3, 3] in pixels, size and file name of the image."""

    viewmat: Array
    K: Array
    width: int
    height: int
    name: str = ""


def pinhole(
    where: str,
    rotation: NDArray[Any],
    translation: NDArray[Any],
    intrinsics: tuple[Any, ...],
    size: tuple[Any, Any],
    name: str = "",
) -> Pinhole:
    """A camera of its rotation [3, 3] and translation [3] from the world, (fx, fy, cx, cy) and (width, height).

    Without cx and cy the principal point is the middle of the image. FormatError, which begins with `where`, if a
    number is not finite, the rotation is none, or the size is out of range.
    """
    width, height = (_number(where, value) for value in size)
    fx, fy, *given = (_number(where, value) for value in intrinsics)
    cx, cy = given or (width / 2, height / 2)
    viewmat = np.eye(4, dtype=np.float32)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, translation
    if not np.isfinite(viewmat).all() or not np.allclose(rotation @ rotation.T, np.eye(3), atol=_ORTHONORMAL):
        raise FormatError(f"{where}: the pose is not a finite rotation and translation")
    if np.linalg.det(rotation) < 0:
        raise FormatError(f"{where}: the pose is a mirror image, no rotation")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise FormatError(f"{where}: an image of {width:g} x {height:g} pixels; 1 to {MAX_SIDE:,} are read")
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32)
    if not (fx > 0 and fy > 0 and np.isfinite(K).all()):
        raise FormatError(f"{where}: focal lengths {fx:g} and {fy:g}, principal point {cx:g}, {cy:g} in pixels")
    return Pinhole(viewmat, K, int(width), int(height), name)


def matrix(where: str, value: object, rows: int, columns: int) -> NDArray[np.float64]:
    """Nested lists of numbers as [rows, columns]. FormatError if they are anything else."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != (rows, columns):
        raise FormatError(f"{where} is not {rows} x {columns} numbers")
    return array


def _number(where: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float | np.number) else np.nan
    except OverflowError:
        number = np.nan
    if not np.isfinite(number):
        raise FormatError(f"{where}: {str(value)[:40]!r} is not a finite number")
    return number
