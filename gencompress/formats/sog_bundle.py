"""The files of a SOG scene by name: members of a zip (.sog) or files of a folder, read without unpacking anything."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from gencompress.errors import FormatError
from gencompress.formats.bounded import MAX_RATIO, read_bytes
from gencompress.run.atomic import write_dir, write_file

META = "meta.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can state: the same scene gives the same bytes
_END = struct.Struct("<4s4H2IH")  # end of a zip: ..., size of the list of members, its place, length of a comment
_END_MAGIC = b"PK\x05\x06"
_LOCATOR_MAGIC = b"PK\x06\x07"  # before it, in a file of more than 65,535 members or 4 GB
_LOCATOR = 20  # bytes
_MAX_COMMENT = 1 << 16
_MAX_LIST = 1 << 16  # bytes; a scene has 6 to 8 members of about 60


class Files(Protocol):
    """Gives the content of files by their names. FormatError if there is no such file."""

    def size(self, name: str) -> int:
        """Bytes that the file takes where it is."""

    def read(self, name: str, limit: int) -> bytes:
        """The whole file. FormatError if it has more than `limit` bytes."""


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """The files of a .sog, of a folder, or of the folder of a meta.json."""
    if path.is_dir() or path.name.lower() == META:
        yield _Folder(path if path.is_dir() else path.parent)
    else:
        with open(path, "rb") as file:
            yield _Bundle(path, file)


class _Folder:
    """An unbundled scene."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, name: str) -> int:
        return self._find(name).stat().st_size

    def read(self, name: str, limit: int) -> bytes:
        return read_bytes(self._find(name), limit)

    def _find(self, name: str) -> Path:
        path = self._folder / _plain(self._folder, name)
        if not path.is_file():
            raise FormatError(f"{self._folder}: the folder has no file {name}")
        return path


class _Bundle:
    """The members of a zip file, none of which is unpacked beyond what its size in the list says."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._zip = _open_zip(path, file)
        self._members = {info.filename: info for info in self._zip.infolist()}
        if len(self._members) < len(self._zip.infolist()):
            raise FormatError(f"{path}: two files of the bundle have the same name")

    def size(self, name: str) -> int:
        return self._find(name).compress_size

    def read(self, name: str, limit: int) -> bytes:
        info = self._find(name)
        if info.file_size > min(limit, MAX_RATIO * info.compress_size):
            raise FormatError(
                f"{self._path}: {name} claims to unpack {info.compress_size:,} bytes to {info.file_size:,}; at most "
                f"{limit:,} bytes and {MAX_RATIO} times as many are read"
            )
        try:
            return self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise FormatError(f"{self._path}: {name} is damaged: {error}") from error

    def _find(self, name: str) -> zipfile.ZipInfo:
        info = self._members.get(_plain(self._path, name))
        if info is None:
            raise FormatError(f"{self._path}: the bundle has no file {name}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise FormatError(f"{self._path}: {name} is encrypted, or packed in a way that SOG has not")
        return info


def write_bundle(path: Path, files: Mapping[str, bytes]) -> None:
    """Replace `path` by a zip whose members stand uncompressed, as WebP already is; no time, no owner."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as bundle:
            for name, data in files.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system, info.external_attr = 3, 0o644 << 16
                bundle.writestr(info, data)

    write_file(path, write, needed=sum(map(len, files.values())))


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder. RunError if there is one already that is not empty."""
    with write_dir(folder) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)


def _plain(path: Path, name: str) -> str:
    """The name. FormatError if it could lead out of the folder."""
    if not _PLAIN_NAME.fullmatch(name):
        raise FormatError(f"{path}: {META} names a file {name[:60]!r}; letters, digits, '_', '-' and '.' are read")
    return name


def _open_zip(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    """The opened zip, after a look at its end: the list of members, whose size stands there, will be read whole."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _END.size - _MAX_COMMENT - _LOCATOR))
    tail = file.read()
    end = tail.rfind(_END_MAGIC)
    if end < 0 or len(tail) - end < _END.size:
        raise FormatError(f"{path}: not a .sog bundle: a zip file ends with a list of its members")
    size = _END.unpack_from(tail, end)[5]
    if size > _MAX_LIST or tail[max(0, end - _LOCATOR) : end].startswith(_LOCATOR_MAGIC):
        raise FormatError(f"{path}: the bundle has too many members: a scene has 6 to 8")
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise FormatError(f"{path}: damaged bundle: {error}") from error
