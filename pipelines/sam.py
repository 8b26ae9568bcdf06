"""What the recipes for SAM have in common: rounds of pruning and distilling, then files, figures and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gencompress.config import Config
from gencompress.core.plan import Plan
from gencompress.domains.sam import stages
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.evaluate import evaluate
from gencompress.domains.sam.publish import publish
from gencompress.domains.sam.rounds import Round
from gencompress.domains.sam.teacher import Teacher
from gencompress.report import write_report
from gencompress.run import Run, StageContext
from gencompress.run.settings import command

_SLIM = "_slim"  # ends the names of the stages that write a model


def prune_and_distil(run: Run, rounds: Sequence[Round]) -> None:
    """Every round starts from what the one before left; the budget is met after the last."""
    config = run.config
    teacher = Teacher.load(config, run.path, run.say)
    student, plans = teacher.sam, {}
    for turn in rounds:
        student = turn.of(student)
        scores = run.stage(f"{turn.name}_scores", stages.score, teacher, student, config, load=stages.read_scores)
        given = (teacher, student, scores, turn is rounds[-1], config)
        plan = run.stage(f"{turn.name}_plan", stages.make_plan, *given, load=stages.read_plan)
        how = (teacher, student, plan, turn, config)
        student = run.stage(f"{turn.name}{_SLIM}", stages.slim, *how, load=teacher.student)
        plans[turn.name] = plan
    _finish(run, teacher, student, plans)


def _finish(run: Run, teacher: Teacher, student: Sam, plans: Mapping[str, Plan]) -> None:
    """One plan of all rounds, figures, the folder that transformers opens, and report."""
    config = run.config
    plan = run.stage("plan", stages.join, teacher, list(plans.values()), config, load=stages.read_plan)
    losses = {name: stages.read_losses(run.require(f"{name}{_SLIM}")) for name in plans}
    models = (teacher.sam, student, plan, teacher.processor, teacher.judges, teacher.labelled)
    measured = run.stage("eval", evaluate, *models, config, losses, command(config))
    run.stage("export", _export, teacher, student, plan, measured, config)
    run.stage("report", _report, run.path)


def export(run: Run, out: Path, portable: bool) -> None:
    """Write the slim model of a finished run into the new folder `out`; it is as portable as its budget makes it."""
    teacher = Teacher.load(run.config, run.path, run.say)
    last = next(name for name in ("bottleneck", "all") if (run.path / f"{name}{_SLIM}").is_dir())
    student = teacher.student(run.require(f"{last}{_SLIM}"))
    publish(student, teacher, stages.read_plan(run.require("plan")), run.require("eval"), run.config, out)


def _export(ctx: StageContext, teacher: Teacher, student: Sam, plan: Plan, measured: Path, config: Config) -> None:
    publish(student, teacher, plan, measured, config, ctx.dir)


def _report(ctx: StageContext, folder: Path) -> None:
    write_report([folder], ctx.dir / "report.html")
