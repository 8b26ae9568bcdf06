"""Trained splats as a .ply, as 3D Gaussian Splatting (Kerbl et al. 2023) writes them, read and written in chunks.

Any order and type of properties, and unknown columns are kept. The higher spherical harmonics of a large file stay
in the file as a memory map: the other columns of ten million splats are 0.6 GB, the harmonics 1.8 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import activations
from gencompress.formats.compressed_ply import decode, is_compressed
from gencompress.formats.ply_header import ANTIALIASED, TYPE_NAMES, Header, map_tables, read_header
from gencompress.formats.scene import CHUNK, Array, SplatScene
from gencompress.run.atomic import write_file

MAPPED_SH = 256 << 20  # bytes of harmonics above which they are left in the file
_FIELDS = {
    "means": ("x", "y", "z"),
    "sh0": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "logits": ("opacity",),
    "log_scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
}
_FINITE = {"logits": activations.finite_logits, "log_scales": activations.finite_log_scales}
_REST = {0: 0, 9: 1, 24: 2, 45: 3, 72: 4}  # number of f_rest columns -> degree
_NORMALS = ("nx", "ny", "nz")


def read_ply(path: Path) -> SplatScene:
    """A plain or a PlayCanvas compressed .ply. FormatError names the file and the field at fault."""
    header = read_header(path)
    if is_compressed(header):
        return decode(path, header)
    rest = _check_columns(path, header)
    rows = map_tables(path, header, {"vertex"})["vertex"]
    known = {name for columns in _FIELDS.values() for name in columns}.union(rest)
    others = [name for name in rows.dtype.names or () if name not in known]
    scene = {field: np.empty((len(rows), len(columns)), np.float32) for field, columns in _FIELDS.items()}
    extra = {name: np.empty(len(rows), rows.dtype[name].newbyteorder("=")) for name in others}
    mapped = _mapped_rest(rows, rest)
    k = len(rest) // 3
    sh_rest = np.empty((len(rows), k, 3), np.float32) if mapped is None else mapped
    for part, chunk in _chunks(path, rows):
        for field, columns in _FIELDS.items():
            scene[field][part] = _FINITE.get(field, np.asarray)(_floats(chunk, columns))
        for name in others:
            extra[name][part] = chunk[name]
        if mapped is None:
            harmonics = _floats(chunk, rest)
            for channel in range(3):  # the file has all of red first, then green, then blue
                sh_rest[part, :, channel] = harmonics[:, channel * k : (channel + 1) * k]
    if all(name in extra and not extra[name].any() for name in _NORMALS):  # what trainers write for "no normals"
        extra = {name: column for name, column in extra.items() if name not in _NORMALS}
    return SplatScene(
        means=scene["means"],
        quats=scene["quats"],
        log_scales=scene["log_scales"],
        logits=scene["logits"][:, 0],
        sh0=scene["sh0"],
        sh_rest=sh_rest,
        extra=extra,
        antialiased=header.antialiased,
    )


def _chunks(path: Path, rows: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The rows chunk by chunk; those of a binary file are read, lest all its pages become resident."""
    with open(path, "rb") as file:
        file.seek(rows.offset if isinstance(rows, np.memmap) else 0)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, min(start + CHUNK, len(rows)))
            chunk = np.fromfile(file, rows.dtype, part.stop - start) if isinstance(rows, np.memmap) else rows[part]
            if len(chunk) < part.stop - start:
                raise FormatError(f"{path}: truncated while it was read")
            yield part, chunk


def write_ply(path: Path, scene: SplatScene) -> None:
    """Replace `path` by a binary little-endian .ply with the further columns of the scene, chunk by chunk."""
    row = _row(path, scene)
    size = len(scene) * row.itemsize

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(_header(scene, row))
            _write_rows(file, scene, row)

    write_file(path, write, needed=size)


