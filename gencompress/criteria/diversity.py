"""Diversity-aware channel scores (DCP-GAN, Chung et al. 2024, arXiv 2403.13548).

A channel matters for diversity if what it does to a picture depends on where the latent is moved. Latents are moved
along principal directions of w, and the score is the variance over directions of the gradient of the change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gencompress.core.group import Groups
from gencompress.core.subject import LatentSubject, Progress
from gencompress.core.tally import Tally
from gencompress.criteria.readers import reading_weights, sensitivity
from gencompress.criteria.taylor import finite
from gencompress.errors import ConfigError

_SPREAD = 10_000  # latents whose principal directions are taken, as in the paper


def diversity_scores(
    subject: LatentSubject,
    groups: Groups,
    samples: int,
    ctx: Progress,
    directions: int = 10,
    step: float = 5.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Sum over latents w and directions d_i of (g_i - mean_i g_i)^2, which compares units of one group.

    g_i is the mean absolute gradient, over outputs and kernel, of sum |G(w) - G(w + step * d_i)| with respect to the
    weights that read a unit. The moved picture is a constant, both have the same noise, and the statistics are those
    of every latent alone.

    Args:
        subject: generator and calibration latents; batch 0 gives the principal directions.
        groups: what to score.
        samples: latents.
        ctx: for progress, checkpoints and stopping.
        directions: moves of every latent, at least 2; drawn with the part of the variance that they explain.
        step: length of a move in w.
        seed: of the draw.

    Returns:
        Scores by group, [size], >= 0, float64.

    Raises:
        ConfigError: an option is out of range.
        NumericsError: a score is NaN or infinite.
    """
    if directions < 2:
        raise ConfigError(f"criterion.directions={directions} must be at least 2: the score is a variance over them")
    if not step > 0:
        raise ConfigError(f"criterion.step={step} must be above 0")
    axes, parts = principal_directions(subject.latents(0, _SPREAD))
    generator = torch.Generator().manual_seed(seed)
    scores = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in groups}
    tally = Tally(ctx, scores, samples, generator)
    with reading_weights(subject, groups) as (readers, weights):
        for index in range(tally.done, samples):
            latent = subject.latents(1 + index, 1)
            drawn = torch.multinomial(parts, directions, replacement=True, generator=generator)
            picture, changes = _changes(subject, latent, latent + step * axes[drawn].to(latent))
            gradients = torch.autograd.grad(picture, weights, changes, is_grads_batched=True)
            for name, g in sensitivity(groups, readers, gradients).items():
                scores[name] += (g - g.mean(0)).double().square().sum(0).cpu()
            tally.finish_round()
    return finite(scores)


def principal_directions(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Unit directions [dim, dim], one a row, and the part of the variance along each [dim], on the CPU.

    Args:
        latents: [n, dim].
    """
    centred = (latents - latents.mean(0)).double().cpu()
    variances, columns = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances = variances.clamp_min(0)
    return columns.T, variances / variances.sum()


def _changes(subject: LatentSubject, latent: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """A picture [1, ...], and the gradients by it of its L1 distances to the N moved ones, [N, 1, ...]."""
    with torch.no_grad():
        others = subject.pictures(moved)
    picture = subject.pictures(latent)
    return picture, torch.sign(picture.detach() - others)[:, None]
