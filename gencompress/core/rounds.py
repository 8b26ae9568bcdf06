"""Plans of recipes that prune one model in rounds, other groups in each; how many units go is known beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gencompress.core.budget import Budget, highest, solve
from gencompress.core.cost import CostModel
from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.errors import PlanError


def uniform_counts(groups: Groups, budget: Budget, cost: CostModel) -> dict[str, int]:
    """Units that every group keeps when all keep the same part of theirs and `budget` is met, by group name.

    Raises `BudgetError` if it cannot be met.
    """
    alike = Budget(
        budget.metric, target=budget.limit(cost), round_to=budget.round_to, min_keep=budget.min_keep, uniform=True
    )
    return solve(groups, {g.name: torch.zeros(g.size) for g in groups}, alike, cost).counts


def best_units(groups: Groups, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Plan:
    """The plan that keeps ``counts[g]`` units of every group, those of highest score.

    Args:
        groups: of one round.
        scores: importance of every unit by group name, [size].
        counts: by group name, in [0, size]; further groups are passed over.
    """
    keep = {g.name: highest(scores[g.name], counts[g.name]) for g in groups}
    return Plan(keep, {g.name: g.size for g in groups})


def joined(
    groups: Groups,
    plans: Iterable[Plan],
    budget: Budget,
    cost: CostModel,
    source: Mapping[str, str | None],
    method: Mapping[str, Any],
) -> Plan:
    """The plan of all rounds together, for the dense model; groups of no round stay whole.

    Args:
        groups: of the dense model.
        plans: of the rounds; a group is in one of them at most, and has its dense size there.
        budget: what was asked of all rounds.
        cost: of the dense model, in the budget's metric.
        source: fingerprint of the dense weights.
        method: how the units were chosen, plain JSON.

    Raises:
        PlanError: rounds share a group, or are of another model.
    """
    keep = {g.name: torch.arange(g.size) for g in groups}
    seen: set[str] = set()
    for plan in plans:
        if twice := sorted(seen & set(plan.keep)):
            raise PlanError(f"two rounds prune the same groups: {twice[:3]}")
        seen |= set(plan.keep)
        keep |= plan.keep
    counts = torch.tensor([len(keep[g.name]) for g in groups])
    asked = {"metric": budget.metric, "scope": budget.scope, "keep": budget.keep, "asked": budget.limit(cost)}
    reached = {"reached": cost.total(counts), "dense": cost.dense, "prunable": cost.prunable}
    sizes = {g.name: g.size for g in groups}
    whole = Plan(keep, sizes, {**asked, "uniform": budget.uniform, **reached}, source, method)
    whole.check_groups(groups)
    return whole
