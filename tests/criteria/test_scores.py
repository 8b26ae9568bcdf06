"""Random, magnitude, Taylor, Fisher and Gauss-Newton scores against what plain autograd and hand arithmetic give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gencompress.core.group import Group, Groups, Site, Slice
from gencompress.criteria.gauss_newton import gauss_newton_scores
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.criteria.random import random_scores
from gencompress.criteria.taylor import divide_by_cost, fisher_scores, taylor_scores
from gencompress.errors import ConfigError, Interrupted, NumericsError
from gencompress.run import NullContext
from tests.criteria.toy import FIRST, SECOND, Net, Recorder, ToySubject, frozen_copy, untouched

NAMES = ("first", "second")


def mean_squares(tensor, dim, size):
    return tensor.movedim(dim, 0).reshape(size, -1).square().sum(1)


def test_random_scores_are_uniform_and_repeat():
    groups = Groups((Group("a", "ffn", 3000), Group("b", "ffn", 7)))
    scores, again, other = random_scores(groups, 5), random_scores(groups, 5), random_scores(groups, 6)
    assert all(torch.equal(scores[n], again[n]) and not torch.equal(scores[n], other[n]) for n in ("a", "b"))
    assert scores["b"].shape == (7,)
    assert abs(float(scores["a"].mean()) - 0.5) < 0.02 and abs(float(scores["a"].var()) - 1 / 12) < 0.005


@pytest.mark.parametrize("normalise", ["raw", "rms", "mean"])
def test_magnitude_by_hand(normalise):
    net = Net()
    weights = dict(net.named_parameters())
    scores = magnitude_scores(weights, net.groups(), normalise)
    for unit in range(FIRST):
        parts = [net.enter.weight[unit], net.enter.bias[unit : unit + 1], net.middle.weight[:, unit]]
        values = torch.cat(parts)
        raw = values.square().sum().sqrt()
        if normalise == "raw":
            assert scores["first"][unit] == pytest.approx(float(raw), rel=1e-5)
        elif normalise == "rms":
            assert scores["first"][unit] == pytest.approx(float(values.square().mean().sqrt()), rel=1e-5)
    if normalise == "mean":
        raw = magnitude_scores(weights, net.groups(), "raw")
        for name in NAMES:
            assert torch.allclose(scores[name], raw[name] / raw[name].mean())


def test_magnitude_of_heads_halves_and_blocks_by_hand():
    """A unit that owns several rows, in two halves, and a whole block; buffers and unknown tensors do not count."""
    weight = torch.arange(48.0).reshape(12, 4) - 20
    tensors = {"up.weight": weight, "block.0.weight": torch.full((2, 3), 2.0), "block.0.bias": torch.full((4,), -1.0)}
    wide = Slice("up.weight", 0, offset=1, block=2, repeat=2, pitch=5)
    groups = Groups(
        (
            Group("up", "head", 2, (wide, Slice("up.index", 0, block=2))),
            Group("block.0", "depth", 1, stack="block.0.", min_keep=0),
        )
    )
    owned = [[1, 2, 6, 7], [3, 4, 8, 9]]
    raw = magnitude_scores(tensors, groups, "raw")
    rms = magnitude_scores(tensors, groups, "rms")
    for unit, rows in enumerate(owned):
        assert raw["up"][unit] == pytest.approx(float(weight[rows].norm()))
        assert rms["up"][unit] == pytest.approx(float(weight[rows].square().mean().sqrt()))
    assert float(raw["block.0"]) == pytest.approx((6 * 4 + 4 * 1) ** 0.5)
    assert float(rms["block.0"]) == pytest.approx(((6 * 4 + 4 * 1) / 10) ** 0.5)


def test_magnitude_of_bf16_is_that_of_its_values():
    weights = {n: p.bfloat16() for n, p in Net().named_parameters()}
    wide = {n: p.float() for n, p in weights.items()}
    groups = Net().groups()
    assert torch.equal(magnitude_scores(weights, groups)["second"], magnitude_scores(wide, groups)["second"])


def test_magnitude_names_the_nearest_normalisation():
    with pytest.raises(ConfigError, match="did you mean 'rms'"):
        magnitude_scores(dict(Net().named_parameters()), Net().groups(), "rsm")  # type: ignore[arg-type]


def test_taylor_is_autograd_summed_over_time_before_the_magnitude():
    subject = ToySubject()
    before = frozen_copy(subject.module)
    context = Recorder()
    scores = taylor_scores(subject, subject.module.groups(), samples=10, batch=4, ctx=context)

    assert untouched(subject.module, before) and context.steps == [(1, 3), (2, 3), (3, 3)]
    net = Net().requires_grad_(True)
    for index in range(3):  # gradients of several batches add up in .grad
        subject.loss_of(net, index, 4).mean().backward()
    change = {n: (p * p.grad).abs() for n, p in net.named_parameters()}
    first = change["enter.weight"].sum(1) + change["enter.bias"] + change["middle.weight"].sum(0)
    second = change["middle.weight"].sum(1) + change["middle.bias"] + change["leave.weight"].sum(0)
    assert torch.allclose(scores["first"], first.detach(), rtol=1e-5)
    assert torch.allclose(scores["second"], second.detach(), rtol=1e-5)


def test_taylor_of_a_whole_block_counts_all_its_weights():
    subject = ToySubject()
    groups = Groups((Group("leave", "depth", 1, sites=(Site("leave", "residual"),), stack="block.0.", min_keep=0),))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.ModuleList([Net()])

        def forward(self, x):
            return x + self.block[0](x)

    subject.module = Wrapped()  # type: ignore[assignment]
    scores = taylor_scores(subject, groups, samples=4, batch=4, ctx=NullContext())
    twin = Wrapped().requires_grad_(True)
    subject.loss_of(twin, 0, 4).mean().backward()
    expected = sum(float((p * p.grad).detach().abs().sum()) for p in twin.parameters())
    assert float(scores["leave"]) == pytest.approx(expected, rel=1e-5)


def test_flags_come_back_even_when_the_scoring_is_interrupted():
    subject = ToySubject()
    subject.module.middle.weight.requires_grad_(True)
    flags = {n: p.requires_grad for n, p in subject.module.named_parameters()}
    with pytest.raises(Interrupted):
        taylor_scores(subject, subject.module.groups(), samples=20, batch=4, ctx=Recorder(stop_after=2))
    assert {n: p.requires_grad for n, p in subject.module.named_parameters()} == flags


def test_fisher_is_the_sum_of_squared_gate_gradients_of_single_samples():
    subject = ToySubject()
    before = frozen_copy(subject.module)
    scores = fisher_scores(subject, subject.module.groups(), samples=8, batch=4, ctx=NullContext())

    assert untouched(subject.module, before)
    expected = {"first": torch.zeros(FIRST), "second": torch.zeros(SECOND)}
    for index in range(2):
        for sample, row in enumerate(subject.trajectories(index, 4)):
            gates = {n: torch.ones(len(e), requires_grad=True) for n, e in expected.items()}
            loss = (subject.module.gated_by_hand(row, **gates) - row.flip(-1)).square().mean()
            assert torch.allclose(loss, subject.losses(index, 4)[sample])
            for name, grad in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
                expected[name] += grad.square()
    for name in NAMES:
        assert torch.allclose(scores[name].float(), expected[name], rtol=1e-4)


def test_gauss_newton_has_the_diagonal_of_the_explicit_jacobian_as_its_mean():
    subject = ToySubject(same=True)
    before = frozen_copy(subject.module)
    rounds, batch = 60, 256
    scores = gauss_newton_scores(subject, subject.module.groups(), rounds * batch, batch, Recorder())

    assert untouched(subject.module, before)
    ones = (torch.ones(FIRST), torch.ones(SECOND))
    start = subject.trajectories(0, 1)[0]
    jacobians = torch.autograd.functional.jacobian(lambda a, b: subject.final(start, a, b), ones)
    for name, jacobian in zip(NAMES, jacobians, strict=True):
        diagonal = jacobian.square().sum(0)  # of J^T J
        # Every draw has relative variance 2 at most, so the mean of 15,360 of them is off by 1.2 % (one sigma).
        assert torch.allclose(scores[name].float() / (rounds * batch), diagonal, rtol=0.06)


def test_gauss_newton_repeats_and_counts_whole_batches():
    subject = ToySubject()
    groups = subject.module.groups()
    context = Recorder()
    scores = gauss_newton_scores(subject, groups, 5, 2, context, seed=3)
    again = gauss_newton_scores(subject, groups, 6, 2, NullContext(), seed=3)
    other = gauss_newton_scores(subject, groups, 6, 2, NullContext(), seed=4)
    assert context.steps[-1] == (3, 3)
    for name in NAMES:
        assert torch.equal(scores[name], again[name]) and not torch.equal(scores[name], other[name])
        assert scores[name].shape == (groups.by_name[name].size,) and bool((scores[name] > 0).all())


@pytest.mark.parametrize("criterion", [taylor_scores, fisher_scores, gauss_newton_scores])
def test_interrupted_and_resumed_scores_are_those_of_one_go(criterion):
    subject = ToySubject()
    groups = subject.module.groups()
    whole = criterion(subject, groups, 40, 2, Recorder())
    for stop in (1, 7, 19):
        context = Recorder(stop_after=stop)
        with pytest.raises(Interrupted):
            criterion(subject, groups, 40, 2, context)
        rest = Recorder(saved=context.saved)
        parts = criterion(subject, groups, 40, 2, rest)
        assert all(torch.equal(parts[n], whole[n]) for n in NAMES)
        assert rest.steps[0] == (stop + 1, 20), "the steps before the stop are not done again"


@pytest.mark.parametrize("criterion", [taylor_scores, fisher_scores, gauss_newton_scores])
def test_nan_weights_are_a_typed_error(criterion):
    subject = ToySubject()
    subject.module.middle.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"(?i)nan"):
        criterion(subject, subject.module.groups(), 4, 2, NullContext())


def test_groups_without_gates_get_no_gate_score():
    subject = ToySubject()
    first, second = subject.module.groups()
    blind = Group("first", "ffn", FIRST, first.slices)
    for criterion in (fisher_scores, gauss_newton_scores):
        assert set(criterion(subject, Groups((blind, second)), 2, 2, NullContext())) == {"second"}


def test_per_cost_divides_by_the_parameters_of_one_unit():
    net = Net()
    scores = {"first": torch.ones(FIRST), "second": torch.full((SECOND,), 2.0)}
    divided = divide_by_cost(scores, net.cost())
    # one unit of the first layer: a row (4), a bias (1), a column of the second layer (5); of the second: 6 + 1 + 4
    assert torch.allclose(divided["first"], torch.full((FIRST,), 1 / 10))
    assert torch.allclose(divided["second"], torch.full((SECOND,), 2 / 11))
    assert float(scores["second"][0]) == 2.0
