"""Budgets and the solver that turns scores into a Plan, by exact costing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from gencompress.core.cost import METRICS, CostModel, Metric
from gencompress.core.group import Group, Groups
from gencompress.core.plan import Plan
from gencompress.errors import BudgetError, NumericsError, PlanError, nearest

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
        min_keep: units that every group keeps at least, all of a smaller group (None: as the group says); whole
            blocks (``depth``) stay removable.
        uniform: all groups keep the same ratio of their units, those of a kind and size the same number, those of a
            `tie` exactly the same ratio; scores only choose which.

    Raises:
        BudgetError: an option is out of range, naming it.
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
        if self.metric not in METRICS:
            raise BudgetError(f"unknown budget metric {self.metric!r}; {nearest(self.metric, METRICS)}")
        if self.round_to is not None and self.round_to < 1:
            raise BudgetError(f"budget.round_to={self.round_to} must be >= 1")
        if self.min_keep is not None and self.min_keep < 0:
            raise BudgetError(f"budget.min_keep={self.min_keep} must be >= 0")

    @classmethod
    def of(cls, options: object) -> Budget:
        """The budget that options of these names ask for; what else they have is passed over."""
        return cls(**{f.name: getattr(options, f.name) for f in fields(cls)})

    def limit(self, cost: CostModel) -> int:
        """The cost that the pruned model may have at most."""
        if self.target is not None:
            return self.target
        assert self.keep is not None
        base = cost.prunable if self.scope == "prunable" else cost.dense
        # As the decimal number that was asked for: 0.7 of 1000 is 700, which floating point misses by a hair.
        return cost.dense - base + math.floor(Fraction(str(self.keep)) * base)

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

    The reached cost is at most the asked one and within one rounding step of it: widening any group by its next step
    would exceed it (with ``uniform``, widening all groups of a kind that were narrowed last).

    Args:
        groups: the groups of `cost`.
        scores: importance of every unit by group name, [size], finite; higher stays longer. Among equal scores the
            lower unit stays.
        budget: what may remain.
        cost: in the budget's metric.
        source: `gencompress.core.plan.fingerprint` of the scored weights, kept in the plan.
        method: how the scores were made, plain JSON, kept in the plan.

    Raises:
        BudgetError: the budget is below what `min_keep` and rounding allow; says the reachable range.
        NumericsError: a score is NaN or infinite.
        PlanError: scores are missing or of the wrong shape.
    """
    if cost.metric != budget.metric:
        raise BudgetError(f"the budget is in {budget.metric}, but the cost model counts {cost.metric}")
    if [(g.name, g.size) for g in cost.groups] != [(g.name, g.size) for g in groups]:
        raise BudgetError("the cost model was made for other groups")
    groups = budget.apply(groups)
    _check_scores(groups, scores)
    limit = budget.limit(cost)
    steps = _uniform_steps(groups) if budget.uniform else _ranked_steps(groups, scores)
    counts, taken = _fit(groups, steps, cost, limit)
    if not budget.uniform:
        counts = _put_back(counts, steps, taken, cost, limit)
    record = {"scope": budget.scope, "keep": budget.keep, "asked": limit, "uniform": budget.uniform}
    return _plan(groups, scores, counts, cost, record, source, method)


def require_reachable(groups: Groups, budget: Budget, cost: CostModel) -> None:
    """Raise `BudgetError`, with the range that can be reached, before hours of scoring and not after them."""
    solve(groups, {g.name: torch.zeros(g.size) for g in groups}, budget, cost)


