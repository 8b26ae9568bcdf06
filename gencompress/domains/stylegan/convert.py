"""From the checkpoints that people hold to a folder with config.json and model.safetensors.

Two kinds are read: the ``.pkl`` of NVIDIA's StyleGAN2-ADA in PyTorch, and the ``.pt`` of rosinality's implementation.
No code of theirs is needed and nothing in the files is executed (`gencompress.formats.checkpoints`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gencompress.domains.stylegan.convert_nvidia import nvidia_discriminator, nvidia_generator
from gencompress.domains.stylegan.convert_rosinality import rosinality_discriminator, rosinality_generator
from gencompress.domains.stylegan.discriminator import Discriminator
from gencompress.domains.stylegan.load import Networks, save_networks
from gencompress.domains.stylegan.model import Generator
from gencompress.errors import ModelError
from gencompress.formats.checkpoints import read_checkpoint
from gencompress.formats.model_folder import check_finite, explained
from gencompress.formats.pickles import StoredModule

N = TypeVar("N", Generator, Discriminator)


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint holds.

    Args:
        networks: in fp32, frozen.
        notes: what is missing or was made up, one sentence each.
    """

    networks: Networks
    notes: tuple[str, ...]


def convert(checkpoint: Path | str, out: Path | str) -> Conversion:
    """Write the networks of a checkpoint into a new folder, which `load_networks` opens.

    Raises:
        FormatError: the file is damaged, or is no checkpoint of a supported kind.
        ModelError: it is of another network than StyleGAN2, is conditional, or holds NaN.
        RunError: `out` is there and not empty.
    """
    found = read_networks(checkpoint)
    save_networks(found.networks, out)
    return found


def read_networks(checkpoint: Path | str) -> Conversion:
    """The networks of a checkpoint. Raises as `convert` does."""
    path = Path(checkpoint)
    value = read_checkpoint(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path}: no checkpoint of StyleGAN2: it holds no dict of networks")
    with explained(path):  # tensors of odd shapes
        if isinstance(value.get("G_ema"), StoredModule):
            config, tensors = nvidia_generator(path, value["G_ema"])
        else:
            config, tensors = rosinality_generator(path, value)
    notes: list[str] = []
    known = "latent_avg" in tensors
    generator = _filled(Generator.on_meta(config), {"latent_avg": torch.zeros(config.style_dim)} | tensors, path)
    if not known:
        generator.latent_avg.copy_(generator.mean_latent())
        notes.append("the checkpoint has no mean latent: it was computed from 10,000 samples")
    return Conversion(Networks(generator, _discriminator(path, value, notes)), tuple(notes))


def _discriminator(path: Path, value: Mapping[str, Any], notes: list[str]) -> Discriminator | None:
    """The discriminator; None, with a note, if there is none or one of another kind: pictures do not need it."""
    try:
        with explained(path):
            if isinstance(value.get("D"), StoredModule):
                config, tensors = nvidia_discriminator(path, value["D"])
            elif isinstance(value.get("d"), dict):
                config, tensors = rosinality_discriminator(path, value["d"])
            else:
                notes.append("the checkpoint has no discriminator")
                return None
        return _filled(Discriminator.on_meta(config), tensors, path)
    except ModelError as error:
        notes.append(f"the discriminator is left out: {error}")
        return None


def _filled(network: N, tensors: Mapping[str, Tensor], path: Path) -> N:
    """The architecture with its weights, all of which must be there and finite."""
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    for name in sorted(wanted.keys() ^ given.keys()):
        verb = "lack" if name in wanted else "have"
        raise ModelError(f"{path}: the weights {verb} {name}, so they are not those of a StyleGAN2 network")
    for name, shape in wanted.items():
        if given[name] != shape:
            raise ModelError(f"{path}: {name} has shape {list(given[name])}, and StyleGAN2 has {list(shape)}")
    network.load_state_dict(tensors, assign=True)
    check_finite(network, str(path))
    return network.eval().requires_grad_(False)
