"""Quality of pruned scenes at equal number of splats: every criterion, every road, and merging by splat-transform.

    python -m benchmarks.splats_quality biker.compressed.ply guitar.compressed.ply

PSNR and SSIM to the input's own renders on 12 views and 8 close-ups that chose nothing, 400 x 400 pixels on black. The
criteria are scored from 24 views at one distance; the roads use the rig and the options of `gencompress splat`. Every
row is appended to a JSON-lines file as soon as it is measured, so the command resumes.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, add_row, read_rows, record, table
from gencompress.config import CRITERIA, Config, RefineRecover
from gencompress.criteria.leave_one_out import leave_one_out_scores
from gencompress.domains.splats.domain import Dense, Views, place, renders
from gencompress.domains.splats.judge import Judge
from gencompress.domains.splats.reduce import Reduced, reduce
from gencompress.domains.splats.rig import protocol_rig
from gencompress.domains.splats.road import Removal, highest, merge, repair, rounds
from gencompress.domains.splats.scores import one_shot_scores
from gencompress.formats import SplatScene, read_scene, write_scene
from gencompress.run import NullContext, launch

KEEPS = (0.5, 0.25, 0.1, 0.05)
ONE_SHOT: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "opacity": ("opacity", {}),
    "opacity x volume": ("opacity_volume", {}),
    "LightGaussian": ("light_gaussian", {}),
    "sensitivity (PUP)": ("sensitivity", {}),
    "spectral, paper-strict (SUNDAE)": ("spectral", {"mode": "paper_strict"}),
    "spectral, high+all": ("spectral", {"mode": "high_all"}),
    "spectral x leave-one-out": ("spectral", {"mode": "weighted"}),
    "blend weight, max (RadSplat)": ("blend_max", {}),
    "blend weight, sum": ("blend_sum", {}),
}
LEFT_OUT = "leave-one-out"
RESCORED = {"leave-one-out, re-scored": False, "leave-one-out, re-scored, with the graph": True}
RATIO = 0.84  # part that a round of these leaves
ROADS = ("rounds of deleting", "rounds of deleting and merging", "the whole recipe")
PEER, PEER_REFINED = "splat-transform", "splat-transform, then our refinement"


class Bench:
    """One scene, its judge, and what several rows share."""

    def __init__(self, path: Path, peer: str | None) -> None:
        overrides = ["+experiment=splat_prune", f"scene={path.absolute()}", "budget.keep=0.5", "run.threads=1"]
        self.config: Config = launch.compose(overrides)[0]
        self.dense, self.peer = Dense.load(self.config), peer
        self.protocol = protocol_rig(self.dense.scene)
        rig, recover = self.config.rig, self.config.recover
        assert isinstance(recover, RefineRecover)
        practice = place(self.dense, self.config, recover.views, rig.seed + 1).scoring
        self.views = Views(place(self.dense, self.config, rig.views, rig.seed), practice)
        self.judge = Judge(self.dense, Views(self.protocol, practice))
        self.scores: dict[str, Any] = {}
        self.states: dict[str, Reduced] = {}  # by method: other counts go on from there

    def scene(self, method: str, count: int) -> SplatScene:
        """`count` splats by a method."""
        if method in ROADS:
            return self._road(ROADS.index(method), count)
        if method in (PEER, PEER_REFINED):
            left = self._peer(count)
            return left if method == PEER else repair(left, self.dense, self.views, self.config, NullContext())[0]
        if method in RESCORED:
            return self._rescored(method, count)
        if method not in self.scores:
            self.scores[method] = self._scores(method)
        return self.dense.scene.take(highest(self.scores[method], count).kept)

    def _scores(self, method: str) -> Any:
        splats, cameras = self.dense.splats, self.protocol.scoring
        if method == LEFT_OUT:
            return leave_one_out_scores(splats, cameras)
        name, options = ONE_SHOT[method]
        return one_shot_scores(self.dense, cameras, CRITERIA[name](**options), NullContext())

    def _rescored(self, method: str, count: int) -> SplatScene:
        cameras, start = self.protocol.scoring, self.states.get(method)
        targets = renders(self.dense.splats, cameras)
        options: dict[str, Any] = {"ratio": RATIO, "neighbours": 0, "graph": RESCORED[method], "start": start}
        state = reduce(self.dense.splats, cameras, targets, count, NullContext(), **options)
        self.states[method] = state
        return self.dense.scene.take(state.ids)

    def _road(self, stage: int, count: int) -> SplatScene:
        config = replace(self.config, merge=replace(self.config.merge, pairs=stage > 0))
        whole, shared = stage == 2, ROADS[min(stage, 1)]  # the time of the whole recipe is that of all its stages
        state = rounds(self.dense, self.views, count, config, NullContext(), None if whole else self.states.get(shared))
        self.states[shared] = state
        removal = Removal.of(state.gone, state.merges)
        left = merge(self.dense.scene.take(removal.kept), removal.merges)
        return repair(left, self.dense, self.views, self.config, NullContext())[0] if whole else left

    def _peer(self, count: int) -> SplatScene:
        assert self.peer is not None
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder, "in.ply"), Path(folder, "out.ply")
            write_scene(source, self.dense.scene)
            words = [*shlex.split(self.peer), str(source), "--decimate", str(count), str(out)]
            subprocess.run(words, check=True, capture_output=True)
            return read_scene(out)

    def measure(self, method: str, keep: float) -> dict[str, Any]:
        """One row."""
        began = time.process_time()
        scene = self.scene(method, round(len(self.dense.scene) * keep))
        seconds = time.process_time() - began
        row: dict[str, Any] = {"method": method, "keep": keep, "units": len(scene), "cpu_s": seconds}
        for name, close in (("test", False), ("close", True)):
            quality = self.judge.quality(scene, close)
            row[name] = {"psnr_db": quality.psnr_db.mean, "ssim": quality.ssim.mean}
        return row


def run(path: Path, out: Path, peer: str | None, say: Callable[[str], None]) -> None:
    """Measure all rows that `out` does not hold yet."""
    done = {(row["method"], row["keep"]) for row in read_rows(out)}
    methods = [*ROADS[::-1], *ONE_SHOT, LEFT_OUT, *RESCORED, *([PEER, PEER_REFINED] if peer else [])]
    todo = [(method, keep) for method in methods for keep in KEEPS if (method, keep) not in done]
    bench = Bench(path, peer) if todo else None
    for n, (method, keep) in enumerate(todo, start=1):
        assert bench is not None
        row = bench.measure(method, keep)
        add_row(out, row)
        close = row["close"]["psnr_db"]
        say(f"{n}/{len(todo)} {path.name} {method} {keep:g}: {row['test']['psnr_db']:.2f} / {close:.2f} dB")


def show(rows: list[dict[str, Any]]) -> str:
    """Markdown: PSNR on the test views / on the close-ups, SSIM on the test views, by method and part kept."""
    order = [*ONE_SHOT, LEFT_OUT, *RESCORED, ROADS[0], PEER, ROADS[1], PEER_REFINED, ROADS[2]]
    lines = []
    for method in (m for m in order if any(row["method"] == m for row in rows)):
        cells = [_cell(next((r for r in rows if r["method"] == method and r["keep"] == k), None)) for k in KEEPS]
        lines.append([method, *cells])
    return table(["", *(f"{keep:.0%}" for keep in KEEPS)], lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['test']['psnr_db']:.1f} / {row['close']['psnr_db']:.1f}, {row['test']['ssim']:.3f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--peer", help="splat-transform's command: 'npx @playcanvas/splat-transform -g cpu'")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tables, figures = [], {}
    for path in args.scenes:
        name = path.name.split(".")[0]
        out = RESULTS / f"splats-{name}.jsonl"
        run(path, out, args.peer, lambda text: print(text, flush=True))
        figures[name] = read_rows(out)
        tables += [f"{name}: PSNR dB on test views / close-ups, SSIM on test views", show(figures[name])]
    command = f"python -m benchmarks.splats_quality {' '.join(p.name for p in args.scenes)}"
    record("splats_quality", command, tables, {"scenes": figures})


if __name__ == "__main__":
    main()
