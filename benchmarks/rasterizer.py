"""Speed of the CPU rasterizer: every stage alone, forward and backward, and exact scoring of whole scenes.

    python -m benchmarks.rasterizer
    python -m benchmarks.rasterizer --scenes biker.compressed.ply

Random scenes of splats whose radius to 3.33 standard deviations has the quantiles of the first table. "Raster" is
sorting into tiles and blending; projection with spherical harmonics of degree 3 is beside it. Every time is the least
of some repeats: CPU milliseconds, and wall milliseconds where several threads are used, which other work on the machine
lengthens. A contributing pair is a splat and a pixel to which it is drawn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import record, table
from gencompress import scenes
from gencompress.domains.splats.rig import rig_of
from gencompress.formats import read_scene
from gencompress.kernels import contributions
from gencompress.kernels.cpu import Arrays, Pixels, View, draw_view, project_view, pull_view, unproject_view
from gencompress.kernels.projection import NARROW, SHARP, SLOPE
from gencompress.kernels.rasterizer import Scene, Views
from gencompress.kernels.splats import Splats
from gencompress.kernels.tiles import sort_into_tiles
from tests.kernels import reference, worlds

CONFIGS = ((20_000, 400, 300), (20_000, 800, 600), (200_000, 400, 300), (200_000, 800, 600))
DEGREE = 3


def random_scene(count: int, width: int, height: int) -> tuple[Scene, Views]:
    """Splats all over the image, between depths 2 and 6, of the same size in pixels whatever the resolution."""
    generator = torch.Generator().manual_seed(0)
    focal = 0.9 * width
    z = 2 + 4 * torch.rand(count, generator=generator)
    place = torch.rand(count, 2, generator=generator) - 0.5
    spread = torch.randn(count, 1, generator=generator) * 0.55 + torch.randn(count, 3, generator=generator) * 0.4
    scene = Scene(
        torch.cat([place * torch.tensor([width, height]) * z[:, None] / focal, z[:, None]], 1),
        torch.randn(count, 4, generator=generator),
        1.95 * spread.exp() * z[:, None] / focal,
        0.1 + 0.8 * torch.rand(count, generator=generator),
        torch.randn(count, (DEGREE + 1) ** 2, 3, generator=generator) * 0.3,
        None,
        torch.zeros(3),
        DEGREE,
    )
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return scene, Views(torch.eye(4)[None], K[None], width, height)


def radii(view: View) -> list[float]:
    """The 10th, 50th and 90th percentile of the larger half-axis at 3.33 standard deviations, in pixels."""
    rows = view.rows[view.depths > 0].astype(np.float64)
    yy = 1 / rows[:, NARROW]
    xx = 1 / rows[:, SHARP] + rows[:, SLOPE] ** 2 * yy
    larger = (xx + yy) / 2 + np.hypot((xx - yy) / 2, rows[:, SLOPE] * yy)
    return [float(q) for q in np.percentile(3.33 * np.sqrt(larger), (10, 50, 90))]


def least(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """CPU and wall milliseconds of the fastest of `repeats` runs after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    return {"cpu_ms": 1e3 * min(s[0] for s in seconds), "wall_ms": 1e3 * min(s[1] for s in seconds)}


def stages(count: int, width: int, height: int, repeats: int) -> dict[str, Any]:
    """Figures of one random scene at the current number of threads."""
    scene, views = random_scene(count, width, height)
    splats, found = Arrays.of(scene), Arrays.of(scene).zeros()
    view = project_view(splats, views, 0, False, 3, True)
    size = (height, width)
    drawn = Pixels(np.empty((*size, 3), np.float32), np.empty(size, np.float32), np.empty(size, np.float32))
    noise = np.random.default_rng(0)
    gradient = Pixels(*(noise.normal(size=s).astype(np.float32) for s in ((*size, 3), size, size)))
    absolute = np.empty((count, 2), np.float32)
    arguments = (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors, views.viewmats, views.Ks)
    background = np.zeros(3, np.float32)
    draw_view(view, background, drawn)
    pulled = pull_view(view, drawn, gradient, False)
    runs: dict[str, Callable[[], Any]] = {
        "bin": lambda: sort_into_tiles(view.rows, view.depths, width, height),
        "project_bin": lambda: project_view(splats, views, 0, False, 3, True),
        "draw": lambda: draw_view(view, background, drawn),
        "pull": lambda: pull_view(view, drawn, gradient, False),
        "unproject": lambda: unproject_view(view, splats, 3, pulled, found, absolute),
        "score": lambda: contributions(*arguments, width, height, sh_degree=DEGREE),
    }
    times = {name: least(run, repeats) for name, run in runs.items()}
    hits = int(contributions(*arguments, width, height, sh_degree=DEGREE).hits.sum())
    return {
        "splats": count, "width": width, "height": height, "threads": torch.get_num_threads(), "radii_px": radii(view),
        "pairs_m": hits / 1e6, "overdraw": hits / (width * height), "tile_entries": len(view.tiles.splats), **times,
    }  # fmt: skip


