"""What each scene format costs and keeps: speed beside gsply, bytes per splat, error of every attribute, and memory.

    python -m benchmarks.formats [SCENE ...]

Speed: one million random splats with harmonics of degree 3, best of three turns in which this package and gsply
alternate; CPU seconds, which a busy machine does not change. Fidelity: the given scenes and a synthetic one, written,
read and compared. Memory: ten million splats with harmonics, read, halved and written, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gsply
import numpy as np

from benchmarks.record import record, table
from gencompress.formats import FORMATS, SplatScene, deviations, read_scene, write_scene
from gencompress.formats.morton import morton_order
from gencompress.formats.splat import cover_order
from gencompress.metrics.memory import resident

TURNS = 3
ENDINGS = [ending for ending in FORMATS if ending.startswith(".")]


def synthetic(n: int, degree: int, seed: int = 0) -> SplatScene:
    """Random splats on the surface of a few spheres, with harmonics that vary slowly from place to place."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(16, 3)) * 2
    which = rng.integers(len(centres), size=n)
    outward = rng.normal(size=(n, 3)).astype(np.float32)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    k = (degree + 1) ** 2 - 1
    of_sphere = rng.normal(size=(len(centres), k, 3)) * 0.1

    def around(middle: object, spread: float, *shape: int) -> np.ndarray:
        return (middle + rng.normal(size=(n, *shape)) * spread).astype(np.float32)

    return SplatScene(
        means=(centres[which] + outward).astype(np.float32),
        quats=around(0, 1, 4),
        log_scales=around(-5, 0.7, 3),
        logits=around(1, 2),
        sh0=around(rng.normal(size=(len(centres), 3))[which], 0.3, 3),
        sh_rest=around(of_sphere[which], 0.05, k, 3),
    )


