"""The folder for users: what its model card says runs, and answers as the pruned model does."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gencompress.config import Config, SamDomain
from gencompress.core.budget import Budget, solve, solve_ratio
from gencompress.core.plan import Plan
from gencompress.criteria.random import random_scores
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.publish import publish
from gencompress.domains.sam.segment import Segmenter
from gencompress.errors import RunError
from gencompress.metrics.segmentation import Question
from tests.domains.sam.test_segment import picture, processor
from tests.domains.sam.tiny import tiny_sam, tiny_sam2
from tests.report.sam_runs import metrics


@pytest.mark.parametrize(("name", "uniform"), [("sam", True), ("sam", False), ("sam2", True)])
def test_the_code_of_the_card_answers_as_the_pruned_model(tmp_path, name, uniform):
    dense = Sam((tiny_sam2 if name == "sam2" else tiny_sam)(), uniform=uniform)
    scores, cost = random_scores(dense.groups), dense.cost("params")
    if uniform:
        plan = solve_ratio(dense.groups, scores, 0.5, cost, dense.source)
    else:
        plan = solve(dense.groups, scores, Budget(keep=0.5), cost, dense.source)
    student, config = dense.prune(plan), Config(domain=SamDomain())
    config.model.path = "somebody/small-sam"
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/metrics.json").write_text(json.dumps(metrics()))
    teacher: Any = SimpleNamespace(processor=processor(name))
    publish(student, teacher, plan, tmp_path / "eval", config, tmp_path / "out")

    assert Plan.load(tmp_path / "out/plan.json") == plan
    card = (tmp_path / "out/README.md").read_text()
    assert 'base_model: "somebody/small-sam"' in card and ("gencompress is not needed" in card) is uniform
    image = picture(80, 120)
    Image.fromarray(image).save(tmp_path / "picture.png")
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("PATH_OR_HUB_ID", str(tmp_path / "out")).replace("PICTURE", str(tmp_path / "picture.png"))
    found: dict[str, Any] = {}
    with torch.no_grad():
        exec(compile(code, "card", "exec"), found)
    expected = Segmenter(student.model, processor(name)).answer(image, Question("point", (100.0, 60.0)))
    assert found["mask"].shape == (80, 120) and 0 < expected.mean() < 1
    assert (np.asarray(found["mask"]) == expected).mean() > 0.9999
    with pytest.raises(RunError, match="already exists"):
        publish(student, teacher, plan, tmp_path / "eval", config, tmp_path / "out")
