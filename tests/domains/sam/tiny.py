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


def tiny_sam2(attention: str = "sdpa", seed: int = 0, **backbone: Any) -> Any:
    """A frozen `Sam2Model`: 4 stages of 1, 2, 3 and 2 blocks, 16 to 128 wide, with pooling between them."""
    from transformers import Sam2Config, Sam2Model

    stages = {
        "image_size": [SIZE, SIZE],
        "hidden_size": 16,
        "blocks_per_stage": [1, 2, 3, 2],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [4],
    }
    vision = {
        "backbone_config": {"model_type": "sam2_hiera_det_model"} | stages | backbone,
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    }
    prompt = {"hidden_size": 16, "image_size": SIZE, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sam2Model._from_config(config, attn_implementation=attention)
        for parameter in model.eval().requires_grad_(False).parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
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
    """Embeddings [batch, channels, height, width]; of Sam2 the values of all levels [batch, values]."""
    out = encoder(images)
    levels = getattr(out, "fpn_hidden_states", None)
    return out.last_hidden_state if levels is None else torch.cat([level.flatten(1) for level in levels], 1)


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
