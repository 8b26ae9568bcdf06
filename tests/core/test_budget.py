from __future__ import annotations

import resource
import sys

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gencompress.core.budget import Budget, solve, solve_ratio
from gencompress.core.cost import CostModel, Work
from gencompress.core.group import Group, Groups, Slice
from gencompress.errors import BudgetError, NumericsError, PlanError


@st.composite
def problems(draw):
    """A chain of layers whose widths are groups, some shared by two tensors, and depth groups around some of them."""
    widths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    groups, shapes = [], {}
    for i, width in enumerate(widths):
        block = draw(st.integers(1, 3))
        shapes |= {f"blocks.{i}.a": (width * block, 5), f"blocks.{i}.b": (7, width * block + 2)}
        slices = (Slice(f"blocks.{i}.a", 0, block=block), Slice(f"blocks.{i}.b", 1, offset=1, block=block))
        floor, step = draw(st.integers(0, width)), draw(st.sampled_from([1, 1, 2, 3, 8]))
        kind = draw(st.sampled_from(["ffn", "head"]))
        groups.append(Group(f"w{i}", kind, width, slices, min_keep=floor, round_to=step))
        if draw(st.booleans()):
            groups.append(Group(f"d{i}", "depth", 1, min_keep=0, stack=f"blocks.{i}."))
    shapes["rest"] = (draw(st.integers(0, 50)),)
    groups = Groups(tuple(groups))
    # few distinct values, so that ties are common
    scores = {
        g.name: torch.tensor(draw(st.lists(st.integers(-3, 3), min_size=g.size, max_size=g.size))) for g in groups
    }
    return groups, CostModel(groups, shapes), {n: s.float() for n, s in scores.items()}


def allowed(group: Group) -> list[int]:
    """Kept counts that rounding and floor permit, from the definition."""
    return [n for n in range(group.size + 1) if n == group.size or (n >= group.min_keep and n % group.round_to == 0)]


def solved(problem, budget):
    groups, cost, scores = problem
    try:
        return solve(groups, scores, budget, cost)
    except BudgetError:
        assume(False)


@given(problems(), st.floats(0.01, 1), st.sampled_from(["prunable", "total"]))
def test_budget_is_met_within_one_rounding_step_of_every_group(problem, keep, scope):
    groups, cost, _ = problem
    plan = solved(problem, Budget(keep=keep, scope=scope))
    reached = cost.total(plan.counts)
    assert reached == plan.budget["reached"] <= plan.budget["asked"]
    for group in groups:
        kept = plan.counts[group.name]
        assert kept in allowed(group)
        if kept < group.size:
            wider = min(n for n in allowed(group) if n > kept)
            assert cost.total(plan.counts | {group.name: wider}) > plan.budget["asked"]


@given(problems(), st.floats(0.01, 1))
def test_kept_units_score_no_less_than_dropped_ones(problem, keep):
    groups, _, scores = problem
    plan = solved(problem, Budget(keep=keep))
    for group in groups:
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[plan.keep[group.name]] = False
        if gone.any() and not gone.all():
            assert scores[group.name][~gone].min() >= scores[group.name][gone].max()


@given(problems())
def test_everything_stays_when_everything_may(problem):
    groups, cost, scores = problem
    for budget in (Budget(keep=1.0), Budget(target=cost.dense)):
        assert solve(groups, scores, budget, cost).counts == {g.name: g.size for g in groups}


@given(problems(), st.floats(0.01, 1))
def test_uniform_widths_within_a_kind(problem, keep):
    groups, cost, _ = problem
    groups = Groups(tuple(Group(g.name, g.kind, g.size, g.slices, stack=g.stack, min_keep=0) for g in groups))
    plan = solved((groups, cost, problem[2]), Budget(keep=keep, uniform=True))
    assert cost.total(plan.counts) <= plan.budget["asked"]
    for a in groups:
        for b in groups:
            if a.kind != b.kind:
                continue
            if a.size == b.size:
                assert plan.counts[a.name] == plan.counts[b.name]
            # the ratio of one lies within one unit of the other's
            assert abs(plan.counts[a.name] / a.size - plan.counts[b.name] / b.size) <= 1 / a.size + 1 / b.size


def chain(*sizes: int, **common) -> tuple[Groups, CostModel]:
    groups = Groups(tuple(Group(f"g{i}", "ffn", n, (Slice(f"w{i}", 0),), **common) for i, n in enumerate(sizes)))
    return groups, CostModel(groups, {f"w{i}": (n, 10) for i, n in enumerate(sizes)})


