"""End-to-end Gauss-Newton scores: how much each gate moves the final latents, through the whole denoising run."""

from __future__ import annotations

import torch
from torch import Tensor

from gencompress.core.group import Groups
from gencompress.core.subject import Progress, TrajectorySubject
from gencompress.core.tally import Tally
from gencompress.core.trajectory import gate_gradient
from gencompress.criteria.taylor import finite


def gauss_newton_scores(
    subject: TrajectorySubject, groups: Groups, trajectories: int, batch: int, ctx: Progress, seed: int = 0
) -> dict[str, Tensor]:
    """Diagonal of J^T J, the Gauss-Newton matrix of the final latents' squared error at gates of one.

    With J the Jacobian of the final latents by the gates and r ~ N(0, I), ``E[(J^T r)^2] = diag(J^T J)``: one backward
    through the run per draw, by time-step checkpointing (`gencompress.core.trajectory`).

    Args:
        subject: model and calibration data.
        groups: what to score; groups without gate sites get no score.
        trajectories: runs in all.
        batch: runs per backward.
        ctx: for progress, checkpoints and stopping.
        seed: of the random cotangents.

    Returns:
        Scores by group, [size], >= 0.
    """
    device = next(subject.module.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    scores = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in groups if g.sites}
    tally = Tally(ctx, scores, rounds=-(-trajectories // batch), generator=generator)
    for index in range(tally.done, tally.rounds):
        gates = {name: torch.ones(batch, len(score), device=device) for name, score in scores.items()}

        def projection(latents: Tensor) -> Tensor:
            direction = torch.randn(latents.shape, generator=generator).to(latents)
            return (latents * direction).sum()

        _, grads = gate_gradient(subject.rollout, subject.trajectories(index, batch), groups, gates, projection)
        for name, grad in grads.items():
            scores[name] += grad.double().square().sum(0).cpu()
        tally.finish_round()
    return finite(scores)
