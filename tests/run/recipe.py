"""A small recipe with what real ones have: a long stage with checkpoints, a plan, a folder of files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gencompress.run import Run, StageContext
from gencompress.run.atomic import write_file, write_json

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    dir: str | None = field(default=None, metadata={"free": True})
    quiet: bool = field(default=True, metadata={"free": True})
    tracker: str = field(default="none", metadata={"free": True})


@dataclass
class Options:
    steps: int = 12
    lr: float = 0.1
    pause: float = 0.0
    run: Process = field(default_factory=Process)


def learn(ctx: StageContext, options: Options) -> None:
    """A random walk whose outcome depends on every step and on the generator's state."""
    generator = torch.Generator().manual_seed(3)
    value, start = torch.zeros(5), 0
    if (saved := ctx.load_checkpoint()) is not None:
        value, start = saved.tensors["value"], saved.step
        generator.set_state(saved.tensors["generator"])
        assert saved.meta == {"lr": options.lr}
    for step in range(start, options.steps):
        value = value * 0.9 + options.lr * torch.randn(5, generator=generator)
        time.sleep(options.pause)
        ctx.progress(step + 1, options.steps, norm=float(value.norm()))
        if (step + 1) % 3 == 0 or ctx.stop_requested:
            state = {"value": value, "generator": generator.get_state()}
            ctx.save_checkpoint(step + 1, state, {"lr": options.lr})
        ctx.stop_if_requested()
    write_file(ctx.dir / "scores.safetensors", lambda path: save_file({"scores": value}, path))


def plan(ctx: StageContext, scores: torch.Tensor) -> None:
    write_json(ctx.dir / "plan.json", {"keep": scores.argsort()[:3].sort().values.tolist(), "asked": 0.6})


def export(ctx: StageContext, keep: list[int]) -> None:
    (ctx.dir / "unet").mkdir()
    (ctx.dir / "model_index.json").write_text(json.dumps({"unet": ["gencompress", "Tiny"]}))
    (ctx.dir / "unet" / "weights.bin").write_bytes(bytes(keep) * 1000)


def read_scores(folder: Path) -> torch.Tensor:
    return load_file(folder / "scores.safetensors")["scores"]


def read_plan(folder: Path) -> list[int]:
    return json.loads((folder / "plan.json").read_text())["keep"]


def recipe(run: Run) -> None:
    scores = run.stage("scores", learn, run.config, load=read_scores)
    keep = run.stage("plan", plan, scores, load=read_plan)
    run.stage("export", export, keep)


def execute(path: Path, options: Options | None = None) -> None:
    with Run.open(path, options or Options()) as run:
        recipe(run)


def artefacts(path: Path) -> dict[str, bytes]:
    """Every file that a user keeps; the journal and the times in the manifest are a matter of history."""
    history = {"journal.jsonl", "manifest.json", ".lock"}
    files = (p for p in path.rglob("*") if p.is_file() and p.name not in history)
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(files)}


def in_child(work: Callable[[], object]) -> int:
    """Start `work` in a forked child and return its process id; its exit code is 1 if an error is raised."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def wait(child: int) -> int:
    """Exit code of a child, negative when a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
