"""What SlimSAM's recipe keeps of a SAM at equal size and equal training, against one-shot pruning, and part by part.

    python -m benchmarks.sam_quality

Mean IoU on pictures that trained neither the sample nor the slim models, for one point and one box per object. All rows
have the same number of alignment steps on the same pictures, and widths that a stock config describes. Every row is
appended to a JSON-lines file as soon as it is measured, so the command resumes; the tables are made from that
file.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch

from benchmarks.record import RESULTS, add_row, read_rows
from gencompress.config import Config, build
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.load import load_sam
from gencompress.domains.sam.processor import load_processor
from gencompress.domains.sam.rounds import Round, planned, repair_, scored
from gencompress.domains.sam.segment import Segmenter
from gencompress.domains.sam.teacher import Teacher
from gencompress.hub import locate_segmenter
from gencompress.metrics import hardware_description, paired_gain
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
        uniform: the same widths in every layer; else the second round chooses them.
    """

    label: str
    score: str = "disturbed"
    alternating: bool = True
    refit: bool = True
    weights: str = "dynamic"
    tables: bool = True
    uniform: bool = True


DENSE = "dense"
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
    Method("widths per layer", uniform=False),
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
            "budget": {"keep": keep, "uniform": method.uniform},
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

    def __init__(self, model: str, pictures: int) -> None:
        self.processor = load_processor(locate_segmenter(model))
        composites = Composites("held_out", pictures)
        self.pictures = [composites.labelled(i) for i in range(pictures)]

    def row(self, model: Any, **about: Any) -> dict[str, Any]:
        """IoU of every object by kind of prompt, and what the row is about."""
        tool = Segmenter(model, self.processor)
        found: dict[str, list[float]] = {kind: [] for kind in PROMPTS}
        for picture, masks in self.pictures:
            for kind, ask in PROMPTS.items():
                answers = tool.answers(picture, [ask(mask) for mask in masks])
                found[kind] += [iou(answer, mask) for answer, mask in zip(answers, masks, strict=True)]
        params = sum(p.numel() for p in model.vision_encoder.parameters())
        where = {"hardware": hardware_description(), "date": str(datetime.date.today())}
        return {**about, "params": params, **found, **where}


def cases(keeps: list[float], seeds: int) -> list[tuple[Method, float, int]]:
    """All rows; what decides comes first, so that an interrupted benchmark says most."""
    main = [(m, keep, seed) for seed in range(seeds) for keep in keeps for m in (OURS, *BASELINES)]
    return main + [(m, keep, seed) for seed in range(seeds) for keep in keeps for m in ABLATION]


def run(args: argparse.Namespace, out: Path, cache: Path) -> None:
    """Measure all cases that `out` does not hold yet; of them every ``args.parts``-th, from the ``args.part``-th on."""
    done = {(r["label"], r["keep"], r["seed"]) for r in read_rows(out)}
    mine = cases(args.keeps, args.seeds)[args.part :: args.parts]
    todo = [case for case in mine if (case[0].label, *case[1:]) not in done]
    judge, began = Judge(args.model, args.pictures), time.monotonic()
    if DENSE not in {label for label, *_ in done} and not args.part:
        add_row(out, judge.row(load_sam(locate_segmenter(args.model)), label=DENSE, keep=1.0, seed=0, cpu_seconds=0.0))
    for n, (method, keep, seed) in enumerate(todo, start=1):
        config = options(args.model, method, keep, seed, args.steps, cache)
        teacher, started = Teacher.load(config, cache, print), time.process_time()
        model = slim(teacher, method, config).model
        seconds = time.process_time() - started
        row = judge.row(model, label=method.label, keep=keep, seed=seed, steps=args.steps, cpu_seconds=seconds)
        add_row(out, row)
        left = (time.monotonic() - began) / n * (len(todo) - n) / 60
        means = ", ".join(f"{kind} {np.mean(row[kind]):.3f}" for kind in PROMPTS)
        print(f"{n}/{len(todo)}  {method.label} keep {keep} seed {seed}: {means}  {left:.0f} min left", flush=True)


