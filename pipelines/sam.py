"""What the recipes for SAM are made of: a round of pruning and distilling, and what follows the last one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gencompress.config import Config
from gencompress.core.plan import Plan
from gencompress.domains.sam import stages
from gencompress.domains.sam.align import Inner
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.evaluate import evaluate
from gencompress.domains.sam.publish import publish
from gencompress.domains.sam.teacher import Teacher
from gencompress.report import write_report
from gencompress.run import Run, StageContext
from gencompress.run.settings import command


@dataclass(frozen=True)
class Round:
    """One turn of pruning and distilling.

    Args:
        name: of its stages.
        kinds: of the groups that it prunes.
        inner: features that it leaves comparable with those before; None aligns embeddings alone.
        steps: of the alignment.
        last: whether the budget must be met afterwards.
    """

    name: str
    kinds: tuple[str, ...]
    inner: Inner | None
    steps: int
    last: bool


def prune_and_distil(run: Run, teacher: Teacher, student: Sam, turn: Round) -> tuple[Sam, Plan]:
    """Score the units of some kinds, choose, remove and align; the smaller model, and the plan of this round."""
    config, student = run.config, replace(student, kinds=turn.kinds, uniform=False)
    scores = run.stage(f"{turn.name}_scores", stages.score, teacher, student, config, load=stages.read_scores)
    given = (teacher, student, scores, turn.last, config)
    plan = run.stage(f"{turn.name}_plan", stages.make_plan, *given, load=stages.read_plan)
    how = (teacher, student, plan, turn.inner, turn.steps, config)
    return run.stage(f"{turn.name}_slim", stages.slim, *how, load=teacher.student), plan


def finish(run: Run, teacher: Teacher, student: Sam, plans: dict[str, Plan]) -> None:
    """One plan of all rounds, the folder that transformers opens, figures and report."""
    config = run.config
    plan = run.stage("plan", stages.join, teacher, list(plans.values()), config, load=stages.read_plan)
    losses = {name: stages.read_losses(run.require(f"{name}_slim")) for name in plans}
    measured = run.stage("eval", evaluate, teacher, student, plan, losses, config, command(config))
    run.stage("export", _export, teacher, student, plan, measured, config)
    run.stage("report", _report, run.path)


def export(run: Run, out: Path, portable: bool) -> None:
    """Write the slim model of a finished run into the new folder `out`; it is as portable as it can be."""
    teacher = Teacher.load(run.config, run.path, run.say)
    last = next(name for name in ("bottleneck", "all") if (run.path / f"{name}_slim").is_dir())
    student = teacher.student(run.require(f"{last}_slim"))
    publish(student, teacher, stages.read_plan(run.require("plan")), run.require("eval"), run.config, out)


def _export(ctx: StageContext, teacher: Teacher, student: Sam, plan: Plan, measured: Path, config: Config) -> None:
    publish(student, teacher, plan, measured, config, ctx.dir)


def _report(ctx: StageContext, folder: Path) -> None:
    write_report([folder], ctx.dir / "report.html")
