"""The hash grid in plain torch with autograd, in the precision of its tensors: for CUDA and as a reference."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from gencompress.kernels.hash_grid import HashLayout
from gencompress.kernels.hash_index import entry


def encode(points: Tensor, table: Tensor, layout: HashLayout) -> Tensor:
    """As `gencompress.kernels.hash_grid.encode`."""
    inside = points.clamp(0, 1)
    starts = layout.offsets[:-1]
    levels = zip(layout.resolutions, layout.masks, starts, strict=True)
    return torch.cat([_level(inside, table, *level) for level in levels], 1)


def _level(points: Tensor, table: Tensor, resolution: int, mask: int, start: int) -> Tensor:
    """Features of one level [N, 2]; the last face belongs to the last cell."""
    scaled = points * resolution
    cell = scaled.detach().long().clamp(max=resolution - 1)
    part = scaled - cell
    found = points.new_zeros(len(points), table.shape[1])
    for corner in itertools.product((0, 1), repeat=3):
        at = cell + cell.new_tensor(corner)
        x, y, z = at.unbind(1)
        weight = torch.where(at > cell, part, 1 - part).prod(1, keepdim=True)
        found = found + weight * table[start + entry(x, y, z, resolution + 1, mask)]
    return found
