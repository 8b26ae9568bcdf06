"""Two processes of one launch: rank 0 writes, both load the same, and a stop or an error reaches both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from gencompress.run import read_journal
from tests.run.recipe import ROOT, artefacts, execute

PROGRAM = """
import os, sys
from pathlib import Path
from gencompress.errors import GencompressError
from gencompress.run import Run
from tests.run import recipe
mode, path, rank = sys.argv[1], Path(sys.argv[2]), int(os.environ["RANK"])
options = recipe.Options()

def learn(ctx, options):
    if mode == "stop" and rank == 1:  # the signal reaches one process alone
        os.kill(os.getpid(), 15)
    recipe.learn(ctx, options)

try:
    with Run.open(path, options) as run:
        scores = run.stage("scores", learn, options, load=recipe.read_scores)
        keep = run.stage("plan", recipe.plan, scores, load=recipe.read_plan)
        run.stage("export", recipe.export, keep)
        print(scores.tolist(), keep, run.main_process == (rank == 0))
    Run.open(path, recipe.Options(steps=5))
except GencompressError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def launch(mode: str, path: Path) -> list[tuple[int, str]]:
    """Exit codes and output of both ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, mode, str(path)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_rank_0_writes_and_both_load_the_same(tmp_path: Path) -> None:
    execute(tmp_path / "alone")
    (code, said), other = launch("run", tmp_path / "two")
    assert other == (code, said)
    assert said.splitlines()[0].endswith("True")
    assert code == 2 and "steps: 12 in the folder, 5 asked" in said, "a refusal reaches both"
    assert artefacts(tmp_path / "two") == artefacts(tmp_path / "alone")
    started = [e["stage"] for e in read_journal(tmp_path / "two") if e["event"] == "stage_started"]
    assert started == ["scores", "plan", "export"]
    assert not list((tmp_path / "two").glob("*.tmp-*"))


def test_a_stop_of_one_stops_both_after_the_same_step(tmp_path: Path) -> None:
    for code, said in launch("stop", tmp_path / "run"):
        assert code == 75 and "stopped in stage scores after step 1 of 12" in said
    execute(tmp_path / "run")
    execute(tmp_path / "calm")
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "calm")
