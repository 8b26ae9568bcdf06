"""Rounds of deleting and merging: counts, order, records, resuming, and that they beat deleting alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gencompress.criteria.leave_one_out import leave_one_out_scores
from gencompress.domains.splats.domain import renders
from gencompress.domains.splats.reduce import FEWEST_ROUNDS, STAYS, Reduced, part_left, recorded, reduce, resumed
from gencompress.domains.splats.road import highest
from gencompress.errors import Interrupted
from gencompress.kernels.splats import Splats
from gencompress.run import NullContext
from tests.splat_scenes import ball, ring

NAMES = ("means", "quats", "scales", "opacities", "colors")


class Memory(NullContext):
    """Keeps the newest checkpoint; stops after some of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.saved, self.count, self.stop_after = None, 0, stop_after

    def save_checkpoint(self, step, tensors, meta=None):
        from gencompress.run import Checkpoint

        self.saved = Checkpoint(step, {name: t.clone() for name, t in tensors.items()}, dict(meta or {}))
        self.count += 1

    def load_checkpoint(self):
        return self.saved

    def stop_if_requested(self):
        if self.count == self.stop_after:
            self.stop_after = None
            raise Interrupted("stop")


@pytest.fixture(scope="module")
def given():
    splats, cameras = Splats.of(ball(400, sh_degree=1, scale=0.09)), ring(6, 48)
    return splats, cameras, renders(splats, cameras)


def equal(a: Splats, b: Splats) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in NAMES)


def error(splats: Splats, cameras, targets) -> float:
    return float((renders(splats, cameras) - targets).square().sum())


def test_the_count_is_reached_exactly_and_the_record_adds_up(given):
    splats, cameras, targets = given
    state = reduce(splats, cameras, targets, 57, NullContext(), ratio=0.7)
    assert len(state.splats) == len(state.ids) == 57 and (np.diff(state.ids) > 0).all()
    lefts = [400, *(r["splats"] for r in state.rounds)]
    assert all(a - b == r["deleted"] + r["merged"] for a, b, r in zip(lefts, lefts[1:], state.rounds, strict=False))
    assert sum(r["merged"] for r in state.rounds) == len(state.merges.first) > 0
    assert (state.gone == STAYS).sum() == 57 and state.gone[state.gone != STAYS].max() == len(state.rounds) - 1
    assert all(b == max(57, int(0.7 * a)) for a, b in itertools.pairwise(lefts))
    assert state.rounds[0]["error"] == 0, "the first round starts from the input"
    first = state.back(1, splats).splats
    assert len(first) == 280 and state.rounds[1]["error"] == pytest.approx(error(first, cameras, targets), rel=1e-4)


def test_there_are_a_few_rounds_whatever_the_count(given):
    splats, cameras, targets = given
    few = reduce(splats, cameras, targets, 256, NullContext(), ratio=0.5, neighbours=0)
    assert len(few.rounds) == FEWEST_ROUNDS == 4
    lefts = [400, *(r["splats"] for r in few.rounds)]
    assert all(b / a == pytest.approx(0.64**0.25, abs=0.01) for a, b in itertools.pairwise(lefts))
    assert part_left(400, 10, 0.7) == 0.7 and part_left(400, 256, 0) == 0


def test_deleting_and_merging_is_closer_to_the_input_than_deleting(given):
    splats, cameras, targets = given
    for count in (200, 80):
        both = reduce(splats, cameras, targets, count, NullContext())
        alone = reduce(splats, cameras, targets, count, NullContext(), neighbours=0)
        assert not len(alone.merges.first)
        assert error(both.splats, cameras, targets) < 0.8 * error(alone.splats, cameras, targets)


def test_the_record_makes_the_same_splats(given):
    splats, cameras, targets = given
    state = reduce(splats, cameras, targets, 100, NullContext())
    again = resumed(splats, recorded(state), state.rounds)
    assert equal(again.splats, state.splats) and np.array_equal(again.ids, state.ids)


def test_a_stopped_reduction_goes_on_as_if_it_had_not_been(given):
    splats, cameras, targets = given
    calm = reduce(splats, cameras, targets, 90, NullContext())
    memory = Memory(stop_after=2)
    with pytest.raises(Interrupted):
        reduce(splats, cameras, targets, 90, memory)
    assert memory.count == 2
    resumed_ = reduce(splats, cameras, targets, 90, memory)
    assert equal(resumed_.splats, calm.splats) and resumed_.rounds == calm.rounds


def test_other_counts_go_on_from_a_state_that_is_there(given):
    splats, cameras, targets = given
    low = reduce(splats, cameras, targets, 60, NullContext())
    for count in (150, 60, 40, 300):
        fresh = reduce(splats, cameras, targets, count, NullContext())
        other = reduce(splats, cameras, targets, count, NullContext(), start=low)
        assert equal(other.splats, fresh.splats) and other.rounds == fresh.rounds, "whichever way one came"


def test_rescoring_beats_scoring_once_which_beats_chance(given):
    splats, cameras, targets = given
    once = torch.from_numpy(highest(leave_one_out_scores(splats, cameras), 80).kept)
    again = reduce(splats, cameras, targets, 80, NullContext(), ratio=0.8, neighbours=0).splats
    chance = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:80]
    errors = [error(s, cameras, targets) for s in (again, splats.take(once), splats.take(chance))]
    assert errors[0] < 0.9 * errors[1] < 0.5 * errors[2]


def test_one_round_of_deleting_is_plain_leave_one_out(given):
    splats, cameras, targets = given
    state = reduce(splats, cameras, targets, 80, NullContext(), ratio=0, neighbours=0, graph=False)
    assert len(state.rounds) == 1
    assert np.array_equal(state.ids, highest(leave_one_out_scores(splats, cameras), 80).kept)


def hidden() -> Splats:
    """A ball, and ten splats behind all cameras' backs."""
    splats = Splats.of(ball(60))
    splats.means[50:] = torch.tensor([0.0, 0.0, 500.0]) + torch.arange(10.0)[:, None]
    return splats


def test_unseen_splats_go_first_or_last_as_asked():
    splats, cameras = hidden(), ring(3, 32)
    targets = renders(splats, cameras)
    unseen = (splats.contributions(cameras).hits == 0).numpy()
    assert unseen[50:].all() and not unseen[:50].all()
    pruned = reduce(splats, cameras, targets, 30, NullContext(), unseen="prune")
    assert not set(pruned.ids) & set(range(50, 60))
    kept = reduce(splats, cameras, targets, 30, NullContext(), unseen="keep")
    assert set(range(50, 60)) <= set(kept.ids)
    assert not np.isin(kept.merges.first, np.arange(50, 60)).any(), "and stay as they are"
    few = reduce(splats, cameras, targets, 4, NullContext(), unseen="keep")
    volumes = (splats.opacities * splats.scales.prod(dim=1)).masked_fill(~torch.from_numpy(unseen), 0)
    assert few.ids.tolist() == sorted(volumes.topk(4).indices.tolist()), "the largest if there is no room for all"


def test_one_splat_can_be_left():
    splats, cameras = Splats.of(ball(20)), ring(3, 32)
    state = reduce(splats, cameras, renders(splats, cameras), 1, NullContext())
    assert len(state.splats) == 1 and bool(torch.isfinite(state.splats.means).all())


def test_nothing_to_do_changes_nothing():
    splats, cameras = Splats.of(ball(20)), ring(3, 32)
    state = reduce(splats, cameras, renders(splats, cameras), 20, NullContext())
    assert equal(state.splats, splats) and state.rounds == ()
    assert Reduced.of(splats).ids.tolist() == list(range(20))
