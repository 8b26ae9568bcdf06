"""Disturbed Taylor importance (SlimSAM, Chen et al. 2024, arXiv 2312.05284): first-order scores that need no labels.

Before anything is removed the student is the teacher, so the gradient of their distance is zero. A little noise on
the teacher's outputs makes it useful: |w * dL/dw| then says how much a weight moves the outputs at all.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gencompress.core.group import Group, Groups, per_unit
from gencompress.core.subject import DistilledSubject, Progress
from gencompress.criteria.taylor import finite, summed_gradients
from gencompress.errors import ConfigError, nearest

Normalise = Literal["mean", "zscore"]


def disturbed_taylor_scores(
    subject: DistilledSubject,
    groups: Groups,
    samples: int,
    batch: int,
    ctx: Progress,
    noise: float = 0.01,
    normalise: Normalise = "mean",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Sum of |w * dL/dw| over a unit's weights, L = MSE(teacher + N(0, noise^2), student), made comparable by group.

    The gradient is summed with its sign over the samples. Weights of linear and convolution layers count, norms,
    biases and position tables do not.

    Args:
        subject: student, teacher and calibration inputs.
        groups: what to score; whole blocks are not, they have nothing to be compared with inside of their group.
        samples: inputs in all.
        batch: inputs per backward.
        ctx: for progress, checkpoints and stopping.
        noise: standard deviation of the noise on the teacher's outputs.
        normalise: scores of a group divided by their ``mean``, or shifted and scaled to a ``zscore``.
        seed: of the noise.

    Returns:
        Scores by group, [size].

    Raises:
        ConfigError: an option is out of range, or a group removes whole blocks.
        NumericsError: a score is NaN or infinite.
    """
    if not noise > 0:
        raise ConfigError(f"criterion.noise={noise} must be above 0: without it the gradient of an equal student is 0")
    if normalise not in get_args(Normalise):
        raise ConfigError(f"criterion.normalise={normalise!r}; {nearest(normalise, get_args(Normalise))}")
    block = next((g.name for g in groups if g.stack is not None), None)
    if block is not None:
        raise ConfigError(f"disturbed Taylor cannot score whole blocks ({block}); use another criterion for depth")
    wanted = {s.tensor for g in groups for s in g.slices}
    named = {f"{path}.weight": module for path, module in subject.module.named_modules() if _counts(module)}
    weights = {name: p for name, p in subject.module.named_parameters() if name in named and name in wanted}
    total = summed_gradients(_Disturbed(subject, noise, seed), weights, samples, batch, ctx)
    with torch.no_grad():
        change = {name: (weights[name] * total[name]).abs() for name in weights}
        return finite({g.name: _normalised(_over_weights(g, change), normalise) for g in groups})


class _Disturbed:
    """The loss of the student to the disturbed teacher."""

    def __init__(self, subject: DistilledSubject, noise: float, seed: int) -> None:
        self.subject, self.noise, self.seed = subject, noise, seed

    @property
    def module(self) -> nn.Module:
        return self.subject.module

    def losses(self, index: int, size: int) -> Tensor:
        targets = self.subject.targets(index, size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        noise = self.noise * torch.randn(targets.shape, generator=generator)
        wanted = targets.float() + noise.to(targets.device)
        return (self.subject.outputs(index, size).float() - wanted).square().flatten(1).mean(1)


def _counts(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))


def _over_weights(group: Group, change: dict[str, Tensor]) -> Tensor:
    score = torch.zeros(group.size)
    for s in group.slices:
        if s.tensor in change:
            score += per_unit(group, s, change[s.tensor]).cpu()
    return score


def _normalised(score: Tensor, normalise: Normalise) -> Tensor:
    if normalise == "mean":
        return score / score.mean().clamp_min(1e-12)
    return (score - score.mean()) / score.std(correction=0).clamp_min(1e-12)
