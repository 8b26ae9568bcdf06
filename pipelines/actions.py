"""What `gencompress eval` and `gencompress report` do with a finished run of any domain."""

from __future__ import annotations

from pathlib import Path

from gencompress.run import Run, launch


def evaluate(run: Run) -> None:
    """Measure again, and renew what shows the figures."""
    _again(run, "eval")


def report(run: Run) -> Path:
    """Write the report again; its path."""
    _again(run, "report")
    return run.path / "report" / "report.html"


def _again(run: Run, stage: str) -> None:
    """Run the recipe with everything from `stage` on made anew; finished stages before it are taken as they are.

    RunError if the run is not finished: what is missing may take hours, so `gencompress run` does it, when asked to.
    """
    run.require(stage)
    run.redo(stage)
    launch.recipe(run.config)(run)
