from __future__ import annotations

import json
from pathlib import Path

import pytest

from gencompress.board import read_runs
from gencompress.errors import RunError
from tests.board.runs import make_run, write_journal, write_options


def only(*folders: Path):
    (row,) = read_runs(folders)
    return row


def test_an_evaluated_run_is_a_row_with_all_its_figures(tmp_path):
    row = only(make_run(tmp_path / "a", "magnitude", 0.7, [30.0, 32.0], pictures=2))
    assert (row.id, row.state, row.domain, row.task) == ("a", "measured", "diffusion", "emoji")
    assert (row.method, row.budget, row.error) == ("magnitude", "keep 0.7 of parameters", "")
    assert row.values == {
        "params": 700, "macs": 3500, "bytes": 2800, "psnr_db": 31.0, "ssim": 0.62, "latency_s": 0.8,
        "peak_memory_bytes": 10**6,
    }  # fmt: skip
    assert row.spread == {"psnr_db": 0.1, "ssim": 0.1} and row.dense == {"params": 1000, "macs": 5000, "bytes": 4000}
    assert row.protocol["steps"] == "10" and row.protocol["first_seed"] == "0" and row.protocol["source"] == "a" * 12
    assert [caption for *_, caption in row.pictures] == ["sample 1", "sample 2"]


def test_runs_are_found_in_folders_and_counted_once(tmp_path):
    for name in ("sweep/a", "sweep/b", "sweep/deep/c"):
        make_run(tmp_path / name)
    (tmp_path / "sweep" / "multirun.yaml").write_text("")
    assert [row.id for row in read_runs([tmp_path / "sweep"])] == ["a", "b", "c"]
    assert [row.id for row in read_runs([tmp_path / "sweep/b", tmp_path / "sweep", tmp_path / "sweep/b"])] == list(
        "bac"
    )


def test_files_between_runs_are_passed_over(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name)
    (tmp_path / "report.html").write_text("")
    assert [row.id for row in read_runs(sorted(tmp_path.iterdir()))] == ["a", "b"]
    with pytest.raises(RunError, match=r"report\.html is a file: name run directories"):
        read_runs([tmp_path / "report.html"])


def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    for name in ("x/1/run", "y/1/run", "y/2/run", "y/other"):
        make_run(tmp_path / name)
    assert [row.id for row in read_runs([tmp_path])] == ["x/1/run", "y/1/run", "2/run", "other"]


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        read_runs([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no run directory and holds none.*config\.yaml"):
        read_runs([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("events", "state", "words"),
    [
        (
            [{"event": "opened"}, {"event": "ended", "error": "ModelError", "message": "NaN"}],
            "failed",
            "ModelError: NaN",
        ),
        (
            [{"event": "opened"}, {"event": "ended", "error": "Interrupted", "message": "stop"}],
            "failed",
            "Interrupted: s",
        ),
        ([{"event": "opened"}, {"event": "ended"}], "failed", "finished without an evaluation"),
        ([{"event": "opened"}, {"event": "stage_started", "stage": "scores"}], "unfinished", "in stage scores"),
        ([], "unfinished", "before the first stage"),
    ],
)
def test_runs_without_figures_say_why(tmp_path, events, state, words):
    write_options(tmp_path / "a", "taylor", 0.6, {"denoise.steps": 7, "criterion.samples": 64})
    write_journal(tmp_path / "a", *events)
    row = only(tmp_path / "a")
    assert row.state == state and words in row.error and row.values == {}
    assert (row.method, row.task, row.budget) == ("taylor", "emoji", "keep 0.6 of parameters")
    assert row.protocol["steps"] == "7" and row.protocol["scheduler"] is None
    assert row.about["command"] == (
        "gencompress run model.path=sample:emoji domain=diffusion criterion=taylor criterion.samples=64 "
        "budget.keep=0.6 denoise.steps=7 metrics.images=2"
    )


def test_a_run_that_could_not_be_opened_says_why(tmp_path):
    (tmp_path / "a").mkdir()
    write_journal(tmp_path / "a", {"event": "ended", "error": "ConfigError", "message": "a and b contradict"})
    row = only(tmp_path / "a")
    assert (row.state, row.error, row.method) == ("failed", "ConfigError: a and b contradict", "unknown method")


def test_a_run_that_failed_after_its_evaluation_keeps_its_figures_without_rank(tmp_path):
    events = ({"event": "opened"}, {"event": "ended", "error": "RunError", "message": "the disk is full"})
    row = only(make_run(tmp_path / "a", events=events))
    assert row.state == "failed" and row.error == "RunError: the disk is full"
    assert row.values["psnr_db"] == 31.0 and not row.ranked


def test_figures_that_changed_after_they_were_measured_have_no_rank(tmp_path):
    run = make_run(tmp_path / "a")
    value = json.loads((run / "eval/metrics.json").read_text())
    value["quality"]["psnr_db"]["mean"] = 60.0
    (run / "eval/metrics.json").write_text(json.dumps(value))
    row = only(run)
    assert row.state == "failed" and "has changed since it was written" in row.error and row.values == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"criterion: [1"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"[" * 50_000),
        ("config.yaml", b"- a\n- b\n"),
        ("config.yaml", b"x: " + b"y" * 2_000_000),
        ("manifest.json", b"{"),
        ("manifest.json", b'{"schema": 9, "stages": {}}'),
        ("eval/metrics.json", b"["),
        ("eval/metrics.json", b"{" * 100_000),
        ("eval/metrics.json", b'{"schema": 2}'),
    ],
)
def test_damaged_files_are_rows_that_name_the_file(tmp_path, name, content):
    run = make_run(tmp_path / "a")
    (run / "manifest.json").write_text('{"schema": 1, "stages": {"eval": {"files": {}, "seconds": 1}}}')
    (run / name).write_bytes(content)
    row = only(run)
    assert row.state == "failed" and Path(name).name in row.error and len(row.error) <= 4000


