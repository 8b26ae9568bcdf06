"""The choice of a round: the cheapest operations, dearer beside what has gone already, and no splat twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gencompress.domains.splats.choice import Likeness, cheapest
from gencompress.domains.splats.domain import renders
from gencompress.domains.splats.merge import NO_PAIRS, Pairs
from gencompress.domains.splats.reduce import reduce
from gencompress.kernels.splats import Splats
from gencompress.run import NullContext
from tests.splat_scenes import ball, ring


def operations(seed: int, splats: int = 12, merges: int = 15, neighbours: int = 4):
    """Random costs, some of them negative, norms, pairs and a random graph."""
    generator = np.random.default_rng(seed)
    lost = generator.normal(0.5, 1, splats)
    ends = np.sort(np.stack([generator.permutation(splats)[:2] for _ in range(merges)]), axis=1).astype(np.int32)
    pairs = Pairs(ends[:, 0], ends[:, 1], generator.random(merges, np.float32), np.ones(merges, np.float32))
    index = np.stack([generator.permutation(np.delete(np.arange(splats), n))[:neighbours] for n in range(splats)])
    likeness = Likeness(index.astype(np.int32), generator.random((splats, neighbours), np.float32))
    return lost, generator.random(splats), pairs, likeness


def one_by_one(lost, energies, pairs, likeness, removals):
    """`cheapest`, with all costs computed anew before every choice."""
    n = len(lost)
    merging = pairs.errors.astype(np.float64)
    members = [(i,) for i in range(n)] + list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    norms = np.sqrt(np.concatenate([energies, merging]))
    alike = np.zeros((n, n))
    np.put_along_axis(alike, likeness.index.astype(np.int64), likeness.weights.astype(np.float64), axis=1)
    chosen: list[int] = []
    while len(chosen) < removals:
        gone = {splat for c in chosen for splat in members[c]}
        open_ = [c for c in range(len(members)) if not gone & set(members[c])]
        if not open_:
            break

        def cost(c):
            # twice the product of the norms, each one's change shared out among its members
            pressed = sum(
                2 * norms[c] * norms[d] * alike[b, a] / len(members[c]) / len(members[d])
                for d in chosen for b in members[d] for a in members[c]
            )  # fmt: skip
            return np.concatenate([lost, merging])[c] + pressed

        chosen.append(min(open_, key=cost))
    return sorted(c for c in chosen if c < n), sorted(c - n for c in chosen if c >= n)


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_that_of_computing_every_cost_anew(seed):
    lost, energies, pairs, likeness = operations(seed)
    for removals in (1, 4, 12):
        deleted, joined = cheapest(lost, energies, pairs, likeness, removals)
        assert (deleted.tolist(), joined.tolist()) == one_by_one(lost, energies, pairs, likeness, removals)


@pytest.mark.parametrize("seed", range(5))
def test_without_likeness_it_is_the_order_of_the_costs(seed):
    lost, energies, _, likeness = operations(seed)
    zero = Likeness(likeness.index, np.zeros_like(likeness.weights))
    for nothing in (zero, Likeness.none(len(lost))):
        deleted, joined = cheapest(lost, energies, NO_PAIRS, nothing, 5)
        assert deleted.tolist() == sorted(np.argsort(lost)[:5]) and not len(joined)


def test_the_cheapest_operations_are_taken_and_no_splat_twice():
    lost = np.array([5.0, 1.0, 9.0, 4.0, 8.0])
    pairs = Pairs(np.int32([0, 1, 2]), np.int32([3, 2, 4]), np.float32([0.5, 0.1, 2.0]), np.float32([1, 1, 1]))
    # (1, 2) at 0.1, (0, 3) at 0.5; then deleting 1 and merging 2 would use a splat twice, so 4 is deleted at 8
    deleted, joined = cheapest(lost, lost, pairs, Likeness.none(5), 3)
    assert deleted.tolist() == [4] and joined.tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_with_likeness_no_splat_takes_part_twice_either(seed):
    lost, energies, pairs, likeness = operations(seed, 40, 80)
    deleted, joined = cheapest(lost, energies, pairs, likeness, 40)
    used = np.concatenate([deleted, pairs.first[joined], pairs.second[joined]])
    assert len(joined) and len(np.unique(used)) == len(used) == 40


def test_of_two_that_stand_for_the_same_fewer_go_together():
    one, cameras = Splats.of(ball(60, scale=0.15)), ring(4, 48)
    one.opacities[:] = 0.5
    twins = one.take(torch.arange(120) // 2)
    targets = renders(twins, cameras)
    errors, lost = {}, {}
    for graph in (False, True):
        state = reduce(twins, cameras, targets, 90, NullContext(), ratio=0, neighbours=0, graph=graph)
        errors[graph] = float((renders(state.splats, cameras) - targets).square().sum())
        lost[graph] = 60 - len(np.unique(state.ids // 2))
    assert lost[True] < 0.6 * lost[False] and errors[True] < 0.7 * errors[False]
