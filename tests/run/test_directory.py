from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gencompress.errors import Interrupted, RunError
from gencompress.run import Run, StageContext, read_journal, read_manifest
from tests.run import recipe as fake
from tests.run.recipe import Options, Process, artefacts, execute, in_child, wait


def events(path: Path, kind: str) -> list[str]:
    return [e["stage"] for e in read_journal(path) if e["event"] == kind]


def test_layout_and_manifest(tmp_path: Path) -> None:
    path = tmp_path / "run"
    execute(path)
    assert {p.name for p in path.iterdir()} >= {
        "config.yaml",
        "manifest.json",
        "journal.jsonl",
        "scores",
        "plan",
        "export",
    }
    manifest = read_manifest(path)
    assert list(manifest.stages) == ["scores", "plan", "export"]
    assert set(manifest.stages["export"].files) == {"model_index.json", "unet/weights.bin"}
    assert manifest.stages["export"].files["unet/weights.bin"]["bytes"] == 3000
    assert not any(p.name.startswith("step-") for p in path.rglob("*")), "checkpoints of a finished stage are removed"
    figures = [e["norm"] for e in read_journal(path) if e["event"] == "progress"]
    assert len(figures) == 12 and all(f > 0 for f in figures)


def test_a_finished_run_does_nothing_again_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    execute(path)
    before = artefacts(path)
    execute(path, Options(run=Process(quiet=False)))
    assert events(path, "stage_started") == ["scores", "plan", "export"]
    assert events(path, "stage_resumed") == ["scores", "plan", "export"]
    said = capsys.readouterr().err
    assert "resuming" in said and "scores: finished before" in said
    without = {k: v for k, v in artefacts(path).items() if k != "config.yaml"}
    assert without == {k: v for k, v in before.items() if k != "config.yaml"}


def test_a_deleted_stage_and_the_later_ones_run_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    execute(path)
    before = artefacts(path)
    shutil.rmtree(path / "plan")
    execute(path)
    assert events(path, "stage_started")[3:] == ["plan", "export"]
    assert artefacts(path) == before


def test_redo_makes_a_stage_and_the_later_ones_anew_and_drops_nothing_before(tmp_path: Path) -> None:
    path = tmp_path / "run"
    execute(path)
    before = artefacts(path)
    with Run.open(path, Options()) as run:
        run.redo("plan")  # and then something fails before the stage is reached
    assert artefacts(path) == before
    with Run.open(path, Options()) as run:
        run.redo("plan")
        fake.recipe(run)
    assert events(path, "stage_started")[3:] == ["plan", "export"]


