"""The stages of a SAM run on a tiny model: refits that see rescaled queries, budgets met in rounds, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gencompress.config import Config, build
from gencompress.core.rounds import best_units
from gencompress.criteria.random import random_scores
from gencompress.domains.sam import rounds, stages
from gencompress.domains.sam.align import Alignment
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.load import load_sam
from gencompress.domains.sam.subject import embeddings
from gencompress.domains.sam.teacher import Teacher
from gencompress.errors import ConfigError, Interrupted
from gencompress.run import Run, launch
from gencompress.run.stage import NullContext
from tests.domains.sam.tiny import SIZE, tiny_sam, tiny_sam2

MODELS = {"sam": tiny_sam, "sam2": tiny_sam2}


def pictures(folder: Path, count: int) -> Path:
    """Smooth random pictures of several sizes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        coarse.resize((SIZE + 7 * (i % 3), SIZE), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("sam")
    pictures(base / "pictures", 12)
    for name, make in MODELS.items():
        make().save_pretrained(base / name)
    return base


def options(folder: Path, name: str = "sam", **parts: Any) -> Config:
    base: dict[str, Any] = {
        "model": {"path": str(folder / name), "device": "cpu"},
        "domain": {"name": "sam"},
        "data": {"images": str(folder / "pictures")},
        "recipe": {"name": "slimsam"},
        "criterion": {"name": "disturbed_taylor", "samples": 16},
        "recover": {"name": "align", "steps": 4, "batch": 2},
        "compensate": {"images": 16, "damping": 1e-6},
        "budget": {"keep": 0.5},
        "metrics": {"images": 2, "latency_runs": 1},
    }
    return build(base | parts)


@pytest.mark.parametrize("kinds", [("width",), ("head_dim", "ffn"), ("width", "head_dim", "ffn"), ("width", "head")])
def test_a_refit_brings_every_layer_and_the_embeddings_closer(folder: Path, tmp_path: Path, kinds: Any) -> None:
    config = options(folder)
    teacher = Teacher.load(config, tmp_path, print)
    student = Sam(teacher.sam.model, kinds)
    groups = student.groups
    plan = best_units(groups, random_scores(groups, 0), {g.name: 3 * g.size // 4 or 1 for g in groups})
    pruned = student.prune(plan)
    pixels = teacher.images(0, 8)
    wanted = embeddings(student.encoder, pixels)

    def error() -> float:
        return float((embeddings(pruned.encoder, pixels) - wanted).square().mean() / wanted.square().mean())

    before = error()
    rounds.refit_(pruned, student, teacher, plan, config, NullContext())
    assert error() < 0.7 * before


def test_queries_are_refitted_at_their_new_scale(folder: Path, tmp_path: Path) -> None:
    """Half of the head dimensions go, so queries shrink by the root of a half; keys and values stay as they were."""
    config = options(folder)
    teacher = Teacher.load(config, tmp_path, print)
    student = Sam(teacher.sam.model, ("width", "head_dim"))
    counts = {g.name: g.size // 2 if g.kind == "head_dim" else g.size - 1 for g in student.groups}
    plan = best_units(student.groups, random_scores(student.groups, 0), counts)
    pruned = student.prune(plan)
    rounds.refit_(pruned, student, teacher, plan, config, NullContext())
    kept = torch.cat([plan.keep["layers.0.attn"] + 16 * head for head in range(6)])
    made, wanted = (output(sam, "layers.0.attn.qkv", teacher.images(0, 8)) for sam in (pruned, student))
    wanted = wanted[:, kept]
    gain = (made * wanted).sum(0) / wanted.square().sum(0)
    assert gain[: len(kept) // 3].median() == pytest.approx(0.5**0.5, abs=0.02)
    assert gain[len(kept) // 3 :].median() == pytest.approx(1, abs=0.02)


def output(sam: Sam, module: str, pixels: Tensor) -> Tensor:
    """What a layer gives, as rows."""
    seen: list[Tensor] = []
    handle = sam.encoder.get_submodule(module).register_forward_hook(lambda _, args, out: seen.append(out))
    embeddings(sam.encoder, pixels)
    handle.remove()
    return seen[0].flatten(0, -2)


def executed(config: Config, path: Path) -> Path:
    launch.execute(config, path)
    return path


@pytest.mark.parametrize(
    ("name", "recipe", "parts"),
    [
        ("sam", "slimsam", {"budget": {"keep": 0.5, "uniform": True}}),
        ("sam", "slimsam", {}),
        ("sam", "slimsam", {"domain": {"name": "sam", "attention": "head"}, "budget": {"keep": 0.6, "metric": "macs"}}),
        ("sam", "one_shot", {"criterion": {"name": "magnitude"}, "recover": {"name": "none"}}),
        ("sam2", "slimsam", {"budget": {"keep": 0.6, "uniform": True}}),
        ("sam2", "one_shot", {"criterion": {"name": "taylor", "samples": 16}}),
    ],
)
def test_recipes_meet_the_budget_and_reload(
    name: str, recipe: str, parts: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    config = options(folder, name, recipe={"name": recipe}, **parts)
    run = executed(config, tmp_path / "run")
    plan = stages.read_plan(run / "plan")
    asked, reached = plan.budget["asked"], plan.budget["reached"]
    assert 0.65 * asked < reached <= asked  # widths of 32 in steps of 8 are coarse
    model = load_sam(run / "export")
    if config.budget.metric == "params":
        assert sum(p.numel() for p in model.vision_encoder.parameters()) == reached
    stock = "pruning" not in json.loads((run / "export" / "config.json").read_text())["vision_config"]
    assert stock == config.budget.uniform
    dense = load_sam(folder / name)
    Teacher.load(config, run, print).sam.prune(plan)  # the plan of all rounds fits the dense model
    assert dense.config.model_type == model.config.model_type


def test_a_recipe_that_cannot_do_two_rounds_says_so(folder: Path, tmp_path: Path) -> None:
    for i, domain in enumerate(({"width": False}, {"attention": "none", "ffn": False}, {"depth": True})):
        config = options(folder, domain={"name": "sam"} | domain)
        with pytest.raises(ConfigError, match="recipe=slimsam narrows the residual stream"):
            executed(config, tmp_path / str(i))


def test_a_run_that_was_stopped_while_aligning_ends_with_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options(folder, recover={"name": "align", "steps": 12, "batch": 2})
    calm = executed(config, tmp_path / "calm")
    seen, loss = [], Alignment.__call__

    def counted(self: Alignment, index: int) -> Tensor:
        seen.append(index)
        return loss(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(Alignment, "__call__", counted)
        patched.setattr(Run, "stop_requested", property(lambda run: len(seen) >= 9))  # in the third step of round two
        with pytest.raises(Interrupted, match="stopped in stage bottleneck_slim after step 3 of 6"):
            executed(config, tmp_path / "stopped")
    executed(config, tmp_path / "stopped")
    for name in ("embedding_slim", "bottleneck_slim"):
        files = [(path / name / "model.safetensors").read_bytes() for path in (calm, tmp_path / "stopped")]
        assert files[0] == files[1]
