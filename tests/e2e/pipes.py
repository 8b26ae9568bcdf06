"""Tiny pipelines saved as folders, and recipes run on them in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gencompress.run import launch, read_journal
from tests.domains.diffusion import tiny

# As little as exercises everything; the quality of the result is no matter here.
FEW = [
    "run.threads=1",
    "run.quiet=true",
    "denoise.steps=2",
    "denoise.batch=8",
    "compensate.trajectories=8",
    "metrics.images=3",
    "metrics.latency_runs=1",
]
RECOVERY = ["recover=distil", "recover.steps=3", "recover.batch=2"]
MASKS = ["criterion.updates=4", "criterion.batch=2", "criterion.warm_start=none"]

_STAGES = "warm_start scores choose plan prune compensate recover eval export report".split()


def stages(without: str = "") -> list[str]:
    """The stages of the mask recipe in order, but for some."""
    return [name for name in _STAGES if name not in without.split()]


def smallest(channels: int = 8) -> Any:
    """One resolution, no attention but in the middle: a run of all stages in two seconds."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=12,
            block_out_channels=(channels,),
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            norm_num_groups=4,
            attention_head_dim=4,
        )
    return DDIMPipeline(unet, DDIMScheduler(clip_sample=False, prediction_type="v_prediction"))


def deep_dit() -> Any:
    """Three blocks, of which all but the first can go."""
    pipe = tiny.tiny_dit()
    config = {key: value for key, value in pipe.transformer.config.items() if not key.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe.register_modules(transformer=type(pipe.transformer).from_config({**config, "num_layers": 3}))
    return pipe


BUILDERS = {"smallest": smallest, "deep_dit": deep_dit, **tiny.TINY}


def save(name: str, folder: Path) -> Path:
    """The pipeline called `name`, saved as diffusers saves it."""
    pipe = BUILDERS[name]()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return folder


def quoted(path: Path) -> str:
    """A path in Hydra's grammar: temporary folders are named after tests, brackets included."""
    return f"'{path}'"


def overrides(model: Path, run: Path, *more: str, few: Sequence[str] = FEW) -> list[str]:
    """The command line of a run without `gencompress run`."""
    return [f"model.path={quoted(model)}", f"run.dir={quoted(run)}", *few, *more]


def execute(model: Path, run: Path, *more: str) -> Path:
    """Run or resume a recipe in this process; the run directory."""
    launch.execute(*launch.compose(overrides(model, run, *more)))
    return run


def prompts_file(folder: Path) -> str:
    """An option that names a file of prompts, which is written."""
    path = folder / "prompts.txt"
    path.write_text("\n".join(tiny.PROMPTS) + "\n")
    return f"denoise.prompts={quoted(path)}"


def stages_run(run: Path) -> list[str]:
    """Every stage that was started, in order, over the whole history of the folder."""
    return [e["stage"] for e in read_journal(run) if e["event"] == "stage_started"]


def metrics(run: Path) -> dict[str, Any]:
    """The figures of a finished run."""
    return json.loads((run / "eval" / "metrics.json").read_text())
