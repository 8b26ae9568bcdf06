"""Thumbnails: the pictures of a run side by side in one file, before and after, decoded and encoded anew."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gencompress.board.rows import Row
from gencompress.errors import DataError
from gencompress.report.pictures import decode

_SIDE = 256  # pixels of the longer side
_LOSSLESS = 64  # pictures up to this side stay as they are, pixel for pixel


@dataclass(frozen=True)
class Strip:
    """Pictures of one run as the page shows them.

    Args:
        before: name of the file with the pictures of what was compressed, side by side.
        after: the same with those of the result.
        count: pictures in each.
        width: of one picture, in pixels.
        height: of one picture, in pixels.
        captions: one per picture.
    """

    before: str
    after: str
    count: int
    width: int
    height: int
    captions: tuple[str, ...]


class Strips:
    """Writes strips into a folder. Equal strips, such as those of one model in many runs, are one file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[bytes, tuple[str, tuple[int, int]]] = {}

    def add(self, row: Row) -> Strip | None:
        """The strip of a row, or None if it has no pictures.

        Raises:
            DataError: a picture cannot be read, or the pictures differ in size.
        """
        if not row.pictures:
            return None
        before, size = self._strip([path for path, _, _ in row.pictures])
        after, other = self._strip([path for _, path, _ in row.pictures])
        if size != other:
            raise DataError(f"{row.folder}: pictures before and after differ in size")
        return Strip(before, after, len(row.pictures), *size, tuple(caption for *_, caption in row.pictures))

    def _strip(self, paths: Sequence[Path]) -> tuple[str, tuple[int, int]]:
        """Name of the file that holds these pictures, and the size of one of them."""
        key = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).digest()
        if key not in self._made:
            shown = [_shrunk(decode(path)) for path in paths]
            if len({picture.shape for picture in shown}) > 1:
                raise DataError(f"{paths[0].parent}: the pictures differ in size")
            height, width = shown[0].shape[:2]
            suffix = "png" if max(height, width) <= _LOSSLESS else "webp"
            name = f"{key.hex()[:20]}.{suffix}"
            (self._folder / name).write_bytes(_encoded(np.concatenate(shown, axis=1), suffix))
            self._made[key] = name, (width, height)
        return self._made[key]


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] with neither side longer than a thumbnail's."""
    if max(pixels.shape[:2]) <= _SIDE:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _encoded(pixels: NDArray[np.uint8], suffix: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 88, "method": 1} if suffix == "webp" else {"compress_level": 3}
    Image.fromarray(pixels).save(buffer, suffix.upper(), **options)
    return buffer.getvalue()
