"""Evaluation of a pruned model: figures, pictures, and a model that is as good as itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gencompress.config import AlignRecover, Config, DisturbedTaylorCriterion, SamDomain
from gencompress.core.budget import solve_ratio
from gencompress.criteria.random import random_scores
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.evaluate import evaluate
from gencompress.run.stage import NullContext
from tests.domains.sam.test_segment import picture, processor
from tests.domains.sam.tiny import tiny_sam, tiny_sam2


class Pictures:
    """Noise with bright rectangles, of different sizes, as both kinds of sources give it."""

    name, fingerprint = "rectangles", "f" * 64

    def __init__(self, count: int, labelled: bool) -> None:
        self.count, self.labelled = count, labelled

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Any:
        image = picture(40 + 8 * index, 60, seed=index) // 2
        masks = [np.zeros(image.shape[:2], bool) for _ in range(2)]
        masks[0][5:25, 4 : 20 + index] = True
        masks[1][12:38, 30:55] = True
        for mask in masks:
            image[mask] = 255
        return (image, masks) if self.labelled else image


def options() -> Config:
    config = Config(domain=SamDomain(), criterion=DisturbedTaylorCriterion(), recover=AlignRecover())
    config.model.path, config.metrics.images, config.metrics.latency_runs = "somebody/tiny", 3, 2
    return config


def run(folder: Path, name: str = "sam", part: float = 0.5, labelled: bool = True) -> dict[str, Any]:
    """metrics.json of an evaluation in `folder`/eval."""
    dense = Sam((tiny_sam2 if name == "sam2" else tiny_sam)(), uniform=True)
    plan = solve_ratio(dense.groups, random_scores(dense.groups), part, dense.cost("params"), dense.source)
    (folder / "eval").mkdir()
    ctx: Any = NullContext(folder / "eval")
    losses = {"embedding": [0.5, 0.25], "bottleneck": [0.125]}
    given = Pictures(4, False), Pictures(5, True) if labelled else None
    evaluate(ctx, dense, dense.prune(plan), plan, processor(name), *given, options(), losses, "gencompress run x=y")
    return json.loads((folder / "eval/metrics.json").read_text())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return folder


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "eval/metrics.json").read_text())


def test_quality_is_per_object_and_agreement_per_picture(evaluated):
    found = read(evaluated)
    for side, extra in (("quality", {"agreement", "embedding_error"}), ("quality_dense", set())):
        assert set(found[side]) == {"miou_point", "miou_box", "miou_everything"} | extra
        for name, value in found[side].items():
            assert value["n"] == len(value["per_image"]) == (3 if name in extra else 6), name
            assert value["mean"] == pytest.approx(np.mean(value["per_image"])) and value["se"] >= 0
            assert all(v >= 0 for v in value["per_image"]) and (name == "embedding_error" or value["mean"] <= 1)
    assert found["quality"]["embedding_error"]["mean"] > 0.01 and found["quality"]["agreement"]["mean"] < 1
    assert found["pictures"] == {
        "unlabelled_set": "rectangles", "unlabelled_fingerprint": "f" * 64, "unlabelled": 3, "agreement_side": 4,
        "labelled_set": "rectangles", "labelled_fingerprint": "f" * 64, "labelled": 3, "objects": 6,
        "everything": "16 x 16 points, predicted IoU 0.3, stability 0.5",
    }  # fmt: skip


def test_costs_are_those_of_the_encoder(evaluated):
    found, encoder = read(evaluated), tiny_sam().vision_encoder
    dense, pruned = found["dense"], found["pruned"]
    assert dense["params"] == sum(p.numel() for p in encoder.parameters())
    assert dense["params_whole_model"] == sum(p.numel() for p in tiny_sam().parameters()) > dense["params"]
    assert dense["bytes"] == 4 * dense["params"]
    assert dense["params"] - pruned["params"] == dense["params_whole_model"] - pruned["params_whole_model"] > 0
    for key in ("params", "bytes", "macs", "macs_without_attention"):
        assert 0 < pruned[key] < dense[key]
    assert all(side["macs_without_attention"] < side["macs"] for side in (dense, pruned))
    assert pruned["latency_s"]["runs"] == 2 and "64 x 64 pixels" in found["latency_of"]
    assert {g["kind"] for g in found["groups"]} == {"width", "head_dim", "ffn"}
    assert [g["kept"] for g in found["groups"] if g["kind"] == "width"] == [16]
    assert found["rounds"] == [{"name": "embedding", "loss": [0.5, 0.25]}, {"name": "bottleneck", "loss": [0.125]}]
    assert found["method"] == "disturbed_taylor" and found["budget"] and found["command"] == "gencompress run x=y"


def test_pictures_are_there_and_legible(evaluated):
    images = read(evaluated)["images"]
    kinds = [f"{prefix}{kind}" for prefix in ("", "worst_") for kind in ("asked", "dense", "pruned")]
    for kind in [*kinds, "everything", "everything_dense", "everything_pruned"]:
        sizes = {Image.open(evaluated / path).size for path in images[kind]}
        assert len(images[kind]) == 3 and len(sizes) == 1 and min(*sizes) >= 256, kind
    assert images["names"] == ["picture 1, point", "picture 2, box", "picture 3, point"]
    assert len(images["everything_names"]) == len(images["masks_dense"]) == len(images["masks_pruned"]) == 3
    drops = [d - p for d, p in zip(images["worst_iou_dense"], images["worst_iou_pruned"], strict=True)]
    assert drops == sorted(drops, reverse=True)
    found = read(evaluated)
    every = [
        d - p
        for key in ("miou_point", "miou_box")
        for d, p in zip(found["quality_dense"][key]["per_image"], found["quality"][key]["per_image"], strict=True)
    ]
    assert drops[0] == pytest.approx(max(every))
    asked, answered = (np.asarray(Image.open(evaluated / images[kind][0])) for kind in ("asked", "pruned"))
    assert (asked != answered).any()


def test_a_model_agrees_with_itself_and_is_judged_without_labels(tmp_path):
    found = run(tmp_path, part=1.0, labelled=False)
    assert found["quality"]["agreement"]["per_image"] == [1.0] * 3
    assert found["quality"]["embedding_error"]["mean"] == pytest.approx(0, abs=1e-6)
    assert set(found["quality"]) == {"agreement", "embedding_error"} and found["quality_dense"] == {}
    assert "labelled_set" not in found["pictures"] and found["images"]["iou_dense"] == [None] * 3
    assert found["images"]["iou_pruned"] == [1.0] * 3


def test_sam2_is_evaluated_as_well(tmp_path):
    found = run(tmp_path, "sam2")
    assert found["quality"]["miou_box"]["n"] == 6 and found["pruned"]["params"] < found["dense"]["params"]
