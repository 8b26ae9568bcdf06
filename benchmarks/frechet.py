"""Fréchet distance of two sets of 50,000 features of 2048 dimensions, beside clean-fid, torchmetrics, torch-fidelity.

    python -m benchmarks.frechet

Every library gets the same float64 features, each in a process of its own; the time is CPU seconds from features to
distance, the memory the peak resident set above that of the process with the features loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import record, table
from gencompress.metrics import frechet_distance, peak_memory

Array = NDArray[np.float64]


def ours(a: Array, b: Array) -> float:
    return frechet_distance(a, b)


def clean_fid(a: Array, b: Array) -> float:
    from cleanfid.fid import fid_from_feats

    return float(fid_from_feats(a, b))


def torch_fidelity(a: Array, b: Array) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    first, second = (fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b))
    return float(fid_statistics_to_metric(first, second, False)["frechet_inception_distance"])


def torchmetrics(a: Array, b: Array) -> float:
    """Its own update and compute, from features on."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = a.shape[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, : self.num_features] if x.shape[-1] != 1 else x.new_zeros(1, self.num_features)

    metric = FrechetInceptionDistance(Identity(), input_img_size=(3, 1, 1), normalize=True).set_dtype(torch.float64)
    metric.used_custom_model = True
    for rows, real in ((a, True), (b, False)):
        for part in np.array_split(rows, max(1, len(rows) // 1000)):
            metric.update(torch.from_numpy(part)[:, None, None, :], real=real)
    return float(metric.compute())


LIBRARIES: dict[str, Callable[[Array, Array], float]] = {
    "gencompress": ours,
    "clean-fid": clean_fid,
    "torchmetrics": torchmetrics,
    "torch-fidelity": torch_fidelity,
}


def features(n: int, d: int, seed: int) -> Array:
    """Correlated features with a spectrum that falls like that of Inception's."""
    generator = np.random.default_rng(seed)
    mix = np.linalg.qr(generator.normal(size=(d, d)))[0] * (np.arange(1, d + 1) ** -0.7)[:, None]
    return np.maximum(generator.normal(size=(n, d)) @ mix + 0.05, 0)


def measure_here(library: str, folder: Path) -> dict[str, float]:
    """One library in this process."""
    a, b = (np.load(folder / f"{name}.npy") for name in "ab")
    call = LIBRARIES[library]
    call(a[:64, :16].copy(), b[:64, :16].copy())  # imports and first-call work
    out: dict[str, Any] = {}

    def run() -> None:
        began = time.process_time()
        out["value"] = call(a, b)
        out["cpu_s"] = time.process_time() - began

    out["peak_bytes"] = peak_memory(run).bytes
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "FOLDER"), help="measure one library and stop")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_here(args.one[0], Path(args.one[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate("ab"):
            np.save(Path(folder, f"{name}.npy"), features(args.images, args.dimension, seed))
        rows = [{"library": name, **_measure(name, folder, args.threads)} for name in LIBRARIES]
    torch.set_num_threads(args.threads)  # what `record` names
    best = min(row["cpu_s"] for row in rows[1:])
    least = min(row["peak_bytes"] for row in rows[1:])
    cells = [
        [r["library"], r["cpu_s"], r["cpu_s"] / best, f"{r['peak_bytes'] / 1e6:.0f}", f"{r['value']:.9g}"] for r in rows
    ]
    head = ("library", "CPU s", "of the fastest other", "peak MB above the features", "value")
    note = (
        f"{args.images} and {args.images} features of {args.dimension} dimensions, float64. The leanest other library "
        f"needs {least / 1e6:.0f} MB."
    )
    figures = {"rows": rows, "images": args.images, "dimension": args.dimension}
    record("frechet", "python -m benchmarks.frechet", [table(head, cells), note], figures)


def _measure(library: str, folder: str, threads: int) -> dict[str, Any]:
    count = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    command = [sys.executable, "-m", "benchmarks.frechet", "--one", library, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{library}: {found['cpu_s']:.1f} CPU s", flush=True)
    return found


if __name__ == "__main__":
    main()
