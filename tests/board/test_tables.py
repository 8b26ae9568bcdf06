from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gencompress.board.front import pareto_front
from gencompress.board.plot import HEIGHT, WIDTH, make_plot
from gencompress.board.rows import Row
from gencompress.board.tables import make_tables
from gencompress.errors import ConfigError

PROTOCOL = {"steps": "10", "scheduler": "DDIMScheduler"}


def row(method="magnitude", keep=0.7, psnr=30.0, *, state="measured", options=(), values=(), **more):
    named = {"criterion.name": method, "budget.metric": "params", "budget.keep": keep, **dict(options)}
    figures = {"params": 1000 * keep, "bytes": 4000 * keep, "psnr_db": psnr, **dict(values)}
    given = {"protocol": PROTOCOL, "budget": f"keep {keep:g} of parameters", "options": named, **more}
    figures = {} if state in ("failed", "unfinished") else figures
    return Row(f"{method}-{keep}-{len(str(more))}", "diffusion", "emoji", method, state, values=figures, **given)


def curve(method, factor, gain=0.0, keeps=(0.4, 0.5, 0.7, 0.9)):
    """Rows whose PSNR is a function of the rate over `factor`, plus `gain`."""
    return [
        row(method, keep, 20 + 10 * math.log(keep / factor) + gain, values={"params": 1000 * keep}) for keep in keeps
    ]


def test_rows_of_different_protocols_do_not_share_a_table():
    rows = [row(), row(keep=0.5), row(protocol={**PROTOCOL, "steps": "50"}), replace(row(), task="other")]
    tables = make_tables(rows)
    assert [(t.task, t.conditions, t.apart, len(t.rows)) for t in tables] == [
        ("emoji", "DDIMScheduler, 10 steps", "10 steps", 2),
        ("emoji", "DDIMScheduler, 50 steps", "50 steps", 1),
        ("other", "DDIMScheduler, 10 steps", "", 1),
    ]


def test_other_weights_of_one_name_do_not_share_a_table():
    rows = [row(protocol={**PROTOCOL, "source": source}) for source in ("aaa", "bbb")]
    assert [t.apart for t in make_tables(rows)] == ["weights aaa", "weights bbb"]


def test_a_failed_run_stands_where_nothing_speaks_against_it():
    rows = [
        row(protocol={**PROTOCOL, "steps": "50"}),
        row(),
        row("taylor", state="failed", protocol={"steps": "10", "scheduler": None}, error="no"),
        row("fisher", state="unfinished", protocol={"steps": "7", "scheduler": None}, error="killed"),
    ]
    tables = {t.conditions: [r.method for r in t.rows] for t in make_tables(rows)}
    assert tables == {
        "DDIMScheduler, 50 steps": ["magnitude"],
        "DDIMScheduler, 10 steps": ["magnitude", "taylor"],
        "7 steps": ["fisher"],
    }


def test_best_rows_come_first_and_failures_last():
    rows = [row("a", psnr=20.0), row("b", state="failed"), row("c", psnr=40.0), row("d", psnr=30.0)]
    (table,) = make_tables(rows)
    assert [r.method for r in table.rows] == ["c", "d", "a", "b"]
    lower = [replace(r, values={"params": 1.0, "lpips": v}) for r, v in zip(rows, (0.3, 0.0, 0.1, 0.2), strict=True)]
    (table,) = make_tables(lower)
    assert [r.method for r in table.rows] == ["c", "d", "a", "b"], "of LPIPS, less is better"


def test_quoted_rows_stand_beside_measured_ones_and_have_no_say():
    quoted = [
        Row(f"q{i}", "diffusion", "emoji", "paper", "quoted", values={"params": 1.0 + i, "psnr_db": 50.0 + i})
        for i in (0, 1)
    ]
    tables = make_tables([row(), row(keep=0.5), row(protocol={**PROTOCOL, "steps": "50"}), *quoted])
    assert [sum(r.state == "quoted" for r in t.rows) for t in tables] == [2, 2]
    assert all(t.rows[i].state == "measured" for t in tables for i in t.front)
    assert any("Quoted rows" in note for note in tables[0].notes)
    (alone,) = make_tables(quoted)
    assert alone.conditions == "as published" and len(alone.front) == 2


@pytest.mark.parametrize(("factor", "gain"), [(0.8, 0.0), (1.25, 0.0), (1.0, 1.5)])
def test_what_a_method_saves_is_its_known_answer(factor, gain):
    (table,) = make_tables([*curve("random", 1.0), *curve("taylor", factor, gain)])
    assert table.baseline == "random"
    taylor = next(c for c in table.curves if c.label.name == "taylor")
    # quality 20 + 10 log(rate / factor) + gain: the same quality at a rate of factor * exp(-gain / 10)
    assert taylor.saved["psnr_db"] == pytest.approx(factor * math.exp(-gain / 10) - 1, abs=1e-12)
    assert taylor.gained == pytest.approx(10 * math.log(1 / factor) + gain, abs=1e-12)


