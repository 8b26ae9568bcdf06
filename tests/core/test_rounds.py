"""Plans made in rounds: each keeps what a uniform result would, together they are one plan of the dense model."""

from __future__ import annotations

import pytest
import torch

from gencompress.core.budget import Budget, solve
from gencompress.core.rounds import best_units, joined, uniform_counts
from gencompress.criteria.random import random_scores
from gencompress.domains.sam.domain import Sam
from gencompress.errors import BudgetError, PlanError
from tests.domains.sam.tiny import tiny_sam

KINDS = ("width", "head_dim", "ffn")


@pytest.fixture(scope="module", params=[True, False], ids=["stock", "any width"])
def sam(request: pytest.FixtureRequest) -> Sam:
    return Sam(tiny_sam(), KINDS, uniform=request.param)


def budget(**how) -> Budget:
    return Budget("params", **{"keep": 0.5, "uniform": True} | how)


def test_counts_are_those_of_the_uniform_plan(sam: Sam) -> None:
    cost = sam.cost("params")
    counts = uniform_counts(sam.groups, budget(uniform=False), cost)
    plan = solve(sam.groups, random_scores(sam.groups, 0), budget(), cost)
    assert counts == plan.counts
    with pytest.raises(BudgetError, match="cannot be met"):
        uniform_counts(sam.groups, budget(keep=1e-6), cost)


def test_the_best_units_stay_and_the_lower_one_of_equals() -> None:
    sam = Sam(tiny_sam(), ("ffn",))
    scores = {g.name: torch.arange(g.size).float() % 5 for g in sam.groups}
    plan = best_units(sam.groups, scores, {g.name: 10 for g in sam.groups} | {"of another round": 1})
    assert plan.keep["layers.0.mlp"].tolist() == [3, 4, 9, 14, 19, 24, 29, 34, 39, 44]


def test_rounds_join_to_one_plan_within_the_budget(sam: Sam) -> None:
    cost, asked = sam.cost("params"), budget()
    counts = uniform_counts(sam.groups, asked, cost)
    rounds = []
    for kinds in (("width",), ("head_dim", "ffn")):
        groups = Sam(sam.model, kinds).groups
        rounds.append(best_units(groups, random_scores(groups, 1), counts))
    plan = joined(sam.groups, rounds, asked, cost, sam.source, {"name": "random"})
    assert plan.counts == counts
    assert plan.budget["reached"] == cost.total(torch.tensor(list(counts.values()))) <= plan.budget["asked"]
    assert sum(p.numel() for p in sam.prune(plan).encoder.parameters()) == plan.budget["reached"]


def test_groups_of_no_round_stay_whole_and_none_is_pruned_twice(sam: Sam) -> None:
    cost, groups = sam.cost("params"), Sam(sam.model, ("ffn",)).groups
    half = best_units(groups, random_scores(groups, 0), {g.name: g.size // 2 for g in groups})
    plan = joined(sam.groups, [half], budget(), cost, {}, {})
    assert all(plan.counts[g.name] == (g.size // 2 if g.kind == "ffn" else g.size) for g in sam.groups)
    with pytest.raises(PlanError, match=r"two rounds prune the same groups: \['layers\.0\.mlp'"):
        joined(sam.groups, [half, half], budget(), cost, {}, {})
