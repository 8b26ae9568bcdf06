from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from gencompress.core.recover import distil_, learning_rate
from gencompress.errors import ConfigError, Interrupted, NumericsError, RunError
from gencompress.run import NullContext
from gencompress.run import checkpoint as checkpoints


class Context(NullContext):
    """Real checkpoints in a folder; asks to stop after `stop_after` steps."""

    def __init__(self, folder: Path, stop_after: int | None = None):
        super().__init__(folder)
        self.stop_after, self.stop_requested = stop_after, False
        self.seen: list[tuple[int, int, dict]] = []

    def progress(self, step, total, **figures):
        self.seen.append((step, total, figures))
        self.stop_requested = step == self.stop_after

    def save_checkpoint(self, step, tensors, meta=None):
        checkpoints.save(self.dir, step, tensors, meta or {})

    def load_checkpoint(self):
        return checkpoints.load(self.dir)[0]

    def stop_if_requested(self):
        if self.stop_requested:
            raise Interrupted("stopped")


class Student(nn.Module):
    """Dropout and running statistics: everything that could make a resumed run differ."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


def student() -> Student:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Student()


def loss_of(net):
    def loss(index):
        x = torch.randn(8, 4)  # from the default generator, which the loop seeds
        return (net(x) - x[:, :2].cumsum(1)).square().mean() + 0 * index

    return loss


OPTIONS = {"steps": 12, "lr": 1e-2, "every": 5, "accumulate": 2}


def state(net):
    return {n: t.clone() for n, t in net.state_dict().items()}


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a)


def test_a_quadratic_converges_to_its_minimum():
    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.zeros(3))

    point, goal = Point(), torch.tensor([1.0, -2.0, 0.5])
    losses = distil_(point, lambda i: (point.x - goal).square().sum(), NullContext(), steps=150, lr=0.1, ema=0.9)
    assert len(losses) == 150
    assert losses[0] == pytest.approx(5.25) and losses[-1] < 1e-4
    torch.testing.assert_close(point.x.detach(), goal, atol=1e-2, rtol=0)


def test_steps_are_those_of_torch_adamw_under_the_schedule():
    net, twin = student().eval(), student().eval()
    batches = torch.randn(6, 8, 4)
    batches[2:] *= 10  # so that the first gradient is not clipped, but its double would be, and later ones are

    def loss(model):
        return lambda i: model(batches[i]).square().mean()

    optimizer = torch.optim.AdamW(twin.parameters(), weight_decay=0.1)
    clip, norms = 0.0, []
    for step in range(3):
        optimizer.zero_grad()
        ((loss(twin)(2 * step) + loss(twin)(2 * step + 1)) / 2).backward()
        clip = clip or float(torch.nn.utils.get_total_norm([p.grad for p in twin.parameters()])) / 0.95
        norms.append(float(torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)))
        optimizer.param_groups[0]["lr"] = learning_rate(step, 3, 0.01, 0.5)
        optimizer.step()
    assert norms[0] < clip < min(2 * norms[0], *norms[1:])
    options = {"steps": 3, "lr": 0.01, "warmup": 0.5, "accumulate": 2, "clip": clip, "weight_decay": 0.1, "ema": 0}
    distil_(net, loss(net), NullContext(), **options)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_learning_rate_rises_then_falls_along_a_cosine():
    rates = [learning_rate(t, 100, 2.0, 0.1) for t in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (t + 1) for t in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(rates[10:])) and 0 < rates[-1] < 0.001
    assert learning_rate(0, 1, 2.0, 0.0) == learning_rate(0, 1, 2.0, 1.0) == 2.0


@pytest.mark.parametrize("stops", [[1], [5], [3, 8, 11], [12]])
def test_stopped_and_resumed_equals_undisturbed_bit_for_bit(tmp_path, stops):
    whole = student()
    expected = distil_(whole, loss_of(whole), Context(tmp_path / "whole"), **OPTIONS)
    for stop in stops:
        torch.manual_seed(stop)  # the state of the default generator must not matter
        net = student()
        with pytest.raises(Interrupted):
            distil_(net, loss_of(net), Context(tmp_path / "parts", stop), **OPTIONS)
    net = student()
    assert distil_(net, loss_of(net), Context(tmp_path / "parts"), **OPTIONS) == expected
    assert same(state(net), state(whole))


def test_killed_between_checkpoints_and_resumed_equals_undisturbed(tmp_path):
    whole = student()
    expected = distil_(whole, loss_of(whole), NullContext(), **OPTIONS)
    net = student()

    def dies(index):
        if index == 2 * 7:
            raise KeyboardInterrupt
        return loss_of(net)(index)

    with pytest.raises(KeyboardInterrupt):
        distil_(net, dies, Context(tmp_path), **OPTIONS)
    assert checkpoints.load(tmp_path)[0].step == 5
    net = student()
    assert distil_(net, loss_of(net), Context(tmp_path), **OPTIONS) == expected
    assert same(state(net), state(whole))


def test_a_finished_run_is_not_trained_again(tmp_path):
    net = student()
    losses = distil_(net, loss_of(net), Context(tmp_path), **OPTIONS)
    again = student()
    assert distil_(again, lambda i: 1 / 0, Context(tmp_path), **OPTIONS) == losses
    assert same(state(again), state(net))


def test_the_callers_random_state_is_left_alone():
    before = torch.get_rng_state()
    net = student()
    distil_(net, loss_of(net), NullContext(), **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in net.parameters())


def test_seeds_differ_and_repeat():
    ends = []
    for seed in (0, 0, 1):
        net = student()
        distil_(net, loss_of(net), NullContext(), seed=seed, **OPTIONS)
        ends.append(state(net))
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])


def test_the_model_ends_as_the_moving_average_of_its_weights():
    path = []

    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.zeros(()))

    point = Point()

    def loss(index):
        path.append(point.x.item())
        return (point.x - 1).square()

    distil_(point, loss, NullContext(), steps=30, lr=0.1, ema=0.8, warmup=0.0)
    raw = Point()
    distil_(raw, lambda i: (raw.x - 1).square(), NullContext(), steps=30, lr=0.1, ema=0, warmup=0.0)
    average, weights = 0.0, [*path[1:], raw.x.item()]
    for t, x in enumerate(weights):
        decay = min(0.8, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * x
    assert point.x.item() == pytest.approx(average, abs=1e-6)
    assert abs(average - weights[-1]) > 1e-3


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_not_taken(tmp_path, where, value):
    net = student().eval()

    def loss(index):
        if index < 6:
            return loss_of(net)(index)
        if where == "loss":
            return loss_of(net)(index) * value
        weight = net.first.weight  # both roots are 0; the slope of the first is inf, that of the second inf * 0
        root = (weight - weight.detach()).sqrt() if math.isinf(value) else (weight * 0).sqrt()
        return loss_of(net)(index) + root.sum()

    options = {**OPTIONS, "ema": 0, "every": 100}
    with pytest.raises(NumericsError, match="the loss is" if where == "loss" else r"gradient of 'first\.weight'"):
        distil_(net, loss, Context(tmp_path), **options)
    saved = checkpoints.load(tmp_path)[0]
    assert saved.step == 3
    good = student().eval()
    with pytest.raises(Interrupted):
        distil_(good, loss_of(good), Context(tmp_path / "other", 3), **options)
    assert same(state(net), state(good))
    assert torch.equal(saved.tensors["weight.last.bias"], good.last.bias)


def test_only_the_given_parameters_are_trained():
    net = student().eval()
    before = state(net)
    distil_(net, loss_of(net), NullContext(), parameters=net.last.parameters(), **OPTIONS)
    changed = {n for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"last.weight", "last.bias"}
    frozen = student().eval().requires_grad_(False)
    frozen.first.bias.requires_grad_()
    before = state(frozen)
    distil_(frozen, loss_of(frozen), NullContext(), **OPTIONS)
    assert {n for n, t in frozen.state_dict().items() if not torch.equal(t, before[n])} == {"first.bias"}


def test_half_precision_weights_are_trained_on_fp32_copies(tmp_path):
    """Steps far below the resolution of bfloat16 add up."""

    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.full((2,), 100.0, dtype=torch.bfloat16))

    options = {"steps": 100, "lr": 0.02, "ema": 0, "warmup": 0.0}
    point = Point()
    distil_(point, lambda i: point.x.float().sum(), Context(tmp_path / "whole"), **options)
    assert point.x.dtype == torch.bfloat16 and point.x.tolist() == [99.0, 99.0]
    parts = Point()
    with pytest.raises(Interrupted):
        distil_(parts, lambda i: parts.x.float().sum(), Context(tmp_path / "parts", 37), **options)
    parts = Point()
    distil_(parts, lambda i: parts.x.float().sum(), Context(tmp_path / "parts"), **options)
    whole, again = (checkpoints.load(tmp_path / n)[0].tensors["weight.x"] for n in ("whole", "parts"))
    assert whole.dtype == torch.float32 and torch.equal(whole, again)


def test_autocast_computes_in_half_precision():
    net, seen = student().eval(), []

    def loss(index):
        out = net.first(torch.randn(3, 4))
        seen.append(out.dtype)
        return out.float().square().mean()

    distil_(net, loss, NullContext(), steps=1, lr=1e-3, autocast=torch.bfloat16)
    assert seen == [torch.bfloat16] and net.first.weight.dtype == torch.float32


def test_progress_tells_loss_and_rate(tmp_path):
    net, ctx = student(), Context(tmp_path)
    losses = distil_(net, loss_of(net), ctx, **OPTIONS)
    assert [(s, t) for s, t, _ in ctx.seen] == [(i + 1, 12) for i in range(12)]
    assert [f["loss"] for _, _, f in ctx.seen] == losses
    assert [f["lr"] for _, _, f in ctx.seen] == [learning_rate(i, 12, 1e-2, 0.05) for i in range(12)]


@pytest.mark.parametrize("other", [{"ema": 0.9}, {}])
def test_a_foreign_checkpoint_is_refused(tmp_path, other):
    net = student()
    distil_(net, loss_of(net), Context(tmp_path), **{**OPTIONS, "ema": 0})
    wider = nn.Sequential(nn.Linear(4, 7)) if not other else student()
    before = state(wider)
    with pytest.raises(RunError, match="after step 12 is of another model or other options"):
        distil_(wider, lambda i: wider(torch.ones(8, 4)).sum(), Context(tmp_path), **{**OPTIONS, "ema": 0, **other})
    assert same(state(wider), before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "recover.steps=0"),
        ({"lr": 0.0}, "recover.lr=0.0"),
        ({"lr": math.nan}, "recover.lr=nan"),
        ({"ema": 1.0}, "recover.ema=1.0"),
        ({"warmup": 1.5}, "recover.warmup=1.5"),
        ({"accumulate": 0}, "recover.accumulate=0"),
        ({"clip": 0.0}, "recover.clip=0.0"),
        ({"every": 0}, "recover.every=0"),
        ({"autocast": torch.float16}, "only bfloat16"),
        ({"parameters": [nn.Parameter(torch.ones(1))]}, "1 of the parameters to train do not belong"),
        ({"parameters": []}, "nothing to train"),
    ],
)
def test_impossible_options_are_refused(options, says):
    net = student()
    with pytest.raises(ConfigError, match=says):
        distil_(net, loss_of(net), NullContext(), **{**OPTIONS, **options})


def test_frozen_models_are_refused():
    net = student().requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        distil_(net, loss_of(net), NullContext(), **OPTIONS)
    with pytest.raises(ConfigError, match=r"'first\.weight' is to be trained, but does not require"):
        distil_(net, loss_of(net), NullContext(), parameters=net.parameters(), **OPTIONS)


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net = student().eval()
    losses = distil_(net, loss_of(net), NullContext(), **{**OPTIONS, "accumulate": 1})
    torch.save({"losses": losses, **net.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one_with_twice_the_batches(tmp_path):
    # forked: this process has paid for importing torch, and has not used its backward threads yet on the CPU
    mp.start_processes(one_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    net = student().eval()
    losses = distil_(net, loss_of(net), NullContext(), **{**OPTIONS, "accumulate": 2})
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one.pop("losses") == two.pop("losses") == pytest.approx(losses)
    assert same(one, two)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(one[name], tensor)
