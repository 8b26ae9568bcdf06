"""What SlimSAM's recipe keeps of a SAM at equal size and equal training, against one-shot pruning, and part by part.

    python -m benchmarks.sam_quality

Mean IoU on pictures that trained neither the sample nor the slim models, for one point and one box per object. All rows
have the same number of alignment steps on the same pictures, and widths that a stock config describes. Every row is
appended to a JSON-lines file as soon as it is measured, so the command resumes; the tables are made from that file.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import add_row, read_rows
from gencompress.config import Config, build
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.rounds import Round, planned, repair_, scored
from gencompress.domains.sam.segment import Segmenter
from gencompress.domains.sam.teacher import Teacher
from gencompress.metrics import hardware_description
from gencompress.metrics.segmentation import box_prompt, iou, point_prompt
from gencompress.pipelines.slimsam import one_round, two_rounds
from gencompress.run import NullContext
from gencompress.scenes.composites import Composites

KINDS = ("width", "head_dim", "ffn")
PROMPTS: dict[str, Callable[[Any], Any]] = {"point": point_prompt, "box": box_prompt}
SCORES: dict[str, dict[str, Any]] = {
    "disturbed": {"name": "disturbed_taylor"},
    "taylor": {"name": "taylor"},
    "magnitude": {"name": "magnitude"},
    "random": {"name": "random"},
}


@dataclass(frozen=True)
class Method:
    """A way to make the model slim.

    Args:
        label: of its row.
        score: one of `SCORES`.
        alternating: two rounds, not one.
        refit: closed-form, after every removal.
        weights: of the inner features in the loss.
        tables: whether relative-position tables are sliced; else they start from zero after every removal.
    """

    label: str
    score: str = "disturbed"
    alternating: bool = True
    refit: bool = True
    weights: str = "dynamic"
    tables: bool = True


OURS = Method("slimsam")
BASELINES = (
    Method("one shot, Taylor", "taylor", alternating=False, refit=False),
    Method("one shot, magnitude", "magnitude", alternating=False, refit=False),
    Method("one shot, random", "random", alternating=False, refit=False),
)
ABLATION = (
    Method("without the refit", refit=False),
    Method("without alternating: one shot", alternating=False),
    Method("without noise: Taylor", "taylor"),
    Method("random in place of scores", "random"),
    Method("fixed weights", weights="fixed"),
    Method("embeddings alone", weights="none"),
    Method("position tables from zero", tables=False),
    Method("as published: no refit, tables from zero", refit=False, tables=False),
)
METHODS = (OURS, *BASELINES, *ABLATION)


def options(model: str, method: Method, keep: float, seed: int, steps: int, cache: Path) -> Config:
    """The options of a run of `gencompress run +experiment=slimsam_sample` that does the same."""
    criterion = SCORES[method.score] | ({} if method.score in ("magnitude", "taylor") else {"seed": seed})
    return build(
        {
            "model": {"path": model, "device": "cpu"},
            "domain": {"name": "sam"},
            "data": {"images": "sample:emoji_scenes", "validation": "sample:emoji_scenes", "cache": str(cache)},
            "recipe": {"name": "slimsam" if method.alternating else "one_shot"},
            "criterion": criterion,
            "budget": {"keep": keep, "uniform": True},
            "compensate": {} if method.refit else {"images": 0},
            "recover": {"name": "align", "steps": steps, "weights": method.weights},
            "run": {"seed": seed},
        }
    )


def slim(teacher: Teacher, method: Method, config: Config) -> Sam:
    """The slim model of a method: the rounds of the recipe, without its files."""
    rounds = two_rounds(KINDS) if method.alternating else one_round(KINDS)
    student = teacher.sam
    for turn in rounds:
        student = _turn(teacher, turn.of(student), turn, method, turn is rounds[-1], config)
    return student


def _turn(teacher: Teacher, student: Sam, turn: Round, method: Method, last: bool, config: Config) -> Sam:
    nothing = NullContext()
    plan = planned(teacher, student, scored(teacher, student, config, nothing), last, config)
    pruned = student.prune(plan)
    if not method.tables:
        _forget_tables_(pruned)
    repair_(pruned, student, teacher, plan, turn, config, nothing)
    return pruned


@torch.no_grad()
def _forget_tables_(sam: Sam) -> None:
    for name, parameter in sam.encoder.named_parameters():
        if "rel_pos" in name:
            parameter.zero_()


class Judge:
    """Pictures with masks that nothing was trained on."""

    def __init__(self, processor: Any, pictures: int) -> None:
        self.processor = processor
        composites = Composites("held_out", pictures)
        self.pictures = [composites.labelled(i) for i in range(pictures)]

    def miou(self, sam: Sam) -> dict[str, list[float]]:
        """IoU of every object by kind of prompt."""
        tool = Segmenter(sam.model, self.processor)
        found: dict[str, list[float]] = {kind: [] for kind in PROMPTS}
        for picture, masks in self.pictures:
            for kind, ask in PROMPTS.items():
                answers = tool.answers(picture, [ask(mask) for mask in masks])
                found[kind] += [iou(answer, mask) for answer, mask in zip(answers, masks, strict=True)]
        return found


def cases(keeps: list[float], seeds: int) -> list[tuple[Method, float, int]]:
    """All rows; what decides comes first, so that an interrupted benchmark says most."""
    main = [(m, keep, seed) for seed in range(seeds) for keep in keeps for m in (OURS, *BASELINES)]
    return main + [(m, keep, seed) for seed in range(seeds) for keep in keeps for m in ABLATION]


def run(args: argparse.Namespace, out: Path, cache: Path) -> None:
    """Measure all cases that `out` does not hold yet."""
    todo = [c for c in cases(args.keeps, args.seeds) if not _measured(out, *c)][args.part :: args.parts]
    if not todo:
        return
    judge, began = None, time.monotonic()
    for n, (method, keep, seed) in enumerate(todo, start=1):
        config = options(args.model, method, keep, seed, args.steps, cache)
        teacher = Teacher.load(config, cache, print)
        judge = judge or Judge(teacher.processor, args.pictures)
        started = time.process_time()
        sam = teacher.sam if keep == 1 else slim(teacher, method, config)
        seconds = time.process_time() - started
        found = judge.miou(sam)
        row = {"label": method.label, "keep": keep, "seed": seed, "steps": args.steps, "cpu_seconds": seconds}
        row |= {"params": sum(p.numel() for p in sam.encoder.parameters()), **found}
        row |= {"hardware": hardware_description(), "date": str(datetime.date.today())}
        add_row(out, row)
        left = (time.monotonic() - began) / n * (len(todo) - n) / 60
        means = ", ".join(f"{kind} {np.mean(found[kind]):.3f}" for kind in PROMPTS)
        print(f"{n}/{len(todo)}  {method.label} keep {keep} seed {seed}: {means}  {left:.0f} min left", flush=True)


def _measured(out: Path, method: Method, keep: float, seed: int) -> bool:
    return any((r["label"], r["keep"], r["seed"]) == (method.label, keep, seed) for r in read_rows(out))
