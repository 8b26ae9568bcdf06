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
    """Writes strips into a folder. Pictures before are the same in many runs, and are decoded and written once."""

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
        before, size = self._before([path for path, _, _ in row.pictures])
        after, other = self._strip([path for _, path, _ in row.pictures])
        if size != other:
            raise DataError(f"{row.folder}: pictures before and after differ in size")
        return Strip(before, after, len(row.pictures), *size, tuple(caption for *_, caption in row.pictures))

    def _before(self, paths: Sequence[Path]) -> tuple[str, tuple[int, int]]:
        """`_strip`, made once for the same files."""
        key = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
        if key not in self._made:
            self._made[key] = self._strip(paths)
        return self._made[key]

    def _strip(self, paths: Sequence[Path]) -> tuple[str, tuple[int, int]]:
        """Name of the file that holds these pictures, and the size of one of them."""
        shown = [_shrunk(decode(path)) for path in paths]
        if len({picture.shape for picture in shown}) > 1:
            raise DataError(f"{paths[0].parent}: the pictures differ in size")
        height, width = shown[0].shape[:2]
        encoded = _encoded(np.concatenate(shown, axis=1), lossless=max(height, width) <= _LOSSLESS)
        name = f"{hashlib.sha256(encoded).hexdigest()[:20]}.webp"
        (self._folder / name).write_bytes(encoded)
        return name, (width, height)


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] with neither side longer than a thumbnail's."""
    if max(pixels.shape[:2]) <= _SIDE:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _encoded(pixels: NDArray[np.uint8], lossless: bool) -> bytes:
    """WebP, at the fastest effort: a board has thousands."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=0 if lossless else 88, lossless=lossless, method=0)
    return buffer.getvalue()