def ascending(groups: Groups) -> dict[str, torch.Tensor]:
    return {g.name: torch.arange(g.size).double() for g in groups}


def test_uniform_widths_are_the_widest_that_fit():
    groups, cost = chain(10, 10, 20)
    plan = solve(groups, ascending(groups), Budget(keep=0.7, uniform=True), cost)
    assert plan.counts == {"g0": 7, "g1": 7, "g2": 14}
    plan = solve(groups, ascending(groups), Budget(keep=0.69, uniform=True), cost)
    assert plan.counts == {"g0": 7, "g1": 7, "g2": 13}
    plan = solve(groups, ascending(groups), Budget(keep=0.67, uniform=True), cost)
    assert plan.counts == {"g0": 6, "g1": 6, "g2": 12}


def test_uniform_widths_rank_inside_a_group_only():
    groups, cost = chain(4, 4)
    scores = {"g0": torch.tensor([1.0, 4, 2, 3]), "g1": torch.tensor([40.0, 10, 30, 20])}
    plan = solve(groups, scores, Budget(keep=0.5, uniform=True), cost)
    assert {n: k.tolist() for n, k in plan.keep.items()} == {"g0": [1, 3], "g1": [0, 2]}


def test_a_keep_ratio_is_the_decimal_number_that_was_written():
    groups, cost = chain(1000)
    for percent in range(1, 101):
        assert solve(groups, ascending(groups), Budget(keep=percent / 100), cost).counts["g0"] == 10 * percent


def test_scopes():
    groups = Groups((Group("g", "ffn", 100, (Slice("w", 0),)),))
    cost = CostModel(groups, {"w": (100, 1), "fixed": (100,)})
    kept = [solve(groups, ascending(groups), b, cost).counts["g"] for b in (
        Budget(keep=0.8), Budget(keep=0.8, scope="total"), Budget(target=130), Budget(target=500))]  # fmt: skip
    assert kept == [80, 60, 30, 100]


@pytest.mark.parametrize(
    ("size", "round_to", "min_keep", "reachable"),
    [
        (20, 8, 1, [20, 16, 8]),
        (16, 8, 0, [16, 8, 0]),
        (20, 8, 9, [20, 16]),
        (20, 8, 17, [20]),  # no multiple of 8 lies in [17, 20)
        (5, 8, 1, [5]),
        (5, 1, 3, [5, 4, 3]),
    ],
)
def test_rounding_of_sizes_that_are_no_multiple(size, round_to, min_keep, reachable):
    groups, cost = chain(size, round_to=round_to, min_keep=min_keep)
    seen = []
    for target in range(size * 10, 0, -1):
        try:
            count = solve(groups, ascending(groups), Budget(target=target), cost).counts["g0"]
        except BudgetError:
            break
        assert count == max(n for n in reachable if n * 10 <= target)
        seen.append(count)
    assert sorted(set(seen), reverse=True) == reachable


def test_the_budget_overrides_rounding_and_floor_of_the_groups():
    groups, cost = chain(16, 4)
    budget = Budget(target=100, round_to=4, min_keep=6)
    with pytest.raises(BudgetError, match=r"from 120 to 200 params"):
        solve(groups, ascending(groups), budget, cost)
    assert [(g.min_keep, g.round_to) for g in budget.apply(groups)] == [(6, 4), (4, 4)]


def test_a_floor_leaves_whole_blocks_removable():
    block = Group("blocks.0", "depth", 1, min_keep=0, stack="blocks.0.")
    groups = Groups((block, Group("w", "ffn", 8, (Slice("blocks.0.w", 0),))))
    cost = CostModel(groups, {"blocks.0.w": (8,), "head": (4,)})
    plan = solve(groups, {"blocks.0": torch.zeros(1), "w": torch.ones(8)}, Budget(target=4, min_keep=8), cost)
    assert plan.counts == {"blocks.0": 0, "w": 8}


def test_widths_of_a_removed_block_are_left_whole():
    groups = Groups((
        Group("w", "ffn", 8, (Slice("blocks.0.w", 0),)),
        Group("blocks.0", "depth", 1, min_keep=0, stack="blocks.0."),
    ))  # fmt: skip
    cost = CostModel(groups, {"blocks.0.w": (8, 3), "head": (4,)})
    scores = {"w": torch.zeros(8), "blocks.0": torch.ones(1)}
    assert solve(groups, scores, Budget(target=4), cost).counts == {"w": 8, "blocks.0": 0}


