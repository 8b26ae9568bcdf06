"""A large scene through the whole recipe: time and memory of every stage; and what the graph of its splats takes.

    python -m benchmarks.splats_million [--splats N] [--degree D] [--threads T]

The scene is a .ply of copies of the bundled guitar's splats with harmonics (`benchmarks.trained_like`), by default a
million of degree 3. `gencompress run +experiment=splat_prune` scores it from 64 views of 512 x 512 pixels, deletes and
merges down to a quarter, refines and writes a .ply, in a process of its own; nothing is judged. The graph is
that of 16 nearest neighbours of the same centres, with SUNDAE's high-pass response, in another process. Kernels are
compiled before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import record, table
from benchmarks.trained_like import trained_like
from gencompress.criteria.spectral import high_pass_response
from gencompress.formats import read_scene, write_scene
from gencompress.kernels.splats import Splats
from gencompress.metrics.memory import reset_peak, resident
from gencompress.run import Run, launch
from gencompress.run.settings import quoted
from gencompress.scenes import path as sample

RIG = ["rig.views=64", "rig.size=512"]
JUDGING = ("eval", "report")  # stages after the file is written, left out
WARM_UP = 2_000, ["recover.steps=1", "rig.views=2"]  # a first run, which compiles the kernels


class Stopwatch:
    """Wall and CPU seconds and the largest resident set in MB of the parts of this process's work."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self._start()

    def stop(self, name: str) -> None:
        """What happened since the last call, or since the start, was `name`."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self.parts.append({"part": name, "wall_s": wall, "cpu_s": cpu, "peak_mb": resident("VmHWM") / 1e6})
        self._start()

    def _start(self) -> None:
        reset_peak()
        self._wall, self._cpu = time.perf_counter(), time.process_time()


class TimedRun:
    """A run whose stages are timed."""

    def __init__(self, run: Run, watch: Stopwatch) -> None:
        self._run, self._watch = run, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def stage(self, name: str, make: Callable[..., object], *args: object, **options: Any) -> Any:
        """As `Run.stage`. What came before the first one is the reading of the scene."""
        if name in JUDGING:
            return None
        if not self._watch.parts:
            self._watch.stop("read")
        value = self._run.stage(name, make, *args, **options)
        self._watch.stop(name)
        return value


def timed_run(source: str, folder: str, options: list[str]) -> None:
    """Run the recipe for scenes; prints JSON of its parts."""
    config, _ = launch.compose(["+experiment=splat_prune", f"scene={quoted(source)}", *options])
    path = Path(folder)
    launch.set_threads(config.run.threads)
    watch = Stopwatch()
    with Run.open(path, config) as run:
        launch.recipe(config)(TimedRun(run, watch))
    print(json.dumps(watch.parts))


def timed_graph(source: str, threads: int) -> None:
    """The high-pass response of the centres of a scene; prints JSON."""
    torch.set_num_threads(threads)
    scene = read_scene(source)
    splats = Splats.of(replace(scene, sh_rest=scene.sh_rest[:, :0]))
    del scene
    watch = Stopwatch()
    high_pass_response(splats)
    watch.stop("graph")
    print(json.dumps(watch.parts[0]))


def in_process(code: str) -> Any:
    """The JSON that `code` prints last, run by another interpreter."""
    command = [sys.executable, "-c", f"import benchmarks.splats_million as b; {code}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def total(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all parts."""
    sums = {key: sum(part[key] for part in parts) for key in ("wall_s", "cpu_s")}
    return {"part": "all, to the written file", **sums, "peak_mb": max(part["peak_mb"] for part in parts)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splats", type=int, default=1_000_000)
    parser.add_argument("--degree", type=int, default=3, help="of the harmonics")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = ["budget.keep=0.25", "export.formats=[ply]", f"run.threads={args.threads}", "run.quiet=true"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, count, more in (("small", *WARM_UP), ("large", args.splats, RIG)):
            scene = folder / f"{label}.ply"
            write_scene(scene, trained_like(read_scene(sample("guitar")), count, args.degree))
            parts = in_process(f"b.timed_run({str(scene)!r}, {str(folder / label)!r}, {[*options, *more]!r})")
        graph = in_process(f"b.timed_graph({str(scene)!r}, {args.threads})")
    parts += [total(parts), graph | {"part": "kNN graph and spectral filter"}]
    rows = [[p["part"], *(f"{p[key]:.0f}" for key in ("wall_s", "cpu_s", "peak_mb"))] for p in parts]
    columns = [f"{args.splats:,} splats, degree {args.degree}", "wall s", "CPU s", "peak RSS MB"]
    words = [f"--{key} {value}" for key, value in vars(args).items() if value != parser.get_default(key)]
    command = " ".join(["python -m benchmarks.splats_million", *words])
    record("splats_million", command, [table(columns, rows)], {**vars(args), "parts": parts})


if __name__ == "__main__":
    main()