def cpu(action: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it gave."""
    begin = time.process_time()
    result = action()
    return time.process_time() - begin, result


def alternate(own: Callable[[], Any], peer: Callable[[], Any], fresh: Sequence[Path] = ()) -> list[float]:
    """Best CPU seconds of two calls that take turns. Files that they write are removed before each turn.

    A file that is overwritten keeps its pages in memory, which would favour who writes in place.
    """
    peer()  # compiles what it needs
    seconds: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for times, action in zip(seconds, (own, peer), strict=True):
            for file in fresh:
                file.unlink(missing_ok=True)
            times.append(cpu(action)[0])
    return [min(times) for times in seconds]


def speed(n: int, folder: Path) -> list[list[object]]:
    """Rows of (what, seconds here, seconds of gsply)."""
    scene = synthetic(n, 3)
    data = gsply.GSData(
        means=scene.means, scales=scene.log_scales, quats=scene.quats, opacities=scene.logits, sh0=scene.sh0,
        shN=scene.sh_rest,
    )  # fmt: skip

    def both(ending: str, write: Callable[[Path], Any], read: Callable[[Path], Any]) -> list[list[object]]:
        own, peer = folder / f"own{ending}", folder / f"peer{ending}"
        writing = alternate(lambda: write_scene(own, scene), lambda: write(peer), [own, peer])
        write_scene(own, scene)
        write(peer)
        return [
            [f"write {ending}", *writing],
            [f"read {ending}", *alternate(lambda: read_scene(own), lambda: read(peer))],
        ]

    rows = both(".ply", lambda path: gsply.plywrite(path, data), lambda path: gsply.plyread(path).make_contiguous())
    lazy = alternate(lambda: read_scene(folder / "own.ply"), lambda: gsply.plyread(folder / "peer.ply"))
    rows.append(["read .ply, which gsply leaves as rows of the file", *lazy])
    rows += both(".compressed.ply", lambda path: gsply.plywrite(path, data, compressed=True), gsply.plyread)
    return rows + both(".spz", lambda path: gsply.write_spz(path, data, version=4), gsply.read_spz)


def fidelity(name: str, scene: SplatScene, endings: list[str], folder: Path) -> list[list[object]]:
    """One row per format: bytes per splat, seconds, and root mean square and largest deviation of each attribute."""
    rows: list[list[object]] = []
    for ending in endings:
        sorted_scene = scene.take(written_order(scene, ending))  # so that the splats of both scenes correspond
        path = folder / f"{name}{ending}"
        written, _ = cpu(lambda path=path, scene=sorted_scene: write_scene(path, scene))
        read, back = cpu(lambda path=path: read_scene(path))
        lost = deviations(sorted_scene, back)
        size = path.stat().st_size / len(scene)
        cells = [f"{lost[key].rms:.2g} / {lost[key].largest:.2g}" if key in lost else "-" for key in ATTRIBUTES]
        rows.append([f"{name} {ending}", round(size, 2), written, read, *cells])
    return rows


def written_order(scene: SplatScene, ending: str) -> np.ndarray:
    """The order in which a format has the splats; for those that keep any order, one of the others."""
    if ending == ".splat":
        return cover_order(scene)
    means = scene.means.astype(np.float64)
    return morton_order(np.sign(means) * np.log1p(np.abs(means)) if ending == ".sog" else scene.means)


ATTRIBUTES = ("position", "rotation", "scale", "opacity", "colour", "harmonics")


def memory(n: int, folder: Path) -> dict[str, Any]:
    """Read n splats with harmonics, keep every other one, write them: seconds, peaks in MB, in a process of its own."""
    write_large(folder / "large.ply", n)
    code = f"from benchmarks.formats import halve; halve({str(folder / 'large.ply')!r}, {str(folder / 'half.ply')!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {"splats": n, **json.loads(done.stdout)}


def write_large(path: Path, n: int) -> None:
    """A .ply of n splats, the same million again and again, each at another place."""
    block = synthetic(min(n, 1_000_000), 3)
    write_scene(path, block)
    data = path.read_bytes()
    end = data.index(b"end_header\n") + len("end_header\n")
    head = data[:end].replace(f"element vertex {len(block)}".encode(), f"element vertex {n}".encode())
    rows = np.frombuffer(data[end:], np.float32).reshape(len(block), -1)
    with open(path, "wb") as file:
        file.write(head)
        for start in range(0, n, len(block)):
            part = rows[: min(len(block), n - start)].copy()
            part[:, 0] += start / len(block)
            file.write(part.data)


def halve(source: str, target: str) -> None:
    """What `memory` measures; prints JSON."""
    highest, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            highest[0] = max(highest[0], resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = resident("RssAnon")
    read, scene = cpu(lambda: read_scene(source))
    kept = np.arange(0, len(scene), 2)
    written, _ = cpu(lambda: write_scene(target, scene.take(kept)))
    stop.set()
    watcher.join()
    figures = {"read_s": read, "take_and_write_s": written}
    figures |= {"peak_anonymous_mb": (highest[0] - before) / 1e6, "peak_resident_mb": resident("VmHWM") / 1e6}
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", type=Path, help="scene files whose round trips are measured")
    parser.add_argument("--formats", nargs="+", choices=ENDINGS, default=ENDINGS)
    parser.add_argument("--splats", type=int, default=1_000_000, help="of the speed test (default 1,000,000)")
    parser.add_argument("--large", type=int, default=10_000_000, help="of the memory test (default 10,000,000)")
    args = parser.parse_args()
    scenes = {path.name.split(".")[0]: read_scene(path) for path in args.scenes}
    scenes["synthetic SH3"] = synthetic(100_000, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates = speed(args.splats, folder)
        kept = [row for label, scene in scenes.items() for row in fidelity(label, scene, args.formats, folder)]
        held = memory(args.large, folder)
    tables = [
        table([f"{args.splats:,} splats, degree 3", "CPU s", f"gsply {gsply.__version__}, CPU s"], rates),
        table(["scene and format", "bytes/splat", "write s", "read s", *ATTRIBUTES], kept),
        table(list(held), [list(held.values())]),
    ]
    command = " ".join(["python -m benchmarks.formats", *(os.path.basename(scene) for scene in args.scenes)])
    record("formats", command, tables, {"speed": rates, "fidelity": kept, "memory": held})


if __name__ == "__main__":
    main()
