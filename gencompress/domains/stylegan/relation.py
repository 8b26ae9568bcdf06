"""The relation of pictures under moves of their latents, which a student takes from its teacher.

Latent-direction distillation (Xu et al. 2022, arXiv 2208.08840). Networks of different widths are
compared, since only cosines between features of one network enter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gencompress.domains.stylegan.groups import producer
from gencompress.domains.stylegan.layers import wide
from gencompress.domains.stylegan.model import Generator

_STAGES = 5  # resolutions from 4 px on that give directions; features are taken from the second on


def stage_modules(generator: Generator) -> list[str]:
    """Paths of the last convolutions at 8 px to 64 px, as far as there are, for `gencompress.core.features`."""
    last = min(len(generator.config.channels) - 1, 2 * _STAGES - 1)
    return [producer(i) for i in range(3, last + 1, 2)]


@torch.no_grad()
def style_directions(generator: Generator, top: int = 5) -> Tensor:
    """Moves of w that change styles most, `top` for each of the first resolutions: unit rows [stages * top, dim].

    They are the leading eigenvectors of A^T A, where A has the rows of the style affines of one resolution, each
    scaled to unit length (closed-form factorisation, arXiv 2007.06600).
    """
    layers = [producer(i) for i in range(1, min(len(generator.config.channels), 2 * _STAGES))]
    stages = [layers[:1], *(layers[i : i + 2] for i in range(1, len(layers), 2))]
    found = []
    for stage in stages:
        weights = [wide(generator.get_parameter(f"{path}.conv.modulation.weight")) for path in stage]
        rows = F.normalize(torch.cat(weights), dim=1)
        found.append(torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :top].T)
    return torch.cat(found)


def drawn_offsets(directions: Tensor, count: int, generator: torch.Generator, size: float = 5.0) -> Tensor:
    """Moves of w [count, dim]: one direction each, times a normal number, times `size`.

    Args:
        directions: unit rows, from `style_directions`.
        count: how many.
        generator: on the CPU.
        size: standard deviation of the length.
    """
    picked = torch.randint(len(directions), (count,), generator=generator)
    lengths = size * torch.randn(count, 1, generator=generator)
    return directions[picked.to(directions.device)] * lengths.to(directions)


def relation_loss(
    student: Sequence[Tensor],
    student_moved: Sequence[Tensor],
    teacher: Sequence[Tensor],
    teacher_moved: Sequence[Tensor],
) -> Tensor:
    """Divergence KL(teacher || student) of who resembles whom, summed over stages, a scalar.

    Row i of a relation is the softmax over j of the cosine between the features of latent i and those of the moved
    latent j.

    Args:
        student: features [N, channels, height, width] at each stage.
        student_moved: those of the same latents moved.
        teacher: of the same latents, by the teacher; constants, of any width.
        teacher_moved: of the same moved latents.
    """
    stages = zip(student, student_moved, teacher, teacher_moved, strict=True)
    losses = [
        F.kl_div(_relation(a, b), _relation(c.detach(), d.detach()), reduction="batchmean", log_target=True)
        for a, b, c, d in stages
    ]
    return torch.stack(losses).sum()


def _relation(features: Tensor, moved: Tensor) -> Tensor:
    """Log-probabilities [N, N]."""
    cosines = F.normalize(wide(features).flatten(1), dim=1) @ F.normalize(wide(moved).flatten(1), dim=1).T
    return cosines.log_softmax(1)
