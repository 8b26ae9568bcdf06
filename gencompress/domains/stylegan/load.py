"""Folders with a generator, and perhaps the discriminator that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gencompress.domains.stylegan.discriminator import Discriminator
from gencompress.domains.stylegan.model import Generator
from gencompress.errors import ModelError
from gencompress.formats.model_folder import PICKLES
from gencompress.run.atomic import write_dir

_DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class Networks:
    """A generator, and the discriminator that recovery inherits, None if there is none."""

    generator: Generator
    discriminator: Discriminator | None = None


def load_networks(folder: Path | str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Networks:
    """Open a folder that `save_networks`, `gencompress convert` or an export wrote, dense or pruned.

    Args:
        folder: where it is.
        dtype: of the weights; None is that of the files.
        device: where to put them.

    Raises:
        ModelError: as `Generator.from_pretrained`; a checkpoint is refused with the command that converts it.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix in PICKLES:
        raise ModelError(
            f"{folder} is a pickle, which can run any code when it is read, so it is not opened. Convert it once, "
            f"which executes nothing: gencompress convert {folder.name} FOLDER"
        )
    generator = Generator.from_pretrained(folder, dtype, device)
    beside = folder / _DISCRIMINATOR
    return Networks(generator, Discriminator.from_pretrained(beside, dtype, device) if beside.is_dir() else None)


def save_networks(networks: Networks, folder: Path | str) -> None:
    """Write a new folder, which appears whole or not at all. RunError if it is there and not empty."""
    with write_dir(Path(folder)) as temporary:
        write_networks(networks, temporary)


def write_networks(networks: Networks, folder: Path) -> None:
    """Write both networks into an existing folder."""
    networks.generator.write_into(folder)
    if networks.discriminator is not None:
        (folder / _DISCRIMINATOR).mkdir()
        networks.discriminator.write_into(folder / _DISCRIMINATOR)
