"""The networks of rosinality's StyleGAN2: our own names, so only the sizes have to be read off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gencompress.domains.stylegan.config import DiscriminatorConfig, GeneratorConfig
from gencompress.errors import ModelError
from gencompress.formats.checkpoints import load_tensors
from gencompress.formats.storage import StoredTensor

_MAX_LAYERS = 80  # of one kind; a generator at 2048 px has 18


def rosinality_generator(path: Path, value: Mapping[str, Any]) -> tuple[GeneratorConfig, dict[str, Tensor]]:
    """Config and state dict of the averaged generator. ModelError if the checkpoint is of another kind.

    Args:
        path: of the checkpoint.
        value: its content: ``g_ema`` and perhaps ``latent_avg``, or the state dict itself.
    """
    tensors = _tensors(path, value.get("g_ema", value))
    if "conv1.conv.weight" not in tensors:
        raise ModelError(f"{path}: no checkpoint of StyleGAN2: neither G_ema, as NVIDIA has it, nor g_ema is in it")
    mean = value.get("latent_avg")
    if isinstance(mean, StoredTensor):
        tensors["latent_avg"] = load_tensors(path, {"latent_avg": mean})["latent_avg"].float()
    count = _count(tensors, "convs.{}.conv.weight")
    convs = [tensors["conv1.conv.weight"], *(tensors[f"convs.{i}.conv.weight"] for i in range(count))]
    first = tensors.get("style.1.weight")
    if first is None or first.ndim != 2 or any(t.ndim != 5 for t in convs):
        raise ModelError(f"{path}: the generator's weights do not have the shapes of StyleGAN2")
    widths = (convs[0].shape[2], *(t.shape[1] for t in convs))
    n_mlp = _count(tensors, "style.{}.weight", 1)
    config = GeneratorConfig.of_file(
        path, resolution=2 ** (count // 2 + 2), channels=widths, style_dim=first.shape[1], n_mlp=n_mlp
    )
    return config, tensors


def rosinality_discriminator(path: Path, value: Mapping[str, Any]) -> tuple[DiscriminatorConfig, dict[str, Tensor]]:
    """Config and state dict of the discriminator. ModelError if it is of another kind."""
    tensors = _tensors(path, value)
    blocks = _count(tensors, "convs.{}.conv2.1.weight", 1)
    names = ["convs.0.0.weight", *(f"convs.{i + 1}.conv2.1.weight" for i in range(blocks))]
    if names[0] not in tensors:
        raise ModelError(f"{path}: the discriminator is not that of StyleGAN2: {names[0]} is missing")
    widths = tuple(tensors[name].shape[0] for name in names)
    return DiscriminatorConfig.of_file(path, resolution=2 ** (blocks + 2), channels=widths), tensors


def _tensors(path: Path, value: Any) -> dict[str, Tensor]:
    if not isinstance(value, dict):
        raise ModelError(f"{path}: g_ema is no state dict")
    named = {name: t for name, t in value.items() if isinstance(name, str) and isinstance(t, StoredTensor)}
    return {name: t.float() for name, t in load_tensors(path, named).items()}


def _count(tensors: Mapping[str, Tensor], pattern: str, start: int = 0) -> int:
    """How many tensors have the names `pattern` with numbers from `start` on."""
    return next((i for i in range(_MAX_LAYERS) if pattern.format(start + i) not in tensors), _MAX_LAYERS)
