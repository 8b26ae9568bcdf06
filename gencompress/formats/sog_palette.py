"""Higher spherical harmonics as a palette: two images, one of the entries and one of each splat's entry."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats.codebook import fit_codebook, nearest_level
from gencompress.formats.scene import SH_C0, Array
from gencompress.formats.sog_meta import MAX_PALETTE, Harmonics

Bytes = NDArray[np.uint8]
HARMONIC = 1 / 255 / SH_C0  # rms of a coefficient of the palette: a step of a display
PER_ROW = 64  # entries in a row of the image; each takes a pixel per coefficient
MOST_PIXELS = MAX_PALETTE * 15
DEGREES = {3: 1, 8: 2, 15: 3}  # coefficients of a channel -> degree


class Palette(NamedTuple):
    """Pixels of the entries [ceil(entries / 64), 64 K, 4], the entry of each splat [N], and the levels of a byte."""

    pixels: Bytes
    labels: NDArray[np.intp]
    entries: int
    codebook: Array


def fit_palette(sh_rest: Array, order: NDArray[np.intp]) -> Palette:
    """The palette of N splats [N, K, 3] and their entries in the given order [N].

    Up to 65,536 splats have an entry each, and only the codebook is coarse: as bytes that costs less than a palette of
    fewer entries, whose labels are as good as random, for a tenth of the error. For more splats they are clustered.
    Entries stand in the order in which they are first used: labels that grow by one pack to almost nothing.
    """
    if len(order) <= MAX_PALETTE:
        entries, labels = sh_rest[order].reshape(len(order), -1), np.arange(len(order))
    else:
        from gencompress.formats.kmeans import kmeans

        clusters = kmeans(sh_rest, MAX_PALETTE)
        used, first, place = np.unique(clusters.labels[order], return_index=True, return_inverse=True)
        by_use = np.argsort(first)
        entries, labels = clusters.centroids[used[by_use]], np.argsort(by_use)[place]
    codebook = fit_codebook(entries, np.bincount(labels), HARMONIC)
    rows, coefficients = -(-len(entries) // PER_ROW), sh_rest.shape[1]
    pixels = np.full((rows * PER_ROW * coefficients, 4), 255, np.uint8)
    pixels[:, :3] = 0
    pixels[: entries.size // 3, :3] = nearest_level(entries, codebook).reshape(-1, 3)
    return Palette(pixels.reshape(rows, -1, 4), labels, len(entries), codebook)


def look_up(path: Path, harmonics: Harmonics, entries: Bytes, labels: NDArray[np.int32]) -> Array:
    """The harmonics [N, K, 3] of splats that have the given `labels` [N]. FormatError names what does not fit."""
    rows, width, _ = entries.shape
    degree = DEGREES.get(width // PER_ROW) if width % PER_ROW == 0 else None
    known = rows * PER_ROW if harmonics.entries is None else harmonics.entries
    if degree is None or harmonics.sh_degree not in (None, degree) or rows * PER_ROW < known:
        raise FormatError(
            f"{path}: the image of shN has {width} x {rows} pixels, which hold no {known:,} entries"
            + (f" of degree {harmonics.sh_degree}" if harmonics.sh_degree else "")
        )
    if labels.max() >= known:
        raise FormatError(f"{path}: a splat has entry {labels.max():,} of a palette of {known:,}")
    table = harmonics.table[entries[..., :3]].reshape(rows * PER_ROW, width // PER_ROW, 3)
    return table[labels]
