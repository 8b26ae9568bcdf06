"""Quality at equal budget, without retraining: every criterion, learned masks, random, and torch-pruning.

    python -m benchmarks.quality --sample emoji32_ddpm --metric params

PSNR and SSIM to the dense pipeline on seeds that chose nothing. Every row is appended to a JSON-lines file as soon as
it is measured, so the command resumes; the Markdown table is made from that file.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gencompress
from benchmarks.record import RESULTS, add_row, read_rows
from gencompress import scenes
from gencompress.config import CompensateConfig, EcoDiffCriterion
from gencompress.core.budget import Budget, solve
from gencompress.core.plan import Plan
from gencompress.criteria.ecodiff import learn_gates
from gencompress.criteria.gauss_newton import gauss_newton_scores
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.criteria.random import random_scores
from gencompress.criteria.taylor import divide_by_cost, fisher_scores, taylor_scores
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.prompts import read_prompts
from gencompress.domains.diffusion.stages import held_out_error, refit
from gencompress.errors import BudgetError
from gencompress.metrics import hardware_description, image_quality, paired_gain
from gencompress.run import NullContext

STEPS, FIRST_SEED, BATCH = 10, 6000, 16
GUIDANCE = {"emoji32_ddpm": None, "emoji64_sd": 2.0}
CHEAP = ("taylor", "taylor / cost", "fisher", "fisher / cost", "gauss-newton", "gauss-newton / cost")
Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One measured row: a method at a budget, with its seed, and whether the next layers were refitted."""

    method: str
    keep: float
    seed: int = 0
    compensated: bool = False

    @property
    def label(self) -> str:
        """Name of the table's row."""
        return self.method + (" + compensation" if self.compensated else "")


class Bench:
    """A sample pipeline, its dense pictures, and scores made at most once."""

    def __init__(self, sample: str, metric: str, images: int) -> None:
        self.model = load(sample)
        self.metric: Any = metric
        self.cost = self.model.cost(self.metric)
        self.seeds = list(range(FIRST_SEED, FIRST_SEED + images))
        self.reference = self.model.images(self.seeds, BATCH)
        self.scores: dict[str, Scores] = {}

    def plan(self, case: Case) -> Plan:
        """The plan of a case under its budget."""
        budget = Budget(self.metric, keep=case.keep, uniform=case.method.endswith("uniform"))
        scores = self.learned(case, budget) if case.method == "ecodiff" else self.cheap(case)
        return solve(self.model.groups, scores, budget, self.cost)

    def cheap(self, case: Case) -> Scores:
        """Scores of a criterion that learns nothing."""
        name = f"{case.method}{case.seed}"
        if name not in self.scores:
            self.scores[name] = self._cheap(case)
        return self.scores[name]

    def _cheap(self, case: Case) -> Scores:
        model, kind = self.model, case.method.removesuffix(" / cost")
        if kind == "random":
            return random_scores(model.groups, case.seed)
        if kind.startswith("magnitude"):
            normalise: Any = kind.split()[1].replace("uniform", "rms")
            return magnitude_scores(dict(model.denoiser.named_parameters()), model.groups, normalise)
        if case.method.endswith(" / cost"):
            return divide_by_cost(self.cheap(replace(case, method=kind)), self.cost)
        if kind == "taylor":
            return taylor_scores(model.subject, model.groups, 320, BATCH, NullContext())
        if kind == "fisher":
            return fisher_scores(model.subject, model.groups, 320, BATCH, NullContext())
        return gauss_newton_scores(model.subject, model.groups, 48, 8, NullContext())

    def learned(self, case: Case, budget: Budget) -> Scores:
        """Learned masks with the default options of `gencompress run criterion=ecodiff`, kept for the repaired case."""
        name = f"ecodiff{case.keep}{case.seed}"
        if name not in self.scores:
            warm = self.cheap(Case("gauss-newton / cost", case.keep))
            model = replace(self.model, seed=case.seed)
            options = EcoDiffCriterion(seed=1000 * case.seed)
            self.scores[name], _ = learn_gates(
                model.subject, model.groups, self.cost, budget, options, NullContext(), warm
            )
        return self.scores[name]

    def measure(self, case: Case) -> dict[str, Any]:
        """PSNR and SSIM of every picture, the cost reached, and the seconds that selection and repair took."""
        began = time.process_time()
        if case.method.startswith("torch-pruning"):
            pruned, reached = self._peer(case)
        else:
            plan = self.plan(case)
            pruned, reached = self.model.prune(plan), int(plan.budget["reached"])
            if case.compensated:
                options = CompensateConfig()
                refit(self.model, pruned, plan, options.trajectories, BATCH, options.damping, NullContext())
        seconds = time.process_time() - began
        held_out = held_out_error(self.model, pruned, BATCH) if case.compensated else None
        quality = image_quality(self.reference, pruned.images(self.seeds, BATCH))
        kept = 1 - (self.cost.dense - reached) / self.cost.prunable
        figures = {"psnr_db": list(quality.psnr_db.per_image), "ssim": list(quality.ssim.per_image)}
        return {
            **vars(case),
            "label": case.label,
            "kept": kept,
            "cpu_seconds": seconds,
            "held_out": held_out,
            **figures,
            "hardware": hardware_description(),
            "date": str(datetime.date.today()),
        }

    def _peer(self, case: Case) -> tuple[Diffusion, int]:
        from benchmarks.peer_torch_pruning import torch_pruned

        importance: Any = case.method.split()[1]
        return torch_pruned(self.model, case.keep, self.metric, importance)


