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
from gencompress.formats import activations, quaternions
from gencompress.formats.morton import morton_order
from gencompress.formats.ply_header import ANTIALIASED, Header, map_tables
from gencompress.formats.scene import Array, SplatScene
from gencompress.run.atomic import write_file

CHUNK = 256
_BOUNDS = [f"{bound}_{axis}" for bound in ("min", "max") for axis in "xyz"]
_SCALE_BOUNDS = [f"{bound}_scale_{axis}" for bound in ("min", "max") for axis in "xyz"]
_COLOUR_BOUNDS = [f"{bound}_{channel}" for bound in ("min", "max") for channel in "rgb"]
_WORDS = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_REST = (0, 9, 24, 45)
_XYZ, _RGBA, _QUAT = (11, 10, 11), (8, 8, 8, 8), (2, 10, 10, 10)  # bits, the first field in the highest
_LOG_SCALES = (-20, 20)  # what is outside is clipped, lest one flat splat coarsen its chunk
_SH_RANGE = 8  # harmonics of -4 to 4 fill a byte


def is_compressed(header: Header) -> bool:
    """Whether a .ply header describes packed splats."""
    vertex = header.element("vertex")
    return vertex is not None and any(name == _WORDS[0] for name, _ in vertex.columns)


def decode(path: Path, header: Header) -> SplatScene:
    """The splats of a compressed .ply whose header was read. FormatError names the element or column at fault."""
    wanted = {"chunk", "vertex"} | ({"sh"} if header.element("sh") else set())
    tables = map_tables(path, header, wanted)
    chunk, vertex = tables["chunk"], tables["vertex"]
    _require(path, "chunk", chunk, [*_BOUNDS, *_SCALE_BOUNDS], "f4")
    _require(path, "vertex", vertex, _WORDS, "u4")
    needed = -(-len(vertex) // CHUNK)
    if len(chunk) != needed:
        raise FormatError(f"{path}: {len(vertex):,} splats need {needed:,} chunks of {CHUNK}, not {len(chunk):,}")
    rgba = _unorm(vertex["packed_color"], _RGBA)
    bounded = set(_COLOUR_BOUNDS) <= set(chunk.dtype.names or ())  # older files lack them
    return SplatScene(
        means=_between(chunk, _BOUNDS, _unorm(vertex["packed_position"], _XYZ)),
        quats=_rotations(vertex["packed_rotation"]),
        log_scales=_between(chunk, _SCALE_BOUNDS, _unorm(vertex["packed_scale"], _XYZ)),
        logits=activations.logit(rgba[:, 3], activations.BYTE),
        sh0=activations.sh0_of_colour(_between(chunk, _COLOUR_BOUNDS, rgba[:, :3]) if bounded else rgba[:, :3]),
        sh_rest=_harmonics(path, tables.get("sh"), len(vertex)),
        antialiased=header.antialiased,
    )


def _require(path: Path, element: str, table: NDArray[Any], names: list[str], code: str) -> None:
    """FormatError unless the columns are there with numbers of this type."""
    types = {name: table.dtype[name].str[1:] for name in table.dtype.names or ()}
    bad = next((name for name in names if types.get(name) != code), None)
    if bad is not None:
        raise FormatError(f"{path}: element {element!r} of a compressed .ply needs the property {bad!r} as {code}")


def _unorm(words: NDArray[Any], bits: tuple[int, ...]) -> Array:
    """Fields of 32-bit words as fractions of their largest value [N, len(bits)]."""
    fields = np.empty((len(words), len(bits)), np.float32)
    shift = 0
    for index in reversed(range(len(bits))):
        largest = (1 << bits[index]) - 1
        fields[:, index] = ((words >> shift) & largest) / np.float32(largest)
        shift += bits[index]
    return fields


def _between(chunk: NDArray[Any], names: list[str], fractions: Array) -> Array:
    """Linear interpolation between the bounds of each splat's chunk [N, 3]."""
    bounds = np.stack([chunk[name] for name in names], axis=1).astype(np.float32)
    low, high = (np.repeat(bound, CHUNK, axis=0)[: len(fractions)] for bound in (bounds[:, :3], bounds[:, 3:]))
    return low * (1 - fractions) + high * fractions


def _rotations(words: NDArray[Any]) -> Array:
    """Quaternions wxyz: the index of the largest component, then the others over +-1/sqrt(2)."""
    others = (_unorm(words, _QUAT)[:, 1:] - np.float32(0.5)) * np.float32(2**0.5)
    return quaternions.from_smallest_three(words >> 30, others)


def _harmonics(path: Path, table: NDArray[Any] | None, count: int) -> Array:
    if table is None:
        return np.empty((count, 0, 3), np.float32)
    columns = list(table.dtype.names or ())
    if len(columns) not in _REST or columns != [f"f_rest_{index}" for index in range(len(columns))]:
        raise FormatError(f"{path}: element 'sh' needs the bytes f_rest_0 up to 8, 23 or 44 in this order")
    _require(path, "sh", table, columns, "u1")
    if len(table) != count:
        raise FormatError(f"{path}: element 'sh' has {len(table):,} rows, the file {count:,} splats")
    stored = np.arange(256, dtype=np.float32)
    middles = np.where((stored == 0) | (stored == 255), stored / 255, (stored + 0.5) / 256)  # the ends stay the ends
    values = ((middles - 0.5) * _SH_RANGE).astype(np.float32)
    return values[np.asarray(table).view(np.uint8).reshape(count, 3, -1).transpose(0, 2, 1)]


def write_compressed_ply(path: Path, scene: SplatScene) -> None:
    """Replace `path` by a compressed .ply with the splats in Morton order."""
    order = morton_order(scene.means)
    head = _header(scene)
    count, rest = len(scene), 3 * scene.sh_rest.shape[1]
    chunks = -(-count // CHUNK)
    vertices = len(head) + 4 * 18 * chunks
    harmonics = vertices + 16 * count

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(head)
            for part, piece in scene.chunks(order):  # of a multiple of 256 splats
                bounds, words = _encode(piece)
                for at, rows in (
                    (len(head) + 4 * 18 * (part.start // CHUNK), bounds),
                    (vertices + 16 * part.start, words),
                    (harmonics + rest * part.start, _encode_harmonics(piece.sh_rest)),
                ):
                    file.seek(at)
                    file.write(rows.data)

    write_file(path, write, needed=harmonics + rest * count)


def _header(scene: SplatScene) -> bytes:
    rest = 3 * scene.sh_rest.shape[1]
    lines = ["ply", "format binary_little_endian 1.0", *([f"comment {ANTIALIASED}"] if scene.antialiased else [])]
    lines.append(f"element chunk {-(-len(scene) // CHUNK)}")
    lines += [f"property float {name}" for name in [*_BOUNDS, *_SCALE_BOUNDS, *_COLOUR_BOUNDS]]
    lines.append(f"element vertex {len(scene)}")
    lines += [f"property uint {name}" for name in _WORDS]
    if rest:
        lines.append(f"element sh {len(scene)}")
        lines += [f"property uchar f_rest_{index}" for index in range(rest)]
    return "\n".join([*lines, "end_header\n"]).encode()


def _encode(piece: SplatScene) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bounds [chunks, 18] and words [n, 4] of splats, 256 to a chunk, the last one shorter."""
    bounds, words = [], np.empty((len(piece), 4), "<u4")
    log_scales = np.clip(piece.log_scales, *_LOG_SCALES)
    colours = activations.colour(piece.sh0)
    fractions = []
    for values in (piece.means, log_scales, colours):
        low, high, fraction = _bounds(values)
        bounds += [low, high]
        fractions.append(fraction)
    opacities = activations.opacity(piece.logits)[:, None]
    words[:, 0] = _pack(fractions[0], _XYZ)
    largest, others = quaternions.smallest_three(quaternions.unit(piece.quats))
    words[:, 1] = largest.astype(np.uint32) << 30 | _pack(others * np.float32(0.5**0.5) + np.float32(0.5), _QUAT[1:])
    words[:, 2] = _pack(fractions[1], _XYZ)
    words[:, 3] = _pack(np.concatenate([fractions[2], opacities], axis=1), _RGBA)
    return np.concatenate(bounds, axis=1).astype("<f4"), words


def _bounds(values: Array) -> tuple[Array, Array, Array]:
    """The lower and upper bound of each chunk [chunks, 3], and where in between the values lie [n, 3]."""
    starts = np.arange(0, len(values), CHUNK)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    chunk = np.arange(len(values)) // CHUNK
    extent = (high - low)[chunk]
    with np.errstate(over="ignore"):
        return low, high, np.divide(values - low[chunk], extent, out=np.zeros_like(values), where=extent > 0)


def _pack(fractions: Array, bits: tuple[int, ...]) -> NDArray[np.uint32]:
    """Fractions [n, fields] in one word, the first field in the highest bits."""
    word = np.zeros(len(fractions), np.uint32)
    for index, width in enumerate(bits):
        largest = np.float32((1 << width) - 1)
        word = word << np.uint32(width) | np.rint(np.clip(fractions[:, index], 0, 1) * largest).astype(np.uint32)
    return word


def _encode_harmonics(sh_rest: Array) -> NDArray[np.uint8]:
    levels = np.floor((sh_rest / _SH_RANGE + 0.5) * 256)
    return np.ascontiguousarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(0, 2, 1))
