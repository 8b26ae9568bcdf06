"""Between what files store (colours, opacities, scales, xyzw) and what is trained (the convention of `SplatScene`).

Every reader and writer converts here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.formats.scene import SH_C0, Array

BYTE = 1 / 255  # step of a value in [0, 1] stored as one byte
LOG_SCALE_LIMIT = 80.0  # beyond it exp() leaves float32


def opacity(logits: NDArray[Any]) -> Array:
    """Opacity in [0, 1] of logits of any shape; NaN stays NaN."""
    clipped = np.clip(logits, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT, dtype=np.float32)
    return 1 / (1 + np.exp(-clipped))


def logit(opacities: NDArray[Any], step: float = 2.0**-22) -> Array:
    """Logits of opacities in [0, 1] that were stored to within `step`.

    0 and 1 stand for everything that rounds to them, so they become finite: a quarter of a step inside, which rounds
    back to the same stored value and leaves a refinement a gradient to work with.
    """
    inside = np.clip(opacities, step / 4, 1 - step / 4, dtype=np.float32)
    return np.log(inside / (1 - inside))


def colour(sh0: NDArray[Any]) -> Array:
    """Base colour, 0 to 1 for what a display shows, of the constant coefficient."""
    return np.float32(SH_C0) * sh0 + np.float32(0.5)


def sh0_of_colour(colours: NDArray[Any]) -> Array:
    """The constant coefficient of a base colour."""
    return (np.asarray(colours, np.float32) - np.float32(0.5)) / np.float32(SH_C0)


def scale(log_scales: NDArray[Any]) -> Array:
    """Standard deviations of their logarithms, finite wherever the logarithm is a number."""
    return np.exp(np.clip(log_scales, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT, dtype=np.float32))


def log_scale(scales: NDArray[Any]) -> Array:
    """Logarithms of standard deviations; 0, a flat splat, becomes the smallest that `scale` gives; below 0, NaN."""
    scales = np.asarray(scales, np.float32)
    floor = np.float32(np.exp(-LOG_SCALE_LIMIT))
    with np.errstate(invalid="ignore"):
        return np.log(np.where(scales == 0, floor, scales))


def wxyz(xyzw: NDArray[Any]) -> Array:
    """Quaternions with the real part first, from real part last [N, 4]."""
    return np.roll(np.asarray(xyzw, np.float32), 1, axis=-1)


def xyzw(wxyz: NDArray[Any]) -> Array:
    """Quaternions with the real part last, from real part first [N, 4]."""
    return np.roll(np.asarray(wxyz, np.float32), -1, axis=-1)


def unit(quats: NDArray[Any]) -> Array:
    """Quaternions of length 1 [N, 4]; those of length 0 become no rotation (real part first)."""
    length = np.linalg.norm(quats, axis=-1, keepdims=True)
    identity = np.array([1, 0, 0, 0], np.float32)
    return np.where(length > 0, np.divide(quats, length, where=length > 0, out=np.zeros_like(quats)), identity)