def test_lpips_saves_by_being_low():
    rows = [
        row(m, k, values={"lpips": 0.5 - 0.1 * math.log(k / f)})
        for m, f in (("random", 1.0), ("x", 0.5))
        for k in (0.2, 0.4, 0.8)
    ]
    (table,) = make_tables(rows)
    found = next(c for c in table.curves if c.label.name == "x")
    assert found.saved["lpips"] == pytest.approx(-0.5, abs=1e-12)


def test_seeds_of_one_budget_are_one_point_of_the_curve():
    rows = [
        row(keep=keep, psnr=psnr, options={"criterion.seed": s})
        for keep, s, psnr in ((0.5, 0, 20), (0.5, 1, 22), (0.7, 0, 30))
    ]
    (table,) = make_tables(rows)
    (only,) = table.curves
    assert only.points == ((500.0, 21.0), (700.0, 30.0)) and len(only.rows) == 3


def test_budgets_that_a_smaller_one_beats_do_not_count():
    rows = [*curve("random", 1.0), *curve("taylor", 0.8), row("taylor", 0.8, 10.0)]
    (table,) = make_tables(rows)
    taylor = next(c for c in table.curves if c.label.name == "taylor")
    assert taylor.saved["psnr_db"] == pytest.approx(-0.2, abs=1e-12)


def test_curves_that_do_not_compare_say_why():
    rows = [*curve("random", 1.0), *curve("far", 1.0, gain=100.0), row("single", 0.5)]
    (table,) = make_tables(rows)
    why = {c.label.name: c.why_not.get("psnr_db", "") for c in table.curves}
    assert "no quality in common" in why["far"] and "two points or more" in why["single"] and why["random"] == ""


def test_the_baseline_is_chosen_by_name():
    rows = [*curve("random", 1.0), *curve("taylor", 0.8)]
    (table,) = make_tables(rows, "taylor")
    random = next(c for c in table.curves if c.label.name == "random")
    assert table.baseline == "taylor" and random.saved["psnr_db"] == pytest.approx(0.25, abs=1e-12)
    with pytest.raises(ConfigError, match="--baseline taylr: did you mean 'taylor'"):
        make_tables(rows, "taylr")


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "magnitude"),
        ({"criterion.normalise": "raw"}, "magnitude (normalise=raw)"),
        ({"compensate.trajectories": 16}, "magnitude + compensation"),
        (
            {"compensate.trajectories": 4, "budget.uniform": True},
            "magnitude + compensation (trajectories=4, uniform=true)",
        ),
        ({"recover.name": "distil", "recover.steps": 5}, "magnitude + distil (steps=5)"),
        ({"criterion.seed": 3, "run.threads": 2, "export.portable": True, "denoise.batch": 8}, "magnitude"),
    ],
)
def test_labels_name_what_differs_from_the_defaults(options, label):
    base = {"criterion.normalise": "rms", "compensate.trajectories": 0, "budget.uniform": False, "recover.name": "none"}
    (table,) = make_tables([row(keep=0.5, options=base), row(keep=0.7, options={**base, **options})])
    texts = {r.options["budget.keep"]: made.text for r, made in zip(table.rows, table.labels, strict=True)}
    assert texts == {0.5: "magnitude", 0.7: label}


def test_options_that_all_rows_share_are_not_named():
    shared = {"criterion.normalise": "raw", "budget.uniform": True}
    (table,) = make_tables([row(keep=keep, options=shared) for keep in (0.5, 0.7)])
    assert {label.text for label in table.labels} == {"magnitude"}


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25)


@given(POINTS)
def test_the_front_is_what_no_point_beats(points):
    beaten = {
        i for i, (r, q) in enumerate(points) if any(x <= r and y >= q and (x < r or y > q) for x, y in points)
    }  # fmt: skip
    assert sorted(pareto_front(points)) == [i for i in range(len(points)) if i not in beaten]


def test_marks_stand_on_every_axis_with_the_best_up():
    rows = [row(keep=keep, psnr=20 + 10 * keep, values={"lpips": 1 - keep}) for keep in (0.1, 0.5, 0.9)]
    (table,) = make_tables([*rows, row("b", state="failed")])
    plot = make_plot(table)
    assert [axis.key for axis in plot.x] == ["params", "bytes"] and [axis.key for axis in plot.y] == [
        "psnr_db",
        "lpips",
    ]
    assert "log scale" in plot.x[0].name and "upside down" in plot.y[1].name
    heights = {m.row: tuple(map(float, m.y.split())) for m in plot.marks}
    assert len(heights) == 3 and all(heights[0][k] > heights[1][k] > heights[2][k] for k in (0, 1)), "row 0 is best"
    for mark in plot.marks:
        x, y = mark.place
        assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    assert len(plot.lines) == 1 and plot.lines[0][1].count(" ") == 2 and plot.front.count(" ") == 2


def test_equal_rows_and_single_ones_make_no_plot_and_no_fault():
    assert make_plot(make_tables([row()])[0]) is None
    same = make_plot(make_tables([row("a"), row("b")])[0])
    assert all(np.isfinite(m.place).all() for m in same.marks)
    assert make_plot(make_tables([row("a", state="failed"), row("b", state="failed")])[0]) is None
