"""SAM's image encoder made slim: prune and distil in turns, on pictures without labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gencompress.config import AlignRecover, Config
from gencompress.core.plan import Plan
from gencompress.domains.sam import stages
from gencompress.domains.sam.align import Inner
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.evaluate import evaluate
from gencompress.domains.sam.publish import publish
from gencompress.domains.sam.teacher import Teacher
from gencompress.errors import ConfigError
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


def slimsam(run: Run) -> None:
    """0.1% data makes Segment Anything slim (arXiv 2312.05284)."""
    teacher = Teacher.load(run.config, run.path, run.say)
    inside = tuple(kind for kind in teacher.kinds if kind != "width")
    if "width" not in teacher.kinds or not inside or "depth" in inside:
        raise ConfigError(
            "recipe=slimsam narrows the residual stream, then heads and MLPs: it needs domain.width=true and one of "
            "domain.attention and domain.ffn, and removes no layers; recipe=one_shot takes any kinds"
        )
    steps = _steps(run.config)

    # the residual stream first, while queries, keys, values and neurons keep their shapes to be aligned by
    embedding = Round("embedding", ("width",), "bottleneck", steps // 2, last=False)
    student, first = _prune_and_distil(run, teacher, teacher.sam, embedding)

    # then what is inside of the blocks; their outputs are aligned with those of the first round
    bottleneck = Round("bottleneck", inside, "blocks", steps - steps // 2, last=True)
    student, second = _prune_and_distil(run, teacher, student, bottleneck)
    _finish(run, teacher, student, {embedding.name: first, bottleneck.name: second})


def one_shot(run: Run) -> None:
    """All kinds of units at once, by any criterion, and one alignment of the embeddings as long as both rounds."""
    teacher = Teacher.load(run.config, run.path, run.say)
    only = Round("all", teacher.kinds, None, _steps(run.config), last=True)
    student, plan = _prune_and_distil(run, teacher, teacher.sam, only)
    _finish(run, teacher, student, {only.name: plan})


def _steps(config: Config) -> int:
    return config.recover.steps if isinstance(config.recover, AlignRecover) else 0


def _prune_and_distil(run: Run, teacher: Teacher, student: Sam, turn: Round) -> tuple[Sam, Plan]:
    """Score the units of some kinds, choose, remove and align; the smaller model, and the plan of this round."""
    config, student = run.config, replace(student, kinds=turn.kinds, uniform=False)
    scores = run.stage(f"{turn.name}_scores", stages.score, teacher, student, config, load=stages.read_scores)
    given = (teacher, student, scores, turn.last, config)
    plan = run.stage(f"{turn.name}_plan", stages.make_plan, *given, load=stages.read_plan)
    how = (teacher, student, plan, turn.inner, turn.steps, config)
    return run.stage(f"{turn.name}_slim", stages.slim, *how, load=teacher.student), plan
