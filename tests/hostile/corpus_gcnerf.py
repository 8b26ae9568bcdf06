"""Hostile .gcnerf files: a whole one taken apart and put together wrongly."""

from __future__ import annotations

import json
import struct
import zlib
from functools import cache

import numpy as np
import zstandard

RESOLUTIONS, LOG2 = [2, 3, 9], 8
ENTRIES = 27 + 64 + 256
DENSITY, COLOR = [6, 8, 4], [19, 8, 3]
HEADER = {
    "resolutions": RESOLUTIONS, "log2_entries": LOG2, "bound": 1.5, "alpha": 100.0, "samples": 64,
    "background": [1.0, 1.0, 1.0], "saliency": 4, "occupancy": 3, "density_net": DENSITY, "color_net": COLOR,
}  # fmt: skip
NAMES = ("table", "saliency", "networks", "occupancy")


def contents() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    counts = {"table": 2 * ENTRIES, "saliency": 64, "networks": 6 * 8 + 8 * 4 + 19 * 8 + 8 * 3}
    floats = {name: rng.normal(size=count).astype("<f4").tobytes() for name, count in counts.items()}
    return {**floats, "occupancy": bytes([255, 7, 129, 0])}


def section(data: bytes, crc: int | None = None, size: int | None = None, packed: bytes | None = None) -> bytes:
    packed = zstandard.ZstdCompressor().compress(data) if packed is None else packed
    return (
        struct.pack("<QI", len(packed) if size is None else size, zlib.crc32(packed) if crc is None else crc) + packed
    )


def head(text: bytes, magic: bytes = b"GCNF", version: int = 1, size: int | None = None) -> bytes:
    return struct.pack("<4sII", magic, version, len(text) if size is None else size) + text


def build(header: dict | bytes | None = None, **sections: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(HEADER if header is None else header).encode()
    parts = contents()
    return head(text) + b"".join(sections.get(name, section(parts[name])) for name in NAMES)


def whole() -> bytes:
    return build()


@cache
def cases() -> dict[str, tuple[bytes, str]]:
    """By name: the file, and what the error must say."""
    return {**_framing(), **_headers(), **_sections()}


def _framing() -> dict[str, tuple[bytes, str]]:
    data = whole()
    text = json.dumps(HEADER).encode()
    found = {
        "empty": (b"", "is no .gcnerf"),
        "a few bytes": (b"GCN", "is no .gcnerf"),
        "only the magic": (b"GCNF", "is no .gcnerf"),
        "another magic": (b"GCNX" + data[4:], "is no .gcnerf"),
        "a pickle": (b"\x80\x04\x95" + data, "is no .gcnerf"),
        "a zip": (b"PK\x03\x04" + data, "is no .gcnerf"),
        "version 2": (head(text, version=2) + data[12 + len(text) :], "version 2; this program reads up to 1"),
        "version of all ones": (head(text, version=2**32 - 1), "a newer one wrote the file"),
        "version 0": (head(text, version=0), "version 0 was never written"),
        "a header beyond the end": (head(text, size=60_000), "a header of 60,000 bytes"),
        "a header of 4 GB": (head(text, size=2**32 - 1), "a header of 4,294,967,295 bytes"),
        "a header above the limit": (head(b" " * 70_000), "at most 65,536"),
        "bytes at the end": (data + b"\0", "1 bytes follow"),
        "twice": (data + data, "follow the last section"),
    }
    for part in (13, 12 + len(text), 20 + len(text), 30 + len(text), len(data) // 2, len(data) - 30, len(data) - 1):
        found[f"cut at {part}"] = (data[:part], "")
    return found


def _headers() -> dict[str, tuple[bytes, str]]:
    wrong = {
        "resolutions": [[], [0, 3, 9], [2, 3.5, 9], [2, 3, 70_000], [-1, 3, 9], [1] * 33, "2", None, {"0": 2}, [True]],
        "log2_entries": [0, 25, 10**30, 8.0, True, None, "8"],
        "bound": [0, -1.0, 1e9, None, "1", True, [1.5]],
        "alpha": [0, -3, 1e12, None],
        "samples": [0, 20_000, 1.5, None],
        "background": [[1, 1], [1, 1, 2], [1, 1, -0.1], [1, 1, None], 1, "white", [[1], 1, 1], [True, 1, 1]],
        "saliency": [-1, 257, None, 4.0],
        "occupancy": [0, 513, None, 3.0],
        "density_net": [[], [6], [6, 0, 4], [6, 8, 2000], [7, 8, 4], [6] + [8] * 9 + [4], "6", [6, 8, 5]],
        "color_net": [[], [19], [19, 8, 4], [18, 8, 3], [19, -8, 3], None],
    }  # fmt: skip
    found = {}
    for name, values in wrong.items():
        for i, value in enumerate(values):
            expected = "network|_net" if name.endswith("_net") else name
            found[f"{name} {i}"] = (build({**HEADER, name: value}), expected)
        found[f"without {name}"] = (build({k: v for k, v in HEADER.items() if k != name}), "missing or unknown")
    for text in ("NaN", "Infinity", "-Infinity", "1e400"):
        dressed = json.dumps(HEADER).replace('"bound": 1.5', f'"bound": {text}').encode()
        found[f"bound {text}"] = (build(dressed), "bound is")
    return found | {
        "one field too many": (build({**HEADER, "module": "os"}), "missing or unknown"),
        "a list": (build(b"[1, 2]"), "no object"),
        "no JSON": (build(b"{resolutions"), "no valid JSON"),
        "no UTF-8": (build(b"\xff\xfe{}"), "no valid JSON"),
        "deep brackets": (build(b"[" * 60_000), "no valid JSON"),
        "levels of a table of gigabytes": (
            build({**HEADER, "resolutions": [60_000] * 32, "log2_entries": 24, "density_net": [64, 8, 4]}),
            "claim to unpack to",
        ),
    }


def _sections() -> dict[str, tuple[bytes, str]]:
    parts, found = contents(), {}
    for name in NAMES:
        data = parts[name]
        other = bytearray(section(data))
        other[-1] ^= 1
        longer = zstandard.ZstdCompressor().compress(data + b"\0" * 8)
        unknown = zstandard.ZstdCompressor(write_content_size=False).compress(data)
        found |= {
            f"{name}: a bit changed": (build(**{name: bytes(other)}), "damaged"),
            f"{name}: another checksum": (build(**{name: section(data, crc=1)}), "damaged"),
            f"{name}: claims more than is left": (build(**{name: section(data, size=1 << 40)}), "are left"),
            f"{name}: no zstd": (build(**{name: section(b"", packed=b"no frame of zstd")}), name),
            f"{name}: empty": (build(**{name: section(b"", packed=b"")}), name),
            f"{name}: longer": (build(**{name: section(b"", packed=longer)}), "the header makes it"),
            f"{name}: shorter": (build(**{name: section(data[:-1])}), "the header makes it"),
            f"{name}: does not say its size": (build(**{name: section(b"", packed=unknown)}), name),
            f"{name}: cut frame": (build(**{name: section(b"", packed=bytes(section(data))[12:-3])}), name),
        }
    for name in NAMES[:3]:
        for value in (float("nan"), float("inf")):
            bad = np.frombuffer(parts[name], "<f4").copy()
            bad[5] = value
            found[f"{name}: {value}"] = (build(**{name: section(bad.tobytes())}), "holds NaN or infinity")
    return found
