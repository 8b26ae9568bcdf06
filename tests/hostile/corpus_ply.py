"""Hostile .ply, compressed .ply and .splat files.

A case is its name, its bytes, and a pattern for the message, so that a file is refused for its own fault alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Case = tuple[str, bytes, str]
FIELDS = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
FIELDS += ["rot_0", "rot_1", "rot_2", "rot_3"]


def ply(
    lines: list[str] | None = None, count: object = 3, body: bytes | None = None, head: str = "binary_little_endian"
) -> bytes:
    lines = [f"property float {name}" for name in FIELDS] if lines is None else lines
    text = "\n".join(["ply", f"format {head} 1.0", f"element vertex {count}", *lines, "end_header\n"])
    return text.encode() + (np.linspace(0.1, 1, 3 * 14, dtype="<f4").tobytes() if body is None else body)


def floats(*names: str) -> list[str]:
    return [f"property float {name}" for name in names]


def ply_headers() -> Iterator[Case]:
    for count, wrong in [(-1, "count"), (-(2**31), "count"), (2**31, "claims|truncated"), (2**63, "count"),
                         (10**15 - 1, "claims"), (10**30, "count"), ("abc", "count"), ("1.5", "count"),
                         ("0x10", "count"), ("", "count"), ("５", "count"), ("1e3", "count"), ("3 4", "count"),
                         (50_000_001, "claims"),
                         (4, "truncated"), (49_999_999, "truncated"), (0, "0 splats")]:  # fmt: skip
        yield f"count {count}", ply(count=count), wrong
    for name in FIELDS:
        yield f"without {name}", ply(floats(*(f for f in FIELDS if f != name))), f"no property {name}"
    for number in (1, 8, 10, 44, 46, 71, 73, 3 * 99):  # the last is degree 9
        names = floats(*FIELDS, *(f"f_rest_{i}" for i in range(number)))
        yield f"{number} harmonics", ply(names, body=bytes(4 * 3 * (14 + number))), "whole degree"
    gap = floats(*FIELDS, *(f"f_rest_{i}" for i in [0, 1, 2, 3, 4, 5, 6, 7, 9]))
    yield "harmonics with a gap", ply(gap, body=bytes(4 * 3 * 23)), "whole degree"
    yield "list in the splats", ply([*floats(*FIELDS), "property list uchar int more"]), "list"
    bomb = "element face 4000000000\nproperty list uint uint vertex_indices\nelement vertex"
    yield "list bomb in front", ply().replace(b"element vertex", bomb.encode()), "list"
    front = "element camera 4000000000000\nproperty double a\nelement vertex"
    yield "huge element in front", ply().replace(b"element vertex", front.encode()), "truncated"
    yield "unknown type", ply([*floats(*FIELDS), "property float128 a"]), "known type"
    yield "type without name", ply([*floats(*FIELDS), "property float"]), "known type"
    yield "nothing of a property", ply([*floats(*FIELDS), "property"]), "known type"
    yield "twice the same", ply(floats(*FIELDS, "x")), "stands twice"
    yield "2000 properties", ply(floats(*FIELDS, *(f"a{i}" for i in range(2000)))), "more than 1024"
    yield "no properties", ply([]), "no property"
    yield "no element", b"ply\nformat binary_little_endian 1.0\nend_header\n", "no property"
    yield "no format", ply().replace(b"format binary_little_endian 1.0\n", b""), "no format"
    yield "unknown format", ply(head="binary_middle_endian"), "is unknown"
    yield "property first", ply().replace(b"element vertex 3\n", b""), "not a format"
    yield "unknown keyword", ply(["attack a b", *floats(*FIELDS)]), "not a format"
    yield "not UTF-8", ply(["comment \xff".encode("latin-1").decode("latin-1"), *floats(*FIELDS)]).replace(
        "ÿ".encode(), b"\xff"
    ), "UTF-8"  # fmt: skip
    yield "capital magic", ply().replace(b"ply", b"PLY", 1), "does not begin"
    yield "no end of the header", ply().replace(b"end_header", b"comment"), "end_header"
    yield "header without end", b"ply\n" + b"comment a\n" * 100_000, "end_header"
    yield "one endless line", b"ply\n" + b"a" * 1_000_000, "end_header"
    yield "point cloud", ply(floats("x", "y", "z"), body=bytes(36)), "not a file of Gaussian splats"


def ply_values() -> Iterator[Case]:
    for name, value in (("NaN", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)):
        yield f"all {name}", ply(body=np.full(42, value, "<f4").tobytes()), "finite values"
    for field in (0, 3, 10):
        rows = np.ones((3, 14), "<f4")
        rows[:, field] = np.nan
        yield f"NaN in every {FIELDS[field]}", ply(body=rows.tobytes()), "finite values"
    text = "0.5 " * 14 + "\n"
    for name, body, wrong in [
        ("text too short", (text * 2).encode(), "truncated"),
        ("text with words", (text * 2 + "a " * 14 + "\n").encode(), "no table"),
        ("text with few columns", b"1 2 3\n" * 20, "no table|truncated"),
        ("text not ASCII", b"\xff\xfe\x00" * 60, "no table|truncated"),
        ("text of one line", b"1 " * 200_000, "line is longer"),
        ("empty text", b"", "truncated"),
    ]:
        yield name, ply(body=body, head="ascii"), wrong
    yield "text with a huge count", ply(count=40_000_000, body=text.encode() * 3, head="ascii"), "truncated"


def compressed(chunks: int = 1, splats: int = 2, sh: int = 0, sh_rows: int | None = None, **changes: Any) -> bytes:
    bounds = [f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"]
    bounds += [f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"]
    bounds += [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
    words = [f"packed_{name}" for name in ("position", "rotation", "scale", "color")]
    bounds = [name for name in bounds if name != changes.get("without")]
    words = [name for name in words if name != changes.get("without")]
    kind = changes.get("kind", "uint")
    lines = ["ply", "format binary_little_endian 1.0"]
    if changes.get("chunk", True):
        lines += [f"element chunk {chunks}", *floats(*bounds)]
    lines += [f"element vertex {splats}", *(f"property {kind} {name}" for name in words)]
    rows = splats if sh_rows is None else sh_rows
    if sh:
        lines += [f"element sh {rows}"]
        lines += [f"property {changes.get('sh_kind', 'uchar')} f_rest_{i}" for i in range(sh)]
    table = np.full((chunks, len(bounds)), changes.get("bound", 0.5), "<f4").tobytes()
    return "\n".join([*lines, "end_header\n"]).encode() + table + bytes(4 * len(words) * splats + sh * rows)


def compressed_cases() -> Iterator[Case]:
    yield "too few chunks", compressed(chunks=1, splats=257), "need 2 chunks"
    yield "too many chunks", compressed(chunks=2), "need 1 chunks"
    yield "no chunks", compressed(chunks=0), "need 1 chunks"
    yield "no splats", compressed(chunks=0, splats=0), "0 splats"
    yield "no chunk element", compressed(chunk=False), "no element 'chunk'"
    for name in ("min_x", "max_z", "min_scale_y"):
        yield f"no {name}", compressed(without=name), name
    for name in ("packed_rotation", "packed_scale", "packed_color"):
        yield f"no {name}", compressed(without=name), name
    yield "words of floats", compressed(kind="float"), "packed_position"
    yield "words of 64 bits", compressed(kind="double"), "packed_position|truncated"
    for number in (1, 8, 10, 46, 72, 3 * 99):
        yield f"{number} harmonics", compressed(sh=number), "f_rest_0 up to"
    yield "harmonics of floats", compressed(sh=9, sh_kind="float"), "f_rest_0|truncated"
    yield "fewer harmonics", compressed(sh=9, sh_rows=1), "element 'sh' has 1 rows"
    yield "bounds of NaN", compressed(bound=np.nan), "finite values"
    yield "bounds of infinity", compressed(bound=np.inf), "finite values"
    yield "huge count", compressed().replace(b"element vertex 2", b"element vertex 49000000"), "truncated"
    yield "negative count", compressed().replace(b"element vertex 2", b"element vertex -2"), "count"


def splat_cases() -> Iterator[Case]:
    row = np.ones(6, "<f4").tobytes() + b"\x80" * 8
    for length in (1, 4, 31, 33, 63, 100):
        yield f"{length} bytes", (row * 4)[:length], "bytes are left"
    yield "empty", b"", "claims 0 splats"
    for name, value in (("NaN", np.nan), ("infinity", np.inf)):
        yield f"all {name}", (np.full(6, value, "<f4").tobytes() + b"\x80" * 8) * 5, "finite values"
    yield "negative scales", (np.array([0, 0, 0, -1, -1, -1], "<f4").tobytes() + b"\x80" * 8) * 5, "finite values"
