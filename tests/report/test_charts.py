from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from gencompress.report import charts
from gencompress.report.data import RunData


def run(**metrics):
    return RunData(Path(), "a", metrics, {})


def groups(*names, kind="head", size=8, kept=4):
    return [{"name": name, "kind": kind, "size": size, "kept": kept} for name in names]


def test_bars_stand_in_depth_order_with_the_middle_block_in_the_middle():
    chart = charts.widths(run(groups=groups("time_embedding", "down_blocks.0.x", "up_blocks.0.x", "mid_block.x")))
    assert [bar.title.split(":")[0] for bar in chart.bars] == [
        "time_embedding",
        "down_blocks.0.x",
        "mid_block.x",
        "up_blocks.0.x",
    ]
    assert [bar.x for bar in chart.bars] == [0, 250, 500, 750]


@pytest.mark.parametrize(("kept", "height"), [(0, 0), (2, 21), (8, 84)])
def test_a_bar_is_as_high_as_what_stays_and_stands_on_the_ground(kept, height):
    bar = charts.widths(run(groups=groups("a.0", kept=kept))).bars[0]
    assert bar.kept_height == height and bar.kept_y + bar.kept_height == 84


def test_kinds_keep_their_colour_and_are_summed():
    chart = charts.widths(run(groups=groups("a", "b") + groups("c", kind="ffn", size=100, kept=30)))
    assert chart.kinds == ((0, "attention heads", 8, 16), (1, "feed-forward neurons", 30, 100))


def test_sections_join_neighbours_of_one_block():
    found = charts.sections(run(groups=groups("down_blocks.0.a", "down_blocks.0.b", "down_blocks.1.a", "mid_block.a")))
    assert [(s.name, s.x, s.width) for s in found] == [("down 0", 0, 500), ("down 1", 500, 250), ("mid", 750, 250)]


def test_names_that_do_not_fit_are_left_out():
    found = charts.sections(run(groups=groups(*[f"transformer_blocks.{i}.attn" for i in range(57)])))
    assert len(found) == 57 and {s.name for s in found} == {""}


def test_curve_spans_the_panel_and_marks_the_budget():
    steps = list(range(1, 101))
    value = {"step": steps, "loss": [1000 / s for s in steps], "keep": [1 - 0.004 * s for s in steps]}
    loss, keep = charts.curves([run(curve=value, budget={"asked": 0.6})], width=400, height=200)
    points = [tuple(map(float, p.split(","))) for p in loss.lines[0].raw[1:].split()]
    assert points[0][0] == 0 and points[-1][0] == 400 and len(points) == 100
    assert all(a[1] < b[1] for a, b in pairwise(points)), "a falling loss goes down the page"
    assert loss.log and [tick.text for tick in loss.y_ticks] == ["10", "30", "100", "300", "1000"]
    (level, index) = keep.levels[0]
    assert index == 0 and 0 < level < 200 and not keep.log


def test_flat_short_and_broken_curves():
    assert charts.curves([run(curve={"step": [1], "loss": [1.0], "keep": [1.0]})]) == []
    assert charts.curves([run()]) == []
    (panel,) = charts.curves([run(curve={"step": [1, 2, 3], "loss": [0.5, 0.5, 0.5], "keep": None})])
    assert len(panel.y_ticks) > 0 and "nan" not in panel.lines[0].raw
    (panel,) = charts.curves([run(curve={"step": [1, 2, 3, 4], "loss": [1.0, float("inf"), 2.0, None]})])
    assert len(panel.lines[0].raw.split()) == 2


def test_every_mask_of_a_run_has_a_line_and_the_run_one_entry():
    value = {"step": [1, 2, 3, 1, 2, 3], "loss": [3.0, 2.0, 1.0, 4.0, 2.0, 1.5]}
    (panel,) = charts.curves([run(curve=value)])
    assert [len(line.raw.split()) for line in panel.lines] == [3, 3] and panel.legend == [(0, "a")]
    assert panel.lines[1].raw.startswith("M0.0,")


def test_long_curves_are_thinned():
    n = 5000
    (panel,) = charts.curves([run(curve={"step": list(range(n)), "loss": [1.0 + i for i in range(n)]})])
    assert len(panel.lines[0].raw.split()) <= 600
