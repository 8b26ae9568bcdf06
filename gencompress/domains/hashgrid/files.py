"""Scenes to and from .gcnerf."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gencompress.domains.hashgrid.field import FieldSettings, HashField
from gencompress.domains.hashgrid.render import Scene
from gencompress.errors import FormatError
from gencompress.formats.gcnerf import HashScene, read_gcnerf, write_gcnerf
from gencompress.formats.scene import Array
from gencompress.kernels.occupancy import OccGridEstimator


def save_scene(path: str | Path, scene: Scene) -> dict[str, int]:
    """Write a scene as .gcnerf; returns the bytes of its parts. Raises what `write_gcnerf` raises."""
    field = scene.field
    file = HashScene(
        field.layout, field.settings.bound, float(field.alpha), scene.samples, scene.background,
        _array(field.table), None if field.logits is None else _array(field.logits),
        _weights(field.density_net), _weights(field.color_net), scene.grid.binaries[0].cpu().numpy(),
    )  # fmt: skip
    return write_gcnerf(path, file)


def load_scene(path: str | Path) -> Scene:
    """The scene of a .gcnerf; it renders what the saved one does, bit for bit.

    Raises:
        FormatError: the file cannot be read, or its networks are not of the sizes that the field has.
    """
    file = read_gcnerf(path)
    layout, side = file.layout, 0 if file.logits is None else len(file.logits)
    if side == 1 or len(layout.resolutions) < 2 or layout.resolutions[0] > layout.resolutions[-1]:
        raise FormatError(f"{path}: a field has two levels or more, the finest last, and no saliency grid of one point")
    coarsest, finest = layout.resolutions[0], layout.resolutions[-1]
    settings = FieldSettings(len(layout.resolutions), coarsest, finest, layout.log2_entries, side, file.bound)
    field = HashField(settings)
    field.layout, field.table = layout, nn.Parameter(torch.from_numpy(file.table))
    if file.logits is not None:
        field.logits = nn.Parameter(torch.from_numpy(file.logits))
    field.alpha.fill_(file.alpha)
    for name, net in (("density_net", field.density_net), ("color_net", field.color_net)):
        _fill_(path, name, net, getattr(file, name))
    grid = OccGridEstimator(field.aabb, len(file.occupancy))
    grid.binaries.copy_(torch.from_numpy(file.occupancy)[None])
    grid.occs.copy_(grid.binaries.flatten())
    return Scene(field, grid, file.samples, file.background)


@torch.no_grad()
def _fill_(path: str | Path, name: str, net: nn.Sequential, weights: tuple[Array, ...]) -> None:
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    if [layer.weight.shape for layer in layers] != [w.shape for w in weights]:
        raise FormatError(
            f"{path}: {name} has weights {[w.shape for w in weights]}, which this version does not render"
        )
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.copy_(torch.from_numpy(weight))


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().float().numpy())


def _weights(net: nn.Sequential) -> tuple[Array, ...]:
    return tuple(_array(layer.weight) for layer in net if isinstance(layer, nn.Linear))
