"""SAM's image encoder made slim: prune and distil in turns, on pictures without labels."""

from __future__ import annotations

from gencompress.config import AlignRecover, Config
from gencompress.domains.sam.teacher import Teacher
from gencompress.errors import ConfigError
from gencompress.pipelines.sam import Round, finish, prune_and_distil
from gencompress.run import Run


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
    student, first = prune_and_distil(run, teacher, teacher.sam, embedding)

    # then what is inside of the blocks; their outputs are aligned with those of the first round
    bottleneck = Round("bottleneck", inside, "blocks", steps - steps // 2, last=True)
    student, second = prune_and_distil(run, teacher, student, bottleneck)
    finish(run, teacher, student, {embedding.name: first, bottleneck.name: second})


def one_shot(run: Run) -> None:
    """All kinds of units at once, by any criterion, and one alignment of the embeddings as long as both rounds."""
    teacher = Teacher.load(run.config, run.path, run.say)
    only = Round("all", teacher.kinds, None, _steps(run.config), last=True)
    student, plan = prune_and_distil(run, teacher, teacher.sam, only)
    finish(run, teacher, student, {only.name: plan})


def _steps(config: Config) -> int:
    return config.recover.steps if isinstance(config.recover, AlignRecover) else 0
