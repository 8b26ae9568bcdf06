from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gencompress.board import read_runs
from gencompress.run.journal import outcome
from tests.run import tiny

Command = Callable[..., list[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "model").mkdir()
    return tiny.install(tmp_path / "site")


def command(*overrides: str) -> list[str]:
    fixed = ("run", "-m", "model.path=model", "recipe.name=tiny", "run.dir=sweep")
    return [sys.executable, "-m", "gencompress", *fixed, *overrides]


def sweep(tmp_path: Path, environment: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*overrides), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )


def states(folder: Path) -> dict[str, str]:
    """State of every run by the part of its name that tells it from the others."""
    return {str(row.options["model.dtype"]): row.error for row in read_runs([folder])}


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_failed_and_killed_runs_leave_a_row_and_the_others_go_on(
    tmp_path: Path, environment: dict[str, str], launcher: str
) -> None:
    overrides = ("criterion.updates=1", "model.dtype=fp16,bf16,fp32", f"hydra/launcher={launcher}")
    result = sweep(tmp_path, environment, *overrides)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    told = lines[lines.index("gencompress: 2 of 3 runs failed, the others are finished:") + 1 :]
    assert told[0].endswith(": ModelError: the model holds NaN") and "dtype-fp16" in told[0]
    assert told[1].endswith(": Killed: the process was ended by SIGKILL, for lack of memory most likely")
    assert "the same command runs these again" in told[2] and len(told) == 3
    rows = states(tmp_path / "sweep")
    assert rows == {
        "fp16": "ModelError: the model holds NaN",
        "bf16": "Killed: the process was ended by SIGKILL, for lack of memory most likely",
        "fp32": "finished without an evaluation",  # which the recipe of this test lacks
    }
    assert len(list((tmp_path / "sweep").glob("*/report/report.html"))) == 1
    if launcher == "local":
        again = sweep(tmp_path, environment, *overrides)
        assert again.returncode == 2 and "scores: finished before" in again.stderr


def test_values_that_do_not_go_together_leave_a_row(tmp_path: Path, environment: dict[str, str]) -> None:
    overrides = ("criterion=magnitude,ecodiff", "budget.keep=0.5", "domain.heads=true,false")
    others = tuple(f"domain.{name}=false" for name in ("ffn", "resnet", "time"))
    result = sweep(tmp_path, environment, *overrides, *others)
    assert result.returncode == 2, "each value is right with the first of the others"
    assert "every kind of group is switched off" in result.stderr


def test_a_sweep_that_is_done_says_nothing_of_failures(tmp_path: Path, environment: dict[str, str]) -> None:
    result = sweep(tmp_path, environment, "criterion.updates=1", "budget.keep=0.5,0.7")
    assert result.returncode == 0 and "failed" not in result.stderr


def test_ctrl_c_stops_all_runs_of_a_sweep(tmp_path: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command("criterion.updates=5000", "budget.keep=0.5,0.7,0.9"), cwd=tmp_path, env=environment,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    running = 0
    for line in process.stderr:
        running += line.startswith("scores: running")
        if running == 2:
            break
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 75 and "3 of 3 runs were stopped" in rest and "Traceback" not in rest
    folders = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    ends = [outcome(folder).error for folder in folders]
    assert sorted(ends) == ["", "Interrupted", "Interrupted"], "the third was not started"
