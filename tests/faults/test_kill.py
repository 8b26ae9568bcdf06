"""`kill -9` in the middle of every stage of a real recipe: the run resumes and ends as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from gencompress.cli import run_command
from gencompress.run import read_journal, read_manifest
from tests.e2e.pipes import RECOVERY, execute, metrics, overrides, save, stages
from tests.run.recipe import in_child, wait

STAGES = stages()
OPTIONS = ["criterion.batch=2", "criterion.updates=12", "criterion.masks=2", "budget.keep=0.6", "metrics.images=2"]
OPTIONS += [*RECOVERY, "recover.steps=8"]
KILLS = 30  # that struck inside a stage
MOST_RUNS = 10  # of about seven such kills each
PATIENCE_S = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save("smallest", tmp_path_factory.mktemp("model") / "smallest")


@pytest.fixture(scope="module")
def calm(model, tmp_path_factory) -> Path:
    """An undisturbed run, in this process: the children that are forked later have everything imported."""
    return execute(model, tmp_path_factory.mktemp("calm") / "run", *OPTIONS)


def kill_inside(stage: str, model: Path, run: Path, delay: float) -> str | None:
    """Start the run in a child, wait for `stage` and `delay` more, kill; the stage that was struck, None if none."""
    seen = len(read_journal(run))
    child = in_child(lambda: execute(model, run, *OPTIONS))
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        started = [e for e in read_journal(run)[seen:] if e["event"] == "stage_started" and e["stage"] == stage]
        if started or os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert wait(child) in (-signal.SIGKILL, 0)
    events = [e for e in read_journal(run)[seen:] if e["event"] in ("stage_started", "stage_finished", "ended")]
    return events[-1]["stage"] if events and events[-1]["event"] == "stage_started" else None


def test_killed_at_random_times_in_each_stage(model, calm, tmp_path):
    lasts = {name: entry.seconds for name, entry in read_manifest(calm).stages.items()}
    assert list(lasts) == STAGES
    moments = random.Random(7)
    struck: list[str] = []
    for turn in range(MOST_RUNS):
        run = tmp_path / f"run{turn}"
        for stage in STAGES:
            hit = kill_inside(stage, model, run, moments.uniform(0, lasts[stage]))
            struck += [hit] if hit else []
        execute(model, run, *OPTIONS)

        same = ["plan/plan.json", "scores/scores.safetensors", "recover/diffusion_pytorch_model.safetensors"]
        for name in same:
            assert (run / name).read_bytes() == (calm / name).read_bytes(), name
        assert metrics(run)["quality"] == metrics(calm)["quality"]
        assert list(read_manifest(run).stages) == STAGES
        assert not [p.name for p in run.rglob("*") if ".tmp-" in p.name]
        assert not list((run / "checkpoints").glob("*/*")), "checkpoints go when their stage is finished"
        if len(struck) >= KILLS:
            break
    assert len(struck) >= KILLS, "kills that came between two stages, or after the last, do not count"
    assert len(set(struck)) >= 6, f"the kills must be spread over the stages: {struck}"


def test_learning_goes_on_where_it_was_killed(model, calm, tmp_path):
    """The updates before the last checkpoint are not made again."""
    run = tmp_path / "run"
    child = in_child(lambda: execute(model, run, *OPTIONS))
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        steps = [e["step"] for e in read_journal(run) if e["event"] == "checkpoint" and e["stage"] == "scores"]
        if steps and steps[-1] >= 10:
            break
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    seen = len(read_journal(run))
    execute(model, run, *OPTIONS)
    rest = read_journal(run)[seen:]
    (loaded,) = [e["step"] for e in rest if e["event"] == "checkpoint_loaded"]
    steps = [e["step"] for e in rest if e["event"] == "progress" and e["stage"] == "scores"]
    assert loaded >= 10 and steps == list(range(loaded + 1, 25))
    assert (run / "plan" / "plan.json").read_bytes() == (calm / "plan" / "plan.json").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_finishes_the_step_and_exits_75(model, calm, tmp_path, number):
    run, said = tmp_path / "run", tmp_path / "said.txt"

    def work() -> None:
        sys.stderr = open(said, "w", buffering=1)
        os._exit(run_command(["run", *overrides(model, run, *OPTIONS)]))

    child = in_child(work)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if [e for e in read_journal(run) if e["event"] == "progress" and e["stage"] == "scores" and e["step"] >= 2]:
            break
        time.sleep(0.002)
    os.kill(child, number)
    assert wait(child) == 75
    words = said.read_text()
    assert "stopped in stage scores after step" in words and "run the same command again" in words
    assert "Traceback" not in words
    done = [e["step"] for e in read_journal(run) if e["event"] == "progress" and e["stage"] == "scores"][-1]
    assert [e["step"] for e in read_journal(run) if e["event"] == "checkpoint"][-1] == done, "no step is lost"
    assert not (run / "scores").exists() and not [p.name for p in run.rglob("*") if ".tmp-" in p.name]

    seen = len(read_journal(run))
    execute(model, run, *OPTIONS)
    steps = [e["step"] for e in read_journal(run)[seen:] if e["event"] == "progress" and e["stage"] == "scores"]
    assert steps == list(range(done + 1, 25))
    assert (run / "plan" / "plan.json").read_bytes() == (calm / "plan" / "plan.json").read_bytes()
