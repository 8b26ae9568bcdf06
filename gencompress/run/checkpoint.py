"""Checkpoints of one stage: each a single safetensors file whose name carries the hash of its content.

A torn or damaged file does not match its name and is passed over in favour of the one before it. Torch is imported
only when a checkpoint is written or read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gencompress.errors import RunError
from gencompress.run.atomic import explain_disk_full, rename, sha256, sweep, write_file

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{64})\.safetensors")
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a stage needs to go on: steps done, tensors on the CPU, and small JSON data."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write one checkpoint and drop all but the newest two. Tensors may share memory or be views."""
    from safetensors.torch import save_file

    with explain_disk_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
    packed = _pack(tensors)
    text = {"step": str(step), "meta": json.dumps(dict(meta))}
    # The name needs the hash of the content, so the file is written under a plain name first.
    plain = folder / "step.safetensors"
    needed = sum(t.numel() * t.element_size() for t in packed.values())
    write_file(plain, lambda temporary: save_file(packed, temporary, metadata=text), needed=needed)
    rename(plain, folder / f"step-{step:09d}-{sha256(plain)}.safetensors")
    for old in _files(folder)[_KEPT:]:
        old.unlink()


def load(folder: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest sound checkpoint, if any, and the damaged files that were passed over."""
    damaged: list[Path] = []
    if not folder.is_dir():
        return None, damaged
    sweep(folder)
    for path in _files(folder):
        name = _NAME.fullmatch(path.name)
        assert name is not None
        if sha256(path) != name[2]:
            damaged.append(path)
            continue
        return _read(path), damaged
    return None, damaged


def _read(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return Checkpoint(int(text["step"]), tensors, json.loads(text["meta"]))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        # The hash matches, so this is not damage: something else put the file there.
        raise RunError(f"{path} is not a checkpoint of this program ({error}): delete it and run again") from error


def _files(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def _pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, none sharing memory with another, which safetensors asks for."""
    packed: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        packed[name] = plain
    return packed
