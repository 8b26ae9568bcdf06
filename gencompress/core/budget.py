"""Budgets and the solver that turns scores into a Plan, by exact costing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gencompress.core.cost import CostModel, Metric
from gencompress.core.group import Group, Groups
from gencompress.core.plan import Plan
from gencompress.errors import BudgetError, NumericsError, PlanError

Scope = Literal["prunable", "total"]


@dataclass(frozen=True)
class Budget:
    """What may remain.

    Args:
        metric: unit of the budget.
        keep: fraction in (0, 1] of the dense cost that may remain, of the prunable part or of the total by `scope`.
        target: absolute cost instead of `keep`.
        scope: what `keep` is a fraction of.
        round_to: kept counts are multiples of this in every group (None: as the group says).
        min_keep: units that every group keeps at least (None: as the group says).
        uniform: all groups keep the same ratio of their units; scores only choose which.
    """

    metric: Metric = "params"
    keep: float | None = None
    target: int | None = None
    scope: Scope = "prunable"
    round_to: int | None = None
    min_keep: int | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.target is None):
            raise BudgetError("give exactly one of budget.keep (a fraction) and budget.target (an absolute cost)")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise BudgetError(f"budget.keep={self.keep} is outside (0, 1]")
        if self.target is not None and self.target <= 0:
            raise BudgetError(f"budget.target={self.target} must be positive")
        if self.scope not in ("prunable", "total"):
            raise BudgetError(f"budget.scope={self.scope!r} must be 'prunable' or 'total'")

    def limit(self, cost: CostModel) -> float:
        """The cost that the pruned model may have at most."""
        if self.target is not None:
            return self.target
        assert self.keep is not None
        base = cost.prunable if self.scope == "prunable" else cost.dense
        return cost.dense - (1 - self.keep) * base

    def apply(self, groups: Groups) -> Groups:
        """The groups with this budget's rounding and floor in place of their own."""
        items = []
        for g in groups:
            floor = g.min_keep if self.min_keep is None or g.kind == "depth" else min(self.min_keep, g.size)
            items.append(replace(g, min_keep=floor, round_to=self.round_to or g.round_to))
        return Groups(tuple(items))


