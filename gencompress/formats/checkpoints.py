"""Checkpoints of networks as people hold them: a plain pickle, or a file of `torch.save`, zipped or older.

Nothing in them is executed (`gencompress.formats.pickles`), and tensors stay in the file until they are asked for.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from gencompress.errors import FormatError
from gencompress.formats.pickles import CALLS, Allowance, Interpreter, Named, Readable
from gencompress.formats.storage import STORAGE_TYPES, Storage, StoredTensor

MAX_BYTES = 8 << 30
_MAX_LIST = 32 << 20  # bytes of the list of a zip's members
_MAX_STORAGES = 100_000
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before 1.6
_START = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_LOAD = "torch.storage._load_from_bytes"


def read_checkpoint(path: Path | str) -> Any:
    """What a checkpoint holds: dicts, lists and numbers, `StoredTensor` and `StoredModule`.

    Raises:
        FormatError: the file is missing, too large, malformed, or holds something that checkpoints do not.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise FormatError(f"{path}: the file has {size:,} bytes; 1 to {MAX_BYTES:,} are read")
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if mapped[:2] == b"PK":
                return _zipped(path, file, memoryview(mapped))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if mapped[: len(_START)] == _START:
        return _older(path, mapped, memoryview(mapped), CALLS, Allowance())
    allowance = Allowance()
    calls = {**CALLS, _LOAD: lambda data: _nested(path, data, allowance)}
    return Interpreter(path, _no_ids, calls, allowance).run(mapped)


def load_tensors(path: Path | str, tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Read tensors of a checkpoint. FormatError naming the first bad one, or if they claim more than the file has."""
    left, loaded = Path(path).stat().st_size, {}
    for name, stored in tensors.items():
        try:
            loaded[name] = stored.load()
        except ValueError as error:
            raise FormatError(f"{path}: {name}: {error}") from error
        left -= loaded[name].nbytes
        if left < 0:
            raise FormatError(f"{path}: the tensors claim more bytes than the file has")
    return loaded


def _no_ids(_: Any) -> Any:
    raise ValueError("it refers to something outside of it")


def _storage_of(value: Any, found: dict[str, Storage]) -> Storage:
    """The storage that a persistent id of torch stands for: ``("storage", type, key, location, count, ...)``."""
    if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
        raise ValueError("it refers to something that is no storage")
    kind, key, count = value[1], value[2], value[4]
    if not isinstance(kind, Named) or kind.name not in STORAGE_TYPES:
        raise ValueError("a storage is of a type that networks do not have")
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 40:
        raise ValueError("a storage has no name, or no size")
    if len(found) >= _MAX_STORAGES:
        raise ValueError(f"it has over {_MAX_STORAGES:,} storages")
    if len(value) > 5 and value[5] is not None:
        raise ValueError("a storage is a part of another one")
    storage = found.setdefault(key, Storage(STORAGE_TYPES[kind.name], count))
    if storage.dtype != STORAGE_TYPES[kind.name] or storage.numel != count:
        raise ValueError("a storage has two types or sizes")
    return storage


def _nested(path: Path, data: Any, allowance: Allowance) -> Any:
    """A storage that a plain pickle holds, as `torch.save` wrote it: only a storage, so that nothing nests deeper."""
    if not isinstance(data, bytes) or data[: len(_START)] != _START:
        raise ValueError("a storage is not as torch writes it")
    storage = _older(path, io.BytesIO(data), memoryview(data), {}, allowance)
    if not isinstance(storage, Storage):
        raise ValueError("a storage is none")
    return storage


def _older(
    path: Path, file: Readable, data: memoryview, calls: Mapping[str, Callable[..., Any]], allowance: Allowance
) -> Any:
    """A file of torch before 1.6: five pickles (magic number, version, machine, value, keys), then the storages."""
    found: dict[str, Storage] = {}
    interpreter = Interpreter(path, lambda value: _storage_of(value, found), calls, allowance)
    magic, version, machine, value, keys = (interpreter.run(file) for _ in range(5))
    if magic != _MAGIC or version != _VERSION or not isinstance(machine, dict) or not isinstance(keys, list):
        raise FormatError(f"{path}: the header of torch.save is damaged")
    if machine.get("little_endian") is not True:
        raise FormatError(f"{path}: the file was written on a big-endian machine")
    place = file.tell()
    for key in keys:
        storage = found.get(key) if isinstance(key, str) else None
        header = data[place : place + 8]
        if storage is None or len(header) < 8 or struct.unpack("<q", header)[0] != storage.numel:
            raise FormatError(f"{path}: the list of tensors does not fit them, or the file is cut")
        storage.data, storage.start = data, place + 8
        place += 8 + storage.nbytes
        if place > len(data):
            raise FormatError(f"{path}: the file ends within a tensor")
    return value


def _zipped(path: Path, file: BinaryIO, data: memoryview) -> Any:
    """A file of torch from 1.6: a zip of ``NAME/data.pkl`` and ``NAME/data/KEY``, nothing in it packed."""
    members = _members(path, file, data)
    roots = [name.removesuffix("data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise FormatError(f"{path}: a zip, but none that torch.save made: it has {len(roots)} data.pkl")
    root, found = roots[0], dict[str, Storage]()
    order = members.get(f"{root}byteorder")
    if order is not None and bytes(_content(path, data, order)) != b"little":
        raise FormatError(f"{path}: the file was written on a big-endian machine")
    interpreter = Interpreter(path, lambda value: _storage_of(value, found), CALLS, Allowance())
    value = interpreter.run(io.BytesIO(_content(path, data, members[f"{root}data.pkl"])))
    for key, storage in found.items():
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise FormatError(f"{path}: tensor {key[:40]!r} is not in the file")
        storage.data = _content(path, data, member)
    return value


def _members(path: Path, file: BinaryIO, data: memoryview) -> dict[str, zipfile.ZipInfo]:
    """The members by name, after a look at the size of their list, which will be read whole."""
    tail = bytes(data[-(22 + (1 << 16)) :])
    end = tail.rfind(b"PK\x05\x06")
    size = struct.unpack_from("<I", tail, end + 12)[0] if 0 <= end <= len(tail) - 22 else None
    if size is not None and tail[max(0, end - 20) : end].startswith(b"PK\x06\x07") and end >= 76:
        size = struct.unpack_from("<Q", tail, end - 76 + 40)[0]
    if size is None or size > _MAX_LIST:
        raise FormatError(f"{path}: a damaged zip, or one with too many members")
    try:
        file.seek(0, os.SEEK_SET)
        with zipfile.ZipFile(file) as archive:
            return {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise FormatError(f"{path}: a damaged zip: {error}") from error


def _content(path: Path, data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of a member, which is stored as it is."""
    header = bytes(data[info.header_offset : info.header_offset + 30])
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or len(header) < 30 or header[:4] != b"PK\3\4":
        raise FormatError(f"{path}: {info.filename[:60]!r} is packed or encrypted, as torch.save does not do")
    start = info.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))
    if info.file_size != info.compress_size or start + info.file_size > len(data):
        raise FormatError(f"{path}: the file ends within {info.filename[:60]!r}")
    return data[start : start + info.file_size]
