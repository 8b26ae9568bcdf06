"""The .gcnerf file: a radiance field on a hash grid with all that is needed to render it, and nothing else.

Numbers are little-endian. A file is

    4 bytes   "GCNF"
    uint32    version, 1
    uint32    bytes of the header that follows, at most 64 KiB
    header    UTF-8 JSON, an object of the fields below
    sections  table, saliency, networks, occupancy, each: uint64 packed bytes, uint32 CRC-32 of them, one zstd frame

and ends there. Fields of the header:

    resolutions    cells per axis of every level of the hash grid, 1 to 32 levels
    log2_entries   a level of more grid points than 2^this is hashed into as many entries
    bound          half the side of the box around the origin of the world
    alpha          slope of the gate; where saliency is 0, so is the density: it is multiplied by tanh(alpha |p f|)
    samples        steps along the diagonal of the box
    background     three numbers in [0, 1]
    saliency       grid points per axis of the saliency grid, 0 for none
    occupancy      cells per axis of the occupancy grid
    density_net    widths of the layers, input first; the output is log-density and features for the colour
    color_net      widths; the input is 16 harmonics of the direction and those features, the output 3 logits

Sections unpacked: features as float32 [entries, 2], level after level, within a dense level x fastest; logits as
float32 [T, T, T], x fastest; weights as float32, each [out, in], of density_net and then of color_net, no biases, ReLU
between layers; one bit per cell, x slowest, most significant bit first. Which entry belongs to which grid point is
`gencompress.kernels.hash_index.entry`.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from gencompress.errors import ConfigError, FormatError
from gencompress.formats.bounded import check_ratio, parse_json, read_bytes
from gencompress.formats.scene import Array
from gencompress.kernels.hash_grid import FEATURES, HashLayout
from gencompress.run.atomic import write_bytes

VERSION = 1
HARMONICS = 16
MAX_FILE = 1 << 30
_MAGIC, _HEAD, _SECTION = b"GCNF", struct.Struct("<4sII"), struct.Struct("<QI")
_MAX_HEADER = 1 << 16
_SECTIONS = ("table", "saliency", "networks", "occupancy")
_MAX_SIDE = {"saliency": 256, "occupancy": 512}
_MAX_SAMPLES, _MAX_LAYERS, _MAX_WIDTH = 1 << 14, 8, 1024
_FIELDS = {
    "resolutions", "log2_entries", "bound", "alpha", "samples", "background", "saliency", "occupancy", "density_net",
    "color_net",
}  # fmt: skip
_LEVEL = 12  # of zstd


@dataclass(frozen=True, eq=False)
class HashScene:
    """A scene as the file has it; see the fields and sections of the file.

    Args:
        layout: resolutions and log2_entries.
        bound: half the side of the box.
        alpha: slope of the gate.
        samples: steps along the diagonal.
        background: in [0, 1].
        table: [entries, 2].
        logits: of the saliency [T, T, T], or None.
        density_net: weights, each [out, in].
        color_net: weights, each [out, in].
        occupancy: [R, R, R], bool.
    """

    layout: HashLayout
    bound: float
    alpha: float
    samples: int
    background: tuple[float, float, float]
    table: Array
    logits: Array | None
    density_net: tuple[Array, ...]
    color_net: tuple[Array, ...]
    occupancy: NDArray[np.bool_]


def write_gcnerf(path: str | Path, scene: HashScene) -> dict[str, int]:
    """Write a scene; the file appears whole or not at all. Returns the bytes of every section and of the header.

    Raises:
        FormatError: a number is not finite, or the scene is larger than the file may be.
        RunError: the folder is not writable, or the disk is full.
    """
    path = Path(path)
    header = {
        "resolutions": scene.layout.resolutions,
        "log2_entries": scene.layout.log2_entries,
        "bound": scene.bound,
        "alpha": scene.alpha,
        "samples": scene.samples,
        "background": scene.background,
        "saliency": 0 if scene.logits is None else len(scene.logits),
        "occupancy": len(scene.occupancy),
        "density_net": _widths(scene.density_net),
        "color_net": _widths(scene.color_net),
    }
    networks = [weight.ravel() for weight in (*scene.density_net, *scene.color_net)]
    saliency = np.zeros(0, np.float32) if scene.logits is None else scene.logits
    floats = {"table": scene.table, "saliency": saliency, "networks": np.concatenate(networks)}
    for name, values in floats.items():
        if not np.isfinite(values).all():
            raise FormatError(f"{path}: {name} holds NaN or infinity, which a scene cannot have")
    unpacked = {name: values.astype("<f4").tobytes() for name, values in floats.items()}
    unpacked["occupancy"] = np.packbits(scene.occupancy).tobytes()
    text = json.dumps(header, allow_nan=False).encode()
    _Header.of(path, json.loads(text))  # what is written can be read
    parts, sizes = [_HEAD.pack(_MAGIC, VERSION, len(text)), text], {"header": _HEAD.size + len(text)}
    for name in _SECTIONS:
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(unpacked[name])
        parts += [_SECTION.pack(len(packed), zlib.crc32(packed)), packed]
        sizes[name] = _SECTION.size + len(packed)
    if sum(sizes.values()) > MAX_FILE:
        raise FormatError(f"{path}: the scene takes {sum(sizes.values()):,} bytes; a file has at most {MAX_FILE:,}")
    write_bytes(path, b"".join(parts))
    return sizes


def read_gcnerf(path: str | Path) -> HashScene:
    """The scene of a file, bit for bit what was written.

    Raises:
        FormatError: the file is missing, of a newer version, truncated, damaged, or claims what no scene has.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path}: is no file")
    try:
        data = read_bytes(path, MAX_FILE)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    header, at = _read_header(path, data)
    sections = {}
    for name in _SECTIONS:
        sections[name], at = _read_section(path, data, at, name, header.sizes[name])
    if at != len(data):
        raise FormatError(f"{path}: {len(data) - at:,} bytes follow the last section")
    floats = {name: np.frombuffer(sections[name], "<f4").astype(np.float32) for name in _SECTIONS[:3]}
    for name, values in floats.items():
        if not np.isfinite(values).all():
            raise FormatError(f"{path}: {name} holds NaN or infinity")
    return header.scene(floats, np.frombuffer(sections["occupancy"], np.uint8))