def test_a_costly_step_is_compensated_by_many_cheap_ones():
    # Dropping the block overshoots by far; all cheap units that went before it fit again.
    groups = Groups((
        Group("cheap", "ffn", 5000, (Slice("w", 0),)),
        Group("blocks.0", "depth", 1, min_keep=0, stack="blocks.0."),
    ))  # fmt: skip
    cost = CostModel(groups, {"w": (5000,), "blocks.0.w": (10_000,)})
    scores = {"cheap": torch.linspace(0, 1, 5000), "blocks.0": torch.tensor([0.9])}
    plan = solve(groups, scores, Budget(target=4990), cost)
    assert plan.counts == {"cheap": 4990, "blocks.0": 0}


def test_ties_are_broken_the_same_way_every_time():
    groups, cost = chain(6, 6)
    scores = {"g0": torch.full((6,), 0.1), "g1": torch.full((6,), 0.1)}
    plan = solve(groups, scores, Budget(keep=0.5), cost)
    assert {n: k.tolist() for n, k in plan.keep.items()} == {"g0": [0], "g1": [0, 1, 2, 3, 4]}
    assert plan == solve(groups, scores, Budget(keep=0.5), cost)


def test_macs_budgets_count_attention():
    slices = (Slice("q", 0, block=4),)
    groups = Groups((Group("attn", "head", 8, slices, work=("attn",)), Group("ff", "ffn", 8, (Slice("f", 0),))))
    cost = CostModel(groups, {"q": (32, 2), "f": (8, 8)}, "macs", Work({"q": 10, "f": 10}, {"attn": 6400}))
    scores = {"attn": torch.arange(8.0), "ff": torch.arange(8.0) + 100}
    plan = solve(groups, scores, Budget("macs", keep=0.5), cost)
    assert cost.dense == 10 * 64 + 10 * 64 + 6400
    assert plan.counts == {"attn": 3, "ff": 8}
    assert plan.budget["reached"] == 3 * 80 + 640 + 3 * 800


def test_plan_records_what_was_asked_and_reached():
    groups, cost = chain(10)
    plan = solve(groups, ascending(groups), Budget(keep=0.55), cost, {"weights": "abc"}, {"name": "test"})
    assert plan.budget == {
        "metric": "params", "scope": "prunable", "keep": 0.55, "asked": 55, "reached": 50, "dense": 100,
        "prunable": 100, "uniform": False,
    }  # fmt: skip
    assert (plan.source, plan.method) == ({"weights": "abc"}, {"name": "test"})


