"""Alignment of a pruned encoder with the dense one: losses on its embeddings and, at first, on its inner features.

As SlimSAM (Chen et al. 2024, arXiv 2312.05284, section 3.2) has them, with three differences: errors are relative to
the teacher's mean square, so that layers with large activations do not rule the loss; the global layers' queries, keys
and values are compared with the teacher's like those of all layers; the learning rate falls along a cosine.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor, nn

from gencompress.core.features import Features, feature_error, features
from gencompress.domains.sam.subject import Batch, embeddings

Inner = Literal["bottleneck", "blocks"]
Weights = Literal["dynamic", "fixed", "none"]

# what keeps its shape when the residual stream gets narrower, and what when attention and MLPs do
_INNER = {
    "bottleneck": re.compile(r".+\.attn\.qkv|.+\.mlp\.(act|activation)"),
    "blocks": re.compile(r"(layers|backbone\.blocks)\.\d+(\.attn)?"),
}


class Alignment:
    """The loss of the `index`-th batch, for `gencompress.core.recover.distil_`.

    Args:
        student: the pruned encoder.
        images: pixel values of the `index`-th batch of a size.
        targets: the dense encoder's embeddings of the same batch.
        batch: pictures in one.
        steps: length of the training.
        guide: encoder whose inner features are imitated, and beside the dense one its embeddings: the dense encoder
            while the residual stream is narrowed, what that left afterwards; None imitates embeddings alone.
        inner: which features of it.
        weights: the part of them in the loss: ``dynamic`` as published, ``fixed`` at 0.5, or ``none``.
    """

    def __init__(
        self,
        student: nn.Module,
        images: Batch,
        targets: Batch,
        batch: int,
        steps: int,
        guide: nn.Module | None = None,
        inner: Inner = "bottleneck",
        weights: Weights = "dynamic",
    ) -> None:
        self.student, self.images, self.targets = student, images, targets
        self.batch, self.steps, self.weights = batch, steps, weights
        self.guide, self.inner = guide, inner
        self.names = [] if guide is None else inner_names(guide, inner)

    def __call__(self, index: int) -> Tensor:
        """A scalar, with gradient by the student's weights."""
        part = inner_weight(index / self.steps, self.inner, self.weights)
        pixels = self.images(index, self.batch)
        if self.guide is None or not part:
            return _error(embeddings(self.student, pixels), self.targets(index, self.batch))
        with torch.no_grad(), features(self.guide, self.names) as theirs:
            guided = embeddings(self.guide, pixels)
        with features(self.student, self.names) as mine:
            made = embeddings(self.student, pixels)
        close = feature_error(_first(mine, self.names), _first(theirs, self.names))
        if self.inner == "bottleneck":  # the guide is the dense encoder itself
            return (1 - part) * _error(made, guided) + part * close
        wanted = self.targets(index, self.batch)
        return (1 - part) * _error(made, wanted) + part * (close + _error(made, guided))


def inner_weight(progress: float, inner: Inner, weights: Weights) -> float:
    """The part of the inner features in the loss after `progress` in [0, 1) of the training.

    ``dynamic``: half of it in the first half of the training for the bottleneck; for the blocks, a = (10 - n) / 11 in
    the n-th of 20 epochs, then nothing (SlimSAM, eq. 7 and the settings of section 4.1).
    """
    if weights == "none":
        return 0.0
    if weights == "fixed":
        return 0.5
    if inner == "bottleneck":
        return 0.5 if progress < 0.5 else 0.0
    return max(0.0, (10 - 20 * progress) / 11)


def inner_names(encoder: nn.Module, inner: Inner) -> list[str]:
    """Paths of the modules whose outputs are compared, in module order."""
    return [name for name, _ in encoder.named_modules() if _INNER[inner].fullmatch(name)]


def _error(made: Tensor, wanted: Tensor) -> Tensor:
    return feature_error([(made,)], [(wanted,)])


def _first(found: dict[str, Features], names: list[str]) -> list[Features]:
    """The first tensor of every output: attention may return its weights as well."""
    return [found[name][:1] for name in names]
