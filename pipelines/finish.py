"""What every recipe ends with: scores become a plan, the plan a smaller pipeline, and the pipeline a report."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from gencompress.config import Config
from gencompress.core.plan import Plan
from gencompress.domains.diffusion import stages
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.evaluate import evaluate
from gencompress.domains.diffusion.publish import publish
from gencompress.report import write_report
from gencompress.run import Run, StageContext
from gencompress.run.settings import command

Scores = dict[str, Tensor]
_DENOISER_STAGES = ("recover", "compensate", "prune")  # the last one that a run has made is its result


def finish(run: Run, dense: Diffusion, scores: Scores) -> None:
    """Plan, removal, closed-form compensation, distillation, evaluation, export and report, each if asked for."""
    config = run.config
    plan = run.stage("plan", stages.make_plan, dense, scores, config, load=stages.read_plan)
    pruned = run.stage("prune", stages.prune, dense, plan, load=dense.load_denoiser)
    if config.compensate.trajectories:
        pruned = run.stage("compensate", stages.compensate, dense, pruned, plan, config, load=dense.load_denoiser)
    if config.recover.name != "none":
        pruned = run.stage("recover", stages.recover, dense, pruned, config, load=dense.load_denoiser)
    curve = stages.read_curve(run.require("scores"), getattr(config.criterion, "updates", 1))
    method = stages.method_of(run.path, config)
    measured = run.stage("eval", evaluate, dense, pruned, plan, config, curve, method, command(config))
    run.stage("export", _export, pruned, plan, config, measured)
    run.stage("report", _report, run.path)


def export(run: Run, out: Path, portable: bool) -> None:
    """Write the pruned pipeline of a finished run into `out`, self-contained if `portable`."""
    run.config.export.portable = portable
    last = next((name for name in _DENOISER_STAGES if (run.path / name).is_dir()), "prune")
    denoiser, plan, measured = run.require(last), run.require("plan"), run.require("eval")
    pruned = Diffusion.load(run.config).load_denoiser(denoiser)
    publish(pruned, stages.read_plan(plan), run.config, measured, out)


def _export(ctx: StageContext, pruned: Diffusion, plan: Plan, config: Config, measured: Path) -> None:
    publish(pruned, plan, config, measured, ctx.dir)


def _report(ctx: StageContext, folder: Path) -> None:
    write_report([folder], ctx.dir / "report.html")
