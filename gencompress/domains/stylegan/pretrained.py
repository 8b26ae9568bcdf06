"""Saving and opening of the networks: config.json and model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from torch import nn

from gencompress.domains.stylegan.config import DiscriminatorConfig, GeneratorConfig
from gencompress.errors import ModelError
from gencompress.formats.model_folder import check_finite, check_weights, read_json, read_weights, write_model
from gencompress.run.atomic import write_dir

C = TypeVar("C", GeneratorConfig, DiscriminatorConfig)


class Pretrained(nn.Module, Generic[C]):
    """A network that its config describes wholly, the width of every layer included."""

    config_class: Any
    config: C

    @classmethod
    def on_meta(cls, config: C) -> Self:
        """The architecture alone: nothing is allocated or initialised."""
        with torch.device("meta"):
            return cls(config)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a new folder, which appears whole or not at all. RunError if it is there and not empty."""
        with write_dir(Path(folder)) as temporary:
            self.write_into(temporary)

    def write_into(self, folder: Path) -> None:
        """Write config.json and model.safetensors into an existing folder."""
        write_model(folder, self.config.to_json(), self.state_dict())

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Open what `save_pretrained` wrote, frozen and in evaluation mode.

        Args:
            folder: where it is.
            dtype: of the weights; None is that of the file.
            device: where to put them.

        Raises:
            ModelError: the folder is missing, half written or damaged, its config disagrees with its weights, or a
                weight is NaN or infinite; names the file.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder")
        check_weights(folder)
        config = cls.config_class.from_json(read_json(folder / "config.json"), folder / "config.json")
        network = cls.on_meta(config)
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        network.load_state_dict(read_weights(folder, shapes, dtype), assign=True)
        check_finite(network, str(folder))
        return network.to(device).eval().requires_grad_(False)