def load(sample: str) -> Diffusion:
    """A bundled sample as the benchmarks run it."""
    prompts = scenes.path(f"{sample}_prompts.txt") if sample == "emoji64_sd" else None
    return Diffusion.of(
        gencompress.load(f"sample:{sample}"),
        steps=STEPS,
        guidance_scale=GUIDANCE[sample],
        prompts=None if prompts is None else read_prompts(prompts),
    )


ORDER = (
    *("random", "magnitude raw", "magnitude rms", "magnitude mean", "magnitude uniform", *CHEAP),
    *("torch-pruning magnitude", "torch-pruning taylor", "ecodiff"),
    *("random + compensation", "gauss-newton / cost + compensation", "ecodiff + compensation", "default recipe"),
)


def cases(keeps: list[float], masks: int) -> list[Case]:
    """All rows of the table; what decides comes first, so that an interrupted benchmark says most."""
    first, rest, repeats = [], [], []
    for keep in sorted(keeps, key=lambda k: abs(k - 0.65)):
        first += [Case("ecodiff", keep, 0, compensated) for compensated in (False, True)]
        first += [Case(method, keep, 0, True) for method in ("gauss-newton / cost", "random")]
        first += [Case(method, keep) for method in ("gauss-newton / cost", "fisher / cost", "random", "magnitude rms")]
        rest += [Case("random", keep, seed) for seed in (1, 2)]
        rest += [Case(method, keep) for method in ("gauss-newton", "fisher", "taylor", "taylor / cost")]
        rest += [Case(f"torch-pruning {kind}", keep) for kind in ("magnitude", "taylor")]
        rest += [Case(f"magnitude {kind}", keep) for kind in ("raw", "mean", "uniform")]
        repeats += [Case("ecodiff", keep, seed, repaired) for seed in range(1, masks) for repaired in (False, True)]
    return first + rest + repeats


def run(sample: str, metric: str, keeps: list[float], masks: int, images: int, out: Path) -> None:
    """Measure all cases that `out` does not hold yet."""
    done = {(r["label"], r["keep"], r["seed"]) for r in read_rows(out)}
    todo = [c for c in cases(keeps, masks) if (c.label, c.keep, c.seed) not in done]
    if not todo:
        return
    bench, began = Bench(sample, metric, images), time.monotonic()
    for n, case in enumerate(todo, start=1):
        try:
            row = bench.measure(case)
        except BudgetError as error:  # of the baseline; what it cannot reach stays an empty cell
            print(f"{n}/{len(todo)}  {case.label} keep {case.keep}: {error}", flush=True)
            continue
        add_row(out, row)
        left = (time.monotonic() - began) / n * (len(todo) - n) / 60
        psnr = float(np.mean(row["psnr_db"]))
        print(
            f"{n}/{len(todo)}  {case.label} keep {case.keep} seed {case.seed}: {psnr:.2f} dB  {left:.0f} min left",
            flush=True,
        )


