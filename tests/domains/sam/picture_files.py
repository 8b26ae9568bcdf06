"""Folders of small pictures and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """Coloured noise [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pictures(folder: Path, count: int = 5) -> Path:
    """PNG pictures ``0.png``, ``1.png`` and so on, each of another size."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(noise(i, 40 + i, 56 - i)).save(folder / f"{i}.png")
    return folder


def labels(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """A label map of two objects, 1 and 7."""
    out = np.zeros((height, width), dtype=np.uint8)
    out[2:10, 3:20], out[20:30, 30:50] = 1, 7
    return out
