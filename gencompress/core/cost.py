"""Exact cost of a pruned model as a function of kept counts, from shapes alone.

Every tensor's size is the product of its dimensions, and every dimension falls linearly with the kept units of the
groups that live on it. Parameters are therefore a multilinear polynomial of the kept counts, bytes weigh it with the
item size, and MACs weigh each tensor with the number of positions it is applied to (tokens, pixels) and add the
weightless products of attention. One small class evaluates all three, on integers (exact) or on expected counts of
gates (differentiable).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from gencompress.core.group import Groups, shapes_of
from gencompress.errors import BudgetError, PlanError, nearest

Metric = Literal["params", "macs", "bytes"]
METRICS: tuple[Metric, ...] = ("params", "macs", "bytes")


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one forward pass, found by `gencompress.core.trace`.

    Args:
        positions: times each weight element is used in one forward (``macs(linear) = tokens * numel(weight)``).
        products: MACs of weightless matrix products (attention scores and their use), by module path.
    """

    positions: Mapping[str, int]
    products: Mapping[str, int]


class CostModel:
    """Cost of the model that keeps ``counts[g]`` units of each group.

    Args:
        groups: the prunable groups; tensors they do not touch count as constant.
        shapes: shape of every parameter (not of buffers).
        metric: ``params``, ``macs`` or ``bytes``.
        work: needed for ``macs``.
        itemsize: bytes per element of every tensor in `shapes`, needed for ``bytes``.

    Attributes:
        dense: cost with every unit kept.
        prunable: what falls away if every group is emptied, the base of ``scope="prunable"`` budgets.

    Raises:
        BudgetError: an unknown metric, or `work` or `itemsize` is missing or does not fit.
        PlanError: groups own more indices of a tensor than it has.
    """

    def __init__(
        self,
        groups: Groups,
        shapes: Mapping[str, tuple[int, ...]],
        metric: Metric = "params",
        work: Work | None = None,
        itemsize: Mapping[str, int] | None = None,
    ) -> None:
        if metric not in METRICS:
            raise BudgetError(f"unknown budget metric {metric!r}; {nearest(metric, METRICS)}")
        if metric == "macs" and work is None:
            raise BudgetError("a budget in MACs needs the traced work of one forward pass (core.trace.trace_work)")
        self.groups, self.metric = groups, metric
        self.sizes = torch.tensor([g.size for g in groups], dtype=torch.int64)
        weights = _weights(shapes, metric, work, itemsize)
        self._build(shapes, weights, work if metric == "macs" else None)
        self.dense = self.total(self.sizes)
        self.prunable = self.dense - self.total(torch.zeros_like(self.sizes))

    def _build(self, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, int], work: Work | None) -> None:
        """Lay the polynomial out as arrays: a term is a coefficient times a few factors ``base + slopes @ counts``."""
        terms = _Terms()
        for name, owner in _owners(self.groups, shapes).items():
            weight = weights.get(name, 0)
            if weight:
                self._add_tensor(terms, name, shapes[name], weight, owner)
        if work is not None:
            self._add_products(terms, work)
        self.constant = terms.constant
        self._base, self._rows, self._cols, self._slopes = terms.factor_arrays()
        self._coefficients, self._factors = terms.term_arrays()

    def _add_tensor(self, terms: _Terms, name: str, shape: tuple[int, ...], weight: int, owner: _Owner) -> None:
        if max(owner.slopes, default=-1) >= len(shape):
            raise PlanError(f"{name!r} has no dimension {max(owner.slopes)}, its shape is {shape}")
        coefficient, ids = weight, []
        for dim, size in enumerate(shape):
            slopes = owner.slopes.get(dim)
            if slopes is None:
                coefficient *= size
                continue
            removable = sum(int(self.sizes[g]) * s for g, s in slopes.items())
            if removable > size:
                raise PlanError(f"the groups own {removable} indices of {name!r} dim {dim}, which has {size}")
            ids.append(terms.factor(size - removable, slopes))
        terms.add(coefficient, ids + [terms.factor(0, {g: 1}) for g in owner.stacks])

    def _add_products(self, terms: _Terms, work: Work) -> None:
        sharing: dict[str, list[int]] = {}
        for i, group in enumerate(self.groups):
            for module in group.work:
                sharing.setdefault(module, []).append(i)
        for module, macs in work.products.items():
            owners = sharing.get(module, [])
            units = math.prod(int(self.sizes[i]) for i in owners)
            if macs % units:
                raise BudgetError(f"attention work of {module!r} ({macs} MACs) does not divide into its {units} units")
            ids = [terms.factor(0, {i: 1}) for i in owners + _stacks_around(self.groups, f"{module}.")]
            terms.add(macs // units, ids)

    def total(self, counts: Tensor | Mapping[str, int]) -> int:
        """Exact cost for integer kept counts, [groups] in the order of `groups` or a mapping by name."""
        if not isinstance(counts, Tensor):
            counts = self.counts(counts)
        if counts.is_floating_point():
            raise BudgetError("total() wants integer counts; use expected() for gates")
        return int(self._evaluate(counts.to(torch.int64))) + self.constant

    def expected(self, counts: Tensor) -> Tensor:
        """Differentiable cost, float64 scalar, for real-valued kept counts [groups] (expected values of gates)."""
        return self._evaluate(counts.to(torch.float64)) + float(self.constant)

    def counts(self, kept: Mapping[str, int]) -> Tensor:
        """Kept counts by name as a tensor [groups]; groups that are not named keep everything."""
        unknown = sorted(set(kept) - set(self.groups.by_name))
        if unknown:
            raise PlanError(f"counts name the unknown group {unknown[0]!r}; {nearest(unknown[0], self.groups.by_name)}")
        return torch.tensor([kept.get(g.name, g.size) for g in self.groups], dtype=torch.int64)

    def marginal(self) -> dict[str, float]:
        """Cost of one unit of every group in the otherwise dense model, the divisor of per-cost scores."""
        counts = self.sizes.to(torch.float64).requires_grad_()
        (grad,) = torch.autograd.grad(self.expected(counts), counts)
        return {g.name: float(v) for g, v in zip(self.groups, grad, strict=True)}

    def _evaluate(self, counts: Tensor) -> Tensor:
        base = self._base.to(counts)
        factors = base.index_add(0, self._rows.to(counts.device), self._slopes.to(counts) * counts[self._cols])
        product = factors[self._factors].prod(dim=1) if len(self._factors) else factors.new_zeros(0)
        return (self._coefficients.to(counts) * product).sum()


def cost_of(module: nn.Module, groups: Groups, metric: Metric, trace: Callable[[nn.Module], Work]) -> CostModel:
    """The exact cost of every plan for `groups` of `module`; `trace` is called only if MACs are asked for."""
    parameters = dict(module.named_parameters())
    itemsize = {name: p.element_size() for name, p in parameters.items()}
    work = trace(module) if metric == "macs" else None
    return CostModel(groups, shapes_of(parameters), metric, work, itemsize)


class _Terms:
    """A polynomial while it is put together; equal factors are stored once."""

    def __init__(self) -> None:
        self.constant = 0
        self.factors: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        self.terms: list[tuple[int, list[int]]] = []

    def factor(self, base: int, slopes: Mapping[int, int]) -> int:
        """Number of the factor ``base + sum_g slopes[g] * counts[g]``."""
        return self.factors.setdefault((base, tuple(sorted(slopes.items()))), len(self.factors))

    def add(self, coefficient: int, factors: list[int]) -> None:
        """Add ``coefficient * product of factors``."""
        if factors:
            self.terms.append((coefficient, factors))
        else:
            self.constant += coefficient

    def factor_arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bases [factors + 1], the last one 1, and the slopes in coordinate form: factor, group, slope."""
        slopes = [(f, g, s) for f, (_, pairs) in enumerate(self.factors) for g, s in pairs]
        rows, cols, values = torch.tensor(slopes, dtype=torch.int64).reshape(-1, 3).unbind(1)
        return torch.tensor([base for base, _ in self.factors] + [1], dtype=torch.int64), rows, cols, values

    def term_arrays(self) -> tuple[Tensor, Tensor]:
        """Coefficients [terms] and factor numbers [terms, arity]; the factor that is always 1 pads short terms."""
        arity, one = max((len(ids) for _, ids in self.terms), default=1), len(self.factors)
        padded = [ids + [one] * (arity - len(ids)) for _, ids in self.terms]
        coefficients = torch.tensor([c for c, _ in self.terms], dtype=torch.int64)
        return coefficients, torch.tensor(padded, dtype=torch.int64).reshape(len(padded), arity)


def _weights(
    shapes: Mapping[str, tuple[int, ...]], metric: Metric, work: Work | None, itemsize: Mapping[str, int] | None
) -> Mapping[str, int]:
    """What one element of every tensor costs."""
    if metric == "macs":
        assert work is not None
        return work.positions
    if metric == "bytes":
        missing = sorted(set(shapes) - set(itemsize or {}))
        if itemsize is None or missing:
            raise BudgetError(f"a budget in bytes needs the item size of every tensor; it lacks {missing[:3]}")
        return itemsize
    return dict.fromkeys(shapes, 1)


@dataclass
class _Owner:
    """How a tensor shrinks: by dim, indices lost per removed unit of each group; and the depth groups around it."""

    slopes: dict[int, dict[int, int]] = field(default_factory=dict)
    stacks: list[int] = field(default_factory=list)


def _owners(groups: Groups, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Owner]:
    owners = {name: _Owner(stacks=_stacks_around(groups, name)) for name in shapes}
    for i, group in enumerate(groups):
        for s in group.slices:
            if s.tensor in owners:  # a buffer costs nothing
                slopes = owners[s.tensor].slopes.setdefault(s.dim, {})
                slopes[i] = slopes.get(i, 0) + s.width
    return owners


def _stacks_around(groups: Groups, name: str) -> list[int]:
    """The depth groups that take `name` with them."""
    return [i for i, g in enumerate(groups) if g.stack is not None and name.startswith(g.stack)]
