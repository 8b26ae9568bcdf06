"""SAM's attention a few rows of queries at a time, so that a matrix of all queries by all keys is never held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamVisionAttention

_BLOCK = 1 << 19  # logits at a time


def attend_in_rows_(encoder: Any) -> Any:
    """Let a `SamVisionEncoder` attend block by block on the CPU where no gradient is asked for.

    Results are those of the stock attention up to rounding. At 1024 pixels a global layer of ViT-B has 12 x 4096 x 4096
    logits, which the stock attention writes to the memory four times over; a block stays in the cache.

    Args:
        encoder: dense or pruned; its weights and config stay as they are. Returned for convenience.
    """
    for module in encoder.modules():
        if isinstance(module, SamVisionAttention) and not isinstance(module, _RowAttention) and len(module.qkv.weight):
            module.__class__ = type("RowAttention", (_RowAttention, type(module)), {})
    return encoder


class _RowAttention(SamVisionAttention):
    def forward(self, hidden_states: Tensor, output_attentions: bool | None = None) -> tuple[Tensor, Any]:
        plain = hidden_states.device.type == "cpu" and hidden_states.dtype == torch.float32
        if not plain or torch.is_grad_enabled() or output_attentions or not self.use_rel_pos or self.training:
            out: tuple[Tensor, Any] = super().forward(hidden_states, output_attentions)
            return out
        batch, height, width, _ = hidden_states.shape
        heads = self.num_attention_heads
        qkv = self.qkv(hidden_states).reshape(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, batch * heads, height * width, -1).unbind(0)
        square = q.view(batch * heads, height, width, -1)
        rows = torch.einsum("bhwc,hkc->bhwk", square, self.get_rel_pos(height, height, self.rel_pos_h)).contiguous()
        columns = torch.einsum("bhwc,wkc->bhwk", square, self.get_rel_pos(width, width, self.rel_pos_w)).contiguous()
        mixed = _attend(q * q.shape[-1] ** -0.5, k, F.pad(v, (0, -v.shape[-1] % 16)), rows, columns)[..., : v.shape[-1]]
        mixed = mixed.view(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1)
        return self.proj(mixed), None


def _attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax of ``q k' + rows + columns`` times `v`.

    Args:
        q: scaled queries [n, height * width, dim], n heads of images or windows.
        k: keys, of the same shape.
        v: values [n, height * width, any]; products with a multiple of 16 columns are twice as fast as with 14.
        rows: logits for the row of a key [n, height, width, height].
        columns: logits for the column of a key [n, height, width, width].
    """
    n, height, width, _ = rows.shape
    tokens = height * width
    many = max(1, _BLOCK // tokens**2)
    lines = min(height, max(1, _BLOCK // (width * tokens)))
    logits, weights = q.new_empty(2, many * lines * width * tokens).unbind()
    keys, out = k.transpose(1, 2), torch.empty_like(v)
    for i in range(0, n, many):
        part = slice(i, i + many)
        for y in range(0, height, lines):
            high, low = rows[part, y : y + lines, :, :, None], columns[part, y : y + lines, :, None, :]
            here = slice(y * width, (y + lines) * width)
            shape = (high.shape[0], high.shape[1] * width, tokens)
            size = shape[0] * shape[1] * tokens
            block, soft = logits[:size].view(shape), weights[:size].view(shape)
            torch.add(high, low, out=block.view(*high.shape[:4], width))
            torch.softmax(block.baddbmm_(q[part, here], keys[part]), dim=-1, out=soft)
            torch.bmm(soft, v[part], out=out[part, here])
    return out
