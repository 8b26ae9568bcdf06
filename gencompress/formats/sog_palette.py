"""Higher spherical harmonics as a palette: two images, one of the entries and one of each splat's entry."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats.codebook import fit_codebook, nearest_level
from gencompress.formats.scene import Array
from gencompress.formats.sog_meta import MAX_PALETTE, Harmonics

Bytes = NDArray[np.uint8]
CODING = 0.25  # error of a number of the palette in units of that of the palette itself
_SAMPLE = 1 << 14  # splats by which the latter is estimated
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

    It has 1024 entries for fewer than 2048 splats, twice as many for twice the splats, and so on up to 65,536. They
    stand in the order in which they are first used: labels that grow by one pack better.
    """
    from gencompress.formats.kmeans import kmeans

    count, coefficients, _ = sh_rest.shape
    clusters = kmeans(sh_rest, min(MAX_PALETTE, 1024 << (count // 2048).bit_length()))
    used, first, place = np.unique(clusters.labels[order], return_index=True, return_inverse=True)
    by_use = np.argsort(first)
    centroids, labels = clusters.centroids[used[by_use]], np.argsort(by_use)[place]
    some = slice(None, None, -(-count // _SAMPLE))
    missed = sh_rest[order[some]].reshape(-1, 3 * coefficients) - centroids[labels[some]]
    tolerance = CODING * float(np.sqrt(np.mean(missed**2, dtype=np.float64)))
    codebook = fit_codebook(centroids, np.bincount(labels), tolerance)
    rows = -(-len(centroids) // PER_ROW)
    pixels = np.full((rows * PER_ROW * coefficients, 4), 255, np.uint8)
    pixels[:, :3] = 0
    pixels[: centroids.size // 3, :3] = nearest_level(centroids, codebook).reshape(-1, 3)
    return Palette(pixels.reshape(rows, -1, 4), labels, len(centroids), codebook)


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
