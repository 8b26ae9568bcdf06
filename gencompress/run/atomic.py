"""Files and folders that appear whole or not at all: temporary sibling, fsync, rename, fsync of the parent.

A crash, a kill or a full disk leaves the old file (or none) and at most a `*.tmp-PID` sibling that the next opening
of the run directory sweeps away. Imports nothing heavy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gencompress.errors import NumericsError, RunError

_TEMPORARY = re.compile(r".+\.tmp-\d+$")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`. RunError when the disk is full, the old file untouched."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(data)

    write_file(path, write, needed=len(data))


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as JSON. NumericsError names the first key that is NaN or infinite."""
    bad = _not_finite(value)
    if bad is not None:
        raise NumericsError(f"{path}: {bad} is not a finite number, which JSON cannot hold")
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_file(path: Path, write: Callable[[Path], object], needed: int | None = None, *, durable: bool = True) -> None:
    """Let `write` fill a temporary file by name, then rename it to `path`.

    Args:
        path: the file to make or replace.
        write: fills the file that it is given.
        needed: the size in bytes, when known, for the message of a full disk.
        durable: flush it to the disk; without, a power cut may spoil it. For what is checked when read and made again.
    """
    temporary = _temporary(path)
    try:
        with explain_disk_full(path, needed):
            write(temporary)
            if durable:
                _fsync(temporary)
                rename(temporary, path)
            else:
                os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_occupied(path: Path) -> None:
    """RunError if something already stands at `path` (an empty folder does not count)."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise RunError(f"{path} already exists: name another folder, or remove this one first")


@contextmanager
def write_dir(path: Path, *, refuse: Callable[[Path], None] = refuse_occupied, durable: bool = True) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends without an error.

    Args:
        path: the folder to make.
        refuse: raises where what stands at `path` must stay; what it lets pass is replaced. By default nothing is.
        durable: flush every file to the disk; without, a power cut may spoil what was just written. For many small
            files that can be made again at once.

    Raises:
        RunError: `refuse` says so, or the disk is full.
    """
    refuse(path)
    temporary = _temporary(path)
    with explain_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        with explain_disk_full(path):
            yield temporary
            refuse(path)  # once more: it may have been filled meanwhile
            remove_dir(path)
            if durable:
                commit_dir(temporary, path)
            else:
                rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def commit_dir(temporary: Path, path: Path) -> None:
    """Flush everything under `temporary` to the disk, then rename it to `path` (absent or an empty folder)."""
    for folder, _, names in os.walk(temporary):
        for name in names:
            _fsync(Path(folder, name))
        _fsync(Path(folder))
    rename(temporary, path)


def rename(old: Path, new: Path) -> None:
    """Rename within one folder, and have the disk know it before returning."""
    os.replace(old, new)
    _fsync(new.parent)


def remove_dir(path: Path) -> None:
    """Remove a folder so that a kill half-way leaves only a temporary one behind, never half of `path`."""
    if not path.exists():
        return
    temporary = _temporary(path.with_name(f"{path.name}.removed"))  # apart from what is about to replace `path`
    rename(path, temporary)
    shutil.rmtree(temporary)


def sweep(folder: Path) -> None:
    """Remove what killed writers left directly under `folder`; the caller holds the lock on it."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if not _TEMPORARY.match(entry.name):
            continue
        with suppress(FileNotFoundError):  # another process of the run, done with it, is removing it as well
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explain_disk_full(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk or quota, from Python or from inside safetensors, into a RunError naming path and bytes."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        if not _is_disk_full(error):
            raise
        wants = f"{needed:,} bytes are needed" if needed is not None else "more space is needed"
        raise RunError(
            f"{path}: the disk is full: {wants}, {_free(path):,} bytes are free. "
            "Nothing was half-written; free some space and run the same command again to resume."
        ) from error


def _is_disk_full(error: BaseException) -> bool:
    """Whether this error, or one that caused it, says that the disk or the quota is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        # safetensors is written in Rust and reports the number in its text alone
        if any(f"(os error {number})" in str(seen) for number in _FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _free(path: Path) -> int:
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(folder).free


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_finite(value: object, where: str = "value") -> str | None:
    """The path of the first NaN or infinity in nested dicts and lists."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} = {value}"
    if isinstance(value, dict):
        found = (_not_finite(v, f"{where}.{k}" if where != "value" else str(k)) for k, v in value.items())
    elif isinstance(value, list | tuple):
        found = (_not_finite(v, f"{where}[{i}]") for i, v in enumerate(value))
    else:
        return None
    return next((bad for bad in found if bad is not None), None)
