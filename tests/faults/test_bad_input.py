"""Every mistake a user can make ends in one line that names it, with nothing half-written in the run directory."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gencompress.cli import run_command
from gencompress.domains.diffusion import stages as stage_functions
from gencompress.run import read_manifest
from tests.e2e.pipes import MASKS, RECOVERY, execute, metrics, overrides, prompts_file, quoted, save, stages, stages_run

STAGES = stages()
WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")
ONE_SHOT = ["recipe=one_shot", "criterion=random"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save("smallest", tmp_path_factory.mktemp("model") / "smallest")


@pytest.fixture
def model(saved, tmp_path) -> Path:
    """A copy of a sound pipeline to spoil."""
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(model / WEIGHTS)
    change(tensors)
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})


def remove_folder(model: Path) -> None:
    shutil.rmtree(model)


def remove_index(model: Path) -> None:
    (model / "model_index.json").unlink()


def damage_index(model: Path) -> None:
    text = (model / "model_index.json").read_text()
    (model / "model_index.json").write_text(text[: len(text) // 2])


def remove_weights(model: Path) -> None:
    (model / WEIGHTS).unlink()


def remove_component(model: Path) -> None:
    shutil.rmtree(model / "unet")


def cut_weights(model: Path) -> None:
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[: len(data) // 2])


def pickle_weights(model: Path) -> None:
    torch.save(load_file(model / WEIGHTS), (model / WEIGHTS).with_suffix(".bin"))
    (model / WEIGHTS).unlink()


def other_config(model: Path) -> None:
    edit_json(model / "unet" / "config.json", block_out_channels=[16])


def deeper_config(model: Path) -> None:
    edit_json(model / "unet" / "config.json", layers_per_block=2)


def nan_weights(model: Path) -> None:
    edit_weights(model, lambda t: t["conv_in.weight"][0, 0, 0].fill_(torch.nan))


def huge_weights(model: Path) -> None:
    """Finite, but their products are not."""
    edit_weights(model, lambda t: [x.mul_(1e30) for name, x in t.items() if name.endswith("conv1.weight")])


def odd_scheduler(model: Path) -> None:
    edit_json(model / "model_index.json", _class_name="DDPMPipeline", scheduler=["diffusers", "PNDMScheduler"])


def nothing(model: Path) -> None:
    """A sound model; the mistake is in the options."""


MODELS = [
    (remove_folder, [], r"model\.path='.*' is no folder here"),
    (remove_index, [], r"model_index\.json is missing"),
    (damage_index, [], r"model_index\.json is not readable JSON"),
    (remove_weights, [], r"unet has no .*safetensors; it is half written"),
    (remove_component, [], r"unet is missing although .*model_index\.json names it"),
    (cut_weights, [], r"diffusion_pytorch_model\.safetensors is truncated"),
    (pickle_weights, [], r"diffusion_pytorch_model\.bin is a pickle"),
    (other_config, [], r"/unet: .*(shape|size)"),
    (deeper_config, [], r"/unet: the weights lack .* config\.json is not that of these weights"),
    (nan_weights, [], r"unet: conv_in\.weight holds NaN"),
    (huge_weights, MASKS, "nan"),
    (huge_weights, ["recipe=one_shot", "criterion=taylor"], "NaN|nan"),
    (odd_scheduler, [], "PNDMScheduler .* choose scheduler= one of ddim"),
    (nothing, ["budget.keep=0"], r"budget\.keep=0.* is outside \(0, 1\]"),
    (nothing, ["budget.keep=1.5"], r"budget\.keep=1\.5 is outside \(0, 1\]"),
    (nothing, ["budget.keep=0.001"], r"cannot be met: .* these groups reach from [\d,]+ to [\d,]+ params"),
    (nothing, ["budget.keep=null", "budget.target=10", *ONE_SHOT], r"reach from [\d,]+ to [\d,]+ params"),
    (nothing, ["budget.metric=macs", "budget.keep=0.001", *ONE_SHOT], r"reach from [\d,]+ to [\d,]+ macs"),
    (nothing, ["denoise.scheduler=ddmi"], "unknown scheduler 'ddmi'; did you mean .*'ddim'"),
    (nothing, ["denoise.scheduler=flow_euler"], "'flow_euler' does not fit a model that predicts noise"),
    (nothing, ["denoise.guidance_scale=3"], "guidance"),
    (nothing, ["denoise.steps=2000"], "steps is 2000; this scheduler takes 1 to 1000"),
    (nothing, ["denoise.prompts=/no/such/prompts.txt"], r"/no/such/prompts\.txt"),
    (nothing, ["criterion=magnitude"], "add recipe=one_shot"),
    (nothing, ["domain.resnet=false", "domain.heads=false", "domain.time=false"], "has no groups of kind"),
]


def check_refused(code: int, said: str, message: str, run: Path) -> None:
    import re

    lines = [line for line in said.splitlines() if line.startswith("gencompress: ")]
    assert code == 2 and len(lines) == 1, said
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in said
    if run.exists():
        assert {p.name for p in run.iterdir()} & set(STAGES) == set(read_manifest(run).stages)
        assert not [p.name for p in run.iterdir() if ".tmp-" in p.name]


@pytest.mark.parametrize(("spoil", "options", "message"), MODELS, ids=lambda v: v.__name__ if callable(v) else None)
def test_a_mistake_is_one_line(spoil, options, message, model, tmp_path, capfd):
    spoil(model)
    run = tmp_path / "run"
    code = run_command(["run", *overrides(model, run, *options)])
    check_refused(code, capfd.readouterr().err, message, run)
    assert set(read_manifest(run).stages) <= {"warm_start"}, "found at the start, or in the first calculation"


def test_a_text_pipeline_wants_prompts(tmp_path, capfd):
    model, run = save("sd", tmp_path / "sd"), tmp_path / "run"
    assert run_command(["run", *overrides(model, run)]) == 2
    check_refused(2, capfd.readouterr().err, r"denoise\.prompts is not set", run)
    (tmp_path / "none.txt").write_text("\n\n")
    empty = f"denoise.prompts={quoted(tmp_path / 'none.txt')}"
    assert run_command(["run", *overrides(model, tmp_path / "run2", empty)]) == 2
    check_refused(2, capfd.readouterr().err, r"none\.txt", tmp_path / "run2")


def test_an_unconditional_pipeline_takes_no_prompts(model, tmp_path, capfd):
    run = tmp_path / "run"
    code = run_command(["run", *overrides(model, run, prompts_file(tmp_path))])
    check_refused(code, capfd.readouterr().err, "prompts", run)


def test_a_model_that_changes_under_a_run_is_refused(model, tmp_path, capfd):
    """The plan carries the fingerprint of the weights that were scored."""
    run = execute(model, tmp_path / "run", *ONE_SHOT)
    shutil.rmtree(run / "prune")
    edit_weights(model, lambda t: t["conv_in.weight"].mul_(1.5))
    code = run_command(["run", *overrides(model, run, *ONE_SHOT)])
    said = capfd.readouterr().err
    assert code == 2 and "other weights" in said and "Traceback" not in said


def test_the_disk_fills_up_in_every_stage(model, tmp_path, capfd, monkeypatch):
    """One run that meets a full disk when each of its stages is flushed; what was finished is never made again."""
    run, real = tmp_path / "run", os.fsync
    options = [*MASKS[:2], *RECOVERY, "budget.keep=0.7"]
    for stage in STAGES:

        def full(descriptor: int, stage: str = stage) -> None:
            if f"/{stage}.tmp-" in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        code = run_command(["run", *overrides(model, run, *options)])
        said = capfd.readouterr().err
        assert code == 2 and "Traceback" not in said
        assert "the disk is full" in said and "bytes are free" in said and f"{run}/{stage}" in said
        assert not (run / stage).exists() and not [p.name for p in run.iterdir() if ".tmp-" in p.name]
        assert list(read_manifest(run).stages) == STAGES[: STAGES.index(stage)]
    monkeypatch.setattr(os, "fsync", real)
    assert run_command(["run", *overrides(model, run, *options)]) == 0
    assert stages_run(run) == [s for stage in STAGES for s in (stage, stage)]
    assert metrics(run)["pruned"]["params"] < metrics(run)["dense"]["params"]


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize("place", ["scores", "weights", "picture"])
def test_the_disk_fills_up_inside_a_library(place, model, tmp_path, capfd, monkeypatch):
    """safetensors is written in Rust and says so in words only; Pillow raises what the system said."""

    def no_space(*args: object, **kwargs: object) -> None:
        raise SafetensorError(FULL) if place != "picture" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if place == "scores":
            patch.setattr(stage_functions, "save_file", no_space)
        elif place == "weights":
            patch.setattr("safetensors.torch.save_file", no_space)
        else:
            patch.setattr("PIL.Image.Image.save", no_space)
        run = tmp_path / "run"
        code = run_command(["run", *overrides(model, run, *ONE_SHOT)])
    said = capfd.readouterr().err
    assert code == 2 and "the disk is full" in said and "Traceback" not in said
    assert not [p.name for p in run.iterdir() if ".tmp-" in p.name]
    assert run_command(["run", *overrides(model, run, *ONE_SHOT)]) == 0