def test_numbers_that_are_none_are_left_out(tmp_path):
    def change(m):
        m["pruned"] |= {"macs": "many", "bytes": float("nan"), "latency_s": {"median": 10**400}}
        m["quality"] |= {"ssim": [1], "lpips": {"mean": True}}

    row = only(make_run(tmp_path / "a", change=change))
    assert set(row.values) == {"params", "psnr_db", "peak_memory_bytes"}


def test_a_config_of_references_does_not_grow(tmp_path):
    run = make_run(tmp_path / "a")
    text = "a: &a {x: 1, y: 2}\n"
    for name, below in zip("bcdefghijklmnopqrstuvw", "abcdefghijklmnopqrstuv", strict=True):
        text += f"{name}: &{name} {{p: *{below}, q: *{below}, r: *{below}, s: *{below}}}\n"
    (run / "config.yaml").write_text(text + "criterion: {name: magnitude}\n")
    row = only(run)
    assert row.state == "measured" and len(row.options) < 10


def test_a_scene_has_a_row_for_every_file(tmp_path):
    def change(m):
        m.update(
            domain="splats", model="/data/biker.ply", method="leave_one_out", views={"test": 12, "width": 400},
            budget={"metric": "units", "max_mb": 5.0}, quality_close={"psnr_db": {"mean": 36.0}},
        )  # fmt: skip
        m["pruned"] = {"units": 250, "params": 3500, "bytes": 14000, "latency_s": {"median": 0.1}}
        m["dense"] = {"units": 1000, "params": 14000, "bytes": 56000}
        m["files"] = [
            {"format": "ply", "bytes": 14000, "psnr_db": 39.0, "ssim": 0.99, "psnr_close_db": 36.0},
            {"format": "sog", "bytes": 2000, "psnr_db": 38.0, "ssim": 0.98, "psnr_close_db": 35.0},
            {"format": "html", "bytes": 900000, "psnr_db": None},
        ]

    ply, sog = read_runs([make_run(tmp_path / "a", "leave_one_out", change=change, pictures=1)])
    assert (ply.task, ply.budget, ply.variant, sog.variant) == ("biker.ply", "≤ 5 MB", "ply", "sog")
    assert ply.values == {
        "units": 250,
        "bytes": 14000,
        "psnr_db": 39.0,
        "ssim": 0.99,
        "psnr_close_db": 36.0,
        "latency_s": 0.1,
    }
    assert sog.values == {"units": 250, "bytes": 2000, "psnr_db": 38.0, "ssim": 0.98, "psnr_close_db": 35.0}
    assert ply.dense == {"units": 1000, "bytes": 56000} and ply.protocol["test_views"] == "12"
    assert len(ply.pictures) == 1 and sog.pictures == () and ply.id != sog.id


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "eval/absent.png", "x\0.png", "a" * 5000])
def test_pictures_outside_the_run_are_not_read(tmp_path, name):
    row = only(make_run(tmp_path / "a", pictures=2, change=lambda m: m["images"]["pruned"].__setitem__(0, name)))
    assert row.state == "measured" and row.pictures == () and row.about["pictures"]
