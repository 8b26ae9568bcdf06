"""How long a leaderboard of thousands of runs takes to build, and how smooth its page is.

    python -m benchmarks.board

Runs of one task, so all rows are in one table, which is the hardest case: half a hundred methods at forty budgets, four
pairs of 64-pixel pictures each, one in fifty failed. The browser's figures need Chromium with its driver, and
`pip install selenium`; without them that part is left out and the output says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from benchmarks.record import record, table
from gencompress.config import Config, DiffusionDomain, MagnitudeCriterion
from gencompress.run.settings import as_mapping

METHODS, PAIRS, SIDE = 50, 4, 64
BUILD = """
import sys, time
from pathlib import Path
from gencompress.board import write_board
cpu, wall = time.process_time(), time.monotonic()
write_board([Path(sys.argv[1])], Path(sys.argv[2]))
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(time.process_time() - cpu, time.monotonic() - wall, peak)
"""
# milliseconds from the call to the frame after it
FRAME = """
const done = arguments[arguments.length - 1], began = performance.now();
(() => { %s })();
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
"""
# longest and 95th percentile of the frames of a second of scrolling
SCROLL = """
const done = arguments[arguments.length - 1], frames = [];
let last = performance.now(), n = 0;
const step = (now) => {
  frames.push(now - last);
  last = now;
  window.scrollBy(0, 60);
  if (++n < 90) return requestAnimationFrame(step);
  frames.sort((a, b) => a - b);
  done([frames[Math.floor(0.95 * frames.length)], frames[frames.length - 1]]);
};
requestAnimationFrame(step);
"""
ACTIONS = {
    "sort by a column": "document.querySelectorAll('.rows thead button')[5].click()",
    "filter by a word": "const i = document.querySelector('[type=search]'); i.value = 'method-7';"
    " i.dispatchEvent(new Event('input'))",
    "filter by nothing": "const i = document.querySelector('[type=search]'); i.value = '';"
    " i.dispatchEvent(new Event('input'))",
    "show more rows": "document.querySelector('.more button').click()",
    "sort by another column": "document.querySelectorAll('.rows thead button')[3].click()",
    "other axis of the plot": "const s = document.querySelector('.choose-x'); s.selectedIndex = 1;"
    " s.dispatchEvent(new Event('change'))",
    "open a row": "document.querySelector('.rows tbody .open').click()",
}


def make_runs(folder: Path, count: int) -> None:
    """Write run directories as evaluated runs of a small UNet look."""
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8) for _ in range(PAIRS)]
    dense = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for p in pictures]
    for n in range(count):
        method, keep = n % METHODS, round(0.2 + 0.7 * (n // METHODS) / max(1, count // METHODS), 4)
        _make_run(folder / f"run-{n:05d}", f"method-{method}", keep, generator, dense, failed=n % 50 == 49)


def _make_run(
    run: Path, method: str, keep: float, generator: np.random.Generator, dense: list[Any], failed: bool
) -> None:
    run.mkdir(parents=True)
    config = as_mapping(Config(domain=DiffusionDomain(), criterion=MagnitudeCriterion()))
    config["criterion"]["name"], config["budget"]["keep"], config["model"]["path"] = method, keep, "org/model"
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    error = {"error": "ModelError", "message": "the model holds NaN"} if failed else {}
    events: list[dict[str, Any]] = [{"time": "2026-01-01", "event": "opened"}, {"event": "ended", **error}]
    (run / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if failed:
        return
    for kind in ("plan", "eval/dense", "eval/pruned"):
        (run / kind).mkdir(parents=True)
    groups = {f"block.{i}": {"size": 256, "keep": f"0-{int(256 * keep)}"} for i in range(120)}
    (run / "plan/plan.json").write_text(json.dumps({"source": {"weights": "ab" * 32}, "groups": groups}, indent=1))
    for i, pixels in enumerate(dense):
        noise = generator.normal(0, 15 * (1 - keep), pixels.shape)
        Image.fromarray(pixels).save(run / f"eval/dense/{i:03d}.png")
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(run / f"eval/pruned/{i:03d}.png")
    text = json.dumps(_metrics(method, keep, generator))
    (run / "eval/metrics.json").write_text(text)
    files = {"metrics.json": {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}}
    (run / "manifest.json").write_text(json.dumps({"schema": 1, "stages": {"eval": {"files": files, "seconds": 1.0}}}))


def _metrics(method: str, keep: float, generator: np.random.Generator) -> dict[str, Any]:
    psnr = (20 + 20 * keep + generator.normal(0, 1, 64)).tolist()
    side = {"params": 10**8, "macs": 10**10, "bytes": 4 * 10**8, "latency_s": {"median": 1.0}}
    return {
        "schema": 1, "model": "org/model", "method": method, "seeds": 64, "steps": 20, "scheduler": "DDIMScheduler",
        "budget": {"metric": "params", "keep": keep, "scope": "prunable"}, "date": "2026-01-01", "hardware": "a CPU",
        "dense": side, "pruned": {k: v * keep if k != "latency_s" else v for k, v in side.items()},
        "quality": {
            "psnr_db": {"mean": float(np.mean(psnr)), "se": 0.2, "per_image": psnr},
            "ssim": {"mean": 0.5 + 0.5 * keep, "se": 0.01, "per_image": psnr},
        },
        "images": {kind: [f"eval/{kind}/{i:03d}.png" for i in range(PAIRS)] for kind in ("dense", "pruned")},
        "command": f"gencompress run criterion={method} budget.keep={keep}",
    }  # fmt: skip


def build(runs: Path, site: Path) -> dict[str, float]:
    """CPU and wall seconds, and peak memory, of a process that builds the site."""
    command = [sys.executable, "-c", BUILD, str(runs), str(site)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    names = ("cpu_s", "wall_s", "peak_rss_bytes")
    figures = dict(zip(names, map(float, found), strict=True))
    return {**figures, "page_bytes": (site / "index.html").stat().st_size, "site_bytes": size}


def browse(page: Path) -> dict[str, float]:
    """Milliseconds until the page stands, of every action, and of frames while scrolling; empty without a browser."""
    try:
        from selenium import webdriver
    except ImportError:
        return {}
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(flag)
    driver_path = shutil.which("chromedriver")  # the system's, else selenium looks for one on the network
    service = webdriver.ChromeService(driver_path) if driver_path else None
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.set_script_timeout(120)
        driver.get(page.as_uri())
        entry = "const n = performance.getEntriesByType('navigation')[0]; return n.domComplete"
        found = {"load": float(driver.execute_script(entry))}
        p95, longest = driver.execute_async_script(SCROLL)
        found |= {"scroll, frame p95": p95, "scroll, longest frame": longest}
        for name, script in ACTIONS.items():
            found[name] = float(driver.execute_async_script(FRAME % script))
        return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs, site = Path(folder, "runs"), Path(folder, "site")
        began = time.monotonic()
        make_runs(runs, args.rows)
        print(f"{args.rows} runs made in {time.monotonic() - began:.0f} s", file=sys.stderr)
        built, browsed = build(runs, site), browse(site / "index.html")
    rows = [(name.replace("_", " "), value) for name, value in built.items()]
    tables = [table(("building", f"{args.rows} rows"), rows)]
    tables += [table(("in Chromium, ms", f"{args.rows} rows"), list(browsed.items()))] if browsed else []
    tables += [] if browsed else ["The page was not opened: selenium or Chromium is not installed."]
    figures = {"building": built, "browser_ms": browsed}
    record("board", f"python -m benchmarks.board --rows {args.rows}", tables, figures)


if __name__ == "__main__":
    main()
