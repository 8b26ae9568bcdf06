"""Every bad folder is one error that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gencompress.core.plan import Plan
from gencompress.domains.sam.groups import groups_of
from gencompress.domains.sam.load import load_sam
from gencompress.domains.sam.removal import remove, with_encoder
from gencompress.errors import ModelError
from tests.domains.sam.tiny import segment, tiny_sam, tiny_sam2


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a dense model, one with neurons removed unevenly."""
    root = tmp_path_factory.mktemp("saved")
    model = tiny_sam()
    model.save_pretrained(root / "dense")
    groups = groups_of(model.vision_encoder, ["ffn"])
    keep = {g.name: torch.arange(8 + i) for i, g in enumerate(groups)}
    small = remove(model.vision_encoder, groups, Plan(keep, {g.name: g.size for g in groups}))
    with_encoder(model, small).save_pretrained(root / "uneven")
    return root


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved / "dense", tmp_path / "model"))


@pytest.fixture
def uneven(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved / "uneven", tmp_path / "uneven"))


def change(folder: Path, edit) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def test_a_good_folder_opens_as_it_was(folder):
    opened = load_sam(folder).requires_grad_(False)  # matmul adds up in another order where weights want gradients
    for ours, theirs in zip(segment(opened), segment(tiny_sam()), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["sam_hq", "sam3", "fast_sam", None])
def test_other_architectures_are_refused(folder, kind):
    change(folder, lambda c: c.update(model_type=kind))
    with pytest.raises(ModelError, match=rf"config.json is of a model of type {kind!r}: "):
        load_sam(folder)


def test_a_checkpoint_of_the_original_code_is_refused(tmp_path):
    path = tmp_path / "mobile_sam.pt"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="is a file; a model is a folder"):
        load_sam(path)


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin is a pickle"):
        load_sam(folder)


def test_missing_folders_and_truncated_weights(folder, tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        load_sam(tmp_path / "nowhere")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"model.safetensors is truncated"):
        load_sam(folder)


def test_a_config_of_other_widths_is_refused_and_nothing_is_initialised_anew(folder):
    change(folder, lambda c: c["vision_config"].update(mlp_dim=40))
    with pytest.raises(ModelError, match=r"do not have the shapes that config.json says"):
        load_sam(folder)


@pytest.mark.parametrize(("layers", "verb"), [(2, "have"), (4, "lack")])
def test_a_config_of_another_depth_is_refused(folder, layers, verb):
    change(folder, lambda c: c["vision_config"].update(num_hidden_layers=layers))
    with pytest.raises(ModelError, match=rf"the weights {verb} vision_encoder.layers"):
        load_sam(folder)


def test_weights_must_be_finite(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["vision_encoder.pos_embed"][0, 0, 0, 0] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"vision_encoder.pos_embed holds NaN"):
        load_sam(folder)


@pytest.mark.parametrize(
    ("pruning", "says"),
    [
        ({"version": 2, "modules": {}}, "not of version 1"),
        ([1], "not of version 1"),
        ({"version": 1, "modules": {"layers.9": {}}}, "names 'layers.9'"),
        ({"version": 1, "modules": {"layers.0.mlp.lin1": {"weight": [10**9, 32]}}}, "not smaller"),
        ({"version": 1, "modules": {"layers.0.attn": {"num_attention_heads": 10**9}}}, "not in"),
        ({"version": 1, "modules": {"layers.0.attn": {"forward": 1}}}, "no integer"),
        ({"version": 1, "modules": {}}, "do not have the shapes"),
    ],
)
def test_a_hostile_or_wrong_pruning_config_is_refused(uneven, pruning, says):
    change(uneven, lambda c: c["vision_config"].update(pruning=pruning))
    with pytest.raises(ModelError, match=says):
        load_sam(uneven)


def test_the_image_model_is_opened_out_of_a_video_model(tmp_path):
    """Published Sam2 checkpoints are of type sam2_video."""
    from transformers import Sam2VideoConfig, Sam2VideoModel

    image = tiny_sam2()
    parts = {k: v for k, v in image.config.to_dict().items() if k.endswith("_config")}
    memory = {name: 16 for name in ("memory_attention_hidden_size", "memory_attention_feed_forward_hidden_size")}
    memory |= {"memory_encoder_hidden_size": 16, "memory_encoder_output_channels": 8, "mask_downsampler_embed_dim": 16}
    memory |= {"memory_fuser_embed_dim": 16, "memory_fuser_intermediate_dim": 16, "memory_attention_num_layers": 1}
    video = Sam2VideoModel(Sam2VideoConfig(**parts, **memory))
    video.load_state_dict(image.state_dict(), strict=False)
    video.save_pretrained(tmp_path / "video")
    opened = load_sam(tmp_path / "video").requires_grad_(False)
    for ours, theirs in zip(segment(opened), segment(image), strict=True):
        assert torch.equal(ours, theirs)
