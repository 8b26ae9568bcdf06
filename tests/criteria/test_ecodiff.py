"""Learned masks on a toy run: always on budget, the right gradient, the right units, the same after a kill."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from gencompress.core.budget import Budget
from gencompress.core.gate import hard_concrete, open_probability
from gencompress.core.group import Group, Groups
from gencompress.criteria import ecodiff
from gencompress.criteria.ecodiff import learn_gates, log_error
from gencompress.errors import BudgetError, Interrupted, NumericsError
from gencompress.run import NullContext
from tests.criteria.toy import FIRST, SECOND, Net, Recorder, ToySubject, frozen_copy, untouched


@dataclass
class Settings:
    updates: int = 8
    batch: int = 3
    accumulate: int = 1
    masks: int = 1
    pool: int = 4
    lr: float = 0.2
    ramp: float = 0.5
    delta: float = 1e-6
    temperature: float = 0.83
    seed: int = 0


class Draws:
    """Every call of `hard_concrete` that the learner makes: shifted logits and noise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.logits: list[Tensor] = []
        self.noise: list[Tensor] = []
        monkeypatch.setattr(ecodiff, "hard_concrete", self)

    def __call__(self, logits: Tensor, noise: Tensor, temperature: float, delta: float) -> Tensor:
        self.logits.append(logits.detach()[0].clone())
        self.noise.append(noise.clone())
        return hard_concrete(logits, noise, temperature, delta)


def learn(subject, settings=None, keep=0.6, ctx=None, warm_start=None, **budget):
    groups = subject.module.groups()
    asked = Budget(**({"keep": keep} | budget))
    ctx = ctx or NullContext()
    return learn_gates(subject, groups, subject.module.cost(), asked, settings or Settings(), ctx, warm_start)


COST = Net().cost()


def expected_cost(logits: Tensor, temperature: float = 0.83) -> Tensor:
    open_ = open_probability(logits.double(), temperature)
    return COST.expected(torch.stack([open_[:FIRST].sum(), open_[FIRST:].sum()]))


def test_every_update_is_on_the_ramped_budget(monkeypatch):
    subject, draws, context = ToySubject(), Draws(monkeypatch), Recorder()
    cost = subject.module.cost()
    _, curve = learn(subject, Settings(updates=8, ramp=0.5), ctx=context)

    goal = cost.dense - 0.4 * cost.prunable
    targets = [cost.dense + min(1, step / 4) * (goal - cost.dense) for step in range(1, 9)]
    reached = [float(expected_cost(logits)) for logits in draws.logits]
    assert reached == pytest.approx(targets, rel=1e-5)
    assert curve[:, 1].tolist() == pytest.approx([t / cost.dense for t in targets], rel=1e-6)
    assert curve.shape == (8, 2) and bool(torch.isfinite(curve).all())
    assert [f["loss"] for f in context.figures] == pytest.approx(curve[:, 0].tolist())


@pytest.mark.parametrize("budget", [{"keep": 1.0}, {"keep": 0.05}, {"target": 40, "keep": None}])
def test_mild_and_harsh_budgets_are_met(monkeypatch, budget):
    subject, draws = ToySubject(), Draws(monkeypatch)
    learn(subject, Settings(updates=3, ramp=0.0), **budget)
    limit = Budget(**budget).limit(subject.module.cost())
    for logits in draws.logits:
        assert float(expected_cost(logits)) == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize(("accumulate", "delta"), [(1, 1e-6), (3, 0.3)])
