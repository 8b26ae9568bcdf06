"""MACs against counts by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gencompress.core.trace import trace_work
from gencompress.errors import BudgetError


def weights_of(layer: nn.Module, *shape: int) -> int:
    """Traced MACs of all weights in one call of `layer`."""
    work = trace_work(layer, lambda: layer(torch.empty(shape, device="meta")))
    assert not work.products
    named = dict(layer.named_parameters())
    return sum(n * named[name].numel() for name, n in work.positions.items())


def layer(kind, *args, **kwargs):
    return kind(*args, device="meta", **kwargs)


def test_linear():
    assert weights_of(layer(nn.Linear, 5, 7), 1, 11, 5) == 11 * 5 * 7
    assert weights_of(layer(nn.Linear, 5, 7), 5) == 5 * 7


def test_convolution():
    # 3x3 over 8x6 with stride 2, padding 1: a 4x3 grid
    assert weights_of(layer(nn.Conv2d, 4, 10, 3, stride=2, padding=1), 1, 4, 8, 6) == 4 * 3 * 10 * 4 * 9
    assert weights_of(layer(nn.Conv2d, 4, 10, 3, stride=2, padding=1), 4, 8, 6) == 4 * 3 * 10 * 4 * 9
    assert weights_of(layer(nn.Conv1d, 4, 10, 3), 1, 4, 9) == 7 * 10 * 4 * 3
    assert weights_of(layer(nn.Conv3d, 2, 3, 2), 1, 2, 4, 4, 4) == 27 * 3 * 2 * 8


def test_grouped_and_depthwise_convolution():
    assert weights_of(layer(nn.Conv2d, 8, 8, 3, padding=1, groups=8), 1, 8, 5, 5) == 25 * 8 * 9
    assert weights_of(layer(nn.Conv2d, 8, 12, 1, groups=4), 1, 8, 5, 5) == 25 * 12 * 2


def test_transposed_convolution_works_on_its_input_grid():
    upsample = layer(nn.ConvTranspose2d, 6, 10, 4, stride=2, padding=1)
    assert weights_of(upsample, 1, 6, 3, 5) == 3 * 5 * 6 * 10 * 16
    assert weights_of(upsample, 6, 3, 5) == 3 * 5 * 6 * 10 * 16
    assert weights_of(layer(nn.ConvTranspose2d, 6, 10, 4, groups=2), 1, 6, 3, 5) == 3 * 5 * 6 * 5 * 16


class Products(nn.Module):
    """Every way of writing attention over 5 queries and 7 keys, 2 heads of width 3, values of width 4."""

    def __init__(self, how: str):
        super().__init__()
        self.how, self.inner = how, nn.Identity()

    def forward(self, q, k, v):
        if self.how == "sdpa":
            return F.scaled_dot_product_attention(q, k, value=v)
        if self.how == "matmul":
            return torch.matmul((q @ k.mT).softmax(-1), v)
        if self.how == "bmm":
            q, k, v = q[0], k[0], v[0]
            zero = torch.zeros((), device=q.device)
            return torch.bmm(torch.baddbmm(zero, q, k.mT, beta=0), v)
        if self.how == "mm":
            return torch.stack([torch.mm(torch.mm(q[0, h], k[0, h].T), v[0, h]) for h in range(2)])
        if self.how == "einsum":
            return torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k), v)
        return torch.einsum("...ij,...jd", [torch.einsum("... i d, ... j d -> ... i j", q, k), v])


@pytest.mark.parametrize("how", ["sdpa", "matmul", "bmm", "mm", "einsum", "einsum with ellipsis"])
def test_attention_products_belong_to_their_module(how):
    net = nn.ModuleDict({"inside": Products(how)})
    q, k, v = (torch.empty(1, 2, n, d, device="meta") for n, d in ((5, 3), (7, 3), (7, 4)))
    work = trace_work(net, lambda: net["inside"](q, k, v))
    assert work.products == {"inside": 2 * 5 * 7 * (3 + 4)}
    assert not work.positions


def test_outer_products_and_transpositions_are_no_matrix_products():
    x = torch.empty(4, device="meta")
    work = trace_work(nn.Identity(), lambda: (torch.einsum("i,j->ij", x, x), torch.einsum("i->i", x)))
    assert sum(work.products.values()) == 0


def test_a_weight_in_a_plain_product_is_a_weight():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.empty(5, 3))

        def forward(self, x):
            return x @ self.w

    raw = Raw()
    assert trace_work(raw, lambda: raw(torch.zeros(1, 4, 5))).positions == {"w": 4}


def test_a_weight_made_on_the_fly_is_work_of_its_module():
    class Modulated(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.empty(5, 3))

        def forward(self, x):
            return F.linear(x, self.w * 2)

    net = nn.Sequential(Modulated())
    assert trace_work(net, lambda: net(torch.zeros(1, 4, 3))).products == {"0": 4 * 3 * 5}


def test_a_layer_used_twice_counts_twice():
    linear = layer(nn.Linear, 3, 3)
    work = trace_work(linear, lambda: linear(linear(torch.empty(1, 3, device="meta"))))
    assert work.positions == {"weight": 2}


def test_what_cannot_be_counted_is_refused_by_name():
    net = nn.Sequential()
    net.add_module("attention", nn.MultiheadAttention(4, 2))
    x = torch.zeros(3, 1, 4)
    with pytest.raises(BudgetError, match="attention calls multi_head_attention_forward"):
        trace_work(net, lambda: net.attention(x, x, x))
    y = torch.zeros(2, 2)
    with pytest.raises(BudgetError, match="3 operands"):
        trace_work(nn.Identity(), lambda: torch.einsum("ij,jk,kl->il", y, y, y))


def test_tracing_leaves_nothing_behind_even_after_an_error():
    net = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        trace_work(net, lambda: net(torch.zeros(2, 4)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net(torch.zeros(2, 3)).requires_grad