def table(rows: list[dict[str, Any]], methods: Sequence[str], keeps: list[float]) -> str:
    """Markdown: mean IoU for points / boxes by method and budget, mean over seeds +- their spread."""
    lines = [f"| method | {' | '.join(f'keep {keep:g}' for keep in keeps)} |", "|---|" + "---|" * len(keeps)]
    for label in (m for m in methods if any(r["label"] == m for r in rows)):
        cells = [_cell([r for r in rows if r["label"] == label and r["keep"] == keep]) for keep in keeps]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    return " / ".join(_mean([float(np.mean(r[kind])) for r in rows]) for kind in PROMPTS) if rows else ""


def _mean(values: list[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def gains(rows: list[dict[str, Any]], methods: Sequence[str], keeps: list[float]) -> str:
    """Markdown: what the recipe wins over the others, paired by object, on the seeds that both have."""
    lines = [f"| slimsam over | {' | '.join(f'keep {keep:g}' for keep in keeps)} |", "|---|" + "---|" * len(keeps)]
    for label in (m for m in methods if any(r["label"] == m for r in rows)):
        lines.append(f"| {label} | {' | '.join(_gain(rows, label, keep) for keep in keeps)} |")
    return "\n".join(lines)


def _gain(rows: list[dict[str, Any]], label: str, keep: float) -> str:
    """Gains for points / boxes in points of mIoU, with the interval."""
    by = {(r["label"], r["seed"]): r for r in rows if r["keep"] == keep}
    seeds = [seed for name, seed in by if name == label and (OURS.label, seed) in by]
    if not seeds:
        return ""
    cells = []
    for kind in PROMPTS:
        ours, theirs = (np.mean([by[name, seed][kind] for seed in seeds], axis=0) for name in (OURS.label, label))
        gain = paired_gain(100 * ours, 100 * theirs)
        cells.append(f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]")
    return " / ".join(cells)


def report(rows: list[dict[str, Any]], keeps: list[float]) -> str:
    """All tables, with what they show and where and when their rows were measured."""
    dense = [r for r in rows if r["label"] == DENSE]
    made = "; ".join(sorted({f"{r['hardware']}, {r['date']}" for r in rows}))
    steps = ", ".join(str(steps) for steps in sorted({r["steps"] for r in rows if "steps" in r}))
    sizes = [f"keep {k:g}: {r['params']:,}" for k in keeps for r in rows if (r["label"], r["keep"]) == (OURS.label, k)]
    baselines, parts = [m.label for m in BASELINES], [m.label for m in ABLATION]
    return "\n".join(
        [
            f"\n{len(dense[0]['point']) if dense else 0} objects of held-out pictures, one point / one box each, mean "
            f"IoU in %, ± the spread over seeds; {steps} alignment steps in all ({made}).",
            f"Parameters of the encoder: {'; '.join(dict.fromkeys(sizes))}; dense "
            f"{dense[0]['params'] if dense else 0:,}, mean IoU {_cell(dense)}.\n",
            table(rows, [OURS.label, *baselines], keeps),
            "\nWhat the recipe wins over them, paired by object, in points (bootstrap 95 %):\n",
            gains(rows, baselines, keeps),
            "\nThe recipe with one part changed, and what the part is worth:\n",
            table(rows, parts, keeps),
            "",
            gains(rows, parts, keeps),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sample:emoji_sam")
    parser.add_argument("--keeps", type=float, nargs="+", default=[0.5, 0.23])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--parts", type=int, default=1, help="processes that share the rows")
    parser.add_argument("--part", type=int, default=0, help="which of them this one is")
    parser.add_argument("--cache", type=Path, default=Path(gettempdir()) / "gencompress-sam-quality")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print what was measured so far and measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = RESULTS / f"sam_quality-{args.steps}.jsonl"
    if not args.show:
        run(args, out, args.cache)
    print(report(read_rows(out), args.keeps))


if __name__ == "__main__":
    main()
