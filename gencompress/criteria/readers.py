"""Gradients of the weights that read a unit, which criteria on generators of pictures compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gencompress.core.group import Groups, Slice
from gencompress.core.subject import LatentSubject


@contextmanager
def reading_weights(subject: LatentSubject, groups: Groups) -> Iterator[tuple[dict[str, Slice], list[nn.Parameter]]]:
    """Where each group is read, and those weights in the order of the groups, which want gradients until the end."""
    readers = {g.name: subject.reader(g) for g in groups}
    parameters = dict(subject.module.named_parameters())
    weights = [parameters[s.tensor] for s in readers.values()]
    flags = [w.requires_grad for w in weights]
    for weight in weights:
        weight.requires_grad_()
    try:
        yield readers, weights
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)


def sensitivity(groups: Groups, readers: Mapping[str, Slice], gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Mean over outputs and kernel of the absolute gradient of every unit's weights: by group [N, size].

    Args:
        groups: in the order of `gradients`.
        readers: where each group is read.
        gradients: N at once, each [N, *shape of the weight].
    """
    found = {}
    for group, gradient in zip(groups, gradients, strict=True):
        s = readers[group.name]
        per_index = gradient.abs().movedim(s.dim + 1, 1).flatten(2).mean(2)
        picked = per_index[:, s.indices(torch.arange(group.size)).to(gradient.device)]
        found[group.name] = picked.reshape(len(gradient), s.repeat, group.size, s.block).mean((1, 3))
    return found
