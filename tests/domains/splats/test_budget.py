"""Budgets of scenes are met within their bands, with few measurements, on real writers and on awkward ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gencompress.domains.splats.budget import MOST_MEASUREMENTS, SceneBudget, fit_bytes, fit_quality, record
from gencompress.errors import BudgetError
from gencompress.formats import write_scene
from tests.splat_scenes import ball


class Counted:
    """A measurement that counts its calls."""

    def __init__(self, measure):
        self.measure, self.calls = measure, []

    def __call__(self, count):
        assert count not in self.calls and count >= 1
        self.calls.append(count)
        return self.measure(count)


@pytest.mark.parametrize(
    ("budget", "count"),
    [
        (SceneBudget(keep=0.25), 250),
        (SceneBudget(keep=0.7), 700),  # 0.7 * 1000 is 699.999... in binary
        (SceneBudget(keep=1.0), 1000),
        (SceneBudget(target=40), 40),
        (SceneBudget(target=5000), 1000),
        (SceneBudget(max_mb=1), None),
        (SceneBudget(min_psnr=30), None),
    ],
)
def test_counts(budget, count):
    assert budget.count(1000) == count


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "exactly one"),
        ({"keep": 0.5, "max_mb": 3}, "budget.keep.*keep and max_mb"),
        ({"keep": 1.5}, r"budget.keep=1.5 is outside \(0, 1\]"),
        ({"keep": 0}, "budget.keep=0"),
        ({"target": 0}, "budget.target=0"),
        ({"max_mb": -1}, "budget.max_mb=-1"),
        ({"min_psnr": math.nan}, "budget.min_psnr=nan"),
    ],
)
def test_contradictions_are_refused(asked, message):
    with pytest.raises(BudgetError, match=message):
        SceneBudget(**asked)


def test_a_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(BudgetError, match=r"none of 50 splats; the least is 0\.02"):
        SceneBudget(keep=0.01).count(50)


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".splat", ".spz"])
@pytest.mark.parametrize("part", [0.15, 0.6])
def test_a_written_file_has_the_asked_bytes(tmp_path, suffix, part):
    scene = ball(6000, sh_degree=1)
    order = np.random.default_rng(0).permutation(len(scene))
    path = tmp_path / f"scene{suffix}"

    def size_of(count):
        write_scene(path, scene.take(np.sort(order[:count])))
        return path.stat().st_size

    limit = int(part * size_of(len(scene)))
    measure = Counted(size_of)
    fit = fit_bytes(measure, len(scene), limit)
    assert 0.98 * limit <= fit.reached <= limit and size_of(fit.count) == fit.reached
    assert len(measure.calls) <= 4


def test_a_good_first_guess_needs_one_write():
    measure = Counted(lambda n: 500 + 17 * n)
    fit = fit_bytes(measure, 10**6, 10**6, bytes_per_splat=17)
    assert 0.98e6 <= fit.reached <= 1e6 and len(measure.calls) == 1


@pytest.mark.parametrize("guess", [None, 1.0, 12.0, 900.0])
def test_any_first_guess_finds_the_bytes(guess):
    measure = Counted(lambda n: 3000 + 12.5 * n + 40 * math.sqrt(n))
    fit = fit_bytes(measure, 200_000, 800_000, bytes_per_splat=guess)
    assert 0.98 * 800_000 <= fit.reached <= 800_000 and len(measure.calls) <= 6


def test_a_budget_larger_than_the_file_keeps_everything():
    measure = Counted(lambda n: 10 * n)
    assert fit_bytes(measure, 1000, 50_000) == fit_bytes(lambda n: 10 * n, 1000, 50_000, bytes_per_splat=3)
    assert measure.calls == [1000]
    assert fit_bytes(lambda n: 10 * n, 1000, 50_000).count == 1000


def test_a_file_that_jumps_past_the_band_stays_below():
    def palette(count):  # doubles its palette at 600 splats, over the whole band
        return 16 * count + (40_000 if count >= 600 else 20_000)

    measure = Counted(palette)
    fit = fit_bytes(measure, 5000, 35_000)
    assert fit.reached <= 35_000 and len(measure.calls) <= MOST_MEASUREMENTS
    assert 590 <= fit.count < 600  # 599 splats have 29,584 bytes, 600 have 49,600


def test_an_impossible_number_of_bytes_says_what_one_splat_takes():
    with pytest.raises(BudgetError, match="a file of one splat has 1,010 bytes"):
        fit_bytes(lambda n: 1000 + 10 * n, 1000, 900)


@pytest.mark.parametrize(("guess", "most"), [(0.5, 5), (0.8, 4), (1.3, 5), (2.5, 6), (1e-4, 10), (1e4, 10)])
@pytest.mark.parametrize("asked", [25.0, 35.0, 45.0])
def test_quality_is_reached_and_hardly_exceeded(guess, most, asked):
    measure = Counted(lambda n: 20 + 30 * (n / 100_000) ** 0.6)
    answer = 100_000 * ((asked - 20) / 30) ** (1 / 0.6)
    fit = fit_quality(measure, 100_000, asked, round(guess * answer))
    assert asked <= fit.reached <= asked + 0.25 and fit.reached == measure.measure(fit.count)
    assert len(measure.calls) <= most


def test_quality_that_wavers_is_still_met():
    measure = Counted(lambda n: 20 + 6 * math.log2(n) / 2 + 0.2 * math.sin(n))
    fit = fit_quality(measure, 100_000, 50.0, 50_000)
    assert fit.reached >= 50.0 and len(measure.calls) <= MOST_MEASUREMENTS


def test_quality_out_of_reach_says_what_can_be_had():
    with pytest.raises(BudgetError, match=r"60.* dB cannot be met: the best scene measured has 4[01]\.\d\d dB"):
        fit_quality(lambda n: 41 - 1000 / n, 1000, 60.0, 500)


def test_quality_that_one_splat_reaches_keeps_one():
    fit = fit_quality(lambda n: 50.0, 1000, 30.0, 500)
    assert fit.count == 1


def test_the_record_says_what_was_asked_and_reached():
    fit = fit_bytes(lambda n: 16 * n, 1000, 8000)
    entry = record(SceneBudget(max_mb=0.008), 1000, fit)
    assert entry == {
        "metric": "bytes",
        "max_mb": 0.008,
        "asked": 8000.0,
        "reached": fit.reached,
        "dense": 1000,
        "units": fit.count,
    }
