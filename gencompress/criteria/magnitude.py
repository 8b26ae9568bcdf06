"""Weight magnitude, with the normalisations in use. Raw norms do not compare across layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from gencompress.core.group import Group, Groups, per_unit
from gencompress.errors import ConfigError, nearest

Normalise = Literal["raw", "rms", "mean"]


@torch.no_grad()
def magnitude_scores(tensors: Mapping[str, Tensor], groups: Groups, normalise: Normalise = "rms") -> dict[str, Tensor]:
    """L2 norm of every unit's weights over all tensors that hold it, by group, [size].

    Args:
        tensors: parameters by name.
        groups: what to score.
        normalise: ``raw`` norm (deletes small but vital layers when ranked globally), ``rms`` per weight element, or
            ``mean``: divided by the mean norm of its group.

    Raises:
        ConfigError: unknown normalisation.
    """
    if normalise not in get_args(Normalise):
        raise ConfigError(f"criterion.normalise={normalise!r}; {nearest(normalise, get_args(Normalise))}")
    return {g.name: _group_scores(tensors, g, normalise) for g in groups}


def _group_scores(tensors: Mapping[str, Tensor], group: Group, normalise: Normalise) -> Tensor:
    squares = torch.zeros(group.size)
    elements = 0
    for s in group.slices:
        if s.tensor in tensors:
            weight = tensors[s.tensor]
            squares += per_unit(group, s, weight.detach().float().square()).cpu()
            elements += s.width * weight.numel() // weight.shape[s.dim]
    if group.stack is not None:
        inside = [t.detach().float() for name, t in tensors.items() if name.startswith(group.stack)]
        squares += sum(t.square().sum().cpu() for t in inside)
        elements += sum(t.numel() for t in inside)
    if normalise == "rms":
        return (squares / max(elements, 1)).sqrt()
    norms = squares.sqrt()
    return norms / norms.mean().clamp_min(1e-12) if normalise == "mean" else norms
