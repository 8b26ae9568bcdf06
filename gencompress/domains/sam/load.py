"""Open SAM models with stock `from_pretrained`, after checks that turn every bad folder into one clear error."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gencompress.domains.sam.families import FAMILIES
from gencompress.domains.sam.quiet import without_bars
from gencompress.errors import ModelError
from gencompress.formats.model_folder import check_finite, check_keys, check_weights, explained, first_line, read_json

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PATTERNS = ("*.json", "*.safetensors", "README.md")  # pickles and code stay on the hub


def load_sam(
    source: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    attention: str | None = None,
) -> Any:
    """Open a `SamModel` or `Sam2Model`, dense or pruned. Nothing is unpickled, and no weight is re-initialised.

    Args:
        source: a local folder, or a hub id (``owner/name``).
        dtype: of the weights; None is fp32.
        device: where to put the model.
        attention: ``eager`` or ``sdpa``; None leaves it to transformers.

    Raises:
        ModelError: the folder is missing, half written or damaged, holds pickles only, is of another architecture,
            its config disagrees with its weights, or a weight is NaN or infinite; names the file.
    """
    folder = locate(source)
    check_weights(folder)
    kind = read_json(folder / "config.json").get("model_type")
    family = next((family for family in FAMILIES.values() if kind in family.types), None)
    if family is None:
        known = " and ".join(family.model for family in FAMILIES.values())
        raise ModelError(
            f"{folder / 'config.json'} is of a model of type {kind!r}: what transformers' {known} open can be pruned, "
            f"models that are only prompted like SAM cannot"
        )
    stock: Any = getattr(import_module(family.module), family.model)
    options = {"use_safetensors": True, "output_loading_info": True, "attn_implementation": attention}
    with explained(folder), without_bars():
        try:
            model, info = stock.from_pretrained(folder, dtype=dtype or torch.float32, **options)
        except RuntimeError as error:
            if "mismatch" not in str(error):
                raise
            raise ModelError(f"{folder}: the weights do not have the shapes that config.json says") from error
    check_keys(info, folder)
    check_finite(model, str(folder))
    return model.to(device)


def locate(source: str | Path) -> Path:
    """The folder of a model: `source` itself, or the hub's copy of it. ModelError if it is neither."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ModelError(
            f"{path} is a file; a model is a folder with config.json and model.safetensors, such as the hub's "
            f"facebook/sam-vit-base. Checkpoints of the original code are pickles and are not opened"
        )
    if not _HUB_ID.fullmatch(str(source)):
        raise ModelError(f"{path}: no such folder, and not a hub id (owner/name) either")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(_PATTERNS)))
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: no such folder here, and the hub gives: {first_line(error)}") from error
