"""Open pipelines with stock `from_pretrained`, after checks that turn every bad folder into one clear error."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import nn

import gencompress.diffusers as pruned_classes
from gencompress.domains.diffusion.families import FAMILIES
from gencompress.domains.diffusion.folders import INDEX, check_components, read_index
from gencompress.errors import ModelError
from gencompress.formats.model_folder import (
    check_finite,
    check_keys,
    check_weights,
    explained,
    first_line,
    read_json,
)

DENOISERS = ("unet", "transformer")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# what a pruned pipeline consists of; pickles and code stay on the hub
_PATTERNS = (INDEX, "README.md", "plan.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors")


def load_pipeline(
    source: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> DiffusionPipeline:
    """Open a pipeline, dense or pruned, portable or not. Nothing is unpickled and no code from the folder is run.

    Args:
        source: a local folder, a hub id (``owner/name``), or ``sample:NAME`` for a bundled sample.
        dtype: of the weights; None is fp32, as in diffusers.
        device: where to put the pipeline.

    Raises:
        ModelError: the folder is missing, half written or damaged, holds pickles only, its config disagrees with its
            weights, or a weight is NaN or infinite; names the file.
        ConfigError: there is no such sample.
    """
    folder = locate(source)
    index = read_index(folder)
    check_components(folder, index)
    with explained(folder), _portable_modules(index):
        own = {name: _load(folder / name, index[name][1], dtype) for name in DENOISERS if _is_known(index.get(name))}
        pipe: Any = DiffusionPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, **own)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            check_finite(part, str(folder / name))
    opened: DiffusionPipeline = pipe.to(device)
    return opened


def load_denoiser(folder: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Open one component: the folder of a UNet or transformer of a supported class, dense or pruned.

    Raises:
        ModelError: as `load_pipeline`, or the class is not supported.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder")
    check_weights(folder)
    name = read_json(folder / "config.json").get("_class_name")
    if not _is_known(("", str(name))):
        raise ModelError(f"{folder / 'config.json'} is for a {name}; supported are {', '.join(FAMILIES)}")
    denoiser = _load(folder, str(name), dtype)
    check_finite(denoiser, str(folder))
    return denoiser


def locate(source: str | Path) -> Path:
    """The local folder of a source, downloading a hub id into diffusers' cache.

    Raises:
        ModelError: there is neither such a folder nor such a repository.
    """
    text = str(source)
    if text.startswith("sample:"):
        from gencompress.scenes import path as sample

        return Path(sample(text.removeprefix("sample:")))
    folder = Path(source).expanduser()
    if folder.exists():
        return folder
    if not _HUB_ID.fullmatch(text):
        raise ModelError(f"{folder}: no such folder, and not a hub id (owner/name) or sample:NAME either")
    return _download(text)


def _download(name: str) -> Path:
    """Fetch from the hub what stock diffusers would fetch; it refuses pruned pipelines, so those are fetched here."""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        index = read_json(Path(hf_hub_download(name, INDEX)))
        entries = [v for v in index.values() if isinstance(v, list) and len(v) == 2]
        if any(library == pruned_classes.__name__ for library, _ in entries):
            return Path(snapshot_download(name, allow_patterns=list(_PATTERNS)))
        return Path(DiffusionPipeline.download(name, use_safetensors=True))
    except (OSError, ValueError) as error:  # of the hub: no network, no such repository, no safetensors in it
        raise ModelError(f"{name}: no such folder here, and the hub gives: {first_line(error)}") from error


def denoiser_name(pipe: DiffusionPipeline) -> str:
    """Name of the component that denoises: ``unet`` or ``transformer``; ModelError if the pipeline has neither."""
    for name in DENOISERS:
        if getattr(pipe, name, None) is not None:
            return name
    raise ModelError(f"{type(pipe).__name__} has neither a unet nor a transformer")


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    """The component that denoises."""
    denoiser: nn.Module = getattr(pipe, denoiser_name(pipe))
    return denoiser


def _is_known(entry: tuple[str, str] | None) -> bool:
    """Whether the class is one of ours, or the one that DiT and PixArt had and that diffusers maps to theirs."""
    return entry is not None and (entry[1].removeprefix("Pruned") in FAMILIES or entry[1] == "Transformer2DModel")


def _load(folder: Path, kind: str, dtype: torch.dtype | None) -> nn.Module:
    """One denoiser; unlike in diffusers, a weight that is absent or left over is an error and not a warning."""
    cls: Any = getattr(pruned_classes if kind.startswith("Pruned") else diffusers, kind)
    with explained(folder):
        model, info = cls.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    check_keys(info, folder)
    return model


@contextmanager
def _portable_modules(index: Mapping[str, tuple[str, str]]) -> Iterator[None]:
    """Let diffusers find our own classes under the names of the component files in a portable folder."""
    libraries = {index[name][0] for name in DENOISERS if _is_known(index.get(name))}
    added = {library for library in libraries if library.startswith("modeling_pruned_")} - set(sys.modules)
    sys.modules.update(dict.fromkeys(added, pruned_classes))
    try:
        yield
    finally:
        for library in added:
            del sys.modules[library]
