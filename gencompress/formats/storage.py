"""Tensors of checkpoints where they lie in their file: which bytes they are, and how they are laid out.

Nothing is read before `StoredTensor.load`, and then no more than the file has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

STORAGE_TYPES: Mapping[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_MAX_DIMENSIONS = 8


@dataclass(eq=False, slots=True)
class Storage:
    """A run of numbers.

    Args:
        dtype: of the numbers.
        numel: how many.
        data: the bytes of the file, or of a part of it; None until it is known where they lie.
        start: first byte of the run in `data`.
    """

    dtype: torch.dtype
    numel: int
    data: memoryview | None = None
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the run takes."""
        return self.numel * self.dtype.itemsize


class StoredTensor(NamedTuple):
    """A tensor in a `Storage`; all fields are as the file has them, and checked by `load`."""

    storage: Any
    offset: Any
    size: Any
    stride: Any

    def load(self) -> Tensor:
        """The tensor, a copy. ValueError if it is not wholly in its storage, or the storage not in the file."""
        storage, offset, size, stride = self
        if not isinstance(storage, Storage) or not _naturals(size) or not _naturals(stride) or len(size) != len(stride):
            raise ValueError("a tensor has no storage, or no shape")
        count = math.prod(size)
        span = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
        if not _naturals((offset,)) or span != count or offset + count > storage.numel:
            raise ValueError(f"a tensor of {list(size)} does not lie in its storage of {storage.numel:,} numbers")
        itemsize = storage.dtype.itemsize
        start = storage.start + offset * itemsize
        if storage.data is None or start + count * itemsize > len(storage.data):
            raise ValueError("the file ends within a tensor")
        raw = np.frombuffer(storage.data[start : start + count * itemsize], np.uint8).copy()
        flat = torch.from_numpy(raw).view(storage.dtype)
        return flat.as_strided(size, stride).contiguous()


def _naturals(values: Any) -> bool:
    """Whether `values` are a few numbers that a tensor can have as sizes."""
    return (
        isinstance(values, tuple)
        and len(values) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 1 << 40 for n in values)
    )