def solve_ratio(
    groups: Groups,
    scores: Mapping[str, Tensor],
    keep: float,
    cost: CostModel,
    source: Mapping[str, str | None] | None = None,
    method: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan that keeps the same part of every group, its units of highest score: local pruning, as papers state it.

    Args:
        groups: the groups of `cost`, none of which removes whole blocks.
        scores: as in `solve`.
        keep: part of the units in (0, 1], rounded down to what `round_to` of a group and `tie` allow.
        cost: for the record of what is reached.
        source: as in `solve`.
        method: as in `solve`.

    Raises:
        BudgetError: `keep` is out of range or leaves no allowed width of a group; says the least ratio that does.
        NumericsError: a score is NaN or infinite.
        PlanError: scores are missing or of the wrong shape.
    """
    if not 0 < keep <= 1:
        raise BudgetError(f"keep={keep} is outside (0, 1]")
    _check_scores(groups, scores)
    counts = []
    for group, allowed in zip(groups, _uniform_boundaries(groups), strict=True):
        if group.stack is not None:
            raise BudgetError(f"group {group.name!r} is a whole block, of which no part can be kept")
        fitting = allowed[allowed <= math.floor(Fraction(str(keep)) * group.size)]
        if not len(fitting):
            least = int(allowed[-1]) / group.size
            raise BudgetError(
                f"keep={keep} leaves no width of {group.name!r} that its rounding allows; {least:.4g} is the least"
            )
        counts.append(int(fitting[0]))
    kept = torch.tensor(counts, dtype=torch.int64)
    record = {"scope": "ratio", "keep": keep, "asked": cost.total(kept), "uniform": True}
    return _plan(groups, scores, kept, cost, record, source, method)


def _plan(
    groups: Groups,
    scores: Mapping[str, Tensor],
    counts: Tensor,
    cost: CostModel,
    record: dict[str, Any],
    source: Mapping[str, str | None] | None,
    method: Mapping[str, Any] | None,
) -> Plan:
    """The units of highest score, ``counts[g]`` of every group; `record` becomes the plan's budget."""
    keep = {}
    for group, count in zip(groups, counts.tolist(), strict=True):
        keep[group.name] = highest(scores[group.name], count)
    costs = {"reached": cost.total(counts), "dense": cost.dense, "prunable": cost.prunable}
    budget = {"metric": cost.metric, **record, **costs}
    return Plan(keep, {g.name: g.size for g in groups}, budget, source or {}, method or {})


def highest(scores: Tensor, count: int) -> Tensor:
    """Ascending ids [count] of the units of highest score [size]; of equal ones the lower id."""
    order = torch.argsort(scores.detach().cpu().double(), descending=True, stable=True)
    return order[:count].sort().values


@dataclass(frozen=True)
class _Steps:
    """Removal steps in the order in which they are taken: group [m], units removed [m], and where to stop.

    `stops` are the prefix lengths that are a valid result: all of them, or with uniform widths only those after which
    all groups of a kind and size are equally wide.
    """

    group: Tensor
    units: Tensor
    stops: Tensor

    def removed(self, chosen: slice | Tensor, groups: int) -> Tensor:
        """Units that the chosen steps remove from every group [groups]."""
        return torch.zeros(groups, dtype=torch.int64).index_add(0, self.group[chosen], self.units[chosen])


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
        width = kept[:-1] - kept[1:]
        step = torch.repeat_interleave(torch.arange(len(width)), width)
        ascending = scores[group.name].detach().cpu().double().sort().values[: len(step)]
        mean = ascending.new_zeros(len(width)).index_add(0, step, ascending) / width
        means.append(mean.cummax(0).values)  # rounding of the sums must not reorder a group's own steps
        owners.append(torch.full_like(width, i))
        units.append(width)
    order = torch.argsort(_joined(means, torch.float64), stable=True)
    return _Steps(_joined(owners)[order], _joined(units)[order], torch.arange(len(order) + 1))


def _uniform_steps(groups: Groups) -> _Steps:
    """Steps in descending order of the keep ratio they lead to, then by kind, so that all groups narrow together.

    Those of a tie count as one kind.
    """
    kinds = sorted({g.tie or g.kind for g in groups})
    ratios, kind, owners, units = [], [], [], []
    for i, (group, kept) in enumerate(zip(groups, _uniform_boundaries(groups), strict=True)):
        width = kept[:-1] - kept[1:]
        ratios.append(kept[1:].double() / group.size)
        kind.append(torch.full_like(width, kinds.index(group.tie or group.kind)))
        owners.append(torch.full_like(width, i))
        units.append(width)
    by_kind = torch.argsort(_joined(kind), stable=True)
    order = by_kind[torch.argsort(_joined(ratios, torch.float64)[by_kind], descending=True, stable=True)]
    ratio, kinds_in_order = _joined(ratios, torch.float64)[order], _joined(kind)[order]
    ends = (ratio[1:] != ratio[:-1]) | (kinds_in_order[1:] != kinds_in_order[:-1])
    last = [len(order)] if len(order) else []
    stops = torch.cat([torch.tensor([0]), torch.nonzero(ends).flatten() + 1, torch.tensor(last, dtype=torch.int64)])
    return _Steps(_joined(owners)[order], _joined(units)[order], stops)


def _uniform_boundaries(groups: Groups) -> list[Tensor]:
    """`_boundaries` of every group; of tied groups only those at ratios that all of them have."""
    allowed = [_boundaries(group) for group in groups]
    common: dict[str, set[float]] = {}
    for group, kept in zip(groups, allowed, strict=True):
        if group.tie is not None:
            own = set((kept.double() / group.size).tolist())
            common[group.tie] = common.get(group.tie, own) & own
    for i, group in enumerate(groups):
        if group.tie is not None:
            ratios = (allowed[i].double() / group.size).tolist()
            allowed[i] = allowed[i][torch.tensor([ratio in common[group.tie] for ratio in ratios])]
    return allowed


def _joined(parts: list[Tensor], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=dtype)


def _fit(groups: Groups, steps: _Steps, cost: CostModel, limit: int) -> tuple[Tensor, int]:
    """Kept counts [groups] after the shortest valid prefix of `steps` that fits, and the length of that prefix."""
    sizes = torch.tensor([g.size for g in groups], dtype=torch.int64)

    def after(stop: int) -> Tensor:
        return sizes - steps.removed(slice(0, int(steps.stops[stop])), len(groups))

    low, high = 0, len(steps.stops) - 1
    least = cost.total(after(high))
    if least > limit:
        raise BudgetError(
            f"the budget of {limit:,} {cost.metric} cannot be met: with min_keep and rounding these groups reach "
            f"from {least:,} to {cost.dense:,} {cost.metric}"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost.total(after(middle)) <= limit else (middle + 1, high)
    return after(low), int(steps.stops[low])


def _put_back(counts: Tensor, steps: _Steps, taken: int, cost: CostModel, limit: int) -> Tensor:
    """Undo dropped steps that still fit, last dropped first, until the next step of every group is one too many."""
    left = torch.arange(taken - 1, -1, -1)

    def with_next(n: int) -> Tensor:
        return counts + steps.removed(left[:n], len(counts))

    while len(left):
        fits, tried = 0, 1  # how many of the next steps fit together: double, then bisect
        while tried <= len(left) and cost.total(with_next(tried)) <= limit:
            fits, tried = tried, tried * 2
        exceeds = min(tried, len(left) + 1)
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            fits, exceeds = (middle, exceeds) if cost.total(with_next(middle)) <= limit else (fits, middle)
        counts = with_next(fits)
        full = steps.group[left[fits : fits + 1]]  # the group of the step that does not fit is done
        left = left[fits + 1 :]
        left = left[steps.group[left] != full]
    return counts
