from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gencompress.core.gate import gated, hard_concrete, open_probability
from gencompress.core.group import Group, Groups, Site
from gencompress.errors import PlanError
from tests.core.nets import Transformer


class Identity(nn.Module):
    """One layer to be gated anywhere: what goes in comes out."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(x)


def one_group(size: int, **site) -> Groups:
    return Groups((Group("g", "ffn", size, sites=(Site("inner", **site),)),))


@pytest.mark.parametrize("where", ["input", "output"])
@given(data=st.data())
def test_gates_multiply_the_channels_of_their_units(where, data):
    size, block, repeat, offset = (data.draw(st.integers(low, 3)) for low in (1, 1, 1, 0))
    pitch = size * block + data.draw(st.integers(0, 2))
    channels = offset + (repeat - 1) * pitch + size * block + data.draw(st.integers(0, 2))
    dim = data.draw(st.sampled_from([1, -1, 2]))
    shape = [2, 3, 3, 3]
    shape[dim] = channels
    x, gate = torch.randn(shape), torch.randn(size)
    expected = x.clone().movedim(dim, 0)
    for u in range(size):
        for r in range(repeat):
            start = offset + u * block + r * pitch
            expected[start : start + block] *= gate[u]
    groups = one_group(size, where=where, dim=dim, offset=offset, block=block, repeat=repeat, pitch=pitch)
    net = Identity()
    with gated(net, groups, {"g": gate}):
        torch.testing.assert_close(net(x).movedim(dim, 0), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dim", [1, -1])
def test_gates_per_sample_repeat_over_the_halves_of_guidance(dim):
    x, gates = torch.randn(6, 4, 4), torch.randn(3, 4)
    net = Identity()
    with gated(net, one_group(4, dim=dim), {"g": gates}):
        out = net(x)
    shape = (4, 1) if dim == 1 else (1, 4)
    expected = torch.stack([x[i] * gates[i % 3].reshape(shape) for i in range(6)])
    assert torch.equal(out, expected)


def test_one_row_of_gates_is_for_every_sample():
    net, x, gate = Identity(), torch.randn(5, 4), torch.randn(1, 4)
    with gated(net, one_group(4), {"g": gate}):
        assert torch.equal(net(x), x * gate)


def test_two_groups_share_a_layer():
    sites = {"a": Site("inner", block=2), "b": Site("inner", offset=4)}
    groups = Groups(tuple(Group(n, "ffn", 2, sites=(s,)) for n, s in sites.items()))
    net, x = Identity(), torch.ones(1, 7)
    with gated(net, groups, {"a": torch.tensor([2.0, 3]), "b": torch.tensor([5.0, 7])}):
        assert net(x).tolist() == [[2, 2, 3, 3, 5, 7, 1]]


def test_a_group_may_be_gated_in_several_places():
    net = nn.Sequential(nn.Identity(), nn.Identity())
    groups = Groups((Group("g", "ffn", 2, sites=(Site("0"), Site("1", "output"))),))
    with gated(net, groups, {"g": torch.tensor([2.0, 3])}):
        assert net(torch.ones(1, 2)).tolist() == [[4, 9]]


class OneStream(nn.Module):
    def forward(self, hidden_states, temb=None):
        return hidden_states * 3 + temb


class TwoStreams(nn.Module):
    def __init__(self, drops_text=False):
        super().__init__()
        self.drops_text = drops_text

    def forward(self, hidden_states, encoder_hidden_states, temb=None):
        text = None if self.drops_text else encoder_hidden_states * 5
        return text, hidden_states * 3 + temb


BLOCK = Groups((Group("b", "depth", 1, sites=(Site("0", "residual"),), min_keep=0, stack="0."),))


@pytest.mark.parametrize("how", ["positional", "named"])
def test_residual_gate_on_one_stream(how):
    net, x, t = nn.ModuleList([OneStream()]), torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    call = (lambda: net[0](x, t)) if how == "positional" else (lambda: net[0](temb=t, hidden_states=x))
    y = call()
    for gate in (torch.tensor([0.3]), torch.tensor([[0.3], [0.8]])):
        with gated(net, BLOCK, {"b": gate}):
            mixed = call()
        g = gate.reshape(-1).repeat(4 // gate.numel())[:, None, None]
        torch.testing.assert_close(mixed, x + g * (y - x))


@pytest.mark.parametrize("drops_text", [False, True])
def test_residual_gate_on_two_streams(drops_text):
    net, x, c, t = (
        nn.ModuleList([TwoStreams(drops_text)]),
        torch.randn(2, 3, 2),
        torch.randn(2, 5, 2),
        torch.randn(2, 3, 2),
    )
    text, image = net[0](x, c, t)
    with gated(net, BLOCK, {"b": torch.tensor([0.3])}):
        mixed_text, mixed_image = net[0](x, encoder_hidden_states=c, temb=t)
    torch.testing.assert_close(mixed_image, x + 0.3 * (image - x))
    torch.testing.assert_close(mixed_text, c if drops_text else c + 0.3 * (text - c))


def test_residual_gates_are_exact_at_their_ends():
    net, x, t = nn.ModuleList([OneStream()]), torch.randn(2, 3) * 1e-4, torch.randn(2, 3) * 1e4
    for gate, expected in ((0.0, x), (1.0, net[0](x, t))):
        with gated(net, BLOCK, {"b": torch.tensor([gate])}):
            assert torch.equal(net[0](x, t), expected)


def traces(net: nn.Module) -> list:
    """Whatever hooks add to modules, and the modules' own attributes."""
    return [(sorted(vars(m)), [len(v) for v in vars(m).values() if isinstance(v, dict)]) for m in net.modules()]


