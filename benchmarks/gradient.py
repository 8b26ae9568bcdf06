"""The end-to-end gradient by time-step checkpointing against plain backpropagation through the unrolled run.

    python -m benchmarks.gradient

On the bundled pixel pipeline with random masks per sample, for several numbers of steps T: peak memory, CPU time, and
the greatest relative difference of the gradients. Memory is measured in a process of its own for every figure. Times
are CPU times of turns (checkpointed, plain, ...) in one process, the ratio is the median over the turns, so other work
on the machine disturbs both alike. Plain backpropagation is timed with frozen weights, as the masks need it, and once
more with weights that want gradients, as a pipeline has them when it is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gencompress
from benchmarks.record import record, table
from gencompress.core.gate import gated, hard_concrete
from gencompress.core.trajectory import final_latents, gate_gradient
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.metrics import peak_memory

SAMPLE, BATCH = "emoji32_ddpm", 4
STEPS = (5, 10, 20, 40)
Gradients = tuple[float, dict[str, Tensor]]


class Case:
    """A run of T steps with fixed random gates, and the squared error to the dense result as loss."""

    def __init__(self, steps: int) -> None:
        self.model = Diffusion.of(gencompress.load(f"sample:{SAMPLE}"), steps=steps, scheduler="ddim")
        self.run, self.groups = self.model.denoising, self.model.groups
        self.batch = self.model.batch(range(BATCH))
        dense = final_latents(self.run, self.batch)
        self.loss: Callable[[Tensor], Tensor] = lambda latents: (latents - dense).square().mean()
        generator = torch.Generator().manual_seed(0)
        noise = {g.name: torch.rand(BATCH, g.size, generator=generator) for g in self.groups}
        self.gates = {name: hard_concrete(torch.ones_like(u), u) for name, u in noise.items()}

    def checkpointed(self) -> Gradients:
        """One step in memory at a time."""
        return gate_gradient(self.run, self.batch, self.groups, self.gates, self.loss)

    def plain(self) -> Gradients:
        """The graph of all steps."""
        leaves = {name: gate.clone().requires_grad_() for name, gate in self.gates.items()}
        with gated(self.run.module, self.groups, leaves):
            state = self.run.start(self.batch)
            for i in range(self.run.steps):
                state = self.run.step(i, state, self.batch)
            loss = self.loss(state[0])
            loss.backward()
        return loss.item(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}

    def unfrozen(self) -> Gradients:
        """`plain`, with gradients of the weights."""
        module = self.run.module.requires_grad_(True)
        try:
            return self.plain()
        finally:
            module.requires_grad_(False).zero_grad()

    def latents_bytes(self) -> int:
        """Bytes of the states of all steps, which any gradient through the run has to keep."""
        state = self.run.start(self.batch)
        return self.run.steps * sum(t.numel() * t.element_size() for t in state)


def difference(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> float:
    """Greatest ``max |a - b| / max |b|`` over the groups."""
    return max(float((ours[n] - plain[n]).abs().max() / plain[n].abs().max().clamp_min(1e-30)) for n in plain)


def measure_memory(steps: int, method: str) -> int:
    """Peak bytes of one gradient in a fresh process.

    Blocks from 64 KiB on are handed back when freed: a peak is then that of the tensors, not of the allocator's hoard.
    """
    command = [sys.executable, "-m", "benchmarks.gradient", "--memory", method, "--steps", str(steps)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return int(json.loads(done.stdout))


def memory_here(steps: int, method: str) -> int | None:
    """Peak bytes of one gradient in this process, after a short run that lets libraries allocate what they keep."""
    Case(1).checkpointed()
    case = Case(steps)
    return peak_memory(getattr(case, method)).bytes


def measure_times(steps: int, turns: int) -> dict[str, Any]:
    """CPU seconds of every method (medians), ratios to the plain ones (medians over turns), and the difference."""
    case = Case(steps)
    seconds: dict[str, list[float]] = {"checkpointed": [], "plain": [], "unfrozen": []}
    found: dict[str, Gradients] = {}
    for turn in range(turns + 1):
        for method, values in seconds.items():
            start = time.process_time()
            found[method] = getattr(case, method)()
            if turn:  # the first turn warms up
                values.append(time.process_time() - start)

    def ratio(method: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds["checkpointed"], seconds[method], strict=True))

    return {
        "cpu_s": {method: statistics.median(values) for method, values in seconds.items()},
        "turns": turns,
        "ratio_plain": ratio("plain"),
        "ratio_unfrozen": ratio("unfrozen"),
        "difference": difference(found["checkpointed"][1], found["plain"][1]),
    }


def measure(steps: int, turns: int) -> dict[str, Any]:
    """All figures for one T."""
    memory = {method: measure_memory(steps, method) for method in ("checkpointed", "plain")}
    return {"steps": steps, "peak_bytes": memory, "latents_bytes": Case(steps).latents_bytes()} | measure_times(
        steps, turns
    )


def growth(rows: list[dict[str, Any]]) -> float:
    """Growth of the checkpointed peak per extra step from the least to the largest T, latents aside, as a fraction."""
    first, last = (row["peak_bytes"]["checkpointed"] - row["latents_bytes"] for row in (rows[0], rows[-1]))
    return (last / first - 1) / max(1, rows[-1]["steps"] - rows[0]["steps"])


COLUMNS = (
    *("T", "peak MB", "peak MB, plain", "x less memory", "CPU s", "CPU s, plain, weights frozen", "x time"),
    *("CPU s, plain, weights with gradients", "x time", "difference of gradients"),
)


def show(rows: list[dict[str, Any]]) -> str:
    """The Markdown table."""
    return table(COLUMNS, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[object]:
    ours, plain = (row["peak_bytes"][m] / 1e6 for m in ("checkpointed", "plain"))
    cpu = row["cpu_s"]
    memory = (f"{ours:.1f}", f"{plain:.1f}", f"{plain / ours:.1f}")
    times = (cpu["checkpointed"], cpu["plain"], row["ratio_plain"], cpu["unfrozen"], row["ratio_unfrozen"])
    return [row["steps"], *memory, *times, f"{row['difference']:.1e}"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--work", type=int, default=60, help="steps to time per method and T, at least 3 runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=("checkpointed", "plain"), help="print the peak of one gradient and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(memory_here(args.steps[0], args.memory)))
        return
    rows = [measure(steps, max(3, args.work // steps)) for steps in sorted(args.steps)]
    model = Case(1)
    note = (
        f"{SAMPLE}, batch {BATCH}, {model.groups.units} gates per sample in {len(model.groups)} groups, fp32. The peak "
        f"of the checkpointed gradient grows by {growth(rows):.2%} per extra step, latents aside."
    )
    figures = {"model": SAMPLE, "batch": BATCH, "growth_per_step": growth(rows), "rows": rows}
    record("gradient", "python -m benchmarks.gradient", [show(rows), note], figures)


if __name__ == "__main__":
    main()
