"""A recipe without torch for tests of the command line; `install` puts it into the table of every Python it starts."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from gencompress.errors import ModelError
from gencompress.run import Run, StageContext
from gencompress.run.atomic import write_json

ROOT = Path(__file__).resolve().parents[2]


def learn(ctx: StageContext, updates: int, keep: float | None) -> None:
    for step in range(updates):
        ctx.progress(step + 1, updates)
        time.sleep(0.02)
        ctx.stop_if_requested()
    write_json(ctx.dir / "scores.json", {"updates": updates, "keep": keep})


def recipe(run: Run) -> None:
    config = run.config
    if config.model.dtype == "fp16":
        raise ModelError("the model holds NaN")
    if config.model.dtype == "bf16":  # as the system does when memory runs out
        os.kill(os.getpid(), signal.SIGKILL)
    folder = run.stage("scores", learn, getattr(config.criterion, "updates", 1), config.budget.keep)
    run.stage("report", lambda ctx: (ctx.dir / "report.html").write_text((folder / "scores.json").read_text()))


def evaluate(run: Run) -> None:
    run.redo("report")
    recipe(run)


def export(run: Run, out: Path, portable: bool) -> None:
    write_json(out, {"portable": portable, "scores": json.loads((run.require("scores") / "scores.json").read_text())})


def report(run: Run) -> Path:
    return run.require("report") / "report.html"


def install(folder: Path) -> dict[str, str]:
    """The environment of a child in which the recipe is called `tiny` and the actions are those above."""
    lines = ["import gencompress.pipelines as p", f"p.RECIPES['diffusion']['tiny'] = '{__name__}:recipe'"]
    actions = {"eval": "evaluate", "export": "export", "report": "report"}
    lines += [f"p.ACTIONS['diffusion']['{name}'] = '{__name__}:{function}'" for name, function in actions.items()]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