@dataclass(frozen=True)
class _Header:
    """The checked fields."""

    layout: HashLayout
    bound: float
    alpha: float
    samples: int
    background: tuple[float, float, float]
    saliency: int
    occupancy: int
    density_net: tuple[int, ...]
    color_net: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, content: Any) -> _Header:
        """FormatError names the field that is missing, unknown or out of range."""
        if not isinstance(content, dict) or content.keys() != _FIELDS:
            wrong = sorted(_FIELDS ^ content.keys())[:3] if isinstance(content, dict) else "no object"
            raise FormatError(f"{path}: fields of the header missing or unknown: {str(wrong)[:200]}")
        fields = _Fields(path, content)
        try:
            layout = HashLayout(fields.integers("resolutions", 1 << 16), fields.integer("log2_entries", 1, 24))
        except ConfigError as error:
            raise FormatError(f"{path}: {error}") from error
        header = cls(
            layout,
            fields.number("bound"),
            fields.number("alpha"),
            fields.integer("samples", 1, _MAX_SAMPLES),
            fields.color("background"),
            fields.integer("saliency", 0, _MAX_SIDE["saliency"]),
            fields.integer("occupancy", 1, _MAX_SIDE["occupancy"]),
            fields.integers("density_net", _MAX_WIDTH),
            fields.integers("color_net", _MAX_WIDTH),
        )
        header._check_networks(path)
        return header

    def _check_networks(self, path: Path) -> None:
        density, color = self.density_net, self.color_net
        if not (2 <= len(density) <= _MAX_LAYERS + 1 and 2 <= len(color) <= _MAX_LAYERS + 1):
            raise FormatError(f"{path}: networks of {len(density) - 1} and {len(color) - 1} layers; 1 to {_MAX_LAYERS}")
        expected = (self.layout.width, HARMONICS + density[-1] - 1, 3)
        if (density[0], color[0], color[-1]) != expected:
            raise FormatError(
                f"{path}: density_net begins with {density[0]}, color_net has {color[0]} to {color[-1]}; "
                f"features and harmonics make it {expected[0]}, and {expected[1]} to {expected[2]}"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Unpacked bytes of every section."""
        weights = sum(a * b for net in (self.density_net, self.color_net) for a, b in itertools.pairwise(net))
        return {
            "table": 4 * FEATURES * self.layout.entries,
            "saliency": 4 * self.saliency**3,
            "networks": 4 * weights,
            "occupancy": -(-(self.occupancy**3) // 8),
        }

    def scene(self, floats: dict[str, Array], bits: NDArray[np.uint8]) -> HashScene:
        """With the sections' content in its shapes."""
        shapes = [(b, a) for net in (self.density_net, self.color_net) for a, b in itertools.pairwise(net)]
        ends = np.cumsum([0, *(a * b for a, b in shapes)])
        spans = itertools.pairwise(ends)
        weights = [floats["networks"][a:b].reshape(s) for (a, b), s in zip(spans, shapes, strict=True)]
        layers = len(self.density_net) - 1
        cells = np.unpackbits(bits, count=self.occupancy**3).astype(bool)
        return HashScene(
            self.layout, self.bound, self.alpha, self.samples, self.background,
            floats["table"].reshape(-1, FEATURES),
            floats["saliency"].reshape([self.saliency] * 3) if self.saliency else None,
            tuple(weights[:layers]), tuple(weights[layers:]), cells.reshape([self.occupancy] * 3),
        )  # fmt: skip


@dataclass(frozen=True)
class _Fields:
    """Fields of a header by type and range."""

    path: Path
    content: dict[str, Any]

    def _refuse(self, name: str, right: str) -> FormatError:
        return FormatError(f"{self.path}: {name} is {str(self.content[name])[:60]!r}, must be {right}")

    def integer(self, name: str, least: int, most: int) -> int:
        value = self.content[name]
        if type(value) is not int or not least <= value <= most:
            raise self._refuse(name, f"an integer from {least} to {most:,}")
        return value

    def integers(self, name: str, most: int) -> tuple[int, ...]:
        value = self.content[name]
        if not isinstance(value, list) or not all(type(v) is int and 1 <= v <= most for v in value):
            raise self._refuse(name, f"a list of integers from 1 to {most:,}")
        return tuple(value)

    def number(self, name: str) -> float:
        value = self.content[name]
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise self._refuse(name, "a number greater than 0 and less than 1e9")
        return float(value)

    def color(self, name: str) -> tuple[float, float, float]:
        value = self.content[name]
        if not isinstance(value, list) or len(value) != 3:
            raise self._refuse(name, "three numbers from 0 to 1")
        if not all(type(v) in (int, float) and math.isfinite(v) and 0 <= v <= 1 for v in value):
            raise self._refuse(name, "three numbers from 0 to 1")
        return float(value[0]), float(value[1]), float(value[2])


def _widths(weights: tuple[Array, ...]) -> list[int]:
    """Input of the first layer and outputs of all."""
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]


