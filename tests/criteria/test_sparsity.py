"""The augmented Lagrangian: its formula, and that it reaches the share asked for whatever the scale of the loss."""

from __future__ import annotations

import math

import pytest
import torch

from gencompress.criteria.sparsity import MULTIPLIER, QUADRATIC, SparsityConstraint
from gencompress.errors import ConfigError, NumericsError


def test_the_penalty_is_that_of_the_paper():
    gates = torch.tensor([0.9, 0.5, 0.1, 0.1], requires_grad=True)
    constraint = SparsityConstraint(keep=0.3, steps=10, multiplier=0.25)
    penalty = constraint.penalty(gates)
    assert float(penalty.detach()) == pytest.approx(QUADRATIC / 2 * 0.1**2 + 0.25 * 0.1)
    penalty.backward()
    torch.testing.assert_close(gates.grad, torch.full((4,), (QUADRATIC * 0.1 + 0.25) / 4))


def test_few_open_gates_have_no_quadratic_penalty():
    gates = torch.full((5,), 0.1, requires_grad=True)
    SparsityConstraint(keep=0.3, steps=10).penalty(gates).backward()
    assert not gates.grad.any()


def test_the_multiplier_follows_the_excess_and_never_falls_below_zero():
    constraint = SparsityConstraint(keep=0.25, steps=100)
    constraint.ascend_(0.75)
    assert constraint.multiplier == pytest.approx(MULTIPLIER / 100 * 0.5)
    constraint.ascend_(0.25)
    assert constraint.multiplier == pytest.approx(MULTIPLIER / 100 * 0.5)
    for _ in range(10):
        constraint.ascend_(0.0)
    assert constraint.multiplier == 0


@pytest.mark.parametrize("scale", [1e-2, 1e-1])
def test_the_share_is_reached_by_closing_the_gates_that_matter_least(scale):
    """Gates with a use each, which Adam trades against their number."""
    use = torch.linspace(0, 1, 400)
    logits = torch.full((400,), 2.0, requires_grad=True)
    adam = torch.optim.Adam([logits], 0.02, eps=1e-15)
    constraint = SparsityConstraint(keep=0.2, steps=2000)
    for _ in range(2000):
        gates = logits.sigmoid()
        loss = -scale * (use * gates).mean() + constraint.penalty(gates)
        logits.grad = None
        loss.backward()
        adam.step()
        constraint.ascend_(float(logits.detach().sigmoid().mean()))
    gates = logits.detach().sigmoid()
    # at most what is asked: with a weak loss the multiplier swings past it before it falls again
    assert 0.05 < float(gates.mean()) < 0.22
    assert float(gates.diff().min()) > -1e-3 and float(gates[-1]) > 0.5 > float(gates[200])


@pytest.mark.parametrize("keep, steps, message", [(0, 5, "keep=0"), (1.1, 5, "keep=1.1"), (0.5, 0, "steps=0")])
def test_bad_options_are_refused(keep, steps, message):
    with pytest.raises(ConfigError, match=message):
        SparsityConstraint(keep, steps)


def test_a_share_that_is_no_number_leaves_the_multiplier():
    constraint = SparsityConstraint(0.5, 5, multiplier=0.1)
    with pytest.raises(NumericsError, match="mean of the gates is nan"):
        constraint.ascend_(math.nan)
    assert constraint.multiplier == 0.1
