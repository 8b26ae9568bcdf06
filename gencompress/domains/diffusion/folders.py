"""What stands in a pipeline folder, and whether all of it is there. Reads JSON and safetensors headers, no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gencompress.errors import ModelError

INDEX = "model_index.json"
STEMS = ("diffusion_pytorch_model", "model")  # diffusers, transformers
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_WEIGHTLESS = ("Scheduler", "Tokenizer", "Processor", "Extractor", "Guidance")  # in the names of their classes


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of every component that ``model_index.json`` names.

    Raises:
        ModelError: the folder or its index is missing or unreadable.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder")
    path = folder / INDEX
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds one component, not a pipeline; name the pipeline's folder, above it")
        raise ModelError(f"{path} is missing, so {folder} is not a diffusers pipeline, or it is half written")
    index = read_json(path)
    pairs = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and not k.startswith("_")}
    return {k: (v[0], v[1]) for k, v in pairs.items() if isinstance(v[0], str) and isinstance(v[1], str)}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ModelError names the file if it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); the folder is damaged or half written") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; the folder is damaged")
    return value


def check_components(folder: Path, index: dict[str, tuple[str, str]]) -> None:
    """Raise ModelError unless every component of the index is there, with complete safetensors where it has weights."""
    for name, (_, kind) in index.items():
        part = folder / name
        if not part.is_dir() or not any(part.iterdir()):
            raise ModelError(f"{part} is missing although {folder / INDEX} names it; the folder is half written")
        if not any(word in kind for word in _WEIGHTLESS):
            check_weights(part)


def check_weights(part: Path) -> None:
    """Raise ModelError unless the component folder `part` has a config and complete safetensors files."""
    if not (part / "config.json").is_file():
        raise ModelError(f"{part / 'config.json'} is missing; the folder is half written")
    files = weight_files(part)
    if not files:
        pickles = sorted(p.name for p in part.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ModelError(
                f"{part / pickles[0]} is a pickle, which can run any code when it is read, so it is not opened. If you "
                f"trust where it comes from, convert it once: load the pipeline with stock diffusers and "
                f"use_safetensors=False, then save_pretrained(folder, safe_serialization=True)"
            )
        others = sorted(p.name for p in part.glob("*.safetensors"))
        hint = f"there is only {others[0]}, a variant or a shard without its index" if others else "it is half written"
        raise ModelError(f"{part} has no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors; {hint}")
    for file in files:
        _check_header(file)


def weight_files(part: Path) -> list[Path]:
    """The safetensors files of a component, following the index of a sharded one; empty if there are none.

    Raises:
        ModelError: the index names a shard that is not there.
    """
    for stem in STEMS:
        single, sharded = part / f"{stem}.safetensors", part / f"{stem}.safetensors.index.json"
        if single.is_file():
            return [single]
        if sharded.is_file():
            shards = sorted(set(_shards(sharded)))
            for shard in shards:
                if not (part / shard).is_file():
                    raise ModelError(f"{part / shard} is missing although {sharded.name} names it; it is half written")
            return [part / shard for shard in shards]
    return []


def _shards(sharded: Path) -> Iterator[str]:
    weights = read_json(sharded).get("weight_map")
    if not isinstance(weights, dict):
        raise ModelError(f"{sharded} has no weight_map; the folder is damaged")
    for name in weights.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{sharded}: {name!r} is not the name of a file beside it")
        yield name


def _check_header(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is truncated or no safetensors file ({error})") from error
