"""StyleGAN2 at 256 px, dense and with 70 % of every layer's channels removed: MACs, seconds, and how they compare.

    python -m benchmarks.stylegan_speed [--threads 1] [--runs 5]

Weights are random, which changes no time. Networks take turns, and CPU seconds of the process are counted, so that
other work on the machine disturbs little; of the runs of a network the fastest counts.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.record import record, table
from gencompress.domains.stylegan.config import GeneratorConfig, standard_generator
from gencompress.domains.stylegan.domain import StyleGan
from gencompress.domains.stylegan.load import Networks
from gencompress.domains.stylegan.model import Generator

RATIO = 0.7
BATCHES = (1, 4)
COLUMNS = (
    "generator",
    "widths",
    "params, M",
    "GMACs",
    "convolutions alone",
    "s at 1",
    "s at 4",
    "per MAC at 1",
    "at 4",
)


def networks() -> dict[str, StyleGan]:
    """Dense; the paper's widths; those widths to multiples of 8."""
    dense = standard_generator(256)
    paper = [width - int(RATIO * width) for width in dense.channels]
    widths = {
        "dense": dense.channels,
        "0.7 removed": tuple(paper),
        "the same, multiples of 8": tuple(round(width / 8) * 8 for width in paper),
    }
    return {name: StyleGan(Networks(_frozen(channels))) for name, channels in widths.items()}


def _frozen(channels: tuple[int, ...]) -> Generator:
    return Generator(GeneratorConfig(256, channels)).eval().requires_grad_(False)


def seconds(gan: StyleGan, batch: int) -> float:
    """CPU seconds of one batch."""
    z = gan.latents(range(batch))
    with torch.no_grad():
        begin = time.process_time()
        gan.generator(z)
    return time.process_time() - begin


def rows(gans: dict[str, StyleGan], runs: int) -> list[dict[str, Any]]:
    """One row per network."""
    best: dict[tuple[str, int], float] = {}
    for _ in range(runs + 1):  # the first warms up, and is never the fastest
        for name, gan in gans.items():
            for batch in BATCHES:
                best[name, batch] = min(best.get((name, batch), float("inf")), seconds(gan, batch))
    found = []
    for name, gan in gans.items():
        found.append(
            {
                "generator": name,
                "channels": gan.generator.config.channels,
                "params": gan.cost("params").dense,
                "macs": gan.cost("macs").dense,
                "macs without filters": gan.cost("macs", filters=False).dense,
                **{f"seconds at {batch}": best[name, batch] for batch in BATCHES},
            }
        )
    return found


def realised(row: dict[str, Any], dense: dict[str, Any], batch: int) -> float:
    """How much faster, as a part of how many fewer MACs."""
    faster = dense[f"seconds at {batch}"] / row[f"seconds at {batch}"]
    return float(faster / (dense["macs"] / row["macs"]))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = rows(networks(), options.runs)
    cells = [
        [
            row["generator"],
            "-".join(str(width) for width in dict.fromkeys(row["channels"])),
            f"{row['params'] / 1e6:.1f}",
            f"{row['macs'] / 1e9:.2f}",
            f"{row['macs without filters'] / 1e9:.2f}",
            *(f"{row[f'seconds at {batch}']:.3f}" for batch in BATCHES),
            *(f"{realised(row, found[0], batch):.2f}" for batch in BATCHES),
        ]
        for row in found
    ]
    command = f"python -m benchmarks.stylegan_speed --threads {options.threads} --runs {options.runs}"
    record("stylegan_speed", command, [table(COLUMNS, cells)], {"rows": found})


if __name__ == "__main__":
    main()