@pytest.mark.parametrize("uniform", [False, True])
def test_a_million_units_in_little_memory(uniform):
    n = 10**6
    groups = Groups((Group("splats", "splat", n, (Slice("means", 0),)), Group("b", "splat", 1000, (Slice("w", 0),))))
    cost = CostModel(groups, {"means": (n, 3), "w": (1000, 3)})
    scores = {"splats": torch.rand(n), "b": torch.rand(1000)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = solve(groups, scores, Budget(keep=0.3, uniform=uniform), cost)
    unit = 1024 if sys.platform != "darwin" else 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 400e6
    assert 0 <= plan.budget["asked"] - plan.budget["reached"] < 3 * (1 + n // 1000 * uniform)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "exactly one of"),
        ({"keep": 0.5, "target": 5}, "exactly one of"),
        ({"keep": 0.0}, r"outside \(0, 1\]"),
        ({"keep": 1.01}, r"outside \(0, 1\]"),
        ({"keep": float("nan")}, r"outside \(0, 1\]"),
        ({"target": 0}, "must be positive"),
        ({"keep": 0.5, "scope": "all"}, "'prunable' or 'total'"),
        ({"keep": 0.5, "metric": "flops"}, "unknown budget metric 'flops'"),
        ({"keep": 0.5, "round_to": 0}, "round_to=0"),
        ({"keep": 0.5, "min_keep": -1}, "min_keep=-1"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(BudgetError, match=says):
        Budget(**options)


def test_an_impossible_budget_says_what_is_reachable():
    groups, cost = chain(100, 100, min_keep=5)
    with pytest.raises(BudgetError, match=r"the budget of 99 params cannot be met.*from 100 to 2,000 params"):
        solve(groups, ascending(groups), Budget(target=99), cost)
    assert solve(groups, ascending(groups), Budget(target=100), cost).budget["reached"] == 100


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_must_be_finite(value):
    groups, cost = chain(4)
    with pytest.raises(NumericsError, match="'g0' hold NaN or infinity"):
        solve(groups, {"g0": torch.tensor([1, 2, value, 3])}, Budget(keep=0.5), cost)


def test_scores_must_fit_the_groups():
    groups, cost = chain(4)
    with pytest.raises(PlanError, match="no scores for group 'g0'"):
        solve(groups, {}, Budget(keep=0.5), cost)
    with pytest.raises(PlanError, match=r"shape \(3,\), expected \(4,\)"):
        solve(groups, {"g0": torch.ones(3)}, Budget(keep=0.5), cost)


def test_the_cost_model_must_be_of_the_groups_and_in_the_metric():
    groups, cost = chain(4)
    with pytest.raises(BudgetError, match="in macs, but the cost model counts params"):
        solve(groups, ascending(groups), Budget("macs", keep=0.5), cost)
    others, _ = chain(5)
    with pytest.raises(BudgetError, match="other groups"):
        solve(others, ascending(others), Budget(keep=0.5), cost)


def tied(*sizes: int, steps: tuple[int, ...]) -> tuple[Groups, CostModel]:
    """Groups of one tie and of different kinds, and an untied one of 10 units."""
    groups = [
        Group(f"t{i}", f"kind{i}", n, (Slice(f"t{i}", 0),), round_to=s, tie="x")
        for i, (n, s) in enumerate(zip(sizes, steps, strict=True))
    ]
    groups.append(Group("free", "ffn", 10, (Slice("free", 0),)))
    shapes = {g.name: (g.size, 10) for g in groups}
    return Groups(tuple(groups)), CostModel(Groups(tuple(groups)), shapes)


@given(
    st.lists(st.sampled_from([6, 12, 24, 30]), min_size=1, max_size=3),
    st.sampled_from([1, 2, 3, 8]),
    st.floats(0.1, 1),
)
def test_tied_groups_keep_the_same_ratio_exactly(sizes, step, keep):
    groups, cost = tied(*sizes, steps=(step,) * len(sizes))
    plan = solved((groups, cost, ascending(groups)), Budget(keep=keep, uniform=True))
    ratios = {plan.counts[f"t{i}"] / n for i, n in enumerate(sizes)}
    assert len(ratios) == 1
    assert all(plan.counts[g.name] in allowed(g) for g in groups)
    assert cost.total(plan.counts) == plan.budget["reached"] <= plan.budget["asked"]


def test_tied_groups_narrow_by_steps_that_all_of_them_have():
    groups, cost = tied(24, 4, steps=(6, 2))  # ratios 3/4, 1/2, 1/4 and 1/2: only 1/2 is common
    plan = solve(groups, ascending(groups), Budget(keep=0.7, uniform=True), cost)
    assert plan.counts == {"t0": 12, "t1": 2, "free": 5}


@pytest.mark.parametrize(
    ("keep", "counts"), [(0.5, [12, 2, 5]), (0.99, [12, 2, 9]), (1, [24, 4, 10]), (0.7, [12, 2, 7])]
)
def test_a_ratio_is_kept_of_every_group(keep, counts):
    groups, cost = tied(24, 4, steps=(6, 2))
    scores = {g.name: -torch.arange(g.size).double() for g in groups}
    plan = solve_ratio(groups, scores, keep, cost, {"weights": "abc"}, {"name": "test"})
    assert list(plan.counts.values()) == counts
    assert all(kept.tolist() == list(range(len(kept))) for kept in plan.keep.values())
    assert (plan.source, plan.method) == ({"weights": "abc"}, {"name": "test"})
    assert plan.budget == {
        "metric": "params", "scope": "ratio", "keep": keep, "asked": 10 * sum(counts), "uniform": True,
        "reached": 10 * sum(counts), "dense": 380, "prunable": 380,
    }  # fmt: skip


def test_impossible_ratios_are_refused():
    groups, cost = tied(24, 4, steps=(6, 2))
    for keep, says in ((0, r"outside \(0, 1\]"), (1.5, "outside"), (0.4, "no width of 't0' .* 0.5 is the least")):
        with pytest.raises(BudgetError, match=says):
            solve_ratio(groups, ascending(groups), keep, cost)
    block = Groups((Group("blocks.0", "depth", 1, min_keep=0, stack="blocks.0."),))
    with pytest.raises(BudgetError, match="whole block"):
        solve_ratio(block, ascending(block), 0.5, CostModel(block, {"blocks.0.a": (3,)}))
