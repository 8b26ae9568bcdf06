"""Content-aware channel scores (CAGAN, Liu et al. 2021, arXiv 2104.02244): what makes the part that matters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gencompress.core.group import Groups
from gencompress.core.subject import LatentSubject, Progress
from gencompress.core.tally import Tally
from gencompress.criteria.readers import reading_weights, sensitivity
from gencompress.criteria.taylor import finite
from gencompress.errors import ConfigError, DataError

Region = Callable[[Tensor], Tensor]


def content_aware_scores(
    subject: LatentSubject,
    groups: Groups,
    samples: int,
    batch: int,
    ctx: Progress,
    region: Region | None = None,
    share: float = 0.05,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Sum over batches of the mean absolute gradient of the weights that read a unit.

    The loss is the L1 distance between pictures and the same pictures with salt and pepper in their content, so its
    gradient is that of the content, at a few pixels.

    Args:
        subject: generator and calibration latents.
        groups: what to score.
        samples: latents, rounded up to whole batches.
        batch: latents per backward.
        ctx: for progress, checkpoints and stopping.
        region: from pictures [N, channels, height, width] to 1 where content is and 0 elsewhere
            [N, 1, height, width], such as a parser of faces; None is the whole picture.
        share: part of the content that gets salt or pepper, in (0, 1].
        seed: of the noise.

    Returns:
        Scores by group, [size], >= 0, float64.

    Raises:
        ConfigError: an option is out of range.
        DataError: `region` gives another shape.
        NumericsError: a score is NaN or infinite.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"criterion.share={share} is outside (0, 1]")
    generator = torch.Generator().manual_seed(seed)
    scores = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in groups}
    tally = Tally(ctx, scores, -(-samples // batch), generator)
    with reading_weights(subject, groups) as (readers, weights):
        for index in range(tally.done, tally.rounds):
            pictures = subject.pictures(subject.latents(index, batch))
            content = _content(pictures.detach(), region)
            signs = torch.sign(pictures.detach() - salted(pictures.detach(), content, share, generator))
            gradients = torch.autograd.grad(pictures, weights, signs / signs.numel())
            stacked = tuple(gradient[None] for gradient in gradients)
            for name, g in sensitivity(groups, readers, stacked).items():
                scores[name] += g[0].double().cpu()
            tally.finish_round()
    return finite(scores)


def salted(pictures: Tensor, content: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Pictures with a part `share` of the pixels of their content at -1 or 1, in all channels at once.

    Args:
        pictures: [N, channels, height, width].
        content: 1 or 0 [N, 1, height, width].
        share: in (0, 1].
        generator: on the CPU.
    """
    chance = torch.rand(content.shape, generator=generator).to(pictures.device)
    hit = (chance < share) & (content > 0.5)
    colour = torch.where(chance < share / 2, -1.0, 1.0).to(pictures.dtype)
    return torch.where(hit, colour, pictures)


def _content(pictures: Tensor, region: Region | None) -> Tensor:
    shape = (len(pictures), 1, *pictures.shape[2:])
    if region is None:
        return pictures.new_ones(shape)
    content = region(pictures)
    if content.shape != shape:
        raise DataError(f"the region of content has shape {tuple(content.shape)}, not {shape}")
    return content
