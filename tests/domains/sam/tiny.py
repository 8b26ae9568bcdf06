"""Tiny SAM models, built from configs alone: random weights, nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIZE = 64  # pixels; patches of 8, so windows of 3 pad the 8 x 8 grid as windows of 14 pad SAM's 64 x 64


def tiny_config(attention: str = "sdpa", **vision: Any) -> Any:
    """Three layers, the middle one with global attention; 2 heads of 16 dimensions."""
    from transformers import SamConfig

    encoder = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "mlp_dim": 48,
        "image_size": SIZE,
        "patch_size": 8,
        "window_size": 3,
        "global_attn_indexes": [1],
        "output_channels": 16,
        "num_pos_feats": 8,
    }
    prompt = {"hidden_size": 16, "image_size": SIZE, "patch_size": 8, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return SamConfig(
        vision_config=encoder | vision,
        prompt_encoder_config=prompt,
        mask_decoder_config=decoder,
        attn_implementation=attention,
    )


def tiny_sam(attention: str = "sdpa", seed: int = 0, **vision: Any) -> Any:
    """A frozen `SamModel` in evaluation mode, with every norm, bias and position table off its initial value."""
    from transformers import SamModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SamModel._from_config(tiny_config(attention, **vision), attn_implementation=attention)
        for parameter in model.eval().requires_grad_(False).parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def full_size(width: int, heads: int, layers: int, attend_globally: tuple[int, ...]) -> Any:
    """A SAM of a published size on the meta device."""
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "mlp_dim": 4 * width,
        "global_attn_indexes": list(attend_globally),
    }
    with torch.device("meta"):
        return SamModel(SamConfig(vision_config=vision)).eval()


VIT_B = (768, 12, 12, (2, 5, 8, 11))
VIT_L = (1024, 16, 24, (5, 11, 17, 23))
VIT_H = (1280, 16, 32, (7, 15, 23, 31))


def pixels(batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images [batch, 3, SIZE, SIZE], the same on every call."""
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
def embed(encoder: Any, images: Tensor) -> Tensor:
    """Embeddings [batch, channels, height, width]."""
    return encoder(images).last_hidden_state


def prompted() -> dict[str, Tensor]:
    """Two images with a point and a box each, as `SamModel` takes them."""
    return {
        "pixel_values": pixels(),
        "input_points": torch.tensor([[[[20.0, 24.0]]], [[[40.0, 8.0]]]]),
        "input_labels": torch.ones(2, 1, 1, dtype=torch.int64),
        "input_boxes": torch.tensor([[[4.0, 4.0, 40.0, 50.0]], [[10.0, 0.0, 60.0, 30.0]]]),
    }


@torch.no_grad()
def segment(model: Any) -> tuple[Tensor, Tensor]:
    """Mask logits and scores for `prompted`."""
    out = model(**prompted())
    return out.pred_masks.contiguous(), out.iou_scores.contiguous()
