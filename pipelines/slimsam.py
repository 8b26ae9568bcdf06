"""SAM's image encoder made slim: prune and distil in turns, on pictures without labels."""

from __future__ import annotations

from gencompress.config import SamDomain, sam_kinds
from gencompress.domains.sam.rounds import Round
from gencompress.errors import ConfigError
from gencompress.pipelines.sam import prune_and_distil
from gencompress.run import Run


def slimsam(run: Run) -> None:
    """0.1% data makes Segment Anything slim (arXiv 2312.05284)."""
    prune_and_distil(run, two_rounds(_kinds(run)))


def one_shot(run: Run) -> None:
    """All kinds of units at once, by any criterion, and one alignment of the embeddings as long as both rounds."""
    prune_and_distil(run, one_round(_kinds(run)))


def two_rounds(kinds: tuple[str, ...]) -> tuple[Round, ...]:
    """The rounds of SlimSAM. ConfigError if `kinds` leave nothing to do for one of them."""
    inside = tuple(kind for kind in kinds if kind != "width")
    if "width" not in kinds or not inside or "depth" in inside:
        raise ConfigError(
            "recipe=slimsam narrows the residual stream, then heads and MLPs: it needs domain.width=true and one of "
            "domain.attention and domain.ffn, and removes no layers; recipe=one_shot takes any kinds"
        )
    return (
        # the residual stream first, while queries, keys, values and neurons keep their shapes to be aligned by
        Round("embedding", ("width",), "bottleneck", part=0.5),
        # then what is inside of the blocks; their outputs are aligned with those that the first round left
        Round("bottleneck", inside, "blocks", part=0.5),
    )


def one_round(kinds: tuple[str, ...]) -> tuple[Round, ...]:
    """Everything at once: only the embeddings keep their shape."""
    return (Round("all", kinds, None, part=1.0),)


def _kinds(run: Run) -> tuple[str, ...]:
    assert isinstance(run.config.domain, SamDomain)
    return sam_kinds(run.config.domain)
