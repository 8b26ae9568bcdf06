"""A folder of numbered tensors that can be made again: what is damaged or foreign in it counts as absent.

Every tensor is a safetensors file of its own, renamed into place, with a checksum and the key of what it was made
from, so processes that share the folder, or die while writing, spoil nothing.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from gencompress.errors import RunError
from gencompress.run.atomic import sweep, write_file, write_json

_HEAD = "cache.json"
_PER_FOLDER = 1000
_SUFFIX = ".safetensors"


HEADER = 512  # bytes that a file has at most beside its tensor


class Shards:
    """Tensors by number, in a folder that belongs to one set of origins.

    Args:
        folder: made if it is not there.
        origins: what the tensors are made from, by name: strings that are equal if and only if the tensors are.

    Raises:
        RunError: the folder holds something else, or tensors of other origins; names the first that differs.
    """

    def __init__(self, folder: Path, origins: Mapping[str, str]) -> None:
        self._folder, self._key = folder, hashlib.sha256(json.dumps(dict(origins)).encode()).hexdigest()
        head = folder / _HEAD
        if head.exists():
            _check_origins(head, origins)
        else:
            _refuse_occupied(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(head, dict(origins))

    def read(self, number: int) -> Tensor | None:
        """The tensor of this number; None if it is absent, damaged, or of other origins."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(number), framework="pt") as file:
                said, tensor = file.metadata() or {}, file.get_tensor("tensor")
        except (OSError, SafetensorError):
            return None
        return tensor if said == self._said(tensor) else None

    def write(self, number: int, tensor: Tensor) -> None:
        """Keep a contiguous tensor on the CPU under `number`. RunError if the disk is full."""
        from safetensors.torch import save

        path = self._path(number)
        path.parent.mkdir(exist_ok=True)
        data = save({"tensor": tensor}, self._said(tensor))  # save_file's own temporary file would outlive a kill
        with suppress(FileNotFoundError):  # swept away by a process that has just opened the folder
            write_file(path, lambda file: file.write_bytes(data), len(data), durable=False)

    def limit(self, count: int) -> None:
        """Remove what numbers from `count` on have, and what killed writers left."""
        for part in self._folder.iterdir():
            if part.is_dir():
                sweep(part)
                for file in part.glob(f"*{_SUFFIX}"):
                    if file.stem.isdecimal() and int(file.stem) >= count:
                        file.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number // _PER_FOLDER:04d}" / f"{number:07d}{_SUFFIX}"

    def _said(self, tensor: Tensor) -> dict[str, str]:
        """What a file says of its tensor beside it."""
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        start = zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode())
        return {"origins": self._key, "crc32": f"{zlib.crc32(data, start):08x}"}


def _refuse_occupied(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; a cache is a folder")
    if folder.exists() and not all(entry.name.startswith(_HEAD) for entry in folder.iterdir()):  # being written
        raise RunError(f"{folder}: neither empty nor a cache ({_HEAD} is missing); name another folder")


def _check_origins(head: Path, origins: Mapping[str, str]) -> None:
    try:
        found = json.loads(head.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{head}: damaged ({error}); remove the folder {head.parent}, it can be made again") from error
    for name, value in origins.items():
        if found.get(name) != value:
            raise RunError(
                f"{head.parent}: this cache was made with another {name} ({found.get(name)!s:.12}, and here it is "
                f"{value:.12}); name another folder, or remove this one to make it anew"
            )
