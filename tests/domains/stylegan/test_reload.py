"""Networks saved and opened again, in this process and in a fresh one; damaged folders are refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from gencompress.domains.stylegan.discriminator import Discriminator
from gencompress.domains.stylegan.model import Generator
from gencompress.errors import ModelError, RunError
from tests.domains.stylegan.tiny import DIM, normal, tiny_discriminator, tiny_generator

_FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from gencompress.domains.stylegan.model import Generator
given = load_file(sys.argv[2])
save_file({"pictures": Generator.from_pretrained(sys.argv[1])(given["z"])}, sys.argv[3])
"""


def test_saved_and_opened_is_equal(tmp_path):
    generator, z = tiny_generator(clamp=2.0), normal(2, DIM)
    generator.save_pretrained(tmp_path / "g")
    loaded = Generator.from_pretrained(tmp_path / "g")
    assert loaded.config == generator.config and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(z), generator(z))
    assert Generator.from_pretrained(tmp_path / "g", torch.float16).conv1.conv.weight.dtype == torch.float16

    discriminator, pictures = tiny_discriminator(), normal(2, 3, 16, 16)
    discriminator.save_pretrained(tmp_path / "d")
    assert torch.equal(Discriminator.from_pretrained(tmp_path / "d")(pictures), discriminator(pictures))


def test_a_fresh_process_makes_the_same_pictures(tmp_path):
    generator, z = tiny_generator((3, 7, 2, 5)), normal(2, DIM)
    generator.save_pretrained(tmp_path / "g")
    save_file({"z": z}, tmp_path / "z.safetensors")
    command = [
        sys.executable,
        "-c",
        _FRESH,
        str(tmp_path / "g"),
        str(tmp_path / "z.safetensors"),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(tmp_path / "out")["pictures"], generator(z))


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunError, match="already exists"):
        tiny_generator().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def _config(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def _tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no JSON": (lambda f: (f / "config.json").write_text("[" * 100_000), "not readable JSON"),
    "an endless number": (lambda f: (f / "config.json").write_text("9" * 10_000), "not readable JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    "another model": (lambda f: _config(f, model_type="sam"), "model_type"),
    "wider": (lambda f: _config(f, channels=[9] * 6), "has shape"),
    "wider than memory": (lambda f: _config(f, channels=[16384] * 6), "has shape"),
    "deeper": (lambda f: _config(f, n_mlp=3), "lack style.3.bias"),
    "shallower": (lambda f: _config(f, n_mlp=1), "have style.2.bias"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no"),
    "cut": (lambda f: _cut(f / "model.safetensors"), "truncated"),
    "NaN": (lambda f: _tensors(f, lambda t: t["conv1.conv.weight"].fill_(float("nan"))), "conv1.conv.weight holds NaN"),
    "a tensor less": (lambda f: _tensors(f, lambda t: t.pop("to_rgb1.bias")), "lack to_rgb1.bias"),
    "a tensor more": (lambda f: _tensors(f, lambda t: t.update(x=torch.ones(1))), "have x"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders_are_refused(tmp_path, name):
    damage, words = DAMAGES[name]
    tiny_generator().save_pretrained(tmp_path / "g")
    damage(tmp_path / "g")
    with pytest.raises(ModelError, match=words) as caught:
        Generator.from_pretrained(tmp_path / "g")
    assert str(tmp_path / "g") in str(caught.value)


def test_pickles_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        Generator.from_pretrained(tmp_path / "g")
    tiny_generator().save_pretrained(tmp_path / "g")
    (tmp_path / "g" / "model.safetensors").rename(tmp_path / "g" / "model.pt")
    with pytest.raises(ModelError, match="is a pickle"):
        Generator.from_pretrained(tmp_path / "g")
