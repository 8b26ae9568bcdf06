"""Leave-one-out costs against really removing splats, and the order in which an elimination lets them go."""

from __future__ import annotations

import itertools

import pytest
import torch

from gencompress.criteria.leave_one_out import eliminate, leave_one_out_scores, removal_costs, round_counts
from gencompress.errors import Interrupted
from gencompress.kernels.splats import Splats
from gencompress.run import NullContext
from tests.criteria.toy import Recorder
from tests.splat_scenes import ball, ring

CAMERAS = ring(5)


def without(count, *gone):
    stays = torch.ones(count, dtype=torch.bool)
    stays[list(gone)] = False
    return stays


def squared(image, target):
    return float((image.double() - target.double()).square().sum())


def survivors(scores, count):
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def test_the_lowest_score_is_the_splat_that_is_missed_least():
    splats = Splats.of(ball(60, sh_degree=1))
    scores = leave_one_out_scores(splats, CAMERAS)["splats"]
    image = splats.render(CAMERAS).image
    really = torch.tensor([squared(splats.take(without(60, n)).render(CAMERAS).image, image) for n in range(60)])
    assert torch.allclose(scores, really, rtol=0.02, atol=1e-3)
    assert int(scores.argmin()) == int(really.argmin()) and int(scores.argmax()) == int(really.argmax())


def test_costs_against_a_target_are_exact_before_they_are_weighed():
    half = Splats.of(ball(40))
    target = Splats.of(ball(40, seed=1)).render(CAMERAS).image
    found = half.contributions(CAMERAS, target=target)
    before = squared(half.render(CAMERAS).image, target)
    really = [squared(half.take(without(40, n)).render(CAMERAS).image, target) - before for n in range(40)]
    exact = found.leave_one_out - found.toward
    assert torch.allclose(exact, torch.tensor(really), rtol=0.02, atol=0.05)
    assert bool((exact < 0).any()) and bool((exact > 0).any())
    costs = removal_costs(found)
    assert bool((costs[found.toward < 0] > found.leave_one_out[found.toward < 0]).all())
    assert bool((costs[found.toward > 0] < found.leave_one_out[found.toward > 0]).all())


@pytest.mark.parametrize(
    ("units", "count", "ratio"), [(1000, 100, 0.84), (1000, 999, 0.5), (7, 1, 0.9), (10**6, 3, 0.7)]
)
def test_rounds_leave_about_the_ratio_and_end_at_the_count(units, count, ratio):
    counts = [units, *round_counts(units, count, ratio)]
    assert counts[-1] == count and all(a >= b for a, b in itertools.pairwise(counts))
    assert all(b >= ratio * a - 1 for a, b in itertools.pairwise(counts))


def test_no_rounds_where_nothing_goes_and_one_where_the_ratio_allows():
    assert round_counts(10, 10, 0.8) == round_counts(10, 12, 0.8) == []
    assert round_counts(1000, 250, 0) == round_counts(1000, 250, 0.2) == [250]


def test_rescoring_beats_scoring_once_which_beats_chance():
    splats = Splats.of(ball(500, scale=0.2))
    target = splats.render(CAMERAS).image
    once = leave_one_out_scores(splats, CAMERAS)["splats"]
    again = eliminate(splats, CAMERAS, 100, NullContext(), ratio=0.8).scores
    chance = torch.rand(500, generator=torch.Generator().manual_seed(0))
    errors = [squared(splats.take(survivors(s, 100)).render(CAMERAS).image, target) for s in (again, once, chance)]
    assert errors[0] < 0.9 * errors[1] < 0.5 * errors[2]


def test_an_elimination_ranks_every_splat_and_measures_its_curve():
    splats = Splats.of(ball(200))
    target = splats.render(CAMERAS).image
    context = Recorder()
    result = eliminate(splats, CAMERAS, 50, context, ratio=0.7)
    assert sorted(result.scores.tolist()) == list(range(200))
    assert [n for n, _ in result.curve] == [200, *round_counts(200, 50, 0.7)]
    for count, error in result.curve:
        image = splats.take(survivors(result.scores, count)).render(CAMERAS).image
        assert error == pytest.approx(
            float((image.clamp(0, 1) - target.clamp(0, 1)).square().mean()), rel=1e-4, abs=1e-9
        )
    assert context.steps[-1] == (150, 150)
    again = eliminate(splats, CAMERAS, 50, NullContext(), ratio=0.7)
    assert torch.equal(again.scores, result.scores) and again.curve == result.curve


def test_one_round_is_plain_leave_one_out():
    splats = Splats.of(ball(150))
    once = eliminate(splats, CAMERAS, 40, NullContext(), ratio=0).scores
    assert torch.equal(survivors(once, 40), survivors(leave_one_out_scores(splats, CAMERAS)["splats"], 40))


@pytest.mark.parametrize("stop_after", [40, 120])
def test_a_stopped_elimination_goes_on_to_the_same_end(stop_after):
    splats = Splats.of(ball(200))
    whole = eliminate(splats, CAMERAS, 30, NullContext(), ratio=0.7, unseen="keep")
    stopped = Recorder(stop_after)
    with pytest.raises(Interrupted):
        eliminate(splats, CAMERAS, 30, stopped, ratio=0.7, unseen="keep")
    resumed = Recorder(saved=stopped.saved)
    result = eliminate(splats, CAMERAS, 30, resumed, ratio=0.7, unseen="keep")
    assert torch.equal(result.scores, whole.scores) and result.curve == whole.curve
    assert len(resumed.steps) < len(whole.curve) - 1


def test_it_stops_early_where_the_error_exceeds_what_is_allowed():
    splats = Splats.of(ball(300))
    whole = eliminate(splats, CAMERAS, 10, NullContext(), ratio=0.8)
    allowed = whole.curve[5][1] * 1.0001
    early = eliminate(splats, CAMERAS, 10, NullContext(), ratio=0.8, most_error=allowed)
    assert early.curve == whole.curve[:7] and early.curve[-1][1] > allowed
    assert torch.equal(survivors(early.scores, early.curve[-1][0]), survivors(whole.scores, early.curve[-1][0]))


@pytest.mark.parametrize("unseen", ["keep", "prune"])
def test_what_becomes_of_splats_that_no_view_shows(unseen):
    scene = ball(200)
    scene.means[:20, 0] += 1000
    splats = Splats.of(scene)
    assert int((splats.contributions(CAMERAS).hits == 0).sum()) == 20
    for scores in (
        leave_one_out_scores(splats, CAMERAS, unseen)["splats"],
        eliminate(splats, CAMERAS, 60, NullContext(), ratio=0.7, unseen=unseen).scores,
    ):
        kept = survivors(scores, 60)
        assert int((kept < 20).sum()) == (20 if unseen == "keep" else 0)
    few = survivors(eliminate(splats, CAMERAS, 5, NullContext(), ratio=0.5, unseen=unseen).scores, 5)
    volume = (splats.opacities * splats.scales.prod(1))[:20]
    assert unseen == "prune" or few.tolist() == sorted(volume.topk(5).indices.tolist())
