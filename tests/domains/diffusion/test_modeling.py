"""The pruned classes behave as diffusers' own: loading, dtypes, copies, and errors in their config."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys

import pytest
import torch

import gencompress.diffusers as pruned_classes
from gencompress.core.plan import Plan
from gencompress.domains.diffusion.families import FAMILIES
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.load import load_denoiser
from gencompress.domains.diffusion.removal import remove
from gencompress.errors import ModelError
from tests.laws.denoisers import denoiser, inputs, run


@pytest.fixture(scope="module")
def small():
    groups = groups_of(denoiser("flux"), ("head", "ffn", "adaln"))
    plan = Plan({g.name: torch.arange(1, g.size, 3) for g in groups}, {g.name: g.size for g in groups})
    return remove(denoiser("flux"), groups, plan)


@pytest.fixture
def folder(small, tmp_path):
    small.save_pretrained(tmp_path)
    return tmp_path


def edited(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config["pruning"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_every_family_has_a_class_under_a_stable_name():
    for native in FAMILIES:
        cls = getattr(pruned_classes, f"Pruned{native}")
        assert (cls.__module__, cls.__name__) == ("gencompress.diffusers", f"Pruned{native}")
        assert cls is getattr(pruned_classes, f"Pruned{native}")
        stock, ours = inspect.signature(cls.__mro__[1].__init__), inspect.signature(cls.__init__)
        assert [p for p in ours.parameters if p != "pruning"] == list(stock.parameters)


def test_the_module_has_only_its_own_names():
    with pytest.raises(AttributeError, match="PrunedVAE"):
        _ = pruned_classes.PrunedVAE


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loads_in_either_way_and_dtype(small, folder, low_cpu_mem_usage, dtype):
    again = type(small).from_pretrained(folder, dtype=dtype, low_cpu_mem_usage=low_cpu_mem_usage)
    ours, theirs = small.state_dict(), again.state_dict()
    assert all(torch.equal(ours[k].to(theirs[k].dtype), theirs[k]) for k in ours)
    assert {t.dtype for t in theirs.values()} == {dtype, torch.int64}  # places of scattered outputs stay integers
    assert run(again.float(), inputs("flux")).shape == run(small, inputs("flux")).shape


def test_sharded_weights_load(small, tmp_path):
    small.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").is_file()
    again = load_denoiser(tmp_path)
    assert torch.equal(run(again, inputs("flux")), run(small, inputs("flux")))


def test_copies_and_pickles_are_equal(small):
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert type(twin) is type(small)
        assert torch.equal(run(twin, inputs("flux")), run(small, inputs("flux")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(version=2), "version 2"),
        (lambda p: p["modules"].update({"no.such.block": {"heads": 1}}), "no.such.block"),
        (lambda p: p["modules"]["transformer_blocks.0.attn"].update(wings=2), "wings"),
        (lambda p: p["modules"]["transformer_blocks.0.attn.to_q"].update(weight=[8]), "to_q"),
        (lambda p: p["modules"]["transformer_blocks.0.attn.to_q"].update(weight=[10**12, 64]), "to_q"),
        (lambda p: p["modules"]["transformer_blocks.0.attn.to_q"].update(weight=[8, 64]), "to_q"),
        (lambda p: p["modules"].pop("transformer_blocks.0.ff.net.2"), "net.2"),
    ],
)
def test_a_pruning_config_that_fits_neither_model_nor_weights_is_refused(folder, change, message):
    with pytest.raises(ModelError, match=message):
        load_denoiser(edited(folder, change))


def test_importing_the_package_imports_nothing_heavy():
    code = "import gencompress, sys; gencompress.diffusers; print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
