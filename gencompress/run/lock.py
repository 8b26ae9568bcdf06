"""One process at a time in a run directory. The kernel drops the lock when its holder dies, `kill -9` included."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gencompress.errors import RunError

NAME = ".lock"


class Lock:
    """An exclusive lock on a folder, held from construction to `release`. RunError if another process has it."""

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise RunError(
                f"{folder} is in use by another process (number {holder}): wait for it, stop it, "
                "or choose another folder with run.dir=FOLDER"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the folder free. The file stays: removing it would let two processes lock two files."""
        os.close(self._descriptor)