def _read_header(path: Path, data: bytes) -> tuple[_Header, int]:
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise FormatError(f"{path}: is no .gcnerf: it does not begin with {_MAGIC.decode()!r} and its header")
    _, version, size = _HEAD.unpack_from(data)
    if version > VERSION:
        raise FormatError(f"{path}: version {version}; this program reads up to {VERSION}: a newer one wrote the file")
    if version < 1:
        raise FormatError(f"{path}: version {version} was never written")
    end = _HEAD.size + size
    if size > _MAX_HEADER or end > len(data):
        raise FormatError(f"{path}: a header of {size:,} bytes in a file of {len(data):,}; at most {_MAX_HEADER:,}")
    return _Header.of(path, parse_json(path, data[_HEAD.size : end], "the header")), end


def _read_section(path: Path, data: bytes, at: int, name: str, size: int) -> tuple[bytes, int]:
    """The unpacked section that begins at byte `at`, which has `size` bytes, and where the next one begins."""
    if at + _SECTION.size > len(data):
        raise FormatError(f"{path}: ends before section {name}")
    packed_size, crc = _SECTION.unpack_from(data, at)
    at += _SECTION.size
    if packed_size > len(data) - at:
        raise FormatError(f"{path}: {name} claims {packed_size:,} bytes, {len(data) - at:,} are left")
    packed = data[at : at + packed_size]
    if zlib.crc32(packed) != crc:
        raise FormatError(f"{path}: {name} is damaged: its checksum does not match")
    check_ratio(path, packed_size, size)
    try:
        claimed = zstandard.frame_content_size(packed)
        if claimed != size:
            raise FormatError(f"{path}: {name} unpacks to {claimed:,} bytes; the header makes it {size:,}")
        unpacked = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size) if size else b""
    except zstandard.ZstdError as error:
        raise FormatError(f"{path}: {name} cannot be unpacked: {error}") from error
    if len(unpacked) != size:
        raise FormatError(f"{path}: {name} unpacks to {len(unpacked):,} bytes; the header makes it {size:,}")
    return unpacked, at + packed_size
