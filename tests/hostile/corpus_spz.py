"""Hostile .spz files; see `corpus_ply` for what a case is."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import zstandard

from tests.hostile.corpus_ply import Case


def spz_head(
    version: int = 3,
    count: int = 2,
    degree: int = 0,
    bits: int = 12,
    flags: int = 0,
    streams: int = 0,
    magic: bytes = b"NGSP",
) -> bytes:
    return struct.pack("<4sIIBBBB", magic, version, count, degree, bits, flags, streams)


def spz3(body: int | None = None, tail: bytes = b"", **head: Any) -> bytes:
    """Version 2 or 3 with a body of zeros, of 20 bytes per splat unless said otherwise."""
    return gzip.compress(spz_head(**head) + bytes(40 if body is None else body) + tail, mtime=0)


def spz4(
    sizes: tuple[int, ...] = (18, 2, 6, 6, 8), table: dict[int, tuple[int, int]] | None = None,
    toc: int = 32, bodies: dict[int, bytes] | None = None, records: bytes = b"", **head: Any,
) -> bytes:  # fmt: skip
    """Version 4 of zeros; `table` and `bodies` replace entries."""
    packed = [zstandard.ZstdCompressor().compress(bytes(size)) for size in sizes]
    for index, body in (bodies or {}).items():
        packed[index] = body
    entries = [(len(body), size) for body, size in zip(packed, sizes, strict=True)]
    for index, entry in (table or {}).items():
        entries[index] = entry
    fields = {"version": 4, "streams": len(sizes)} | head
    begin = spz_head(**fields) + struct.pack("<I12x", toc) + records
    return begin + b"".join(struct.pack("<QQ", *entry) for entry in entries) + b"".join(packed)


def zstd_claiming(size: int) -> bytes:
    """A zstd frame of a few bytes whose header claims this content size."""
    return b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", size) + b"\x01\x00\x00"


def spz3_cases() -> Iterator[Case]:
    for version in (0, 1, 4, 5, 99, 2**32 - 1):
        yield f"version {version}", spz3(version=version), "version"
    for degree in (5, 9, 255):
        yield f"degree {degree}", spz3(degree=degree), f"degree {degree}"
    for bits in (24, 255):
        yield f"{bits} fractional bits", spz3(bits=bits), "fractional bits"
    yield "no splats", spz3(count=0), "claims 0 splats"
    yield "four billion splats", spz3(count=2**32 - 1), "claims 4,294,967,295"
    yield "three splats in the space of two", spz3(count=3), "truncated"
    yield "degree without harmonics", spz3(degree=3), "truncated"
    yield "wrong magic inside", spz3(magic=b"PSGN"), "header b'PSGN'"
    yield "header alone", gzip.compress(spz_head()), "truncated"
    yield "half a header", gzip.compress(spz_head()[:7]), "truncated"
    yield "gzip of nothing", gzip.compress(b""), "truncated"
    yield "gzip of gzip", gzip.compress(spz3()), "header"
    yield "gzip bytes alone", b"\x1f\x8b", "truncated"
    yield "gzip of an unknown method", b"\x1f\x8b\x07" + spz3()[3:], "damaged gzip"
    yield "damaged gzip", spz3()[:12] + bytes(20), "damaged gzip|truncated"
    yield "bomb of forty million splats", spz3(body=20_000_000, count=40_000_000), "claim to unpack"
    yield "bomb behind two splats", spz3(body=30_000_000, count=1_500_000), "claim to unpack"
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = stream.compress(spz_head(count=900_000, degree=4))
    bomb = head + b"".join(stream.compress(bytes(1 << 20)) for _ in range(64)) + stream.flush()
    yield "bomb within the count", bomb, "claim to unpack"
    yield "axes that do not exist", spz3(tail=struct.pack("<III", 0xADBE0003, 4, 17), flags=2), "coordinate system 17"


def spz4_cases() -> Iterator[Case]:
    for version in (1, 2, 3, 5, 2**31):
        yield f"version {version} without gzip", spz4(version=version), "version"
    for streams in (0, 4, 6, 255):
        yield f"{streams} streams", spz4(streams=streams), "table of 5 streams"
    for toc in (0, 8, 31, 10_000, 2**32 - 1):
        yield f"table at {toc}", spz4(toc=toc), "table of 5 streams"
    yield "header of 20 bytes", spz4()[:20], "table of 5 streams"
    yield "degree 4 without its stream", spz4(degree=4), "table of 6 streams"
    yield "degree 9", spz4(degree=9), "degree 9"
    yield "no splats", spz4(count=0), "claims 0 splats"
    yield "three splats", spz4(count=3), "does not hold 3 splats"
    yield "four billion splats", spz4(count=2**32 - 1), "claims 4,294,967,295"
    for packed in (2**63, 2**64 - 1, 10_000, 0):
        yield f"stream of {packed} bytes", spz4(table={0: (packed, 18)}), "does not hold|zstd"
    for unpacked in (2**63, 17, 0):
        yield f"stream that unpacks to {unpacked}", spz4(table={1: (10, unpacked)}), "does not hold"
    for size in (19, 2**40, 2**62):
        claim = zstd_claiming(size)
        yield f"frame that claims {size}", spz4(bodies={0: claim}), "claims|damaged zstd"
    yield "frame that claims right and lies", spz4(bodies={0: zstd_claiming(18)}), "damaged zstd|holds 0 bytes"
    yield "no zstd", spz4(bodies={2: b"not zstd at all"}), "damaged zstd"
    yield "shorter content", spz4(bodies={4: zstandard.ZstdCompressor().compress(bytes(7))}), "claims 7 bytes"
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    yield "bomb without a size", spz4(bodies={0: unsized.compress(bytes(100 << 20))}), "damaged zstd|holds"
    yield (
        "bomb with a size",
        spz4(bodies={0: zstandard.ZstdCompressor().compress(bytes(100 << 20))}),
        "claims 104,857,600",
    )
    n = 2_000_000
    sizes = (9 * n, n, 3 * n, 3 * n, 4 * n)
    yield "bomb within the count", spz4(sizes=sizes, count=n), "claim to unpack"
    for number in (0, 17, 2**31):
        record = struct.pack("<III", 0xADBE0003, 4, number)
        data = spz4(records=record, toc=32 + len(record), flags=2)
        yield f"coordinate system {number}", data, f"coordinate system {number}"
    short = struct.pack("<II", 0xADBE0003, 2**32 - 1)
    yield "extension longer than the file", spz4(records=short, toc=40, flags=2), "coordinate system 0"
