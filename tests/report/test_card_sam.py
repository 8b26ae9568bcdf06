"""The model card of a pruned SAM."""

from __future__ import annotations

import pytest
import yaml

from gencompress.report import model_card
from tests.report.sam_runs import metrics

ARGUMENTS = {"name": "small-sam, pruned", "pipeline": "SamModel", "task": "mask-generation", "portable": True}


def split(card):
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body.replace("\u00a0", " ")


def test_card_says_what_was_removed_and_what_it_cost():
    front, body = split(model_card(metrics(), **ARGUMENTS, base_model="somebody/small-sam", license_id="apache-2.0"))
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "mask-generation"
    result = front["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "image-segmentation", "name": "composites"}
    found = {m["name"]: (m["type"], m["value"]) for m in result["metrics"]}
    assert found["mIoU, point prompts"] == ("mean_iou", 0.675) and len(found) == 3
    for expected in (
        "# small-sam, pruned", "A SamModel with whole channels of the residual stream, dimensions of each head and",
        "disturbed Taylor score", "0.5 of the prunable parameters", "| channels of the residual stream | 32 | 64 |",
        "| Parameters of the image encoder | 1.00 M | 500 k | −50 % |",
        "| Parameters of the whole model | 1.40 M | 900 k | −36 % |",
        "| MACs without products of attention | 369 M | 150 M | −59 % |",
        "| mIoU, point prompts | 0.850 ± 0.013 | 0.675 ± 0.013 |",
        "| Agreement with the dense model, mIoU | – | 0.812 ± 0.013 |",
        "from an IoU of 0.75 to 0.25", "4 objects in 64 pictures of composites", "Some CPU, 2 cores",
        "budget.keep=0.5",
    ):  # fmt: skip
        assert expected in body, expected


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("model", ["SamModel", "Sam2Model"])
def test_it_says_whether_plain_transformers_opens_it(portable, model):
    _, body = split(model_card(metrics(), **ARGUMENTS | {"portable": portable, "pipeline": model}))
    code = body.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert ("import gencompress" in code) is not portable
    assert ("gencompress is not needed" in body) is portable and ("`pruning` entry" in body) is not portable
    assert f"{model}.from_pretrained" in code and f"{model.replace('Model', 'Processor')}.from_pretrained" in code
    assert ("reshaped_input_sizes" in code) is (model == "SamModel")


def test_what_was_not_measured_is_not_claimed():
    front, body = split(model_card({"dense": {"params": 10}, "pruned": {"params": 5}, "quality": []}, **ARGUMENTS))
    assert "model-index" not in front and "license" not in front
    assert "How well it answers was not measured" in body and "None" not in body and "fell from" not in body


@pytest.mark.parametrize("text", ["a\n---\nlicense: mit", 'x" y: [', "<script>alert(1)</script>", "| a | b |", "*b*"])
def test_foreign_text_is_neither_markup_nor_front_matter(text):
    value = metrics()
    value |= {"method": text, "hardware": text}
    value["pictures"]["labelled_set"] = text
    front, body = split(model_card(value, **ARGUMENTS | {"name": text}, base_model=text, license_id=text))
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == front["base_model"] == text
    prose = body.split("## Made by")[0]
    assert "<script" not in prose and "\n---" not in prose
