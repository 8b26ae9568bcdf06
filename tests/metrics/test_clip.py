from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from gencompress.errors import DataError, ModelError
from gencompress.metrics.clip import Clip, clip_score, cmmd

PROMPTS = ["a red ball", "the cat", "a ball and the cat", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of the real class with random weights, saved as users have it."""
    path = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(97, 123)]
    tokens = [*letters, *[f"{c}</w>" for c in letters], "<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**sizes, **end, "vocab_size": len(tokens), "max_position_embeddings": 20},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(path)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(image_processor=CLIPImageProcessor(**size), tokenizer=tokenizer).save_pretrained(path)
    return path


def pictures():
    return torch.randint(0, 256, (4, 3, 40, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_scores_are_those_of_stock_clip(folder):
    """transformers' own forward gives all cosines times its logit scale; torchmetrics 1.9 fails with transformers 5."""
    clip = Clip.load(str(folder))
    ours = clip_score(clip, pictures(), PROMPTS)
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    with torch.inference_mode():
        out = model(**processor(text=PROMPTS, images=list(pictures()), return_tensors="pt", padding=True))
        cosine = out.logits_per_image.diagonal() / model.logit_scale.exp()
    assert cosine.abs().max() > 0.01
    np.testing.assert_allclose(ours.per_image, 100 * cosine.clamp(min=0).numpy(), rtol=1e-4, atol=1e-4)


def test_long_prompts_are_cut_and_counts_must_fit(folder):
    clip = Clip.load(str(folder))
    assert len(clip_score(clip, pictures(), ["a b c d e f g h " * 20] * 4).per_image) == 4
    with pytest.raises(DataError, match="one prompt per image, got 3 for 4"):
        clip_score(clip, pictures(), PROMPTS[:3])


def test_embeddings_have_unit_length_and_a_hash(folder):
    clip = Clip.load(str(folder))
    features = clip(pictures().float())
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    assert features.shape == (4, clip.dimension) and len(clip.sha256) == 64


def test_a_folder_without_clip_is_named(tmp_path):
    with pytest.raises(ModelError, match="no CLIP model"):
        Clip.load(str(tmp_path))


def test_cmmd_is_the_authors_formula():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 8)), generator.normal(size=(20, 8)) + 0.3
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))

    def mean_kernel(a, b):
        return np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in b] for p in a])

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="dimensions"):
        cmmd(x, y[:, :4])
