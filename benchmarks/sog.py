"""SOG as it is written here and by splat-transform: bytes per splat, CPU seconds, and how far renders are off.

    python -m benchmarks.sog [SCENE ...] --peer COMMAND

COMMAND runs splat-transform, with what every call needs ("splat-transform -g cpu"); without it only this package is
measured. Scenes: the given ones, and of copies of the first one 25,000 and 500,000 splats with harmonics of degree 2,
500,000 of degree 3 and a million without. PSNR: mean over 12 whole views and 8 close-ups, against renders of the scene.
The peer's reading of the file that is written here is compared with ours, value by value.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import record, table
from benchmarks.trained_like import trained_like
from gencompress.domains.splats.rig import Rig, protocol_rig
from gencompress.formats import Cameras, SplatScene, deviations, read_scene, write_scene
from gencompress.formats.kmeans import kmeans
from gencompress.kernels import rasterize
from gencompress.kernels.splats import Splats
from gencompress.metrics.memory import peak_memory
from gencompress.scenes import SPLATS
from gencompress.scenes import path as sample

LARGE = ((25_000, 2), (500_000, 2), (500_000, 3), (1_000_000, 0))
RENDERED = 500_000  # splats up to which files are judged by renders


def renders(scene: SplatScene, cameras: Cameras) -> NDArray[np.float32]:
    splats = Splats.of(scene)
    parts = (splats.means, splats.quats, splats.scales, splats.opacities, splats.colors)
    views = []
    for i in range(len(cameras)):
        viewmat, intrinsics = (torch.as_tensor(part[i : i + 1]) for part in (cameras.viewmats, cameras.Ks))
        seen = rasterize(*parts, viewmat, intrinsics, cameras.width, cameras.height, sh_degree=splats.sh_degree)
        views.append(seen.image[0].clamp(0, 1).numpy())
    return np.stack(views)


class Judge:
    """PSNR of scenes against one: over whole views, and over close-ups."""

    def __init__(self, scene: SplatScene) -> None:
        self._rig: Rig = protocol_rig(scene)
        self._truth = [renders(scene, cameras) for cameras in (self._rig.test, self._rig.close)]

    def __call__(self, scene: SplatScene) -> list[float]:
        """In dB, the mean over the views."""
        found = []
        for cameras, truth in zip((self._rig.test, self._rig.close), self._truth, strict=True):
            errors = ((renders(scene, cameras) - truth) ** 2).mean((1, 2, 3))
            found.append(float(np.mean(-10 * np.log10(np.maximum(errors, 1e-12)))))
        return found


def write_here(source: Path, target: Path) -> dict[str, float]:
    """CPU seconds, seconds and megabytes beyond the scene's own of writing a .sog, in a process of its own."""
    code = f"from benchmarks.sog import timed_write; timed_write({str(source)!r}, {str(target)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed_write(source: str, target: str) -> None:
    """What `write_here` measures; prints JSON. Kernels are compiled before."""
    kmeans(np.random.default_rng(0).normal(size=(600, 9)).astype(np.float32), 300)
    scene = read_scene(source)
    cpu, wall = time.process_time(), time.perf_counter()
    peak = peak_memory(lambda: write_scene(target, scene)).bytes
    figures = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    print(json.dumps(figures | {"peak_mb": (peak or 0) / 1e6}))


