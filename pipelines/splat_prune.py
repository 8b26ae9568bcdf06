"""Scenes of Gaussian splats made smaller without a photograph: the scene's own renders are the truth."""

from __future__ import annotations

from pathlib import Path

from gencompress.config import Config
from gencompress.domains.splats import stages
from gencompress.domains.splats.domain import Dense
from gencompress.domains.splats.evaluate import evaluate
from gencompress.domains.splats.publish import publish
from gencompress.formats import SplatScene
from gencompress.report import write_report
from gencompress.run import Run, StageContext
from gencompress.run.atomic import write_dir
from gencompress.run.settings import command


def splat_prune(run: Run) -> None:
    """Scores, deletion, merging of pairs, refinement, files, figures and report."""
    config = run.config
    dense = Dense.load(config)  # without splats that are broken or far off
    views = run.stage("rig", stages.place_cameras, dense, config, load=stages.read_views)

    # a part or a number of splats is known at once; bytes and quality are searched for with real files and renders
    budget = run.stage("budget", stages.fit_budget, dense, views, config)

    # rounds by exact leave-one-out error: in each the cheapest deletions and merges, by their predicted error in the
    # images, then the renders are measured again; other criteria score once and delete
    scores = run.stage("scores", stages.score, dense, views, budget, config)
    plan, merges = run.stage("plan", stages.make_plan, dense, scores, budget, config, load=stages.read_plan)

    left = {"prune": run.stage("prune", stages.prune, dense, plan, load=stages.read_left)}
    if len(merges.first):
        left["merge"] = run.stage("merge", stages.merge, left["prune"], merges, load=stages.read_left)

    # colour, opacity and geometry of what is left, trained to look like the input
    losses: list[float] = []
    if config.recover.name != "none":
        folder = run.stage("recover", stages.recover, list(left.values())[-1], dense, views, config)
        left["recover"], losses = stages.read_left(folder), stages.read_losses(folder)

    exported = run.stage("export", _export, list(left.values())[-1], dense, config)
    run.stage("eval", evaluate, dense, views, left, plan, exported, losses, config, command(config))
    run.stage("report", _report, run.path)


def export(run: Run, out: Path, portable: bool) -> None:
    """Write the files of a finished run into the new folder `out`; scene files are portable as they are."""
    last = next((name for name in ("recover", "merge", "prune") if (run.path / name).is_dir()), "prune")
    left = stages.read_left(run.require(last))
    run.require("eval")
    with write_dir(out) as folder:
        publish(left, Dense.load(run.config), run.config, folder)


def _export(ctx: StageContext, left: SplatScene, dense: Dense, config: Config) -> None:
    publish(left, dense, config, ctx.dir)


def _report(ctx: StageContext, folder: Path) -> None:
    write_report([folder], ctx.dir / "report.html")
