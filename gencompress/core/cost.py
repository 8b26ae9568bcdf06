"""Exact cost of a pruned model as a function of kept counts, from shapes alone.

Every tensor's size is the product of its dimensions, and every dimension falls linearly with the kept units of the
groups that live on it. Parameters are therefore a multilinear polynomial of the kept counts, bytes weigh it with the
item size, and MACs weigh each tensor with the number of positions it is applied to (tokens, pixels) and add the
weightless products of attention. One small class evaluates all three, on integers (exact) or on expected counts of
gates (differentiable).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gencompress.core.group import Group, Groups, numel
from gencompress.errors import BudgetError, nearest

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
        itemsize: bytes per element by tensor name, needed for ``bytes``.

    Attributes:
        dense: cost with every unit kept.
        prunable: what falls away if every group is emptied, the base of ``scope="prunable"`` budgets.
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
        touched = torch.zeros_like(self.sizes)
        self.prunable = self.dense - self.total(touched)

    def _build(self, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, int], work: Work | None) -> None:
        """Lay the polynomial out as arrays: a term is a coefficient times up to `arity` factors base + slope @ counts."""
        owners = _owners(self.groups, shapes)
        factors: list[tuple[int, dict[int, int]]] = []
        terms: list[tuple[int, list[int]]] = []
        known: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}

        def factor(base: int, slopes: dict[int, int]) -> int:
            key = (base, tuple(sorted(slopes.items())))
            if key not in known:
                known[key] = len(factors)
                factors.append((base, slopes))
            return known[key]

        self.constant = 0
        for name, shape in shapes.items():
            weight = weights.get(name, 0)
            dims, stacks = owners.get(name, ({}, []))
            if not weight:
                continue
            if not dims and not stacks:
                self.constant += weight * numel(shape)
                continue
            coefficient, ids = weight, []
            for dim, size in enumerate(shape):
                slopes = dims.get(dim)
                if slopes is None:
                    coefficient *= size
                else:
                    removable = sum(int(self.sizes[g]) * s for g, s in slopes.items())
                    ids.append(factor(size - removable, slopes))
            ids += [factor(0, {g: 1}) for g in stacks]
            terms.append((coefficient, ids))
        if work is not None:
            self._add_products(work, terms, factor)
        self._freeze(factors, terms)

    def _add_products(self, work, terms, factor) -> None:  # type: ignore[no-untyped-def]
        by_module: dict[str, list[int]] = {}
        for i, group in enumerate(self.groups):
            for module in group.work:
                by_module.setdefault(module, []).append(i)
        stacks = [(g.stack, i) for i, g in enumerate(self.groups) if g.stack is not None]
        for module, macs in work.products.items():
            ids, divisor = [], 1
            for i in by_module.get(module, []):
                ids.append(factor(0, {i: 1}))
                divisor *= int(self.sizes[i])
            ids += [factor(0, {i: 1}) for prefix, i in stacks if module.startswith(prefix)]
            if not ids:
                self.constant += macs
            elif macs % divisor:
                raise BudgetError(f"attention work of {module!r} ({macs} MACs) does not divide into its {divisor} units")
            else:
                terms.append((macs // divisor, ids))

    def _freeze(self, factors: list[tuple[int, dict[int, int]]], terms: list[tuple[int, list[int]]]) -> None:
        arity = max((len(ids) for _, ids in terms), default=1)
        one = len(factors)  # the factor that is always 1 pads short terms
        self._base = torch.tensor([b for b, _ in factors] + [1], dtype=torch.int64)
        rows = [f for f, (_, slopes) in enumerate(factors) for _ in slopes]
        cols = [g for _, slopes in factors for g in slopes]
        vals = [s for _, slopes in factors for s in slopes.values()]
        self._rows, self._cols = torch.tensor(rows, dtype=torch.int64), torch.tensor(cols, dtype=torch.int64)
        self._slopes = torch.tensor(vals, dtype=torch.int64)
        self._coefficients = torch.tensor([c for c, _ in terms], dtype=torch.int64)
        padded = [ids + [one] * (arity - len(ids)) for _, ids in terms]
        self._factors = torch.tensor(padded, dtype=torch.int64).reshape(len(terms), arity)

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


def _weights(
    shapes: Mapping[str, tuple[int, ...]], metric: Metric, work: Work | None, itemsize: Mapping[str, int] | None
) -> Mapping[str, int]:
    if metric == "macs":
        assert work is not None
        return work.positions
    if metric == "bytes":
        if itemsize is None:
            raise BudgetError("a budget in bytes needs the item size of every tensor")
        return itemsize
    return dict.fromkeys(shapes, 1)


def _owners(
    groups: Iterable[Group], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[dict[int, dict[int, int]], list[int]]]:
    """Per tensor: which groups shrink which dimension and by how much a unit, and which depth groups own it."""
    owners: dict[str, tuple[dict[int, dict[int, int]], list[int]]] = {}
    stacks: list[tuple[str, int]] = []
    for i, group in enumerate(groups):
        for s in group.slices:
            if s.tensor in shapes:
                slopes = owners.setdefault(s.tensor, ({}, []))[0].setdefault(s.dim, {})
                slopes[i] = slopes.get(i, 0) + s.width
        if group.stack is not None:
            stacks.append((group.stack, i))
    if stacks:
        for name in shapes:
            for prefix, i in stacks:
                if name.startswith(prefix):
                    owners.setdefault(name, ({}, []))[1].append(i)
    return owners