def default_recipe(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `gencompress run` as it is: the masks or the score that they started from, by held-out error."""
    chosen = []
    for row in (r for r in rows if r["label"] == "ecodiff + compensation"):
        rivals = [r for r in rows if r["label"] == "gauss-newton / cost + compensation" and r["keep"] == row["keep"]]
        best = min([row, *rivals], key=lambda r: r["held_out"])
        chosen.append({**best, "label": "default recipe", "seed": row["seed"]})
    return chosen


def table(rows: list[dict[str, Any]], keeps: list[float]) -> str:
    """Markdown: PSNR dB / SSIM by method and budget, mean over pictures, mean +- spread over mask seeds."""
    lines = ["| method | " + " | ".join(f"keep {k:g}" for k in keeps) + " |", "|---|" + "---|" * len(keeps)]
    for label in (o for o in ORDER if any(r["label"] == o for r in rows)):
        cells = [_cell([r for r in rows if r["label"] == label and r["keep"] == keep]) for keep in keeps]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    means = [float(np.mean(r["psnr_db"])) for r in rows]
    spread = f" ± {np.std(means, ddof=1):.1f}" if len(means) > 1 else ""
    return f"{np.mean(means):.1f}{spread} / {np.mean([np.mean(r['ssim']) for r in rows]):.3f}"


def gains(rows: list[dict[str, Any]], keeps: list[float]) -> str:
    """Markdown: paired gains, mean over mask seeds, bootstrap 95 % over pictures."""
    columns = ("keep", "best cheap score", "masks, over it", "default recipe, over it", "masks, over their start")
    lines = [f"| {' | '.join(columns)} | mask seeds |", "|---|---|---|---|---|---|"]
    for keep in keeps:
        here = [r for r in rows if r["keep"] == keep]
        cheap = [r for r in here if r["label"].startswith((*CHEAP, "magnitude")) and not r["compensated"]]
        if not cheap:
            continue
        best = max(cheap, key=lambda r: float(np.mean(r["psnr_db"])))
        start = [r for r in here if r["label"] == "gauss-newton / cost + compensation"]
        masks = [r for r in here if r["label"] == "ecodiff"]
        cells = [f"{keep:g}", f"{best['label']}, {np.mean(best['psnr_db']):.1f} dB", _gain(masks, [best])]
        cells += [_gain([r for r in here if r["label"] == "default recipe"], [best])]
        cells += [_gain([r for r in here if r["label"] == "ecodiff + compensation"], start), str(len(masks))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gain(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    if not ours or not theirs:
        return ""
    one, other = (np.mean([r["psnr_db"] for r in rows], axis=0) for rows in (ours, theirs))
    gain = paired_gain(one, other)
    return f"{gain.mean:+.1f} dB [{gain.low:+.1f}, {gain.high:+.1f}]"


def main(show: Callable[[str], None] = print) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", choices=sorted(GUIDANCE), default="emoji32_ddpm")
    parser.add_argument("--metric", choices=("params", "macs"), default="params")
    parser.add_argument("--keeps", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.5])
    parser.add_argument("--masks", type=int, default=3)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print what was measured so far and measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = RESULTS / f"quality-{args.sample}-{args.metric}.jsonl"
    if not args.show:
        run(args.sample, args.metric, args.keeps, args.masks, args.images, out)
    rows = read_rows(out)
    rows += default_recipe(rows)
    show(report(rows, args.keeps, f"{args.sample}, keep as a part of the prunable {args.metric}"))


def report(rows: list[dict[str, Any]], keeps: list[float], what: str) -> str:
    """Both tables, with what they show and where and when their rows were measured."""
    made = "; ".join(sorted({f"{r['hardware']}, {r['date']}" for r in rows}))
    lines = [
        f"{what}, {len(rows[0]['psnr_db']) if rows else 0} pictures, {STEPS} steps ({made}). PSNR in dB / SSIM to the",
        "dense pipeline, mean over pictures, ± the spread over seeds of masks or random scores. Empty: not measured,",
        "or out of the baseline's reach.\n",
        table(rows, keeps),
        "\nPaired gain in PSNR (bootstrap 95 % over pictures) of learned masks alone and of the default recipe over",
        "the best cheap score, and of masks over the score that they started from where both are compensated:\n",
        gains(rows, keeps),
    ]
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
