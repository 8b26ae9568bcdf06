"""Bytes as the pixels of lossless WebP images."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gencompress.errors import FormatError

Bytes = NDArray[np.uint8]
_RIFF = struct.Struct("<4sI4s4sI")
# Method and quality of the encoder. Indices are nearly noise: what a longer search finds is below 1 %, and a longer
# search is as often worse. The defaults (4, 70) take ten times as long as the first of these.
_EFFORTS = ((1, 20), (3, 70))


def encode(pixels: Bytes) -> bytes:
    """A lossless WebP of pixels [H, W, 4], their colour kept where alpha is 0."""
    image = Image.fromarray(pixels)
    packed = []
    for method, quality in _EFFORTS:
        file = io.BytesIO()
        image.save(file, "WEBP", lossless=True, exact=True, method=method, quality=quality)
        packed.append(file.getvalue())
    return min(packed, key=len)


def size_of(path: Path, name: str, data: bytes) -> tuple[int, int]:
    """Width and height that the header of a still WebP states. FormatError if it is none."""
    if len(data) < 30:
        raise FormatError(f"{path}: {name} is truncated: {len(data)} bytes are no WebP image")
    riff, _, webp, kind, _ = _RIFF.unpack_from(data)
    if riff != b"RIFF" or webp != b"WEBP":
        raise FormatError(f"{path}: {name} is no WebP image: it begins with {data[:12]!r}")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and not data[20] & 2:  # that bit: animated
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise FormatError(f"{path}: {name} is a WebP of an unknown or animated kind, {kind!r}; a still image is read")


def decode(path: Path, name: str, data: bytes) -> Bytes:
    """The pixels [H, W, 4], of alpha 255 where the image has none. FormatError if they are not as its header says."""
    width, height = size_of(path, name, data)
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            pixels = np.asarray(image.convert("RGBA"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, EOFError, SyntaxError) as error:
        raise FormatError(f"{path}: {name} is a damaged WebP image: {error}") from error
    if pixels.shape != (height, width, 4):
        raise FormatError(f"{path}: {name} says {width} x {height} pixels, but has {pixels.shape[1::-1]}")
    return pixels
