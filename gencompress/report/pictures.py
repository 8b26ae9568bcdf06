"""Pictures of runs, read only from inside the run directory, decoded, and inlined as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gencompress.errors import DataError
from gencompress.report import figures
from gencompress.report.data import RunData, dig

MOST = 64  # pictures of one pipeline in a report
_SIDE = 512  # larger ones are shown at this size, so that a report of 1024-pixel images stays a file one can mail
_PIXELS = 64 * 10**6
CAP_DB = 100.0


@dataclass(frozen=True)
class Picture:
    """One picture as the page shows it.

    Args:
        uri: a data URI.
        width: of the file, in pixels.
        height: of the file, in pixels.
        below: the figure that stands below it, in words; of most the PSNR to the dense picture of the same place.
        shrunk: True if the page shows it smaller than the file.
    """

    uri: str
    width: int
    height: int
    below: str
    shrunk: bool


@dataclass(frozen=True)
class Row:
    """The pictures of one pipeline or scene: dense, pruned, after recovery, or the differences between two of these."""

    label: str
    dense: bool
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Sheet:
    """Rows whose pictures in one column come from the same seed and prompt, or view; the first row is the dense one."""

    rows: tuple[Row, ...]
    captions: tuple[str, ...]
    left_out: int

    @property
    def columns(self) -> int:
        """Pictures in a row."""
        return len(self.captions)


def sheets(runs: Sequence[RunData], whole: str = "dense") -> list[Sheet]:
    """One sheet for all runs whose dense pictures are the same files, byte for byte; runs without pictures have none.

    Args:
        runs: in the order in which they are shown.
        whole: label of the dense row.

    Raises:
        DataError: a listed picture is missing, no PNG, outside the run directory, or of another size than its pair.
    """
    together: dict[tuple[bytes, ...], list[RunData]] = {}
    for run in runs:
        dense = _listed(run, "dense")
        if dense and (_listed(run, "pruned") or _listed(run, "recovered")):
            together.setdefault(tuple(path.read_bytes() for path in dense), []).append(run)
    return [_sheet(group, whole) for group in together.values()]


def _sheet(runs: Sequence[RunData], whole: str) -> Sheet:
    first = runs[0]
    dense_paths = _listed(first, "dense")
    rows: list[tuple[str, list[Path], bool]] = []  # label, files, whether they have a PSNR
    for run in runs:
        recovered = _listed(run, "recovered")
        pruned = run.label + (", before recovery" if recovered else "")
        rows += [(pruned, _listed(run, "pruned"), True), (run.label, recovered, True)]
        rows.append((f"{run.label}, difference", _listed(run, "error"), False))
    rows = [row for row in rows if row[1]]
    columns = min(len(dense_paths), *(len(paths) for _, paths, _ in rows))
    shown = min(columns, MOST)
    dense = [decode(path) for path in dense_paths[:shown]]
    drawn = tuple(_picture(pixels, None, path) for pixels, path in zip(dense, dense_paths, strict=False))
    built = [Row(whole, True, drawn)]
    for label, paths, compared in rows:
        pairs = zip(dense, paths[:shown], strict=True)
        row = tuple(_picture(decode(path), reference, path, compared) for reference, path in pairs)
        built.append(Row(label, False, row))
    return Sheet(tuple(built), _captions(first, shown), columns - shown)


def _captions(run: RunData, columns: int) -> tuple[str, ...]:
    """The prompt or name of every column where they are recorded, else its number."""
    recorded = dig(run.metrics, "images", "prompts") or dig(run.metrics, "images", "names")
    names = [str(name) for name in recorded] if isinstance(recorded, list) else []
    return tuple(names[i] if i < len(names) else f"sample {i + 1}" for i in range(columns))


def _listed(run: RunData, kind: str) -> list[Path]:
    return listed_pictures(run.folder, run.metrics, kind)


def listed_pictures(folder: Path, metrics: Mapping[str, Any], kind: str, most: int | None = None) -> list[Path]:
    """The first `most` files of ``images.<kind>`` in metrics.json, each checked to lie inside the run directory.

    Raises:
        DataError: the entry is no list of names, or a picture is missing or outside the run directory.
    """
    listed = dig(metrics, "images", kind)
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise DataError(f"{folder}: images.{kind} in metrics.json must be a list of file names")
    root, parents = folder.resolve(), dict[Path, Path]()
    paths = []
    for name in listed[:most]:
        try:
            path = root / name
            if path.parent not in parents:  # most pictures lie in one folder, and resolving takes a call per part
                parents[path.parent] = path.parent.resolve()
            path = parents[path.parent] / path.name
            path = path.resolve() if path.is_symlink() or path.name == ".." else path
            inside, there = path.is_relative_to(root), path.is_file()
        except (OSError, ValueError) as error:  # no name that a file can have
            raise DataError(f"{folder}: images.{kind} names {name[:100]!r}, which is no file name") from error
        if not inside:
            raise DataError(f"{folder}: images.{kind} names {name!r}, which lies outside the run directory")
        if not there:
            raise DataError(f"{path}: the picture that metrics.json lists is not there; run `gencompress eval` again")
        paths.append(path)
    return paths


def decode(path: Path) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3], uint8, of a PNG; `DataError` if it is none or has more than 64 million pixels."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > _PIXELS:
                raise DataError(f"{path}: {image.width} x {image.height} pixels are too many for a report")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable PNG: {error}") from error


def picture(path: Path, side: int = _SIDE, below: str = "") -> Picture:
    """A PNG by itself, at most `side` pixels wide and high, with a figure below it."""
    return _encoded(decode(path), below, side)


def _picture(
    pixels: NDArray[np.uint8], reference: NDArray[np.uint8] | None, path: Path, compared: bool = True
) -> Picture:
    """A picture beside the dense one of its column."""
    if reference is not None and reference.shape != pixels.shape:
        raise DataError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, unlike the dense picture beside it")
    psnr = figures.fixed(_psnr(reference, pixels), 1, "dB") if compared and reference is not None else ""
    return _encoded(pixels, psnr, _SIDE)


def _encoded(pixels: NDArray[np.uint8], below: str, side: int) -> Picture:
    """Encode anew: nothing of the file but its pixels gets into the page."""
    height, width = pixels.shape[:2]
    image, buffer, shrunk = Image.fromarray(pixels), io.BytesIO(), max(width, height) > side
    if shrunk:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", quality=90, method=2)  # 2: three times as fast as the default
    else:
        image.save(buffer, "PNG", optimize=max(width, height) <= 128)  # thrice the time for 2 % of large ones
    kind = "webp" if shrunk else "png"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri, width, height, below, shrunk)


def _psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """PSNR of two 8-bit pictures in dB, capped where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2)) / 255**2
    return min(CAP_DB, -10 * math.log10(error)) if error else CAP_DB
