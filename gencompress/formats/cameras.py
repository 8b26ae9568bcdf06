"""Pinhole cameras in memory, in the one convention that every reader converts to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Cameras:
    """C pinhole cameras of one image size.

    Args:
        viewmats: world to camera [C, 4, 4]; OpenCV axes, x right, y down, z forward.
        Ks: intrinsics in pixels [C, 3, 3].
        width: image width in pixels.
        height: image height in pixels.
    """

    viewmats: NDArray[np.float32]
    Ks: NDArray[np.float32]
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.viewmats)

    @property
    def positions(self) -> NDArray[np.float32]:
        """Centres in the world [C, 3]."""
        rotations, translations = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -np.einsum("cij,ci->cj", rotations, translations)

    def take(self, index: NDArray[np.int64] | slice) -> Cameras:
        """Some of the cameras."""
        return Cameras(self.viewmats[index], self.Ks[index], self.width, self.height)