def test_fresh_and_resumed_give_the_same_value(tmp_path: Path) -> None:
    values = []
    for _ in range(2):
        with Run.open(tmp_path / "run", Options()) as run:
            values.append(run.stage("scores", fake.learn, run.config, load=fake.read_scores))
    assert values[0].equal(values[1])


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_stage_is_refused_with_file_and_cure(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run"
    execute(path)
    target = path / "export" / "unet" / "weights.bin"
    data = bytearray(target.read_bytes())
    if damage == "remove":
        target.unlink()
    else:
        data[7] ^= 1
        target.write_bytes(bytes(data if damage == "flip" else data[:-1]))
    with pytest.raises(RunError, match=r"export/unet/weights\.bin .*delete the folder .*/export and run again"):
        execute(path)
    shutil.rmtree(path / "export")
    execute(path)
    assert (path / "export" / "unet" / "weights.bin").stat().st_size == 3000


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 1}', '{"schema": 9, "stages": {}}', '{"schema": 1, "stages": []}']
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run"
    execute(path)
    (path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json.*delete it"):
        execute(path)


def test_other_options_are_refused_with_both_values(tmp_path: Path) -> None:
    path = tmp_path / "run"
    execute(path, Options(steps=4))
    before = artefacts(path)
    with pytest.raises(RunError) as caught:
        execute(path, Options(steps=5, lr=0.2))
    message = str(caught.value)
    assert "steps: 4 in the folder, 5 asked" in message
    assert "lr: 0.1 in the folder, 0.2 asked" in message
    assert "pause" not in message and "run.dir=FOLDER" in message
    assert artefacts(path) == before


def test_options_that_change_no_result_may_differ(tmp_path: Path) -> None:
    execute(tmp_path / "run")
    execute(tmp_path / "run", Options(run=Process(dir="elsewhere", quiet=False)))


def test_an_option_that_one_side_lacks_is_named(tmp_path: Path) -> None:
    @dataclass
    class More(Options):
        extra: int = 3
        run: Process = field(default_factory=Process)

    execute(tmp_path / "run")
    with pytest.raises(RunError, match=r"extra: \(absent\) in the folder, 3 asked"):
        execute(tmp_path / "run", More())


@pytest.mark.parametrize("text", [":\n -", "- 1", "\x00"])
def test_damaged_options_are_refused(tmp_path: Path, text: str) -> None:
    execute(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        execute(tmp_path / "run")


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and not a run directory"):
        execute(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="cannot be used as a run directory"):
        execute(tmp_path / "run")


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Run.open(path, Options()):
        with pytest.raises(RunError, match=f"in use by another process \\(number {os.getpid()}\\)"):
            Run.open(path, Options())
    execute(path)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "run"
    read, write = os.pipe()

    def hold() -> None:
        Run.open(path, Options())
        os.write(write, b"1")
        os.kill(os.getpid(), 9)

    child = in_child(hold)
    assert os.read(read, 1) == b"1"
    assert wait(child) == -9
    execute(path)


def test_a_stage_that_fails_leaves_nothing_and_keeps_the_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def fail(ctx: StageContext) -> None:
        (ctx.dir / "half").write_text("1")
        raise KeyError("no")

    with pytest.raises(KeyError), Run.open(path, Options()) as run:
        run.stage("scores", fake.learn, run.config)
        run.stage("plan", fail)
    assert list(read_manifest(path).stages) == ["scores"]
    assert not any(p.name.startswith("plan") for p in path.iterdir())
    assert read_journal(path)[-1]["error"] == "KeyError"
    execute(path)
    assert events(path, "stage_resumed") == ["scores"]


def test_full_disk_inside_a_stage(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def fill(ctx: StageContext) -> None:
        (ctx.dir / "half").write_text("1")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"prune.*the disk is full: .* bytes are free"), Run.open(path, Options()) as run:
        run.stage("prune", fill)
    assert not any(p.name.startswith("prune") for p in path.iterdir())


@pytest.mark.parametrize("name", ["checkpoints", "../up", "A", "", "a/b", "a.tmp-1"])
def test_bad_stage_names(tmp_path: Path, name: str) -> None:
    with Run.open(tmp_path / "run", Options()) as run, pytest.raises(ValueError, match="stage name"):
        run.stage(name, fake.plan)


def test_a_stage_name_is_used_once(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", Options()) as run:
        run.stage("scores", fake.learn, run.config)
        with pytest.raises(ValueError, match="stage name 'scores' is taken"):
            run.stage("scores", fake.learn, run.config)


def test_a_torn_journal_line_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "run"
    execute(path)
    count = len(read_journal(path))
    with open(path / "journal.jsonl", "ab") as file:
        file.write(b'{"time": "2026-01-01", "event": "progr')
    execute(path)
    later = read_journal(path)
    assert later[count]["event"] == "opened" and len(later) > count + 1


def test_figures_that_are_not_finite_can_be_journalled(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", Options()) as run:
        run.journal("progress", loss=float("nan"))
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["loss"] == "nan"


def test_first_signal_finishes_the_step_and_the_second_aborts(tmp_path: Path) -> None:
    path = tmp_path / "run"
    seen: list[int] = []

    def interrupted(ctx: StageContext) -> None:
        for step in range(5):
            if step == 2:
                os.kill(os.getpid(), 15)
            seen.append(step)
            ctx.progress(step + 1, 5)
            ctx.stop_if_requested()

    def aborted(ctx: StageContext) -> None:
        os.kill(os.getpid(), 2)
        assert ctx.stop_requested
        os.kill(os.getpid(), 2)
        seen.append(99)

    with (
        pytest.raises(Interrupted, match="stopped in stage scores after step 3 of 5") as caught,
        Run.open(path, Options()) as run,
    ):
        run.stage("scores", interrupted)
    assert caught.value.exit_code == 75
    with pytest.raises(KeyboardInterrupt), Run.open(path, Options()) as run:
        run.stage("scores", aborted)
    assert seen == [0, 1, 2]


def test_a_stop_between_stages_ends_the_run_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def quick(ctx: StageContext) -> None:
        os.kill(os.getpid(), 15)
        (ctx.dir / "a").write_text("1")

    with pytest.raises(Interrupted, match="before stage plan"), Run.open(path, Options()) as run:
        run.stage("scores", quick)
        run.stage("plan", quick)
    assert list(read_manifest(path).stages) == ["scores"]
