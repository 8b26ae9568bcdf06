"""What holds the sections of a .spz together: a header, then one gzip stream (v2, v3) or a zstd stream each (v4)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats.bounded import check_count, check_ratio

Bytes = NDArray[np.uint8]
_HEAD = struct.Struct("<4sIIBBBB")  # magic, version, splats, degree, fractional bits, flags, streams (v4, else 0)
_HEAD4 = struct.Struct("<4sIIBBBBI12x")  # and where the table of streams begins
_STREAM = struct.Struct("<QQ")  # packed and unpacked bytes
_MAGIC = b"NGSP"
_ANTIALIASED, _EXTENDED = 1, 2  # flags
_AXES_EXTENSION = 0xADBE0003  # SPZ_ADOBE_coordinate_system: a number of `_AXES`, from 1
_AXES = "LDB RDB LUB RUB LDF RDF LUF RUF LFD RFD LFU RFU LBD RBD LBU RBU".split()
_MAX_EXTENSIONS = 1 << 16  # bytes
_LEVEL = 6  # of zstd; 12, as the format's own library has it, saves 0.1 % in three times the time


@dataclass(frozen=True)
class Header:
    """What is known before the sections are unpacked; `axes` are those of the stored positions."""

    version: int
    count: int
    sh_degree: int
    fractional_bits: int
    antialiased: bool
    extended: bool = False
    axes: str = "RUB"

    @property
    def widths(self) -> list[int]:
        """Bytes per splat of positions, opacities, colours, scales, rotations and harmonics."""
        return [9, 1, 3, 3, 3 if self.version == 2 else 4, 3 * ((self.sh_degree + 1) ** 2 - 1)]

    def pack(self, streams: int = 0) -> bytes:
        """The bytes that a file begins with, in version 3 those that its gzip stream does."""
        flags = _ANTIALIASED * self.antialiased
        fields = (_MAGIC, self.version, self.count, self.sh_degree, self.fractional_bits, flags, streams)
        return _HEAD4.pack(*fields, _HEAD4.size) if self.version == 4 else _HEAD.pack(*fields)


def unpack(path: Path, data: bytes) -> tuple[Header, list[Bytes]]:
    """The header and the six sections [N, width] of a file. FormatError names what is malformed."""
    if data[:2] == b"\x1f\x8b":
        header, sections = _unpack_gzip(path, data)
    elif data[:4] == _MAGIC:
        header, sections = _unpack_streams(path, data)
    else:
        raise FormatError(f"{path}: not a .spz file: it begins neither with the bytes of gzip nor with 'NGSP'")
    shaped = [section.reshape(header.count, width) for section, width in zip(sections, header.widths, strict=True)]
    return header, shaped


def _unpack_gzip(path: Path, data: bytes) -> tuple[Header, list[Bytes]]:
    """Version 2 and 3: the header too is packed, so it comes first, and then no more than it announces."""
    stream = zlib.decompressobj(31)  # gzip's framing
    try:
        header = _header(path, stream.decompress(data, _HEAD.size), (2, 3))
        size = header.count * sum(header.widths)
        check_ratio(path, len(data), size)
        body = stream.decompress(stream.unconsumed_tail, size)
        records = stream.decompress(stream.unconsumed_tail, _MAX_EXTENSIONS)
    except zlib.error as error:
        raise FormatError(f"{path}: damaged gzip stream: {error}") from error
    if len(body) < size or not stream.eof:  # at its end gzip has a checksum, which was compared
        there = len(body) + len(records)
        raise FormatError(f"{path}: truncated or too long: {header.count:,} splats need {size:,} bytes, not {there:,}")
    ends = np.cumsum([header.count * width for width in header.widths])[:-1]
    return _with_axes(path, header, records if header.extended else b""), np.split(np.frombuffer(body, np.uint8), ends)


def _unpack_streams(path: Path, data: bytes) -> tuple[Header, list[Bytes]]:
    """Version 4: a table of the sizes of the zstd streams, and the streams; an empty section has none."""
    header = _header(path, data, (4,))
    sizes = [header.count * width for width in header.widths]
    count = sum(size > 0 for size in sizes)
    streams, table = _HEAD4.unpack_from(data)[-2:] if len(data) >= _HEAD4.size else (0, 0)
    begin = table + count * _STREAM.size
    if streams != count or table < _HEAD4.size or begin > len(data):
        raise FormatError(f"{path}: a .spz of version 4 and degree {header.sh_degree} has a table of {count} streams")
    records = data[_HEAD4.size : table][:_MAX_EXTENSIONS] if header.extended else b""
    check_ratio(path, len(data), sum(sizes))
    sections = []
    for index, size in enumerate(sizes[:count]):
        packed, unpacked = _STREAM.unpack_from(data, table + index * _STREAM.size)
        if unpacked != size or packed > len(data) - begin:
            raise FormatError(f"{path}: stream {index}, {packed:,} bytes, does not hold {header.count:,} splats")
        sections.append(_unpack_zstd(path, data[begin : begin + packed], size))
        begin += packed
    empty = [np.empty(0, np.uint8)] * (len(sizes) - count)
    return _with_axes(path, header, records), [*sections, *empty]


def _header(path: Path, data: bytes, versions: tuple[int, ...]) -> Header:
    if len(data) < _HEAD.size:
        raise FormatError(f"{path}: truncated: the file ends within the header of a .spz")
    magic, version, count, degree, bits, flags, _ = _HEAD.unpack_from(data)
    if magic != _MAGIC or version not in versions:
        raise FormatError(f"{path}: .spz header {magic!r}, version {version}; this packing has b'NGSP', {versions}")
    if degree > 4:
        raise FormatError(f"{path}: spherical harmonics of degree {degree}; 0 to 4 exist")
    if bits > 23:
        raise FormatError(f"{path}: {bits} fractional bits leave no room for a sign in positions of 24 bits")
    check_count(path, count)
    return Header(version, count, degree, bits, bool(flags & _ANTIALIASED), bool(flags & _EXTENDED))


def _unpack_zstd(path: Path, packed: bytes, size: int) -> Bytes:
    try:
        claimed = zstandard.frame_content_size(packed)
        if claimed not in (-1, size):  # -1: unknown; the library would allocate whatever is claimed
            raise FormatError(f"{path}: a zstd stream claims {claimed:,} bytes where {size:,} are announced")
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise FormatError(f"{path}: damaged zstd stream: {error}") from error
    if len(data) != size:
        raise FormatError(f"{path}: a zstd stream holds {len(data):,} bytes where {size:,} are announced")
    return np.frombuffer(data, np.uint8)


def _with_axes(path: Path, header: Header, records: bytes) -> Header:
    """The header with the axes that an extension names; other extensions concern viewers and are passed over."""
    while len(records) >= 8:
        kind, length = struct.unpack_from("<II", records)
        payload, records = records[8 : 8 + length], records[8 + length :]
        if kind == _AXES_EXTENSION:
            number = int.from_bytes(payload[:4], "little")
            if not 0 < number <= len(_AXES):
                raise FormatError(f"{path}: coordinate system {number} is unknown; 1 to {len(_AXES)} exist")
            return replace(header, axes=_AXES[number - 1])
    return header


def pack(header: Header, pieces: Iterable[Sequence[Bytes]]) -> bytes:
    """The file of a header and pieces that each have some rows of the six sections, packed as they come."""
    used = [index for index, width in enumerate(header.widths) if width]
    sizes = [header.count * header.widths[index] for index in used]
    streams = [zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=size) for size in sizes]
    parts: list[list[bytes]] = [[] for _ in used]
    for piece in pieces:
        for at, index in enumerate(used):
            rows = piece[index].tobytes()
            parts[at].append(streams[at].compress(rows) if header.version == 4 else rows)
    if header.version < 4:
        gzip = zlib.compressobj(6, zlib.DEFLATED, 31)
        packed = [gzip.compress(rows) for rows in [header.pack(), *(rows for part in parts for rows in part)]]
        return b"".join([*packed, gzip.flush()])
    bodies = [b"".join([*part, stream.flush()]) for part, stream in zip(parts, streams, strict=True)]
    table = [_STREAM.pack(len(body), size) for body, size in zip(bodies, sizes, strict=True)]
    return b"".join([header.pack(len(used)), *table, *bodies])
