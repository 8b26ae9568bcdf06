"""Pictures and masks from files that strangers made: size checked by the header, every refusal a DataError."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gencompress.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOST_PIXELS = 50_000_000  # per picture; a bomb is refused by its header
_DECODERS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF")  # those of SUFFIXES; others (EPS) start programs
_TO_RGB = ("RGB", "L", "1", "P", "CMYK", "YCbCr")
_LABELS = ("L", "P", "1", "I;16", "I;16B", "I")

Pixels = NDArray[np.uint8]


def list_pictures(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Names of the pictures in and below `folder`, relative to it, sorted; no file is opened.

    Hidden files and folders are left out, and links to folders are not followed.

    Raises:
        DataError: the folder is not there or cannot be read.
    """
    try:
        return sorted(_names(str(folder), "", tuple(suffixes)))
    except OSError as error:
        raise DataError(f"{folder}: not a readable folder ({error.strerror})") from error


def _names(folder: str, below: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _names(entry.path, f"{below}{entry.name}/", suffixes)
            elif entry.name.lower().endswith(suffixes) and entry.is_file():
                yield below + entry.name


def listing_fingerprint(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 of names, sizes and times of change (whole seconds) of files below `folder`.

    It costs one stat per file, so a million files take seconds, where reading them would take hours. Times are in it
    because an edit may keep the size (bitmaps), and whole seconds because archives keep no more.
    """
    digest = hashlib.sha256()
    for name in names:
        try:
            stat = os.stat(folder / name)
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read ({error.strerror})") from error
        digest.update(f"{name}\0{stat.st_size}\0{int(stat.st_mtime)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def decode(file: Path, *, upright: bool = False) -> Image.Image:
    """The whole picture in the mode that it is stored in.

    Args:
        file: of one of the formats of `SUFFIXES`.
        upright: turn and mirror it as its EXIF orientation says.

    Raises:
        DataError: missing, corrupt or cut off, or of more than `MOST_PIXELS` pixels.
    """
    try:
        with Image.open(file, formats=_DECODERS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DataError(f"{file}: {picture.width}x{picture.height} is more than {MOST_PIXELS:,} pixels")
            picture.load()
            return ImageOps.exif_transpose(picture) if upright else picture.copy()
    except DataError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise DataError(f"{file}: not a readable picture ({error})") from error


def read_rgb(file: Path) -> Pixels:
    """Pixels [H, W, 3] of a picture, upright. Grey, palette and CMYK become RGB; alpha that hides nothing is dropped.

    Raises:
        DataError: as `decode`; two channels (grey with alpha), transparent pixels, since somebody must choose what is
            behind them, or more than 8 bits per channel.
    """
    picture = decode(file, upright=True)
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode == "RGBA":
        lowest, _ = picture.getchannel("A").getextrema()
        if lowest != 255:
            raise DataError(f"{file}: has transparent pixels; put it on a background first")
    elif picture.mode not in _TO_RGB:
        channels = len(picture.getbands())
        raise DataError(
            f"{file}: {channels} channel(s) of mode {picture.mode}; a picture must be RGB or grey, 8 bits each"
        )
    return np.array(picture.convert("RGB"))


def read_labels(file: Path) -> NDArray[np.int32]:
    """A label map [H, W]: the values of a grey picture of 8 or 16 bits, or the indices of a palette picture.

    Raises:
        DataError: as `decode`, or it has colours or alpha.
    """
    picture = decode(file)
    if picture.mode not in _LABELS:
        raise DataError(f"{file}: mode {picture.mode}; a mask is grey of 8 or 16 bits, or has a palette")
    return np.array(picture).astype(np.int32)
