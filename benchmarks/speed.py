"""How much of a saving in multiply-accumulates (MACs) arrives as a saving in time, without retraining, on the CPU.

    python -m benchmarks.speed

Two denoisers with random weights that are large enough for arithmetic to dominate, and the bundled samples. Every
variant of a model is timed in turns with the others, in CPU seconds of one forward pass; the speed-up is the median
over the turns of dense / pruned, and the yield is the speed-up divided by the ratio of MACs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gencompress
from benchmarks.record import record, table
from gencompress import scenes
from gencompress.core.budget import Budget, solve
from gencompress.core.cost import CostModel
from gencompress.core.group import Groups
from gencompress.criteria.gauss_newton import gauss_newton_scores
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.criteria.random import random_scores
from gencompress.criteria.taylor import divide_by_cost
from gencompress.domains.diffusion.costs import cost_model, example_inputs
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.prompts import read_prompts
from gencompress.domains.diffusion.removal import remove
from gencompress.metrics import measure_latencies
from gencompress.run import NullContext

KEEP = 0.7
SAMPLE_BATCH, TRAJECTORIES = 16, 16
UNET: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 512),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,  # diffusers reads this as the number of heads
    "cross_attention_dim": 512,
}
DIT: dict[str, Any] = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "num_layers": 8,
    "sample_size": 32,
    "out_channels": 8,
}
Scores = Callable[[CostModel], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Model:
    """A denoiser to be pruned and timed.

    Args:
        name: for the table.
        denoiser: the dense network.
        groups: its groups.
        inputs: keyword arguments of the timed forward pass.
        scores: by name, for a cost model.
    """

    name: str
    denoiser: nn.Module
    groups: Groups
    inputs: dict[str, Any]
    scores: Mapping[str, Scores]


def synthetic(native: str, config: dict[str, Any]) -> Model:
    """A denoiser with random weights: random scores thin out all layers, magnitudes only some of them."""
    import diffusers

    torch.manual_seed(0)
    denoiser = getattr(diffusers, native)(**config).eval().requires_grad_(False)
    groups = groups_of(denoiser)
    scores: dict[str, Scores] = {
        "random": lambda cost: random_scores(groups, 0),
        "magnitude": lambda cost: magnitude_scores(dict(denoiser.named_parameters()), groups, "rms"),
    }
    return Model(native, denoiser, groups, _filled(example_inputs(denoiser), 1), scores)


def sample(name: str) -> Model:
    """A bundled pipeline and the end-to-end score."""
    prompts = read_prompts(scenes.path(f"{name}_prompts.txt")) if name == "emoji64_sd" else None
    model = Diffusion.of(gencompress.load(f"sample:{name}"), steps=10, scheduler="ddim", prompts=prompts)
    found = gauss_newton_scores(model.subject, model.groups, TRAJECTORIES, 4, NullContext())
    scores: dict[str, Scores] = {"Gauss-Newton / cost": lambda cost: divide_by_cost(found, cost)}
    return Model(name, model.denoiser, model.groups, _filled(example_inputs(model.denoiser), SAMPLE_BATCH), scores)


def _filled(inputs: dict[str, Any], batch: int) -> dict[str, Any]:
    """Random numbers in place of zeros, for `batch` samples."""
    repeated = {name: value.repeat(batch, *[1] * (value.ndim - 1)) for name, value in inputs.items()}
    return {name: torch.randn_like(x) if x.is_floating_point() else x for name, x in repeated.items()}


def budgets(model: Model) -> dict[tuple[str, str], tuple[str, Budget]]:
    """The rows of the table: (budget, scores) -> name of the scores and budget."""
    first, *others = model.scores
    asked = {
        "params": Budget("params", keep=KEEP),
        "MACs": Budget("macs", keep=KEEP),
        "MACs, round_to=8": Budget("macs", keep=KEEP, round_to=8),
        "MACs of the total": Budget("macs", keep=KEEP, scope="total"),
        "MACs of the total, round_to=8": Budget("macs", keep=KEEP, scope="total", round_to=8),
    }
    rows = {(label, first): (first, budget) for label, budget in asked.items()}
    return rows | {("MACs", score): (score, asked["MACs"]) for score in others}


def measure(model: Model, turns: int) -> list[dict[str, Any]]:
    """One row of figures per variant, the dense one first."""
    macs = cost_model(model.denoiser, model.groups, "macs")
    costs = {"macs": macs, "params": cost_model(model.denoiser, model.groups, "params")}
    variants: dict[tuple[str, str], nn.Module] = {("dense", ""): model.denoiser}
    figures: dict[tuple[str, str], dict[str, Any]] = {("dense", ""): {"macs_ratio": 1.0, "params_ratio": 1.0}}
    for row, (score, budget) in budgets(model).items():
        cost = costs[budget.metric]
        plan = solve(model.groups, model.scores[score](cost), budget, cost)
        variants[row] = remove(model.denoiser, model.groups, plan)
        figures[row] = {f"{m}_ratio": c.dense / c.total(plan.counts) for m, c in costs.items()}
    times = cpu_times(variants, model.inputs, turns)
    dense = times["dense", ""]
    out = []
    for row, seconds in times.items():
        speedup = statistics.median(a / b for a, b in zip(dense, seconds, strict=True))
        ratios = figures[row]
        measured = {"cpu_s": statistics.median(seconds), "best_cpu_s": min(seconds), "speedup": speedup}
        heads = {"model": model.name, "budget": row[0], "scores": row[1]}
        out.append({**heads, **ratios, **measured, "yield": speedup / ratios["macs_ratio"], "turns": turns})
    return out


@torch.no_grad()
def cpu_times(
    variants: Mapping[tuple[str, str], nn.Module], inputs: dict[str, Any], turns: int
) -> dict[tuple[str, str], list[float]]:
    """CPU seconds of `turns` forward passes of every variant; other work on the machine does not count."""
    warmup = 2
    seconds: dict[tuple[str, str], list[float]] = {row: [] for row in variants}

    def forward(row: tuple[str, str]) -> None:
        start = time.process_time()
        variants[row](**inputs)
        seconds[row].append(time.process_time() - start)

    measure_latencies({str(row): lambda row=row: forward(row) for row in variants}, warmup, turns)
    return {row: values[warmup:] for row, values in seconds.items()}


def show(rows: list[dict[str, Any]]) -> str:
    """The Markdown table."""
    columns = ("model", f"keep {KEEP} of", "scores", "params x less", "MACs x less", "CPU ms", "x faster", "yield")
    names = ("model", "budget", "scores", "params_ratio", "macs_ratio")
    cells = [[*(row[n] for n in names), row["cpu_s"] * 1e3, row["speedup"], row["yield"]] for row in rows]
    return table(columns, cells)


def main() -> None:
    """Command line."""
    makers: dict[str, Callable[[], Model]] = {
        "unet": lambda: synthetic("UNet2DConditionModel", UNET),
        "dit": lambda: synthetic("DiTTransformer2DModel", DIT),
        **{name: lambda name=name: sample(name) for name in scenes.SAMPLES},
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=makers, default=list(makers))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [row for name in args.models for row in measure(makers[name](), args.turns)]
    note = (
        f"One forward pass in fp32, batch 1 for random weights, {SAMPLE_BATCH} for the samples. `keep` is a part of "
        "what the groups can lose unless it says total."
    )
    record("speed", "python -m benchmarks.speed", [show(rows), note], {"keep": KEEP, "rows": rows})


if __name__ == "__main__":
    main()
