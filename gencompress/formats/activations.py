"""Between what files store (colours, opacities, scales) and what is trained (the convention of `SplatScene`).

Every reader and writer converts here and nowhere else; rotations are in `quaternions`, axes in `frames`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.formats.scene import SH_C0, Array

BYTE = 1 / 255  # step of a value in [0, 1] stored as one byte
_FLOAT_STEP = 2.0**-22
LOGIT_LIMIT = float(np.log(4 / _FLOAT_STEP - 1))  # 16.6: beyond it an opacity is 0 or 1 in float32
LOG_SCALE_LIMIT = 80.0  # beyond it exp() leaves float32


def opacity(logits: NDArray[Any]) -> Array:
    """Opacity in [0, 1] of logits of any shape; NaN stays NaN."""
    bounded = np.clip(logits, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT, dtype=np.float32)
    return 1 / (1 + np.exp(-bounded))


def logit(opacities: NDArray[Any], step: float = _FLOAT_STEP) -> Array:
    """Logits of opacities in [0, 1] that were stored to within `step`.

    0 and 1 stand for everything that rounds to them, so they become finite: a quarter of a step inside, which rounds
    back to the same stored value and leaves a refinement a gradient to work with.
    """
    inside = np.clip(opacities, step / 4, 1 - step / 4, dtype=np.float64)
    return np.log(inside / (1 - inside)).astype(np.float32)


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
    floor = np.float32(np.exp(-LOG_SCALE_LIMIT))
    return np.log(np.where(scales == 0, floor, np.asarray(scales, np.float32)))


def finite_logits(logits: Array) -> Array:
    """Logits in which infinity, by which converters write the opacities 0 and 1, is the nearest finite value."""
    return np.nan_to_num(logits, copy=True, nan=np.nan, posinf=LOGIT_LIMIT, neginf=-LOGIT_LIMIT)


def finite_log_scales(log_scales: Array) -> Array:
    """Log-scales in which minus infinity, a flat splat, is the smallest finite value."""
    return np.where(log_scales == -np.inf, np.float32(-LOG_SCALE_LIMIT), log_scales)


def to_byte(values: Array) -> NDArray[np.uint8]:
    """Values in [0, 1], or clipped to it, as the nearest of 256 levels."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
