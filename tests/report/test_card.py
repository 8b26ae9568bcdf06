from __future__ import annotations

import json

import pytest
import yaml

from gencompress.report import model_card

ARGUMENTS = {"name": "small, pruned", "pipeline": "StableDiffusionPipeline", "task": "text-to-image"}


def recorded(make_run, change=lambda m: None):
    return json.loads((make_run(change=change) / "eval/metrics.json").read_text())


def split(card):
    """Front matter as YAML, and the Markdown below it."""
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body.replace("\u00a0", " ")


def test_card_says_what_was_removed_and_what_it_cost(make_run):
    front, body = split(
        model_card(recorded(make_run), **ARGUMENTS, base_model="someone/small", license_id="apache-2.0")
    )
    assert front["library_name"] == "diffusers" and front["pipeline_tag"] == "text-to-image"
    assert front["base_model"] == "someone/small" and front["license"] == "apache-2.0"
    assert front["tags"] == ["pruned", "gencompress", "ecodiff"]
    result = front["model-index"][0]["results"][0]
    assert result["task"]["type"] == "text-to-image" and result["dataset"]["type"] == "generated"
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("psnr", 27.61), ("ssim", 0.9312)]
    for expected in (
        "# small, pruned", "from someone/small", "EcoDiff (learned masks)",
        "0.7 of the prunable parameters, 0.6990 reached",
        "| attention heads | 5 | 16 | 31.2 % |", "| Parameters | 1.81 M | 1.27 M | −30 % |",
        "| PSNR | 27.61 dB ± 0.31 |", "| Energy per run | 200 mJ | 150 mJ | −25 % |",
        "| Fréchet distance | 12.3 | random-convolutions, 64 images |", "a PSNR of 22.2 dB",
        "```sh\ngencompress run budget.keep=0.7\n```", "Some CPU, 2 cores",
    ):  # fmt: skip
        assert expected in body, expected


@pytest.mark.parametrize("portable", [False, True])
def test_loading_code_is_right_for_the_folder_and_compiles(make_run, portable):
    _, body = split(model_card(recorded(make_run), **ARGUMENTS, portable=portable))
    code = body.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert ("trust_remote_code=True" in code) is portable and ("import gencompress" in code) is not portable
    assert 'pipe("a prompt")' in code


def test_unconditional_pipelines_are_called_without_a_prompt(make_run):
    arguments = ARGUMENTS | {"task": "unconditional-image-generation"}
    assert "image = pipe().images[0]" in model_card(recorded(make_run), **arguments)


def test_what_was_not_measured_is_not_claimed():
    metrics = {"dense": {"params": 10}, "pruned": {"params": 5}, "quality": {"psnr_db": [1]}}
    front, body = split(model_card(metrics, **ARGUMENTS))
    assert "model-index" not in front and "license" not in front and "base_model" not in front
    assert "was not measured" in body and "Latency" not in body and "None" not in body
    assert "which this card does not know" in body


@pytest.mark.parametrize(
    "text",
    [
        "a\n---\nlicense: mit",
        'x" y: [',
        "<script>alert(1)</script>",
        "| a | b |",
        "```\n# no",
        "*b* _i_ `c`",
        "\x00\x85é😀",
    ],
)
def test_foreign_text_is_neither_markup_nor_front_matter(make_run, text):
    def poison(m):
        m.update(method=text, hardware=text, scheduler=text, command=text)
        m["groups"][0]["kind"] = text

    card = model_card(recorded(make_run, poison), **ARGUMENTS | {"name": text}, base_model=text, license_id=text)
    front, body = split(card)
    shown = text.replace("\x00", "").replace("\x85", "")
    assert front["base_model"] == front["license"] == front["tags"][2] == front["model-index"][0]["name"] == shown
    prose, code = body.split("## Made by")
    assert "<script" not in prose and "\n---" not in prose
    widths = {line.count("|") - line.count("\\|") for line in prose.splitlines() if line.startswith("|")}
    assert widths == {5, 4}
    fence = code.strip().splitlines()[-1]
    assert set(fence) == {"`"} and code.count("\n" + fence) == 2
    assert shown.strip() in code