def test_gates_leave_no_trace():
    net = Transformer()
    groups, inputs = net.groups(), net.inputs()
    before, dense = traces(net), net(*inputs)
    gates = {g.name: torch.rand(g.size) for g in groups}
    with gated(net, groups, gates):
        assert not torch.equal(net(*inputs), dense)
    assert traces(net) == before
    with pytest.raises(ZeroDivisionError), gated(net, groups, gates):
        raise ZeroDivisionError
    assert traces(net) == before
    nowhere = Groups((*groups, Group("x", "ffn", 2, sites=(Site("nowhere"),))))
    with pytest.raises(PlanError, match="'x' is gated at 'nowhere'"), gated(net, nowhere, gates):
        pass
    assert traces(net) == before
    assert torch.equal(net(*inputs), dense)


def test_contexts_nest():
    net, x = Identity(), torch.ones(1, 2)
    with gated(net, one_group(2), {"g": torch.tensor([2.0, 3])}):
        with gated(net, one_group(2, where="output"), {"g": torch.tensor([5.0, 7])}):
            assert net(x).tolist() == [[10, 21]]
        assert net(x).tolist() == [[2, 3]]


def test_gates_are_read_anew_at_every_forward():
    net, x, gates = Identity(), torch.ones(1, 2), {"g": torch.tensor([2.0, 3])}
    with gated(net, one_group(2), gates):
        net(x)
        gates["g"] = torch.tensor([0.0, 1])
        assert net(x).tolist() == [[0, 1]]
        del gates["g"]
        assert net(x).tolist() == [[1, 1]]


def test_half_precision_activations_stay_half_under_fp32_gates():
    net, x = Identity(), torch.randn(4, 8).bfloat16()
    gate = torch.rand(8, requires_grad=True)
    with gated(net, one_group(8), {"g": gate}):
        out = net(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, x * gate.bfloat16())
    out.float().sum().backward()
    assert gate.grad is not None and gate.grad.dtype == torch.float32
    torch.testing.assert_close(gate.grad, x.float().sum(0), rtol=0.02, atol=0.02)


def test_gradients_of_gates_are_those_of_finite_differences():
    net = Transformer(stages=1, depth=2).double()
    x, context = (t.double() for t in net.inputs())
    groups = net.groups()
    names = [g.name for g in groups]
    gates = [torch.rand(2, g.size, dtype=torch.float64, requires_grad=True) for g in groups]

    def output(*values):
        with gated(net, groups, dict(zip(names, values, strict=True))):
            return net(x, context)

    assert torch.autograd.gradcheck(output, gates)


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        (torch.ones(3), r"shape \(3,\), not \(4,\) or \(B, 4\)"),
        (torch.ones(1), r"shape \(1,\)"),
        (torch.ones(2, 2, 4), r"shape \(2, 2, 4\)"),
        (torch.ones(4, 4), "gates for 4 samples meet a batch of 6"),
        (torch.ones(0, 4), "gates for 0 samples"),
    ],
)
def test_gates_must_fit(gate, says):
    net = Identity()
    with gated(net, one_group(4), {"g": gate}), pytest.raises(PlanError, match=says):
        net(torch.ones(6, 4))


def test_gates_need_a_group_and_a_site():
    groups = Groups((Group("g", "ffn", 2),))
    with pytest.raises(PlanError, match="'h', which is no group"), gated(Identity(), groups, {"h": torch.ones(2)}):
        pass
    with pytest.raises(PlanError, match="'g' has no gate site"), gated(Identity(), groups, {"g": torch.ones(2)}):
        pass