def test_gradient_is_the_total_derivative_of_the_shifted_loss(monkeypatch, accumulate, delta):
    """One update from warm logits: Adam's first moment over (1 - beta1) against central differences in fp64."""
    subject, draws, context = ToySubject(), Draws(monkeypatch), Recorder()
    generator = torch.Generator().manual_seed(3)
    warm = {n: torch.randn(s, generator=generator) for n, s in (("first", FIRST), ("second", SECOND))}
    settings = Settings(updates=1, accumulate=accumulate, delta=delta, ramp=0.0)
    learn(subject, settings, ctx=context, warm_start=warm)
    gradient = context.saved.tensors["first"] / (1 - 0.9)

    wide = copy.deepcopy(subject)
    wide.module.double()
    goal = Budget(keep=0.6).limit(subject.module.cost())

    def shifted(logits: Tensor) -> Tensor:
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            too_much = float(expected_cost(logits + middle)) > goal
            low, high = (low, middle) if too_much else (middle, high)
        return logits + low

    def loss(logits: Tensor) -> float:
        total = 0.0
        for index, noise in enumerate(draws.noise):
            gates = hard_concrete(shifted(logits), noise.double(), settings.temperature, delta)
            start = wide.trajectories(index % settings.pool, settings.batch).double()
            ones = torch.ones_like(gates)
            masked, dense = (wide.final(start, *g.split([FIRST, SECOND], -1)) for g in (gates, ones))
            total += float(log_error(masked, dense)) / accumulate
        return total

    assert len(draws.noise) == accumulate
    at, numeric, step = draws.logits[0].double(), [], 1e-5
    for unit in range(FIRST + SECOND):
        move = torch.zeros_like(at)
        move[unit] = step
        numeric.append((loss(at + move) - loss(at - move)) / (2 * step))
    assert torch.allclose(
        gradient.double(),
        torch.tensor(numeric, dtype=torch.float64),
        rtol=2e-3,
        atol=1e-5 * float(gradient.abs().max()),
    )
    assert abs(float(gradient.sum())) < 1e-4 * float(gradient.abs().sum()), "a common shift changes nothing"


def test_the_error_of_each_trajectory_counts_by_its_logarithm():
    target = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    latents = target + torch.tensor([1.0, 10.0, 0.0])[:, None, None]
    expected = (torch.tensor([1.0, 100.0, 0.0]) + 1e-4).log().mean()
    assert float(log_error(latents, target)) == pytest.approx(float(expected), rel=1e-5)


def test_noise_is_drawn_anew_for_every_sample_and_update(monkeypatch):
    subject, draws = ToySubject(), Draws(monkeypatch)
    learn(subject, Settings(updates=4, accumulate=2, masks=2))
    rows = torch.cat(draws.noise)
    assert rows.shape == (2 * 4 * 2 * 3, FIRST + SECOND)
    assert len({tuple(r.tolist()) for r in rows}) == len(rows)
    assert 0 <= float(rows.min()) < 0.05 and 0.95 < float(rows.max()) < 1


def decisive() -> tuple[ToySubject, dict[str, list[int]]]:
    """A net in which most units feed nothing, or next to nothing, into the output."""
    subject = ToySubject()
    useful = {"first": [1, 4], "second": [0, 3]}
    net = subject.module
    scale = torch.full((FIRST,), 0.01)
    scale[useful["first"]] = 2.0
    net.middle.weight.mul_(scale)
    scale = torch.full((SECOND,), 0.01)
    scale[useful["second"]] = 2.0
    net.leave.weight.mul_(scale)
    return subject, useful


def test_the_units_that_matter_are_found():
    subject, useful = decisive()
    before = frozen_copy(subject.module)
    scores, curve = learn(subject, Settings(updates=60, batch=8, masks=2), keep=0.45)

    assert untouched(subject.module, before)
    for name, units in useful.items():
        ranked = scores[name].argsort(descending=True).tolist()
        assert sorted(ranked[:2]) == units
    _, start = learn(subject, Settings(updates=1, ramp=0.0, batch=64), keep=0.45)
    assert float(curve[50:60, 0].mean()) < float(start[0, 0]) - 2, "in the mean of the error's logarithm"


def test_a_misleading_start_is_unlearned():
    subject, useful = decisive()
    warm = {"first": torch.ones(FIRST), "second": torch.ones(SECOND)}
    for name, units in useful.items():
        warm[name][units] = 0.0
    scores, _ = learn(subject, Settings(updates=80, batch=8), keep=0.45, warm_start=warm)
    for name, units in useful.items():
        assert sorted(scores[name].argsort(descending=True)[:2].tolist()) == units


