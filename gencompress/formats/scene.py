"""A scene of Gaussian splats in memory, in the one convention that every reader and writer converts to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
CHUNK = 1 << 13  # splats worked on at a time: 2 MB with harmonics, which stays in the cache
SH_C0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi)): colour = 0.5 + SH_C0 * sh0


@dataclass(frozen=True, eq=False)
class SplatScene:
    """N splats as they are trained: before activation, so that a trained .ply passes through unchanged.

    Args:
        means: centres [N, 3].
        quats: rotations as wxyz [N, 4], not necessarily of unit length.
        log_scales: natural logarithm of the standard deviations along the splat's own axes [N, 3].
        logits: opacity before the logistic function [N].
        sh0: constant coefficient of the colour [N, 3]; colour is ``0.5 + SH_C0 * sh0 + ...``.
        sh_rest: higher spherical harmonics [N, K, 3], K = (degree + 1)^2 - 1 in {0, 3, 8, 15, 24}; may be a memory map.
        extra: further columns of the file, by name, each [N].
        antialiased: trained with the anti-aliased (Mip-Splatting) rasterizer.
    """

    means: Array
    quats: Array
    log_scales: Array
    logits: Array
    sh0: Array
    sh_rest: Array
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    antialiased: bool = False

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return {0: 0, 3: 1, 8: 2, 15: 3, 24: 4}[self.sh_rest.shape[1]]

    @property
    def scales(self) -> Array:
        """Standard deviations along the splat's own axes [N, 3]."""
        return np.exp(self.log_scales)

    @property
    def opacities(self) -> Array:
        """Opacities in (0, 1) [N]."""
        return (1 / (1 + np.exp(-self.logits.astype(np.float64)))).astype(np.float32)

    def take(self, index: NDArray[Any] | slice) -> SplatScene:
        """The splats at `index` (integers or a mask) as a new scene, further columns included."""
        names = ("means", "quats", "log_scales", "logits", "sh0", "sh_rest")
        parts: dict[str, Any] = {name: _rows(getattr(self, name), index) for name in names}
        return replace(self, **parts, extra={name: column[index] for name, column in self.extra.items()})

    def chunks(self, order: NDArray[Any] | None = None) -> Iterator[tuple[slice, SplatScene]]:
        """The scene in pieces of at most `CHUNK` splats, each with its place, in an `order` [N] if one is given."""
        for start in range(0, len(self), CHUNK):
            part = slice(start, min(start + CHUNK, len(self)))
            yield part, self.take(part if order is None else order[part])


def _rows(array: Array, index: NDArray[Any] | slice) -> Array:
    """Rows of an array as a contiguous one, in no more memory than they take, also out of a mapped file."""
    if isinstance(index, slice) or array.flags.c_contiguous:
        return np.ascontiguousarray(array[index])
    chosen = np.flatnonzero(index) if index.dtype == bool else index
    rows = np.empty((len(chosen), *array.shape[1:]), array.dtype)
    for start in range(0, len(chosen), CHUNK):
        part = slice(start, start + CHUNK)
        rows[part] = array[chosen[part]]
    return rows
