"""First-order Taylor scores of the training loss, on weights (Diff-Pruning) and on gates (Fisher)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gencompress.core.cost import CostModel
from gencompress.core.gate import gated
from gencompress.core.group import Groups, per_unit
from gencompress.core.subject import Progress, Subject
from gencompress.core.tally import Tally
from gencompress.errors import NumericsError


def taylor_scores(subject: Subject, groups: Groups, samples: int, batch: int, ctx: Progress) -> dict[str, Tensor]:
    """Sum of |w * dL/dw| over a unit's weights, the gradient summed over time steps first.

    Diff-Pruning (Fang et al. 2023, arXiv 2305.10924, eq. 7) without its early stop over t: all steps of the run count.

    Args:
        subject: model and calibration data.
        groups: what to score.
        samples: noisy samples in all.
        batch: samples per backward.
        ctx: for progress, checkpoints and stopping.

    Returns:
        Scores by group, [size], >= 0.
    """
    wanted = {s.tensor for g in groups for s in g.slices}
    stacks = tuple(g.stack for g in groups if g.stack is not None)
    weights = {n: p for n, p in subject.module.named_parameters() if n in wanted or n.startswith(stacks or ("\0",))}
    total = summed_gradients(subject, weights, samples, batch, ctx)
    with torch.no_grad():
        return _summed(groups, {n: (weights[n] * total[n]).abs() for n in weights})


def summed_gradients(
    subject: Subject, weights: Mapping[str, nn.Parameter], samples: int, batch: int, ctx: Progress
) -> dict[str, Tensor]:
    """Gradient of the loss by `weights`, the mean over each batch, summed with its sign over the batches.

    Args:
        subject: model and calibration data; whether its weights want gradients is left as it was.
        weights: parameters of ``subject.module`` by name.
        samples: samples in all.
        batch: samples per backward.
        ctx: for progress, checkpoints and stopping.
    """
    flags = {n: p.requires_grad for n, p in weights.items()}
    total = {n: torch.zeros_like(p) for n, p in weights.items()}
    try:
        for p in weights.values():
            p.requires_grad_(True)
        tally = Tally(ctx, total, rounds=-(-samples // batch), every=None)
        for index in range(tally.done, tally.rounds):
            loss = subject.losses(index, batch).mean()
            grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, grad in zip(weights, grads, strict=True):
                if grad is not None:
                    total[name] += grad
            tally.finish_round(loss=loss.item())
    finally:
        for name, p in weights.items():
            p.requires_grad_(flags[name])
    return total


def _summed(groups: Groups, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scores = {}
    for group in groups:
        score = torch.zeros(group.size)
        for s in group.slices:
            if s.tensor in values:
                score += per_unit(group, s, values[s.tensor]).cpu()
        if group.stack is not None:
            score += sum(float(v.sum()) for n, v in values.items() if n.startswith(group.stack))
        scores[group.name] = score
    return finite(scores)


def fisher_scores(subject: Subject, groups: Groups, samples: int, batch: int, ctx: Progress) -> dict[str, Tensor]:
    """Sum over samples of the squared gradient of the training loss with respect to every gate, at gates of one.

    The diagonal Fisher information of the gates (Molchanov et al. 2019, arXiv 1906.10771, eq. 8). Arguments and result
    as `taylor_scores`.
    """
    scores = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in groups if g.sites}
    device = next(subject.module.parameters()).device
    tally = Tally(ctx, scores, rounds=-(-samples // batch))
    for index in range(tally.done, tally.rounds):
        gates = {name: torch.ones(batch, len(s), device=device, requires_grad=True) for name, s in scores.items()}
        with gated(subject.module, groups, gates):
            losses = subject.losses(index, batch)
        grads = torch.autograd.grad(losses.sum(), list(gates.values()), allow_unused=True)
        for name, grad in zip(gates, grads, strict=True):
            if grad is not None:
                scores[name] += grad.double().square().sum(0).cpu()
        tally.finish_round(loss=losses.mean().item())
    return finite(scores)


def finite(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """`scores`, or `NumericsError` naming the group that holds NaN or infinity."""
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise NumericsError(
                f"scores of {name!r} hold NaN or infinity; check the weights and the dtype (bf16 or fp32)"
            )
    return scores


def divide_by_cost(scores: Mapping[str, Tensor], cost: CostModel) -> dict[str, Tensor]:
    """Importance per unit of cost, the greedy rule of the knapsack problem: score / marginal cost of the group."""
    marginal = cost.marginal()
    return {name: score / max(marginal[name], 1e-12) for name, score in scores.items()}
