"""Every bad folder is one error that names the file; good ones open as in stock diffusers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

import gencompress
from gencompress.domains.diffusion.load import denoiser_name, denoiser_of, load_denoiser, load_pipeline, locate
from gencompress.errors import ConfigError, ModelError
from tests.domains.diffusion.tiny import tiny_ddpm, tiny_dit, tiny_sd

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd")
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "pipe")


def test_opens_what_stock_diffusers_opens(saved):
    ours, stock = gencompress.load(saved), DiffusionPipeline.from_pretrained(saved)
    assert type(ours) is type(stock)
    for name in ("unet", "vae", "text_encoder"):
        a, b = (getattr(p, name).state_dict() for p in (ours, stock))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not ours.unet.training


def test_dtype_applies_to_all_components(saved):
    pipe = load_pipeline(saved, dtype=torch.bfloat16)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


def test_which_component_denoises(saved):
    assert denoiser_name(tiny_sd()) == denoiser_name(tiny_ddpm()) == "unet"
    dit = tiny_dit()
    assert denoiser_name(dit) == "transformer" and denoiser_of(dit) is dit.transformer
    assert type(load_denoiser(saved / "unet")).__name__ == "UNet2DConditionModel"


def test_a_missing_folder():
    with pytest.raises(ModelError, match="no/such/folder: no such folder"):
        load_pipeline("no/such/folder")


def test_an_unknown_sample_names_the_nearest():
    with pytest.raises(ConfigError, match="emoji32_ddpm"):
        locate("sample:emoji32_dpm")


def test_a_name_that_neither_disk_nor_hub_has(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("401 Client Error: Repository Not Found\nmore lines")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"someone/something.*Repository Not Found$"):
        load_pipeline("someone/something")


def test_pruned_pipelines_are_fetched_from_the_hub_without_their_code(monkeypatch, tmp_path):
    """Stock diffusers refuses to download a component of a library that it does not know."""
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"unet": ["gencompress.diffusers", "PrunedUNet2DModel"]}))
    asked = {}
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: str(index))
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, allow_patterns: asked.update(p=allow_patterns) or str(tmp_path),
    )
    assert locate("someone/pruned") == tmp_path
    assert "*/*.safetensors" in asked["p"] and not any(p.endswith((".py", ".bin", "*")) for p in asked["p"])


def test_one_component_is_no_pipeline(saved):
    with pytest.raises(ModelError, match="one component"):
        load_pipeline(saved / "unet")


def test_an_empty_folder(tmp_path):
    with pytest.raises(ModelError, match=r"model_index.json is missing"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"{part} is missing.*half written"):
        load_pipeline(folder)


@pytest.mark.parametrize(("part", "file"), [("unet", WEIGHTS), ("text_encoder", "model.safetensors")])
def test_missing_and_truncated_weights(folder, part, file):
    path = folder / part / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match=f"{part}/{file} is truncated"):
        load_pipeline(folder)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=f"{part}/{file} is truncated"):
        load_pipeline(folder)
    path.unlink()
    with pytest.raises(ModelError, match=f"{part} has no .*half written"):
        load_pipeline(folder)


def test_a_missing_shard(folder):
    part = folder / "unet"
    (part / WEIGHTS).unlink()
    load_pipeline_unet = tiny_sd().unet
    load_pipeline_unet.save_pretrained(part, max_shard_size="200KB")
    shard = sorted(part.glob("*-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match=f"{shard.name} is missing"):
        load_pipeline(folder)


def test_an_index_that_points_elsewhere(folder):
    part = folder / "unet"
    (part / WEIGHTS).unlink()
    (part / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(ModelError, match="secret"):
        load_pipeline(folder)


def test_pickles_are_never_opened(folder):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    (folder / "unet" / WEIGHTS).unlink()
    torch.save(Trap(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model.bin is a pickle.*use_safetensors=False"):
        load_pipeline(folder)


def test_a_variant_alone(folder):
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(ModelError, match=r"only diffusion_pytorch_model.fp16.safetensors"):
        load_pipeline(folder)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "vae/config.json"])
def test_json_that_is_cut_off(folder, file):
    text = (folder / file).read_text()
    (folder / file).write_text(text[: len(text) // 2])
    with pytest.raises(ModelError, match=str(folder)):
        load_pipeline(folder)


def test_a_missing_config(folder):
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"unet/config.json is missing"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [16, 64]},
        {"layers_per_block": 2},
        {"cross_attention_dim": 48},
        {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]},
        {"norm_num_groups": 5},
        {"attention_head_dim": "many"},
    ],
)
def test_a_config_that_is_not_that_of_the_weights(folder, change):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"unet|pipe"):
        load_pipeline(folder)


@pytest.mark.parametrize(("part", "value"), [("unet", float("nan")), ("vae", float("inf"))])
def test_weights_that_are_not_finite(folder, part, value):
    path = folder / part / WEIGHTS
    tensors = load_file(path)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[0] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{part}: {name} holds NaN or infinity"):
        load_pipeline(folder)


def test_a_component_of_another_class(saved):
    with pytest.raises(ModelError, match=r"AutoencoderKL.*UNet2DConditionModel"):
        load_denoiser(saved / "vae")