def write_by(peer: list[str], source: Path, target: Path, limit: float) -> dict[str, float] | None:
    """The same of splat-transform, start and reading included; None if it is not done after `limit` CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    bound = (resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
    command = [*peer, "-q", "-w", str(source), str(target)]
    done = subprocess.run(command, preexec_fn=lambda: resource.setrlimit(*bound), capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        if cpu < limit * 0.9:
            raise SystemExit(f"{peer[0]} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
        return None
    return {"cpu_s": cpu, "wall_s": time.perf_counter() - begin}


Row = list[Any]


def row(name: str, writer: str, scene: SplatScene, file: Path, costs: dict[str, float], judge: Judge | None) -> Row:
    quality = judge(read_scene(file)) if judge else ["-", "-"]
    size = round(file.stat().st_size / len(scene), 2)
    return [name, writer, size, *quality, costs["cpu_s"], costs["wall_s"], costs.get("peak_mb", "-")]


def compare(name: str, scene: SplatScene, peer: list[str], limit: float, folder: Path) -> tuple[list[Row], Row]:
    """Rows of both writers, and the largest differences between both readers of the file that is written here."""
    source, own, other = folder / "in.ply", folder / "own.sog", folder / "peer.sog"
    write_scene(source, scene)
    judge = Judge(scene) if len(scene) <= RENDERED else None
    rows = [row(name, "gencompress", scene, own, write_here(source, own), judge)]
    if not peer:
        return rows, []
    costs = write_by(peer, source, other, limit)
    if costs is None:
        rows.append([name, "splat-transform", "-", "-", "-", f"> {limit:.0f}, stopped", "-", "-"])
    else:
        rows.append(row(name, "splat-transform", scene, other, costs, judge))
    if write_by(peer, own, folder / "by_peer.ply", limit) is None:
        raise SystemExit(f"splat-transform did not read {own} in {limit} CPU seconds")
    lost = deviations(read_scene(own), read_scene(folder / "by_peer.ply"))
    return rows, [name, *(f"{lost[key].largest:.1g}" if key in lost else "-" for key in ATTRIBUTES)]


ATTRIBUTES = ("position", "rotation", "scale", "opacity", "colour", "harmonics")


def clustering(n: int = 131_072, k: int = 16_384, dims: int = 24) -> list[Row]:
    """Mean squared error and CPU seconds of k-means by blocks, and of Lloyd's steps on all pairs."""
    points = trained_like(read_scene(sample("guitar")), n, 2).sh_rest.reshape(n, dims)
    kmeans(points[:600], 300)
    begin = time.process_time()
    centroids, labels = kmeans(points, k)
    rows = [["by blocks", error(points, centroids, labels), time.process_time() - begin]]
    begin = time.process_time()
    centroids = points[np.random.default_rng(1).choice(n, k, replace=False)]
    for step in range(1, 11):
        half = (centroids**2).sum(1) / 2
        labels = np.concatenate([(half - part @ centroids.T).argmin(1) for part in np.array_split(points, n // 2048)])
        order = np.argsort(labels, kind="stable")
        used, first = np.unique(labels[order], return_index=True)
        centroids[used] = np.add.reduceat(points[order], first) / np.bincount(labels)[used][:, None]
        if step in (1, 5, 10):
            rows.append([f"all pairs, {step} steps", error(points, centroids, labels), time.process_time() - begin])
    return rows


def error(points: NDArray[Any], centroids: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(((points - centroids[labels]) ** 2).sum(1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", type=Path, help="scene files (default: the bundled guitar)")
    parser.add_argument("--peer", type=str.split, default=[], help="command that runs splat-transform")
    parser.add_argument("--limit", type=float, default=120, help="CPU seconds after which the peer is stopped")
    args = parser.parse_args()
    scenes = {path.name.split(".")[0]: read_scene(path) for path in args.scenes}
    scenes = scenes or {name: read_scene(sample(name)) for name in SPLATS}
    first = next(iter(scenes.values()))
    rows, readings = [], []
    large = ((f"{n:,} splats, degree {degree}", trained_like(first, n, degree)) for n, degree in LARGE)
    with tempfile.TemporaryDirectory() as name:
        for label, scene in (*scenes.items(), *large):
            found, reading = compare(label, scene, args.peer, args.limit, Path(name))
            rows += found
            readings += [reading] if reading else []
            print(*found, reading, sep="\n", file=sys.stderr, flush=True)
    clusters = clustering()
    columns = ["scene", "writer", "bytes/splat", "PSNR dB", "close-ups dB", "CPU s", "wall s", "further MB"]
    tables = [table(columns, rows), table(["131,072 points, 16,384 centroids", "mean sq. error", "CPU s"], clusters)]
    if readings:
        tables.append(table(["largest difference between both readers", *ATTRIBUTES], readings))
    files = [dict(zip(columns, line, strict=True)) for line in rows]
    command = " ".join(["python -m benchmarks.sog", *(path.name for path in args.scenes), "--peer splat-transform"])
    record("sog", command, tables, {"files": files, "clusters": clusters, "readers": readings})


if __name__ == "__main__":
    main()
