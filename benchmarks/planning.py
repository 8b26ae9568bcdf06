"""Plan SDXL's UNet and a FLUX-dev-size transformer without their weights: seconds and memory.

    python benchmarks/planning.py

Each model is built from its public config on the meta device in a process of its own; groups, the cost model in
parameters and in MACs, and the solver run with random scores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

# config.json of stabilityai/stable-diffusion-xl-base-1.0 (unet) and black-forest-labs/FLUX.1-dev (transformer),
# as far as it differs from the defaults of diffusers
CONFIGS = {
    "sdxl": (
        "UNet2DConditionModel",
        {
            "sample_size": 128,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "projection_class_embeddings_input_dim": 2816,
            "transformer_layers_per_block": [1, 2, 10],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": True,
        },
    ),
    "flux": ("FluxTransformer2DModel", {"guidance_embeds": True}),
}
KEEP = 0.7


def plan(name: str) -> dict[str, float | int | str]:
    """Plan one model; figures of each step in seconds, and the peak resident memory of this process."""
    import diffusers
    import torch

    from gencompress.core.budget import Budget, solve
    from gencompress.domains.diffusion.costs import cost_model
    from gencompress.domains.diffusion.groups import groups_of

    native, config = CONFIGS[name]
    model_class = getattr(diffusers, native)  # diffusers imports it, and what it needs, only now
    figures: dict[str, float | int | str] = {"model": native}
    clock = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        figures[step] = round(now - clock, 2)
        clock = now

    with torch.device("meta"):
        model = model_class(**config)
    lap("build_s")
    groups = groups_of(model)
    lap("groups_s")
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.size, generator=generator) for g in groups}
    figures |= {"params": sum(p.numel() for p in model.parameters()), "groups": len(groups), "units": groups.units}
    for metric in ("params", "macs"):
        clock = time.perf_counter()
        cost = cost_model(model, groups, metric)  # type: ignore[arg-type]
        lap(f"{metric}_cost_s")
        budget = Budget(metric=metric, keep=KEEP)  # type: ignore[arg-type]
        made = solve(groups, scores, budget, cost)
        lap(f"{metric}_solve_s")
        figures[f"{metric}_below_budget"] = int(budget.limit(cost)) - int(made.budget["reached"])
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures |= {"cpu": round(used.ru_utime + used.ru_stime, 1), "peak_rss": used.ru_maxrss * 1024}  # given in KiB
    return figures


def main() -> None:
    """Run every model in a fresh process and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(CONFIGS), help="plan this one in this process and print JSON")
    chosen = parser.parse_args().model
    if chosen:
        print(json.dumps(plan(chosen)))
        return
    print("| model | params | groups | units | planning s | whole process s | its CPU s | peak RSS MB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in CONFIGS:
        start = time.perf_counter()
        run = [sys.executable, __file__, "--model", name]
        f = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
        wall = time.perf_counter() - start
        seconds = sum(v for k, v in f.items() if k.endswith("_s"))
        sizes = f"{f['params']:,} | {f['groups']} | {f['units']:,}"
        took = f"{seconds:.1f} | {wall:.1f} | {f['cpu']}"
        print(f"| {f['model']} | {sizes} | {took} | {f['peak_rss'] / 1e6:,.0f} |")
        print(f"  {name}: {json.dumps({k: v for k, v in f.items() if k.endswith(('_s', '_budget'))})}", file=sys.stderr)


if __name__ == "__main__":
    main()
