"""`encode`: features of points from a multi-resolution hash table, on the CPU or on CUDA as the tensors are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gencompress.errors import ConfigError, NumericsError

FEATURES = 2  # per level, as in Instant-NGP: an entry is one load of 64 bits
MAX_LEVELS = 32
MAX_LOG2 = 24
MAX_RESOLUTION = 1 << 16


@dataclass(frozen=True)
class HashLayout:
    """How the levels of a hash grid lie in its table.

    Args:
        resolutions: cells per axis of every level; a level has a grid point on each corner of them.
        log2_entries: a level of more than 2^log2_entries grid points is hashed into as many entries.

    Raises:
        ConfigError: there is no level or too many, or a number is out of range.
    """

    resolutions: tuple[int, ...]
    log2_entries: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.resolutions) <= MAX_LEVELS:
            raise ConfigError(f"resolutions: {len(self.resolutions)} levels; 1 to {MAX_LEVELS} are possible")
        if not all(1 <= r <= MAX_RESOLUTION for r in self.resolutions):
            raise ConfigError(f"resolutions={self.resolutions} must be 1 to {MAX_RESOLUTION:,} cells per axis")
        if not 1 <= self.log2_entries <= MAX_LOG2:
            raise ConfigError(f"log2_entries={self.log2_entries} must be 1 to {MAX_LOG2}")

    @classmethod
    def geometric(cls, levels: int, coarsest: int, finest: int, log2_entries: int) -> HashLayout:
        """Resolutions that grow by one factor from level to level (arXiv 2201.05989, equations 2 and 3)."""
        if levels < 2 or not 1 <= coarsest <= finest:
            raise ConfigError(f"levels={levels}, coarsest={coarsest}, finest={finest}: two levels or more, finer last")
        growth = math.log(finest / coarsest) / (levels - 1)
        # the finest level is meant to have `finest` cells, which rounding of the exponential must not take away
        cells = (math.floor(coarsest * math.exp(growth * level) + 1e-6) for level in range(levels))
        return cls(tuple(cells), log2_entries)

    @property
    def width(self) -> int:
        """Features of a point."""
        return FEATURES * len(self.resolutions)

    @property
    def sides(self) -> tuple[int, ...]:
        """Grid points per axis of every level."""
        return tuple(r + 1 for r in self.resolutions)

    @property
    def masks(self) -> tuple[int, ...]:
        """What `gencompress.kernels.hash_index.entry` wants of every level: 0 where it is dense."""
        most = 1 << self.log2_entries
        return tuple(0 if side**3 <= most else most - 1 for side in self.sides)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First entry of every level in the table, and behind them the number of all entries."""
        ends = [0]
        for side, mask in zip(self.sides, self.masks, strict=True):
            ends.append(ends[-1] + (mask + 1 if mask else side**3))
        return tuple(ends)

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]


def encode(points: Tensor, table: Tensor, layout: HashLayout) -> Tensor:
    """Trilinear interpolation of the features of the surrounding grid points, level by level [N, 2 * levels], fp32.

    Differentiable in points and table. On the CPU compiled kernels do it, and the result does not depend on the number
    of threads; on CUDA the torch formulation of `gencompress.kernels.hash_grid_torch` does, whose gradients are sums in
    no fixed order.

    Args:
        points: in [0, 1] [N, 3]; what lies outside is moved to the nearest face, and has no gradient across it.
        table: features of all levels, one after the other [layout.entries, 2].
        layout: of the table.

    Raises:
        ConfigError: a tensor has a wrong shape or device.
        NumericsError: a point is NaN or infinite.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ConfigError(f"points has shape {tuple(points.shape)}, expected (N, 3)")
    if tuple(table.shape) != (layout.entries, FEATURES):
        raise ConfigError(f"table has shape {tuple(table.shape)}, expected {(layout.entries, FEATURES)} of its layout")
    if points.device != table.device:
        raise ConfigError(f"points are on {points.device}, the table is on {table.device}")
    if not bool(torch.isfinite(points.detach()).all()):
        bad = int((~torch.isfinite(points.detach())).any(1).sum())
        raise NumericsError(f"points: {bad} of {len(points)} are NaN or infinite")
    if points.device.type == "cpu":
        from gencompress.kernels import hash_grid_cpu

        return hash_grid_cpu.encode(points.float().contiguous(), table.float().contiguous(), layout)
    from gencompress.kernels import hash_grid_torch

    return hash_grid_torch.encode(points.float(), table.float(), layout)
