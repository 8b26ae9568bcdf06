"""Budgets of scenes: what was asked of whole runs, what their files reached, and what that took.

    python -m benchmarks.splats_budgets biker.compressed.ply guitar.compressed.ply logo/

Every row is `gencompress run +experiment=splat_prune` with its default options in a process of its own: a .sog and a
.ply of at most a quarter of the bytes that the whole scene takes in that format, and a .ply of at least 35 and 40 dB.
Bytes are met at 98 to 100 %; quality from what was asked to 0.5 dB above it, on the run's 12 test views, by which it
chooses the number of splats. Beside it: PSNR of the same file on 12 views that the run never had, and on 8 close-ups.
Every row is appended to a JSON-lines file as soon as it is measured, so the command resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, add_row, read_rows, record, table
from gencompress.config import Config
from gencompress.domains.splats.domain import Dense, Views, place
from gencompress.domains.splats.fit import size_of
from gencompress.domains.splats.judge import Judge
from gencompress.formats import read_scene
from gencompress.run import launch
from gencompress.run.settings import quoted

PART = 0.25  # of the bytes of the whole scene
ROWS = (("max_mb", "sog"), ("min_psnr", 35), ("max_mb", "ply"), ("min_psnr", 40))
BANDS = {"max_mb": (0.98, 1.0), "min_psnr": (0.0, 0.5)}  # a part of what is asked; dB above it
FRESH = 7  # seed of the views that no run has


class Bench:
    """One scene, and views of it that no run has."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        scene = f"scene={quoted(str(self.path))}"
        config: Config = launch.compose(["+experiment=splat_prune", scene, "budget.keep=1"])[0]
        self.dense = Dense.load(config)
        rig = place(self.dense, config, 1, FRESH)
        self.fresh = Judge(self.dense, Views(rig, rig.scoring))

    def measure(self, budget: str, of: str | int) -> dict[str, Any]:
        """One row. CalledProcessError if the run ends with an error."""
        kind = of if isinstance(of, str) else "ply"
        asked = of if isinstance(of, int) else round(PART * size_of(self.dense.scene, kind) / 1e6, 2)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            options = [f"budget.{budget}={asked}", f"export.formats=[{kind}]", "run.quiet=true"]
            place = [f"scene={quoted(str(self.path))}", f"run.dir={quoted(str(run))}"]
            cost = cost_of([sys.executable, "-m", "gencompress", "run", "+experiment=splat_prune", *place, *options])
            found = json.loads((run / "eval" / "metrics.json").read_text(encoding="utf-8"))
            (file,) = found["files"]
            fresh = self.fresh.psnr(read_scene(run / file["path"]))
        reached = file["bytes"] / 1e6 if budget == "max_mb" else file["psnr_db"]
        low, high = BANDS[budget]
        met = low * asked <= reached <= high * asked if budget == "max_mb" else low <= reached - asked <= high
        return {
            "budget": budget, "format": kind, "asked": asked, "reached": reached, "met": met, "of": self.dense.units,
            "splats": found["pruned"]["units"], "psnr_db": file["psnr_db"], "fresh_db": fresh,
            "close_db": file["psnr_close_db"], **cost,
        }  # fmt: skip


def cost_of(command: list[str]) -> dict[str, float]:
    """CPU seconds and largest resident set of a command in MB. CalledProcessError if it fails."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1e3}


def run(path: Path, out: Path) -> None:
    """Measure all rows of a scene that `out` does not hold yet."""
    done = [(row["budget"], row["format"] if row["budget"] == "max_mb" else row["asked"]) for row in read_rows(out)]
    todo = [row for row in ROWS if row not in done]
    bench = Bench(path) if todo else None
    for row in todo:
        assert bench is not None
        found = bench.measure(*row)
        add_row(out, found)
        print(path.name, found, file=sys.stderr, flush=True)


def cells(scene: str, row: dict[str, Any]) -> list[object]:
    """One line of the table."""
    unit, digits = ("MB", 3) if row["budget"] == "max_mb" else ("dB", 2)
    asked, reached = (f"{row[key]:.{digits}f} {unit}" for key in ("asked", "reached"))
    splats = f"{row['splats']:,} of {row['of']:,}"
    quality = (f"{row[key]:.1f}" for key in ("psnr_db", "fresh_db", "close_db"))
    costs = (f"{row['cpu_s']:.0f}", f"{row['peak_mb']:.0f}")
    return [scene, f".{row['format']}", asked, reached, "yes" if row["met"] else "no", splats, *quality, *costs]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+", help="scene files, or the folder of an unbundled .sog")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines, figures = [], {}
    for path in args.scenes:
        name = path.name.split(".")[0]
        out = RESULTS / f"splats_budgets-{name}.jsonl"
        run(path, out)
        figures[name] = read_rows(out)
        lines += [cells(name, row) for row in figures[name]]
    columns = ["scene", "file", "asked", "reached", "in the band", "splats"]
    columns += ["PSNR dB, test views", "fresh views", "close-ups", "CPU s", "peak RSS MB"]
    command = f"python -m benchmarks.splats_budgets {' '.join(path.name for path in args.scenes)}"
    record("splats_budgets", command, [table(columns, lines)], {"scenes": figures})


if __name__ == "__main__":
    main()
