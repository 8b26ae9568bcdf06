"""PlayCanvas compressed .ply: 16 bytes per splat and one byte per higher harmonic.

Layout: 256 splats share a chunk with the bounds of position, log-scale and colour; a splat is four 32-bit words:
position and scale as 11-10-11 bits between the bounds, rotation as the index of the largest component and the three
others in 10 bits each, colour and opacity as 8 bits each. See "Compressing Gaussian Splats" (PlayCanvas, 2024).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import activations
from gencompress.formats.ply_header import Header, map_tables
from gencompress.formats.scene import Array, SplatScene

CHUNK = 256
_BOUNDS = [f"{bound}_{axis}" for bound in ("min", "max") for axis in "xyz"]
_SCALE_BOUNDS = [f"{bound}_scale_{axis}" for bound in ("min", "max") for axis in "xyz"]
_COLOUR_BOUNDS = [f"{bound}_{channel}" for bound in ("min", "max") for channel in "rgb"]
_WORDS = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_REST = (0, 9, 24, 45)


def is_compressed(header: Header) -> bool:
    """Whether a .ply header describes packed splats."""
    vertex = header.element("vertex")
    return vertex is not None and any(name == _WORDS[0] for name, _ in vertex.columns)


def decode(path: Path, header: Header, antialiased: bool) -> SplatScene:
    """The splats of a compressed .ply whose header was read. FormatError names the element or column at fault."""
    sh_element = header.element("sh")
    wanted = {"chunk", "vertex"} | ({"sh"} if sh_element else set())
    tables = map_tables(path, header, wanted)
    chunk, vertex = tables["chunk"], tables["vertex"]
    _require(path, "chunk", chunk, [*_BOUNDS, *_SCALE_BOUNDS], "f4")
    _require(path, "vertex", vertex, _WORDS, "u4")
    if len(chunk) != -(-len(vertex) // CHUNK):
        raise FormatError(f"{path}: {len(vertex):,} splats need {-(-len(vertex) // CHUNK):,} chunks, not {len(chunk):,}")
    coloured = set(_COLOUR_BOUNDS) <= set(chunk.dtype.names or ())
    colours = _unorm(vertex["packed_color"], (8, 8, 8, 8))
    rgb = _between(chunk, _COLOUR_BOUNDS, colours[:, :3]) if coloured else colours[:, :3]
    return SplatScene(
        means=_between(chunk, _BOUNDS, _unorm(vertex["packed_position"], (11, 10, 11))),
        quats=_rotations(vertex["packed_rotation"]),
        log_scales=_between(chunk, _SCALE_BOUNDS, _unorm(vertex["packed_scale"], (11, 10, 11))),
        logits=activations.logit(colours[:, 3], activations.BYTE),
        sh0=activations.sh0_of_colour(rgb),
        sh_rest=_harmonics(path, tables.get("sh"), len(vertex)),
        antialiased=antialiased,
    )


def _require(path: Path, element: str, table: NDArray[Any], names: list[str], code: str) -> None:
    fields = table.dtype.fields or {}
    bad = next((name for name in names if name not in fields or fields[name][0].str[1:] != code), None)
    if bad is not None:
        raise FormatError(f"{path}: compressed .ply: element {element!r} lacks the property {bad!r} of 32 bits")


def _unorm(words: NDArray[Any], bits: tuple[int, ...]) -> Array:
    """Fields of 32-bit words, the first one in the highest bits, as fractions of their largest value."""
    fields = np.empty((len(words), len(bits)), np.float32)
    shift = 0
    for index in reversed(range(len(bits))):
        largest = (1 << bits[index]) - 1
        fields[:, index] = ((words >> shift) & largest) / np.float32(largest)
        shift += bits[index]
    return fields


def _between(chunk: NDArray[Any], names: list[str], fractions: Array) -> Array:
    """Linear interpolation between the bounds of each splat's chunk."""
    bounds = np.stack([chunk[name] for name in names], axis=1).astype(np.float32)
    low, high = (np.repeat(bound, CHUNK, axis=0)[: len(fractions)] for bound in (bounds[:, :3], bounds[:, 3:]))
    with np.errstate(invalid="ignore", over="ignore"):
        return low * (1 - fractions) + high * fractions


def _rotations(words: NDArray[Any]) -> Array:
    """Quaternions wxyz: the index of the largest component, then the others over +-1/sqrt(2)."""
    others = (_unorm(words, (2, 10, 10, 10))[:, 1:] - np.float32(0.5)) * np.float32(2**0.5)
    largest = (words >> 30).astype(np.intp)
    quats = np.empty((len(words), 4), np.float32)
    rows = np.arange(len(words))
    for index in range(3):  # the components stand in order, without the largest
        quats[rows, index + (largest <= index)] = others[:, index]
    quats[rows, largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    return quats


def _harmonics(path: Path, table: NDArray[Any] | None, count: int) -> Array:
    columns = list(table.dtype.names or ()) if table is not None else []
    if len(columns) not in _REST or columns != [f"f_rest_{index}" for index in range(len(columns))]:
        raise FormatError(f"{path}: element 'sh' needs the bytes f_rest_0 up to 8, 23 or 44 in this order")
    if table is None:
        return np.empty((count, 0, 3), np.float32)
    _require(path, "sh", table, columns, "u1")
    if len(table) != count:
        raise FormatError(f"{path}: element 'sh' has {len(table):,} rows, the file {count:,} splats")
    stored = np.arange(256, dtype=np.float32)
    middles = np.where((stored == 0) | (stored == 255), stored / 255, (stored + 0.5) / 256).astype(np.float32)
    values = (middles - np.float32(0.5)) * 8
    return values[np.asarray(table).view(np.uint8).reshape(count, 3, -1).transpose(0, 2, 1)]
