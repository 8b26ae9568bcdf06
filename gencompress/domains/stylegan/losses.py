"""Losses of StyleGAN2's training (arXiv 1912.04958, sections 3 and appendix B), which recovery uses as they are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gencompress.domains.stylegan.layers import wide

BETAS = (0.0, 0.99)
_DECAY = 0.01  # of the running mean of path lengths


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss, a scalar, of logits of made pictures [N, 1]."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss, a scalar, of logits of real and made pictures [N, 1] each."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(discriminator: nn.Module, pictures: Tensor) -> Tensor:
    """Mean over samples of the squared gradient of the logits by real pictures (R1, arXiv 1801.04406).

    Times gamma / 2, it is added to the discriminator's loss; times k more if only every k-th step has it.

    Args:
        discriminator: from pictures to logits [N, 1].
        pictures: real ones [N, 3, height, width].

    Returns:
        A scalar, differentiable by the discriminator's weights.
    """
    pictures = pictures.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(pictures).sum(), pictures, create_graph=True)
    return wide(gradient).square().sum((1, 2, 3)).mean()


def path_lengths(pictures: Tensor, latents: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """How far pictures move with their latents: |J^T y| for a random picture y of unit variance, [N].

    Args:
        pictures: [N, 3, height, width], made of `latents` with their graph.
        latents: w+ [N, layers, dim], or w [N, dim].
        generator: that y is drawn from; on the device of the pictures.

    Returns:
        Lengths, differentiable by the weights of the network that made the pictures.
    """
    height, width = pictures.shape[2:]
    y = torch.empty_like(pictures).normal_(generator=generator) / math.sqrt(height * width)
    (gradient,) = torch.autograd.grad((pictures * y).sum(), latents, create_graph=True)
    squares = wide(gradient).square().sum(-1)
    return (squares if latents.ndim == 2 else squares.mean(1)).sqrt()


def path_penalty(lengths: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Deviation of path lengths from their running mean, which is what regularisation makes small.

    Args:
        lengths: [N], from `path_lengths`.
        mean: scalar, the running mean so far; 0 at the beginning.

    Returns:
        The penalty, a scalar with gradient, and the new running mean without.
    """
    moved = torch.lerp(mean, lengths.detach().mean(), _DECAY)
    return (lengths - moved).square().mean(), moved


def lazy_adam(every: int, rate: float) -> tuple[float, tuple[float, float]]:
    """Learning rate and betas of Adam for a network that is regularised only every so many steps (appendix B).

    Args:
        every: steps per regularisation: 16 for R1, 4 for path length.
        rate: learning rate without regularisation, whose betas are `BETAS`.
    """
    part = every / (every + 1)
    return rate * part, (BETAS[0] ** part, BETAS[1] ** part)
