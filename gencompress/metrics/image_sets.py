"""Sets of images as a stream: a folder, an .npz, or a live pipeline. Nothing is held but one batch.

All images of a set have one size and one mode, because a resize that nobody sees is part of the number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gencompress.errors import DataError
from gencompress.formats.pictures import SUFFIXES, decode

_MODES = ("RGB", "L")


@dataclass
class ImageSet:
    """A stream of images.

    Args:
        name: shown beside the number.
        batches: gives uint8 or floating [0, 1] batches [B, 3, H, W] or [B, 1, H, W] anew at every call.
        content: gives a hash of what is inside, the key of cached statistics; None where it cannot be known.
        skipped: names of unreadable images that were left out, filled while reading with ``skip_bad``.
    """

    name: str
    batches: Callable[[], Iterator[Tensor]]
    content: Callable[[], str] | None = None
    skipped: list[str] = field(default_factory=list)


def image_set(source: Path, *, skip_bad: bool = False, batch_size: int = 32) -> ImageSet:
    """A folder of pictures (searched below it, in the order of the names) or an .npz of pictures.

    Args:
        source: the folder; or an .npz whose first array is uint8 [N, H, W, 3].
        skip_bad: leave out files that cannot be decoded, and count them, instead of stopping at the first.
        batch_size: images at a time.

    Raises:
        DataError: nothing there, no pictures inside, and while reading: a picture that cannot be decoded, or another
            size or mode than the first; always with the file's name.
    """
    if source.is_dir():
        return _folder(source, skip_bad, batch_size)
    if source.suffix == ".npz" and source.is_file():
        return _archive(source, batch_size)
    raise DataError(f"{source}: no folder of pictures and no .npz file is here")


def generated_images(name: str, batches: Callable[[], Iterable[Tensor]]) -> ImageSet:
    """Images of a live pipeline: `batches` makes them anew at every call, the same ones for the same seeds."""
    return ImageSet(name, lambda: iter(batches()))


def _folder(folder: Path, skip_bad: bool, batch_size: int) -> ImageSet:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) in this folder")
    images = ImageSet(folder.name, lambda: _decoded(files, images.skipped if skip_bad else None, batch_size))
    images.content = lambda: _hash_files(files)
    return images


def _decoded(files: list[Path], skipped: list[str] | None, batch_size: int) -> Iterator[Tensor]:
    """Batches of decoded files; unreadable ones go into `skipped`, or stop the reading where that is None."""
    if skipped is not None:
        skipped.clear()
    first: tuple[Path, str, tuple[int, int]] | None = None
    batch: list[Tensor] = []
    for file in files:
        try:
            picture = _decode(file)
        except DataError as error:
            if skipped is None:
                raise DataError(f"{error}; --skip-bad leaves such files out") from error
            skipped.append(file.name)
            continue
        first = first or (file, picture.mode, picture.size)
        if (picture.mode, picture.size) != first[1:]:
            raise DataError(
                f"{file}: {picture.mode} {_size(picture.size)}, but {first[0].name} is {first[1]} {_size(first[2])}; "
                f"all images of a set need one size and one mode"
            )
        pixels = np.array(picture)
        batch.append(torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1))
        if len(batch) == batch_size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def _decode(file: Path) -> Image.Image:
    """The whole picture, RGB or grey; alpha is refused, since somebody must choose what is behind it."""
    picture = decode(file)
    if picture.mode not in _MODES:
        raise DataError(f"{file}: mode {picture.mode}; pictures must be RGB or grey (L) without alpha or palette")
    return picture


def _archive(file: Path, batch_size: int) -> ImageSet:
    try:
        with np.load(file, allow_pickle=False) as archive:
            pixels = archive[archive.files[0]]
    except (OSError, ValueError, IndexError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{file}: not a readable .npz of plain arrays ({error})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not len(pixels):
        raise DataError(f"{file}: expected uint8 [N, H, W, 3] or [N, H, W, 1], got {pixels.dtype} {pixels.shape}")

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(pixels), batch_size):
            yield torch.from_numpy(pixels[start : start + batch_size]).permute(0, 3, 1, 2)

    return ImageSet(file.stem, batches, lambda: hashlib.sha256(pixels.tobytes()).hexdigest())


def _hash_files(files: list[Path]) -> str:
    """Hash of the bytes of all files in order; names do not count, a moved folder keeps its statistics."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