def _check_columns(path: Path, header: Header) -> list[str]:
    """The names of the f_rest columns, after checking that all that a splat has is there."""
    vertex = header.element("vertex")
    names = {name for name, _ in vertex.columns} if vertex else set()
    missing = [name for columns in _FIELDS.values() for name in columns if name not in names]
    if missing:
        raise FormatError(
            f"{path}: not a file of Gaussian splats: element 'vertex' has no property {', '.join(missing[:4])}"
        )
    count = sum(name.startswith("f_rest_") for name in names)
    rest = [f"f_rest_{index}" for index in range(count)]
    if count not in _REST or not names.issuperset(rest):
        raise FormatError(
            f"{path}: {count} columns f_rest_* are no whole degree of spherical harmonics; valid are f_rest_0 up to "
            f"{', '.join(str(valid - 1) for valid in _REST if valid)}, or none"
        )
    return rest


def _mapped_rest(rows: NDArray[Any], rest: Sequence[str]) -> Array | None:
    """The harmonics as a view of the mapped file, if they are many and stand there as consecutive floats."""
    start = _consecutive(rows.dtype, rest)
    if len(rows) * len(rest) * 4 < MAPPED_SH or start is None or not isinstance(rows, np.memmap):
        return None
    k = len(rest) // 3
    return np.ndarray((len(rows), k, 3), "<f4", rows, start, (rows.itemsize, 4, 4 * k))


def _floats(chunk: NDArray[Any], names: Sequence[str]) -> Array:
    """Columns of a chunk as [n, len(names)]: a view where they are consecutive floats in the file, else a copy."""
    start = _consecutive(chunk.dtype, names)
    if start is not None:
        return np.ndarray((len(chunk), len(names)), "<f4", chunk, start, (chunk.itemsize, 4))
    columns = np.empty((len(chunk), len(names)), np.float32)
    for index, name in enumerate(names):
        columns[:, index] = chunk[name]
    return columns


def _consecutive(row: np.dtype[Any], names: Sequence[str]) -> int | None:
    """The byte at which these columns begin if they follow each other as little-endian floats."""
    fields: Mapping[str, Any] = row.fields or {}
    start = fields[names[0]][1] if names else 0
    follow = all(fields[name][:2] == (np.dtype("<f4"), start + 4 * index) for index, name in enumerate(names))
    return start if follow else None


def _row(path: Path, scene: SplatScene) -> np.dtype[Any]:
    rest = [f"f_rest_{index}" for index in range(3 * scene.sh_rest.shape[1])]
    fields = _FIELDS
    names = [*fields["means"], *fields["sh0"], *rest, *fields["logits"], *fields["log_scales"], *fields["quats"]]
    extra = [(name, column.dtype.newbyteorder("<")) for name, column in scene.extra.items()]
    bad = next((name for name, kind in extra if kind.str[1:] not in TYPE_NAMES or name in names), None)
    if bad is not None:
        raise FormatError(f"{path}: further column {bad!r} has the name of another one, or a type that .ply lacks")
    return np.dtype([*((name, "<f4") for name in names), *extra])


def _header(scene: SplatScene, row: np.dtype[Any]) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0"]
    if scene.antialiased:
        lines.append(f"comment {ANTIALIASED}")
    lines.append(f"element vertex {len(scene)}")
    lines += [f"property {TYPE_NAMES[row[name].str[1:]]} {name}" for name in row.names or ()]
    return "\n".join([*lines, "end_header\n"]).encode()


def _write_rows(file: IO[bytes], scene: SplatScene, row: np.dtype[Any]) -> None:
    k = scene.sh_rest.shape[1]
    for _, part in scene.chunks():
        chunk = np.empty(len(part), row)
        floats = np.ndarray((len(part), 14 + 3 * k), "<f4", chunk, 0, (row.itemsize, 4))
        floats[:, :3] = part.means
        floats[:, 3:6] = part.sh0
        for channel in range(3):
            floats[:, 6 + channel * k : 6 + (channel + 1) * k] = part.sh_rest[:, :, channel]
        floats[:, -8] = part.logits
        floats[:, -7:-4] = part.log_scales
        floats[:, -4:] = part.quats
        for name, column in part.extra.items():
            chunk[name] = column
        file.write(chunk.data)