def test_hard_concrete_is_the_published_formula():
    # Louizos et al. 2018, eq. 10 and 11, in the notation of the paper: beta 2/3, gamma -0.1, zeta 1.1
    log_alpha, u = torch.linspace(-4, 4, 41)[:, None], torch.linspace(0.01, 0.99, 31)
    s = torch.sigmoid((torch.log(u) - torch.log(1 - u) + log_alpha) / (2 / 3))
    z = torch.clamp(s * (1.1 + 0.1) - 0.1, 0, 1)
    torch.testing.assert_close(hard_concrete(log_alpha, u, 2 / 3, 0.0), z)
    # EcoDiff's masking_eps bounds the noise: log(u + d) - log(1 - u + d)
    s = torch.sigmoid((torch.log(u + 0.5) - torch.log(1 - u + 0.5) + log_alpha) / 0.83)
    torch.testing.assert_close(hard_concrete(log_alpha, u, 0.83, 0.5), torch.clamp(1.2 * s - 0.1, 0, 1))


def test_hard_concrete_is_finite_and_differentiable_at_the_ends_of_the_noise():
    logits = torch.zeros(2, requires_grad=True)
    gates = hard_concrete(logits, torch.tensor([0.0, 1 - 2**-24]))
    assert gates.tolist() == [0, 1]
    gates.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert math.isclose(float(hard_concrete(torch.zeros(1), torch.full((1,), 0.5))), 0.5, abs_tol=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 0.83])
def test_open_probability_is_that_of_drawn_gates(temperature):
    logits, n = torch.linspace(-3, 3, 13), 200_000
    noise = torch.rand(n, 13, generator=torch.Generator().manual_seed(1))
    drawn = (hard_concrete(logits, noise, temperature) > 0).float().mean(0)
    expected = open_probability(logits, temperature)
    error = (expected * (1 - expected) / n).sqrt()
    assert ((drawn - expected).abs() < 4.5 * error + 1e-5).all()


def test_open_probability_is_the_published_formula():
    # Louizos et al. 2018, eq. 12: sigmoid(log alpha - beta log(-gamma / zeta))
    logits = torch.linspace(-3, 3, 7)
    expected = torch.sigmoid(logits - 0.83 * math.log(0.1 / 1.1))
    torch.testing.assert_close(open_probability(logits), expected)


def channels_of_a_norm(norm: nn.LayerNorm) -> Groups:
    return Groups((Group("g", "width", norm.normalized_shape[0], sites=(Site("", "norm"),)),))


@pytest.mark.parametrize("affine", [True, False])
@given(data=st.data())
def test_a_gated_norm_at_0_and_1_is_the_norm_of_the_kept_channels(affine, data):
    kept = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 6), min_size=1))))
    norm, x = nn.LayerNorm(7, elementwise_affine=affine).requires_grad_(False), 3 + torch.randn(2, 4, 7)
    weight, bias = None, None
    if affine:
        norm.weight.normal_()
        norm.bias.normal_()
        weight, bias = norm.weight[kept], norm.bias[kept]
    gate = torch.zeros(7).index_fill(0, kept, 1.0)
    with gated(norm, channels_of_a_norm(norm), {"g": gate}):
        out = norm(x)
    wanted = torch.zeros_like(x)
    wanted[..., kept] = nn.functional.layer_norm(x[..., kept], (len(kept),), weight, bias)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_gates_of_a_norm_are_those_of_finite_differences():
    norm = nn.LayerNorm(5).double()
    x, gate = torch.randn(3, 5).double(), torch.rand(5).double().requires_grad_(True)

    def forward(gate):
        with gated(norm, channels_of_a_norm(norm), {"g": gate}):
            return norm(x)

    assert torch.autograd.gradcheck(forward, (gate,))


def test_half_precision_norms_stay_half():
    norm, x = nn.LayerNorm(8).bfloat16(), torch.randn(4, 8).bfloat16()
    with gated(norm, channels_of_a_norm(norm), {"g": torch.ones(8)}):
        out = norm(x)
    assert out.dtype == torch.bfloat16 and torch.allclose(out.float(), norm(x).float(), atol=0.05)


def test_gates_per_sample_cover_neighbouring_parts_where_a_sample_is_split():
    x, gates, net = torch.randn(6, 4), torch.randn(3, 4), Identity()
    with gated(net, one_group(4, split=True), {"g": gates}):
        assert torch.equal(net(x), torch.stack([x[i] * gates[i // 2] for i in range(6)]))
