"""Pictures without labels, streamed as the batches that calibration and recovery see."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gencompress.errors import DataError, nearest
from gencompress.formats.pictures import SUFFIXES, Pixels, list_pictures, listing_fingerprint, read_rgb

SAMPLE = "sample:emoji_scenes"
_SAMPLE_COUNT = 4000
_LONGEST = 64  # sides of a picture; beyond this ratio an encoder sees less than a line


class ImageSource(Protocol):
    """Pictures by number, decoded when they are asked for.

    ``fingerprint`` tells sets of pictures apart; `read` gives uint8 [H, W, 3], of any size.
    """

    @property
    def name(self) -> str:
        """Shown to people."""

    @property
    def fingerprint(self) -> str:
        """Another one for other pictures."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Pixels:
        """The `index`-th picture, uint8 [H, W, 3]. DataError names the file if it cannot be read."""


def open_images(source: str | Path) -> ImageSource:
    """Pictures of any resolution without labels.

    Args:
        source: a folder, searched below, whose pictures come in the order of their names; only names, sizes and times
            are read at opening. Or ``sample:emoji_scenes``, the composites that the bundled sample was trained on.

    Raises:
        DataError: no such folder or sample, or no pictures in it.
    """
    if str(source).startswith("sample:"):
        return _Sample(str(source))
    return _Folder(Path(source).expanduser())


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._names = list_pictures(folder)
        if not self._names:
            raise DataError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) in this folder")
        self._folder, self.name = folder, folder.name
        self.fingerprint = listing_fingerprint(folder, self._names)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> Pixels:
        return read_picture(self._folder / self._names[index])


def read_picture(file: Path) -> Pixels:
    """Pixels [H, W, 3], uint8, upright, of a picture that an encoder can be shown. DataError names the file."""
    pixels = read_rgb(file)
    height, width = pixels.shape[:2]
    if max(height, width) > _LONGEST * min(height, width):
        raise DataError(f"{file}: {width}x{height} is more than {_LONGEST} times as long as wide")
    return pixels


class _Sample:
    def __init__(self, source: str) -> None:
        self._composites, self.name = composites(source, "train", _SAMPLE_COUNT), source
        self.fingerprint: str = self._composites.fingerprint

    def __len__(self) -> int:
        return len(self._composites)

    def read(self, index: int) -> Pixels:
        pixels: Pixels = self._composites.read(index)
        return pixels


def composites(source: str, split: str, count: int) -> Any:
    """The bundled composites that `source` names; DataError if it names none."""
    if source != SAMPLE:
        raise DataError(f"{source!r}: no bundled pictures of this name: {nearest(source, [SAMPLE])}")
    from gencompress.scenes.composites import Composites

    return Composites(split, count)


class Batches:
    """Batches of pixel values for an encoder: every picture once per epoch, in an order drawn anew for every epoch.

    Args:
        images: the pictures.
        processor: of the model (`gencompress.domains.sam.processor.load_processor`).
        seed: of the order; the batches depend on nothing else.
    """

    def __init__(self, images: ImageSource, processor: Any, seed: int = 0) -> None:
        self.images, self._processor, self._seed = images, processor.image_processor, seed
        self._order = lru_cache(maxsize=2)(self._shuffled)  # a batch may lie across two epochs
        self._last: tuple[tuple[int, int], Tensor] | None = None

    @property
    def settings(self) -> str:
        """Fingerprint of how the processor makes pixel values."""
        settings = json.dumps(self._processor.to_dict(), sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()

    def ids(self, index: int, size: int) -> list[int]:
        """Which pictures are in the `index`-th batch of `size`."""
        places = (divmod(i, len(self.images)) for i in range(index * size, (index + 1) * size))
        return [int(self._order(epoch)[place]) for epoch, place in places]

    def __call__(self, index: int, size: int) -> Tensor:
        """Pixel values [size, 3, S, S], float32, normalised and padded by the processor; not to be written to.

        The last batch is kept: student and teacher ask for the same one. DataError names a file that cannot be read.
        """
        if self._last is None or self._last[0] != (index, size):
            pictures = [self.images.read(i) for i in self.ids(index, size)]
            made = self._processor(pictures, return_tensors="pt", input_data_format="channels_last")
            self._last = (index, size), made["pixel_values"].to(torch.float32)
        return self._last[1]

    def _shuffled(self, epoch: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self.images))
