"""The bundled SAM made slim by the experiment of the README; plain transformers opens it in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gencompress import scenes
from gencompress.cli import run_command
from gencompress.config import build
from gencompress.domains.sam.load import load_sam
from gencompress.domains.sam.teacher import Teacher
from gencompress.errors import RunError
from gencompress.run import read_journal, settings
from gencompress.scenes.composites import Composites

FAST = ["recover.steps=6", "recover.batch=4", "criterion.samples=16", "compensate.images=16", "metrics.images=2"]
OPEN = """
import sys
import numpy as np
from transformers import AutoModel, SamModel, SamProcessor
folder, attention, given, out, which = sys.argv[1:]
model = {"SamModel": SamModel, "AutoModel": AutoModel}[which].from_pretrained(folder, attn_implementation=attention)
assert "gencompress" not in sys.modules
inputs = SamProcessor.from_pretrained(folder)(np.load(given), input_points=[[[64, 64]]], return_tensors="pt")
import torch
with torch.no_grad():
    made = model.eval()(**inputs)
np.savez(out, masks=made.pred_masks.numpy(), scores=made.iou_scores.numpy())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("e2e") / "run"
    command = ["run", "+experiment=slimsam_sample", *FAST, "metrics.latency_runs=1", f"run.dir={path}"]
    assert run_command(command) == 0
    return path


@pytest.mark.parametrize(("attention", "which"), [("eager", "SamModel"), ("sdpa", "SamModel"), ("sdpa", "AutoModel")])
def test_plain_transformers_gives_the_same_masks_and_scores(
    run: Path, tmp_path: Path, attention: str, which: str
) -> None:
    picture = Composites("held_out", 1).read(0)
    np.save(tmp_path / "picture.npy", picture)
    arguments = [str(run / "export"), attention, str(tmp_path / "picture.npy"), str(tmp_path / "out.npz"), which]
    subprocess.run([sys.executable, "-c", OPEN, *arguments], check=True, cwd=tmp_path)
    made = np.load(tmp_path / "out.npz")
    from transformers import SamProcessor

    processor = SamProcessor.from_pretrained(scenes.path("emoji_sam"))
    inputs = processor(picture, input_points=[[[64, 64]]], return_tensors="pt")
    with torch.no_grad():
        wanted = load_sam(run / "bottleneck_slim").eval()(**inputs)
    scale = float(wanted.pred_masks.abs().max())
    assert np.abs(made["masks"] - wanted.pred_masks.numpy()).max() <= 1e-5 * scale
    assert np.abs(made["scores"] - wanted.iou_scores.numpy()).max() <= 1e-5


def test_the_budget_is_met_and_the_figures_are_those_of_the_written_model(run: Path) -> None:
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    dense, slim = load_sam(scenes.path("emoji_sam")).vision_encoder, load_sam(run / "export").vision_encoder
    counts = [sum(p.numel() for p in encoder.parameters()) for encoder in (dense, slim)]
    assert [metrics["dense"]["params"], metrics["pruned"]["params"]] == counts
    assert 0.45 * counts[0] < counts[1] <= 0.5 * counts[0]
    assert metrics["quality"]["miou_box"]["mean"] > 0.5
    page = (run / "report" / "report.html").read_text()
    assert "mIoU" in page and "Prompts and masks" in page


def test_embeddings_are_computed_once_and_not_mixed_with_those_of_another_model(run: Path, tmp_path: Path) -> None:
    assert run_command(["eval", str(run)]) == 0
    started = [e["stage"] for e in read_journal(run) if e["event"] == "stage_started"]
    assert started[-3:] == ["eval", "export", "report"] and started.count("bottleneck_slim") == 1
    options = settings.read(run)
    options["model"]["path"] = str(run / "export")
    with pytest.raises(RunError, match="teacher"):
        Teacher.load(build(options), run, print)
