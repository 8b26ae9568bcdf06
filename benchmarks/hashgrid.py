"""Speed of the hash grid on the CPU, beside plain torch in the same run and the figures of a C++ prototype.

    python -m benchmarks.hashgrid

Random points, 16 levels of 2 features, resolutions 16 to 2048, tables of 2^17 and 2^19 entries. Every time is the least
of some repeats; gradients are those of the table alone, as in training, and with those of the points beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.rasterizer import least
from benchmarks.record import record, table
from gencompress.kernels import HashLayout, encode, hash_grid_torch

POINTS = 1 << 18
LOG2 = (17, 19)
PROTOTYPE = {17: (52, 87), 19: (93, 122)}  # C++, wall ms on one thread of a quiet machine
Encoder = Callable[[Tensor, Tensor, HashLayout], Tensor]


def times(run: Encoder, layout: HashLayout, repeats: int, positions: bool = False) -> dict[str, dict[str, float]]:
    """Forward, and backward alone; CPU and wall ms."""
    dice = torch.Generator().manual_seed(0)
    points = torch.rand(POINTS, 3, generator=dice, requires_grad=positions)
    features = torch.rand(layout.entries, 2, generator=dice, requires_grad=True)
    out = run(points, features, layout)
    gradient = torch.randn(out.shape, generator=dice)
    inputs = (points, features) if positions else (features,)

    @torch.no_grad()
    def forward() -> None:
        run(points, features, layout)

    def backward() -> None:
        torch.autograd.grad(out, inputs, gradient, retain_graph=True)

    return {"forward": least(forward, repeats), "backward": least(backward, repeats)}


def measure(log2_entries: int, repeats: int) -> dict[str, Any]:
    """Kernels and torch at one size of table."""
    layout = HashLayout.geometric(16, 16, 2048, log2_entries)
    return {
        "log2_entries": log2_entries,
        "entries": layout.entries,
        "threads": torch.get_num_threads(),
        "kernels": times(encode, layout, repeats),
        "kernels_with_points": times(encode, layout, repeats, positions=True),
        "torch": times(hash_grid_torch.encode, layout, 1),
    }


def row(figures: dict[str, Any]) -> list[object]:
    """Cells of the table."""
    cells: list[object] = [f"2^{figures['log2_entries']}", figures["threads"]]
    for name in ("kernels", "kernels_with_points", "torch"):
        found = figures[name]
        cells += [f"{found['forward']['cpu_ms']:.0f} / {found['backward']['cpu_ms']:.0f}"]
    ours, theirs = (
        sum(figures[name][way]["cpu_ms"] for way in ("forward", "backward")) for name in ("kernels", "torch")
    )
    forward, backward = PROTOTYPE[figures["log2_entries"]]
    against = [figures["kernels"][way]["cpu_ms"] / of for way, of in (("forward", forward), ("backward", backward))]
    return [*cells, f"{theirs / ours:.0f}x", f"{forward} / {backward}", f"{against[0]:.2f} / {against[1]:.2f}"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = [measure(log2, args.repeats) for log2 in LOG2]
    columns = ["table", "threads", "kernels fwd / bwd, CPU ms", "with points", "torch", "torch / kernels"]
    found = table([*columns, "C++ prototype, 1 thread", "kernels / prototype"], [row(f) for f in figures])
    command = "python -m benchmarks.hashgrid" + (f" --threads {args.threads}" if args.threads != 1 else "")
    record("hashgrid", command, [found], {"points": POINTS, "encoding": figures})


if __name__ == "__main__":
    main()