def solve(
    groups: Groups,
    scores: Mapping[str, Tensor],
    budget: Budget,
    cost: CostModel,
    source: Mapping[str, str | None] | None = None,
    method: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan that drops the lowest scores until the exact cost fits the budget.

    The reached cost is at most the asked one and within one rounding step of it: putting back the step removed last
    would exceed it. Afterwards every dropped step that still fits is put back, highest score first.

    Args:
        scores: importance of every unit by group name, [size], finite; higher stays longer.

    Raises:
        BudgetError: the budget is below what `min_keep` and rounding allow; says the reachable range.
        NumericsError: a score is NaN or infinite.
    """
    groups = budget.apply(groups)
    _check_scores(groups, scores)
    limit = budget.limit(cost)
    steps = _uniform_steps(groups) if budget.uniform else _ranked_steps(groups, scores)
    counts = _fit(groups, steps, cost, limit)
    reached = cost.total(counts)
    keep = {}
    for group, count in zip(groups, counts.tolist(), strict=True):
        order = torch.argsort(scores[group.name].detach().cpu().double(), descending=True, stable=True)
        keep[group.name] = order[:count].sort().values
    record = {
        "metric": budget.metric,
        "scope": budget.scope,
        "keep": budget.keep,
        "asked": limit,
        "reached": reached,
        "dense": cost.dense,
        "prunable": cost.prunable,
        "uniform": budget.uniform,
    }
    return Plan(keep, {g.name: g.size for g in groups}, record, source or {}, method or {})


@dataclass(frozen=True)
class _Steps:
    """Removal steps in the order in which they are taken: group [m], units removed [m], and where to stop.

    `stops` are the prefix lengths that are a valid result: all of them, or with uniform widths only those after which
    all groups of a kind and size are equally wide.
    """

    group: Tensor
    units: Tensor
    stops: Tensor


def _check_scores(groups: Groups, scores: Mapping[str, Tensor]) -> None:
    for g in groups:
        if g.name not in scores:
            raise PlanError(f"no scores for group {g.name!r}")
        if scores[g.name].shape != (g.size,):
            raise PlanError(f"scores of {g.name!r} have shape {tuple(scores[g.name].shape)}, expected ({g.size},)")
        if not bool(torch.isfinite(scores[g.name]).all()):
            raise NumericsError(f"scores of {g.name!r} hold NaN or infinity")


def _boundaries(group: Group) -> Tensor:
    """Kept counts that rounding and floor allow, descending from `size`."""
    floor = min(-(-group.min_keep // group.round_to) * group.round_to, group.size)
    top = (group.size // group.round_to) * group.round_to
    allowed = torch.arange(top, floor - 1, -group.round_to) if top >= floor else torch.empty(0, dtype=torch.int64)
    return torch.unique(torch.cat([torch.tensor([group.size]), allowed])).flip(0)


def _ranked_steps(groups: Groups, scores: Mapping[str, Tensor]) -> _Steps:
    """Steps of all groups in ascending order of their mean score; within a group that order is the removal order."""
    means, owners, units = [], [], []
    for i, group in enumerate(groups):
        kept = _boundaries(group)
        if len(kept) < 2:
            continue
        ascending = scores[group.name].detach().cpu().double().sort().values
        ends = group.size - kept[1:]
        cumulative = torch.cat([ascending.new_zeros(1), ascending.cumsum(0)])
        width = kept[:-1] - kept[1:]
        mean = (cumulative[ends] - cumulative[ends - width]) / width
        means.append(mean.cummax(0).values)  # rounding of the running sum must not reorder a group's own steps
        owners.append(torch.full_like(width, i))
        units.append(width)
    if not means:
        empty = torch.empty(0, dtype=torch.int64)
        return _Steps(empty, empty, torch.zeros(1, dtype=torch.int64))
    order = torch.argsort(torch.cat(means), stable=True)
    return _Steps(torch.cat(owners)[order], torch.cat(units)[order], torch.arange(len(order) + 1))


def _uniform_steps(groups: Groups) -> _Steps:
    """Steps in descending order of the keep ratio they lead to, so that all groups narrow together."""
    kinds = sorted({g.kind for g in groups})
    steps = []
    for i, group in enumerate(groups):
        kept = _boundaries(group).tolist()
        for before, after in zip(kept, kept[1:], strict=False):
            steps.append((-after / group.size, kinds.index(group.kind), i, before - after))
    steps.sort()
    ends = [m for m in range(1, len(steps) + 1) if m == len(steps) or steps[m][:2] != steps[m - 1][:2]]
    return _Steps(
        torch.tensor([s[2] for s in steps], dtype=torch.int64),
        torch.tensor([s[3] for s in steps], dtype=torch.int64),
        torch.tensor([0, *ends]),
    )


def _fit(groups: Groups, steps: _Steps, cost: CostModel, limit: float) -> Tensor:
    """Kept counts [groups] after the shortest prefix of `steps` that fits, then with fitting steps put back."""
    sizes = torch.tensor([g.size for g in groups], dtype=torch.int64)

    def after(m: int) -> Tensor:
        return sizes - torch.zeros_like(sizes).index_add(0, steps.group[:m], steps.units[:m])

    def excess(stop: int) -> float:
        return cost.total(after(int(steps.stops[stop]))) - limit

    low, high = 0, len(steps.stops) - 1
    if excess(high) > 0:
        raise BudgetError(
            f"the budget of {limit:,.0f} {cost.metric} cannot be met: with min_keep and rounding these groups reach "
            f"from {cost.total(after(int(steps.stops[-1]))):,} to {cost.dense:,} {cost.metric}"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if excess(middle) <= 0 else (middle + 1, high)
    taken = int(steps.stops[low])
    every_prefix_is_valid = len(steps.stops) == len(steps.group) + 1
    return _put_back(after(taken), steps, taken, cost, limit) if every_prefix_is_valid else after(taken)


def _put_back(counts: Tensor, steps: _Steps, taken: int, cost: CostModel, limit: float, tries: int = 2000) -> Tensor:
    """Undo dropped steps that still fit, last dropped first; a group whose step does not fit is left as it is."""
    blocked: set[int] = set()
    for i in range(taken - 1, max(-1, taken - 1 - tries), -1):
        g = int(steps.group[i])
        if g in blocked:
            continue
        trial = counts.clone()
        trial[g] += steps.units[i]
        if cost.total(trial) <= limit:
            counts = trial
        else:
            blocked.add(g)
            if len(blocked) == len(counts):
                break
    return counts