def test_only_the_ranks_of_the_warm_start_count(monkeypatch):
    subject, settings = ToySubject(), Settings(updates=1)
    generator = torch.Generator().manual_seed(1)
    warm = {"first": torch.rand(FIRST, generator=generator), "second": torch.rand(SECOND, generator=generator)}
    draws = Draws(monkeypatch)
    plain, _ = learn(subject, settings, warm_start=warm)
    bent, _ = learn(subject, settings, warm_start={n: s.pow(3).mul(1e6).double() for n, s in warm.items()})
    assert all(torch.equal(plain[n], bent[n]) for n in plain)
    order = torch.cat([warm["first"], warm["second"]]).argsort()
    assert bool((draws.logits[0][order].diff() > 0).all())


@pytest.mark.parametrize("stop", [1, 4, 8, 9, 13, 16])
def test_resumed_is_bit_equal(stop):
    """Stopped anywhere, between two masks included."""
    settings = Settings(updates=8, masks=2, accumulate=2)
    whole, whole_curve = learn(ToySubject(), settings)
    context = Recorder(stop_after=stop)
    with pytest.raises(Interrupted):
        learn(ToySubject(), settings, ctx=context)
    rest = Recorder(saved=context.saved)
    scores, curve = learn(ToySubject(), settings, ctx=rest)
    assert all(torch.equal(scores[n], whole[n]) for n in whole) and torch.equal(curve, whole_curve)
    assert [step for step, _ in rest.steps] == list(range(stop + 1, 17))


def test_resumed_from_an_older_checkpoint_is_bit_equal():
    """As after `kill -9`, where the last updates are not in the checkpoint."""
    settings = Settings(updates=8, masks=2)
    whole, _ = learn(ToySubject(), settings)
    checkpoints = []

    class Killed(Recorder):
        def save_checkpoint(self, step, tensors, meta=None):
            super().save_checkpoint(step, tensors, meta)
            checkpoints.append(self.saved)

    learn(ToySubject(), settings, ctx=Killed())
    assert checkpoints[-1].step == 16 and len(checkpoints) >= 3
    for saved in checkpoints:
        scores, _ = learn(ToySubject(), settings, ctx=Recorder(saved=saved))
        assert all(torch.equal(scores[n], whole[n]) for n in whole)


def test_several_masks_average_the_single_ones():
    both, curve = learn(ToySubject(), Settings(masks=2, seed=5))
    one, first = learn(ToySubject(), Settings(seed=5))
    two, second = learn(ToySubject(), Settings(seed=6))
    for name in both:
        assert not torch.equal(one[name], two[name])
        assert torch.allclose(both[name], (one[name] + two[name]) / 2, atol=1e-6)
    assert torch.equal(curve, torch.cat([first, second]))


def test_accumulating_is_what_several_processes_do(tmp_path):
    """Two processes with one batch each learn what one process learns from two batches."""
    from tests.run.recipe import in_child, wait

    settings = Settings(updates=4)
    alone, _ = learn(ToySubject(), replace(settings, accumulate=2))

    def work(rank: int) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=rank, world_size=2)
        scores, _ = learn(ToySubject(), settings)
        torch.save(scores, tmp_path / f"{rank}.pt")
        dist.destroy_process_group()

    children = [in_child(lambda rank=rank: work(rank)) for rank in range(2)]
    assert [wait(child) for child in children] == [0, 0]
    for rank in range(2):
        scores = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.allclose(scores[n], alone[n], rtol=1e-4, atol=1e-5) for n in alone)


def test_nan_is_a_typed_error_and_leaves_the_module_alone():
    subject = ToySubject()
    subject.module.middle.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="nan"):
        learn(subject)
    assert not any(m._forward_pre_hooks for m in subject.module.modules())


def test_a_target_below_the_emptied_model_is_refused():
    """Of the toy without units in its first layer, the second and its readers remain: 5 biases and 20 weights."""
    subject = ToySubject()
    groups = Groups(tuple(subject.module.groups())[:1])
    budget, settings = Budget(target=24), Settings(updates=3, ramp=0.0)
    with pytest.raises(BudgetError, match="below the cost of the emptied model"):
        learn_gates(subject, groups, subject.module.cost(groups), budget, settings, NullContext())


def test_a_group_without_gates_is_refused():
    subject = ToySubject()
    first, second = subject.module.groups()
    groups = Groups((first, Group("second", "ffn", SECOND, second.slices)))
    with pytest.raises(BudgetError, match="'second' has no gate site"):
        learn_gates(subject, groups, subject.module.cost(groups), Budget(keep=0.5), Settings(), NullContext())