def stage_rows(figures: list[dict[str, Any]]) -> list[list[object]]:
    """Cells of the table of stages."""
    rows: list[list[object]] = []
    for f in figures:
        for clock in ("cpu_ms", "wall_ms") if f["threads"] > 1 else ("cpu_ms",):
            at = {name: value[clock] for name, value in f.items() if isinstance(value, dict)}
            forward = at["bin"] + at["draw"]
            both = forward + at["pull"]
            each = f"{forward / f['pairs_m']:.2f} / {both / f['pairs_m']:.2f}"
            name = f"{f['splats'] // 1000}k {f['width']}x{f['height']}"
            project = at["project_bin"] - at["bin"]
            cells = (f["pairs_m"], at["bin"], forward, both, each, project, at["unproject"], at["score"])
            rows.append([name, f["threads"], clock[:-3], *cells])
    return rows


def score(path: Path, views: int, size: int) -> dict[str, Any]:
    """CPU seconds of exact scores of a scene file from a synthetic rig, compiled code at hand."""
    scene = read_scene(path)
    splats, rig = Splats.of(scene), rig_of(scene, views=views, size=size)
    splats.contributions(rig.scoring.take(slice(0, 1)))
    wall, cpu = time.perf_counter(), time.process_time()
    scores = splats.contributions(rig.scoring)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    heads = {"scene": path.name, "splats": len(scene), "views": views, "size": size}
    pairs = int(scores.hits.sum()) / 1e6
    return {**heads, "pairs_m": pairs, "threads": torch.get_num_threads(), "cpu_s": cpu, "wall_s": wall}


def dense(repeats: int) -> dict[str, Any]:
    """The dense fp64 torch reference of the tests, forward and backward, beside the kernels on the same small world."""
    world = worlds.make(count=1000, sh_degree=DEGREE)

    def kernels() -> None:
        leaves = world.map(lambda t: t.clone().requires_grad_())
        leaves.render().image.sum().backward()

    def torch_alone() -> None:
        leaves = world.map(lambda t: t.double().requires_grad_())
        reference.render(leaves).image.sum().backward()

    return {
        "splats": len(world), "width": world.width, "height": world.height,
        "kernels": least(kernels, repeats), "dense_torch": least(torch_alone, 1),
    }  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--scenes", type=Path, nargs="*", default=[], help="files to score, beside the bundled scene")
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--size", type=int, default=400)
    args = parser.parse_args()
    figures, scored = [], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        figures += [stages(*config, args.repeats) for config in CONFIGS]
        scored += [score(path, args.views, args.size) for path in (scenes.path("guitar"), *args.scenes)]
    torch.set_num_threads(1)
    small = dense(args.repeats)
    columns = ["scene", "threads", "clock, ms", "pairs M", "bin", "raster fwd", "raster f+b", "ns per pair fwd / f+b"]
    first = table([*columns, "project + SH", "its backward", "score"], stage_rows(figures))
    names = ("scene", "splats", "views", "size", "threads", "pairs_m", "cpu_s", "wall_s")
    second = table(["scored scene", *names[1:]], [[row[name] for name in names] for row in scored])
    ratio = small["dense_torch"]["cpu_ms"] / small["kernels"]["cpu_ms"]
    quantiles = ", ".join(f"{value:.1f}" for value in figures[-1]["radii_px"])
    notes = (
        f"Radius of the random splats, 10/50/90 %: {quantiles} px. Dense fp64 torch on {small['splats']} splats, "
        f"{small['width']}x{small['height']}, forward and backward: {small['dense_torch']['cpu_ms']:.0f} CPU ms, "
        f"the kernels {small['kernels']['cpu_ms']:.1f} ({ratio:.0f} times less)."
    )
    named = ["--scenes", *(path.name for path in args.scenes)] if args.scenes else []
    command = " ".join(["python -m benchmarks.rasterizer", *named])
    everything = {"stages": figures, "scored": scored, "dense": small}
    record("rasterizer", command, [first, second, notes], everything)


if __name__ == "__main__":
    main()
