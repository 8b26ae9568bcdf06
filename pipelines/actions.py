"""What `gencompress eval`, `export` and `report` do with a finished run."""

from __future__ import annotations

from pathlib import Path

from gencompress.domains.diffusion import stages
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.publish import publish
from gencompress.run import Run, launch

_DENOISER_STAGES = ("recover", "compensate", "prune")  # the last one that a run has made is its result


def evaluate(run: Run) -> None:
    """Measure again, and renew what shows the figures."""
    _again(run, "eval")


def report(run: Run) -> Path:
    """Write the report again; its path."""
    _again(run, "report")
    return run.path / "report" / "report.html"


def export(run: Run, out: Path, portable: bool) -> None:
    """Write the pruned pipeline into `out`, self-contained if `portable`."""
    run.config.export.portable = portable
    last = next((name for name in _DENOISER_STAGES if (run.path / name).is_dir()), "prune")
    denoiser, plan, measured = run.require(last), run.require("plan"), run.require("eval")
    pruned = Diffusion.load(run.config).load_denoiser(denoiser)
    publish(pruned, stages.read_plan(plan), run.config, measured, out)


def _again(run: Run, stage: str) -> None:
    """Run the recipe with everything from `stage` on made anew; finished stages before it are taken as they are.

    RunError if the run is not finished: what is missing may take hours, so `gencompress run` does it, when asked to.
    """
    run.require(stage)
    run.redo(stage)
    launch.recipe(run.config.recipe.name)(run)
