"""Attention a few rows of queries at a time: the stock results without the stock memory."""

from __future__ import annotations

import pytest
import torch

from gencompress.domains.sam import attention
from gencompress.domains.sam.attention import attend_in_rows_
from gencompress.metrics import peak_memory
from tests.domains.sam.tiny import embed, pixels, tiny_sam


@pytest.mark.parametrize("block", [1, 3 * 8 * 64, 10**9], ids=["a row", "some rows", "all"])
@pytest.mark.parametrize("stock", ["sdpa", "eager"])
def test_results_are_those_of_the_stock_attention(monkeypatch, stock, block):
    """With windows that divide nothing, blocks of one row, of rows that do not divide the height, and of everything."""
    monkeypatch.setattr(attention, "_BLOCK", block)
    encoder = tiny_sam(stock).vision_encoder
    expected = embed(encoder, pixels())
    with torch.no_grad():
        found = embed(attend_in_rows_(encoder), pixels())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_and_gradients_stay_those_of_the_stock_encoder():
    encoder = tiny_sam().vision_encoder
    names, image = list(encoder.state_dict()), pixels().requires_grad_()
    encoder(image).last_hidden_state.square().sum().backward()
    expected, image.grad = image.grad, None
    attend_in_rows_(attend_in_rows_(encoder))
    encoder(image).last_hidden_state.square().sum().backward()
    assert torch.equal(image.grad, expected)
    assert list(encoder.state_dict()) == names


def test_other_types_take_the_stock_way():
    encoder = tiny_sam().vision_encoder.to(torch.bfloat16)
    expected = embed(encoder, pixels(dtype=torch.bfloat16))
    assert torch.equal(embed(attend_in_rows_(encoder), pixels(dtype=torch.bfloat16)), expected)


def test_the_matrix_of_all_queries_by_all_keys_is_never_held():
    """64 x 64 tokens: 67 MB of logits per head, of which the stock attention holds several copies."""
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    config = SamVisionConfig(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=1, mlp_dim=16, image_size=512, patch_size=8,
        global_attn_indexes=[0], output_channels=8,
    )  # fmt: skip
    encoder, image = attend_in_rows_(SamVisionEncoder(config).eval()), torch.zeros(1, 3, 512, 512)
    with torch.no_grad():
        encoder(image)
        peak = peak_memory(lambda: encoder(image))
    assert peak.bytes is not None and peak.bytes < 2 * 4096 * 4096 * 4
