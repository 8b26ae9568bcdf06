"""Bundled samples load with stock diffusers and run; the emoji reader and the tokenizer do what the recipes need."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gencompress import scenes
from gencompress.errors import ConfigError, DataError, ModelError, NumericsError
from gencompress.scenes import emoji, reference, tokenizer, training

SHARED = Path(os.environ.get("GENCOMPRESS_SHARED") or Path(__file__).resolve().parents[3] / "shared")


def _sheet(folder: Path, names: list[str]) -> None:
    """A local emoji folder whose n-th cell is filled with the grey value 10 n."""
    image = Image.new("RGBA", (emoji.PITCH * len(names), emoji.PITCH))
    rows = []
    for index, name in enumerate(names):
        x = index * emoji.PITCH + 1
        image.paste((10 * index,) * 3 + (255,), (x, 1, x + emoji.CELL, 1 + emoji.CELL))
        rows.append({"x": x, "y": 1, "caption": f"Caption {name}", "short_name": name})
    image.save(folder / "sheet64.png")
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(r) for r in rows))


@pytest.mark.parametrize("name", scenes.SAMPLES)
def test_sample_loads_and_runs(name: str) -> None:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(scenes.path(name))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.dtype == torch.float32
    call = {"prompt": ["red apple"]} if name == "emoji64_sd" else {"batch_size": 1}
    rng = torch.Generator().manual_seed(0)
    made = pipeline(**call, num_inference_steps=2, generator=rng, output_type="np").images
    size = 64 if name == "emoji64_sd" else 32
    assert made.shape == (1, size, size, 3)
    assert np.isfinite(made).all() and made.std() > 0.05


def test_text_sample_follows_its_prompt() -> None:
    """The picture of a caption is nearer to that caption's training picture than to most others."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(scenes.path("emoji64_sd"))
    pipeline.set_progress_bar_config(disable=True)
    known = reference.load("emoji64_sd")
    prompts = ["red heart", "blue heart", "evergreen tree", "red apple"]
    rng = torch.Generator().manual_seed(3)
    made = pipeline(prompts, num_inference_steps=10, guidance_scale=2.0, generator=rng, output_type="np").images
    distance = ((made[:, None] - known.pixels[None] / 255.0) ** 2).mean(axis=(2, 3, 4))
    ranks = [int((row < row[known.captions.index(p)]).sum()) for row, p in zip(distance, prompts, strict=True)]
    assert max(ranks) < 5, f"ranks of the right picture among {len(known.captions)}: {ranks}"


def test_every_prompt_is_known_to_the_tokenizer() -> None:
    from transformers import CLIPTokenizer

    known = CLIPTokenizer.from_pretrained(scenes.path("emoji64_sd") / "tokenizer")
    prompts = scenes.path("emoji64_sd_prompts.txt").read_text(encoding="utf-8").splitlines()
    assert prompts == reference.load("emoji64_sd").captions and len(set(prompts)) == len(prompts)
    for prompt in prompts:
        words = tokenizer.WORDS.findall(prompt)
        ids = known(prompt).input_ids
        assert len(ids) == len(words) + 2 <= known.model_max_length, prompt
        assert known.decode(ids[1:-1]).replace(" ", "") == prompt.replace(" ", "")


def test_unknown_words_do_not_crash_the_tokenizer() -> None:
    from transformers import CLIPTokenizer

    known = CLIPTokenizer.from_pretrained(scenes.path("emoji64_sd") / "tokenizer")
    ids = known("Žluťoučký 42 \U0001f40e!? " * 9, truncation=True).input_ids
    assert len(ids) == known.model_max_length and max(ids) < len(known)


def test_path_names_the_nearest_sample() -> None:
    with pytest.raises(ConfigError, match="did you mean 'emoji64_sd'"):
        scenes.path("emoji64_ds")


def test_reference_is_what_the_recipe_draws() -> None:
    if not (SHARED / "data").is_dir():
        pytest.skip(f"the emoji set is not at {SHARED}; set GENCOMPRESS_SHARED")
    everything = emoji.read_emoji(emoji.source_folder(SHARED / "data" / "images" / "noto-emoji-64"))
    for sample, (subset, size) in reference.OF_SAMPLE.items():
        assert np.array_equal(reference.load(sample).pixels, emoji.stack(emoji.choose(everything, subset), size))


