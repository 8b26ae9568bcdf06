"""Pictures with the true masks of their objects, to measure a segmenter by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gencompress.domains.sam.images import composites, read_picture
from gencompress.errors import DataError
from gencompress.formats.pictures import Pixels, list_pictures, listing_fingerprint, read_labels
from gencompress.metrics.segmentation import Mask

_SAMPLE_COUNT = 64
_MOST_BYTES = 2 << 30  # of all masks of one picture, a byte per pixel each


class LabelledImages(Protocol):
    """Pictures with masks by number, decoded when they are asked for; ``fingerprint`` tells sets apart."""

    @property
    def name(self) -> str:
        """Shown to people."""

    @property
    def fingerprint(self) -> str:
        """Another one for other pictures or masks."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Pixels, list[Mask]]:
        """The `index`-th picture, uint8 [H, W, 3], and the mask [H, W] of every object. DataError names the file."""


def open_labelled(source: str | Path) -> LabelledImages:
    """Pictures with masks.

    Args:
        source: a folder with ``images/NAME.*`` and for each of them either ``masks/NAME.png``, a label map (0 is
            background, every other value an object), or ``masks/NAME/*.png``, one binary mask each. Or
            ``sample:emoji_scenes``, composites of emoji that the bundled sample was not trained on.

    Raises:
        DataError: no such folder or sample, a picture without masks, or masks without a picture; names the file.
    """
    if str(source).startswith("sample:"):
        return _Sample(str(source))
    return _Folder(Path(source).expanduser())


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._images, self._masks, self.name = folder / "images", folder / "masks", folder.name
        pictures, masks = list_pictures(self._images), list_pictures(self._masks)
        if not pictures:
            raise DataError(f"{self._images}: no pictures in this folder")
        self._pairs = list(_paired(self._images, pictures, self._masks, masks))
        self.fingerprint = "-".join(
            listing_fingerprint(part, names)[:32] for part, names in ((self._images, pictures), (self._masks, masks))
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, index: int) -> tuple[Pixels, list[Mask]]:
        picture, masks = self._pairs[index]
        file = self._images / picture
        pixels = read_picture(file)
        if masks == [_label_map(picture)]:
            return pixels, _objects(self._masks / masks[0], file, pixels.shape[:2])
        return pixels, [_binary(self._masks / mask, file, pixels.shape[:2]) for mask in masks]


class _Sample:
    def __init__(self, source: str) -> None:
        self._composites, self.name = composites(source, "held_out", _SAMPLE_COUNT), source
        self.fingerprint: str = self._composites.fingerprint

    def __len__(self) -> int:
        return len(self._composites)

    def read(self, index: int) -> tuple[Pixels, list[Mask]]:
        pixels, masks = self._composites.labelled(index)
        return pixels, list(masks)


def _label_map(picture: str) -> str:
    return str(PurePosixPath(picture).with_suffix(".png"))


def _paired(images: Path, pictures: list[str], masks: Path, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every picture with the names of its masks; DataError if anything is left over on either side."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
    unused, seen = set(names), dict[str, str]()
    for picture in pictures:
        stem = str(PurePosixPath(picture).with_suffix(""))
        if stem in seen:
            raise DataError(f"{images / picture}: {seen[stem]} has the same name, and masks/ cannot tell them apart")
        seen[stem] = picture
        whole, single = _label_map(picture), folders.get(stem, [])
        if (whole in unused) == bool(single):
            both = "both a label map and a folder of masks" if single else "no mask"
            raise DataError(
                f"{images / picture}: has {both}; one of {masks / whole} and {masks / stem}/*.png is needed"
            )
        found = single or [whole]
        unused.difference_update(found)
        yield picture, found
    if unused:
        raise DataError(f"{masks / min(unused)}: no picture in {images} belongs to this mask")


def _objects(file: Path, picture: Path, shape: tuple[int, ...]) -> list[Mask]:
    """The masks of a label map."""
    labels = _read(file, picture, shape)
    found = [int(value) for value in np.unique(labels) if value]
    if not found:
        raise DataError(f"{file}: an empty mask, every pixel is background")
    if len(found) * labels.size > _MOST_BYTES:
        raise DataError(f"{file}: {len(found)} objects of {labels.size:,} pixels; is this a label map?")
    return [labels == value for value in found]


def _binary(file: Path, picture: Path, shape: tuple[int, ...]) -> Mask:
    labels = _read(file, picture, shape)
    found = [int(value) for value in np.unique(labels) if value]
    if len(found) != 1:
        kinds = f"a mask of {len(found) + 1} values; it must have 0 and one other" if found else "an empty mask"
        raise DataError(f"{file}: {kinds}")
    mask: Mask = labels != 0
    return mask


def _read(file: Path, picture: Path, shape: tuple[int, ...]) -> NDArray[np.int32]:
    if file.suffix.lower() != ".png":
        raise DataError(f"{file}: masks must be PNG, whose pixels are exact")
    labels = read_labels(file)
    if labels.shape != shape:
        raise DataError(
            f"{file}: {labels.shape[1]}x{labels.shape[0]} pixels, but {picture.name} has {shape[1]}x{shape[0]}"
        )
    return labels
