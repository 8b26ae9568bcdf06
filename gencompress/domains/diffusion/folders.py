"""What stands in a pipeline folder, and whether all of it is there. Reads JSON and safetensors headers, no weights."""

from __future__ import annotations

from pathlib import Path

from gencompress.errors import ModelError
from gencompress.formats.model_folder import check_weights, read_json

INDEX = "model_index.json"
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


def check_components(folder: Path, index: dict[str, tuple[str, str]]) -> None:
    """Raise ModelError unless every component of the index is there, with complete safetensors where it has weights."""
    for name, (_, kind) in index.items():
        part = folder / name
        if not part.is_dir() or not any(part.iterdir()):
            raise ModelError(f"{part} is missing although {folder / INDEX} names it; the folder is half written")
        if not any(word in kind for word in _WEIGHTLESS):
            check_weights(part)