def test_reader_cuts_cells_from_both_layouts(tmp_path: Path) -> None:
    _sheet(tmp_path, ["one", "two"])
    local = emoji.read_emoji(tmp_path)
    seen = [(e.name, e.caption, int(e.pixels.max())) for e in local]
    assert seen == [("one", "caption one", 0), ("two", "caption two", 10)]
    package = tmp_path / "package"
    (package / "img/google/sheets-clean").mkdir(parents=True)
    (tmp_path / "sheet64.png").rename(package / emoji.NPM[0])
    rows = [
        {"sheet_x": n, "sheet_y": 0, "short_name": e.name, "name": e.caption.upper(), "has_img_google": True}
        for n, e in enumerate(local)
    ]
    (package / "emoji.json").write_text(json.dumps([*rows, {"short_name": "absent", "has_img_google": False}]))
    again = emoji.read_emoji(package)
    assert [(e.name, e.caption) for e in again] == [(e.name, e.caption) for e in local]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(again, local, strict=True))


def test_reader_errors_are_typed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="emoji-datasource-google"):
        emoji.read_emoji(tmp_path)
    _sheet(tmp_path, ["one"])
    with pytest.raises(DataError, match="lacks"):
        emoji.choose(emoji.read_emoji(tmp_path), "emoji32")
    with pytest.raises(ConfigError, match="emoji32"):
        emoji.choose(emoji.read_emoji(tmp_path), "emoji3")
    (tmp_path / "captions.jsonl").write_text('{"x": 1}')
    with pytest.raises(DataError, match="line 1"):
        emoji.read_emoji(tmp_path)
    (tmp_path / "captions.jsonl").write_text('{"x": 900, "y": 1, "short_name": "a", "caption": "a"}')
    with pytest.raises(DataError, match="outside"):
        emoji.read_emoji(tmp_path)
    (tmp_path / "sheet64.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"sheet64\.png"):
        emoji.read_emoji(tmp_path)


def _fit(folder: Path, steps: int, loss_scale: float = 1.0) -> tuple[torch.nn.ModuleDict, training.Trainer]:
    torch.manual_seed(0)
    modules = torch.nn.ModuleDict({"net": torch.nn.Linear(3, 2)})
    schedule = training.Schedule(minutes=1e9, lr=1e-2, lr_end=1e-2)
    trainer = training.Trainer(modules, schedule, folder / "state.safetensors", seed=1)
    trainer.resume()

    def loss_of(rng: torch.Generator) -> torch.Tensor:
        if trainer.schedule.step == steps:
            trainer.schedule.elapsed = float("inf")
        return loss_scale * modules["net"](torch.randn(4, 3, generator=rng)).square().mean()

    trainer.fit(loss_of, lambda: None, every_minutes=1e9)
    trainer.schedule.elapsed = 0.0
    trainer.save()
    return modules, trainer


def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    """Ten steps in two processes' worth of trainers equal ten steps in one: weights, EMA, Adam and random state."""
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole, _ = _fit(tmp_path / "whole", 10)
    _fit(tmp_path / "halves", 5)
    halves, trainer = _fit(tmp_path / "halves", 10)
    assert trainer.schedule.step == 10
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, halves.state_dict()[name]), name


def test_training_stops_at_nan(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="step 1"):
        _fit(tmp_path, 3, float("nan"))


def test_replacing_a_folder_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "pipeline"
    training.replace_folder(target, lambda folder: (folder / "old.txt").write_text("old") and None)

    def fail(folder: Path) -> None:
        (folder / "new.txt").write_text("new")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        training.replace_folder(target, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["pipeline"] and (target / "old.txt").read_text() == "old"


def test_bundled_scenes_are_found_by_name_and_are_not_models() -> None:
    from gencompress.formats import read_scene
    from gencompress.hub import locate, locate_scene

    for name, file in scenes.SPLATS.items():
        found = locate_scene(f"sample:{name}")
        assert found == scenes.path(name) and found.name == file
        assert (found.parent / f"{name}.LICENSE.txt").read_text(encoding="utf-8").startswith("Copyright")
        with pytest.raises(ModelError, match="is a scene"):
            locate(f"sample:{name}")
    guitar = read_scene(scenes.path("guitar"))
    assert len(guitar) == 90_854 and guitar.sh_degree == 0
    for wrong in ("sample:gitar", "sample:emoji32_ddpm"):
        with pytest.raises(ConfigError, match="'guitar'"):
            locate_scene(wrong)
