"""Closed-form repair on toy networks whose redundancy is known."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gencompress.core.compensate import compensate_, consumers
from gencompress.core.group import Attr, Group, Groups, Site, Slice, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import removed_blocks
from gencompress.errors import Interrupted, NumericsError
from gencompress.run import NullContext
from tests.core.nets import Transformer, plan_of, remove

CHANNELS = 6
EXACT = 1e-9  # damping at which a redundant channel costs nothing that fp32 can show


class Chain(nn.Module):
    """Linear layers with a rectifier between them; the hidden units of both gaps can go."""

    def __init__(self, bias: bool = True):
        super().__init__()
        self.a = nn.Linear(4, CHANNELS)
        self.b = nn.Linear(CHANNELS, CHANNELS, bias=bias)
        self.c = nn.Linear(CHANNELS, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))

    def groups(self) -> Groups:
        return Groups((self._between("a", "b"), self._between("b", "c")))

    def _between(self, one: str, other: str) -> Group:
        names = [n for n in (f"{one}.weight", f"{one}.bias") if n in dict(self.named_parameters())]
        slices = (*(Slice(n, 0) for n in names), Slice(f"{other}.weight", 1))
        return Group(f"{one}{other}", "ffn", CHANNELS, slices, (Site(other),))

    def inputs(self, seed: int) -> Tensor:
        return torch.randn(40, 5, 4, generator=torch.Generator().manual_seed(seed))


class Filters(nn.Module):
    """Two convolutions, the second one with whatever geometry is asked for."""

    def __init__(self, bias: bool = True, **geometry: int):
        super().__init__()
        self.a = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.b = nn.Conv2d(CHANNELS, 4, bias=bias, **geometry)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))

    def groups(self) -> Groups:
        slices = (Slice("a.weight", 0), Slice("a.bias", 0), Slice("b.weight", 1))
        return Groups((Group("ab", "resnet", CHANNELS, slices, (Site("b", dim=1),)),))

    def inputs(self, seed: int) -> Tensor:
        return torch.randn(6, 3, 9, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def repaired(net, keep, damping=EXACT, seeds=(1, 2, 3), **options):
    """The pruned network, repaired and not, and the errors that the repair reports."""
    groups = net.groups()
    plan = plan_of(groups, keep)
    pruned = remove(net, groups, plan)
    plain = copy.deepcopy(pruned)
    modules = consumers(groups, plan, shapes_of(net.state_dict()))
    forwards = [lambda model, seed=seed: model(net.inputs(seed)) for seed in seeds]
    errors = compensate_(pruned, net, modules, forwards, NullContext(), damping, **options)
    return pruned, plain, errors


def distance(model, dense, seed):
    with torch.no_grad():
        wanted = dense(dense.inputs(seed))
        return float((model(dense.inputs(seed)) - wanted).norm() / wanted.norm())


@torch.no_grad()
def make_redundant_(layer: nn.Module, unit: int, parts: dict[int, float]) -> None:
    """Let `unit` of `layer` be a combination of other units."""
    for tensor in (layer.weight, layer.bias):
        if tensor is not None:
            tensor[unit] = sum(factor * tensor[other] for other, factor in parts.items())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("packages", [2, 4])
def test_linear_layers_absorb_dependent_units(bias, packages):
    net = Chain(bias)
    make_redundant_(net.a, 5, {1: 3.0})  # a positive multiple survives the rectifier
    make_redundant_(net.b, 0, {2: 0.5})
    keep = {"ab": [0, 1, 2, 3, 4], "bc": [1, 2, 3, 4, 5]}
    pruned, plain, errors = repaired(net, keep, packages=packages)
    assert distance(plain, net, 9) > 0.05
    assert distance(pruned, net, 9) < 1e-4, "on data that the repair has not seen"
    assert set(errors) == {"b", "c"} and max(errors.values()) < 1e-3


def test_a_constant_unit_moves_into_the_bias():
    net = Chain()
    with torch.no_grad():
        net.a.weight[2], net.a.bias[2] = 0.0, 1.7
    pruned, plain, _ = repaired(net, {"ab": [0, 1, 3, 4, 5]})
    assert distance(plain, net, 9) > 0.01 and distance(pruned, net, 9) < 1e-4
    assert torch.allclose(pruned.b.bias, net.b.bias + 1.7 * net.b.weight[:, 2], atol=1e-3)


GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "dilation": 2},
    {"kernel_size": (3, 1), "padding": (1, 0), "stride": (1, 2)},
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(f"{k[0]}{v}" for k, v in g.items()))
def test_convolutions_absorb_dependent_channels(bias, geometry):
    net = Filters(bias, **geometry)
    make_redundant_(net.a, 0, {2: 1.0, 4: -2.0})
    make_redundant_(net.a, 3, {1: 0.5, 5: 0.5})
    pruned, plain, errors = repaired(net, {"ab": [1, 2, 4, 5]})
    assert distance(plain, net, 9) > 0.05
    assert distance(pruned, net, 9) < 1e-3
    assert errors["b"] < 1e-3


@pytest.mark.parametrize("damping", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("build", [Chain, lambda: Filters(kernel_size=3, padding=1)])
def test_the_error_on_the_calibration_data_never_grows(build, damping):
    net = build()
    last = list(net.groups())[-1].name
    pruned, plain, errors = repaired(net, {last: [0, 2, 3]}, damping)

    def error(model):
        wanted = torch.cat([net(net.inputs(s)).flatten() for s in (1, 2, 3)])
        return float((torch.cat([model(net.inputs(s)).flatten() for s in (1, 2, 3)]) - wanted).norm() / wanted.norm())

    with torch.no_grad():
        before, after = error(plain), error(pruned)
        assert after < before
        (reported,) = errors.values()
        assert reported == pytest.approx(after, rel=1e-3)


def test_heavy_damping_leaves_the_weights_and_light_damping_is_least_squares():
    net = Chain()
    kept = {"bc": [0, 2, 5]}
    still, plain, _ = repaired(net, kept, damping=1e9)
    assert torch.allclose(still.c.weight, plain.c.weight, atol=1e-5)
    free, _, _ = repaired(net, kept, damping=1e-9)
    with torch.no_grad():
        rows, wanted = [], []
        for seed in (1, 2, 3):
            x = F.relu(plain.b(F.relu(plain.a(net.inputs(seed))))).flatten(0, 1)
            rows.append(torch.cat([x, torch.ones(len(x), 1)], 1))
            wanted.append(net(net.inputs(seed)).flatten(0, 1))
        solution = torch.linalg.lstsq(torch.cat(rows).double(), torch.cat(wanted).double()).solution.T
    assert torch.allclose(free.c.weight, solution[:, :-1].float(), atol=1e-3)
    assert torch.allclose(free.c.bias, solution[:, -1].float(), atol=1e-3)


def test_a_consumer_that_lost_outputs_too_keeps_the_right_ones():
    """As the projections of a time embedding, which lose inputs to one group and outputs to another."""
    net = Chain()
    make_redundant_(net.a, 1, {4: 2.0})
    groups = net.groups()
    keep = {"ab": [0, 2, 3, 4, 5], "bc": [0, 3, 4]}
    found = consumers(groups, plan_of(groups, keep), shapes_of(net.state_dict()))
    assert found["b"].tolist() == [0, 3, 4] and found["c"] is None
    pruned, _, errors = repaired(net, keep)
    x = net.inputs(9)
    with torch.no_grad():
        wanted = net.b(F.relu(net.a(x)))[..., [0, 3, 4]]
        assert torch.allclose(pruned.b(F.relu(pruned.a(x))), wanted, atol=1e-3)
    assert errors["b"] < 1e-3


def test_later_layers_make_up_for_what_earlier_ones_could_not():
    """The last layer is the least-squares fit to its dense outputs given what the repaired layer before it gives."""
    net = Chain()
    pruned, plain, _ = repaired(net, {"ab": [0, 1, 2], "bc": [0, 1, 2, 3]}, packages=2)
    assert distance(pruned, net, 1) < distance(plain, net, 1)
    with torch.no_grad():
        x = torch.cat([net.inputs(seed) for seed in (1, 2, 3)])
        given, wanted = F.relu(pruned.b(F.relu(pruned.a(x)))).flatten(0, 1), net(x).flatten(0, 1)
        rows = torch.cat([given, torch.ones(len(given), 1)], 1)
        solution = torch.linalg.lstsq(rows.double(), wanted.double()).solution.T
    assert torch.allclose(pruned.c.weight, solution[:, :-1].float(), atol=1e-3)


@pytest.mark.parametrize(
    "keep", [{}, {"ab": []}, {"ab": [1, 2], "bc": []}], ids=["nothing removed", "no inputs left", "no outputs left"]
)
def test_without_consumers_nothing_changes(keep):
    net = Chain()
    before = copy.deepcopy(net.state_dict())
    pruned, plain, errors = repaired(net, keep)
    assert errors == {}
    assert all(
        torch.equal(a, b) for a, b in zip(pruned.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    assert all(torch.equal(net.state_dict()[n], before[n]) for n in before)


def test_only_the_named_layers_change_and_no_hook_stays():
    net = Chain()
    before = copy.deepcopy(net.state_dict())
    pruned, plain, _ = repaired(net, {"bc": [1, 2, 3]})
    same = {n for n, t in pruned.state_dict().items() if torch.equal(t, plain.state_dict()[n])}
    assert same == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert all(torch.equal(net.state_dict()[n], before[n]) for n in before)
    assert not any(m._forward_hooks for model in (net, pruned) for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_stay(dtype):
    net = Chain().to(dtype)
    make_redundant_(net.b, 0, {2: 0.5})
    inputs = net.inputs
    net.inputs = lambda seed: inputs(seed).to(dtype)  # type: ignore[method-assign]
    pruned, plain, _ = repaired(net, {"bc": [1, 2, 3, 4, 5]}, damping=1e-5)
    assert all(p.dtype == dtype for p in pruned.parameters())
    assert distance(pruned, net, 9) < 0.2 * distance(plain, net, 9)


def test_a_layer_that_no_forward_calls_is_left_alone():
    class Spare(Chain):
        def forward(self, x):
            return self.b(F.relu(self.a(x)))

    net = Spare()
    pruned, plain, errors = repaired(net, {"ab": [0, 1], "bc": [3]})
    assert set(errors) == {"b"} and torch.equal(pruned.c.weight, plain.c.weight)


def test_a_layer_that_is_called_several_times_is_fitted_to_all_calls():
    class Twice(Chain):
        def forward(self, x):
            return super().forward(x) + super().forward(x.flip(-1))

    net = Twice()
    make_redundant_(net.b, 0, {2: 0.5})
    pruned, _, _ = repaired(net, {"bc": [1, 2, 3, 4, 5]})
    assert distance(pruned, net, 9) < 1e-3


def test_nan_is_a_typed_error_naming_the_layer():
    net = Chain()
    with torch.no_grad():
        net.a.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="'b' hold NaN"):
        repaired(net, {"ab": [0, 1, 2]})


def test_dead_inputs_are_no_error():
    """A layer whose remaining inputs are always zero has nothing to be refitted with but its bias."""
    net = Chain()
    with torch.no_grad():
        net.a.bias[:3], net.a.weight[:3] = -1.0, 0.0
    pruned, plain, _ = repaired(net, {"ab": [0, 1, 2]}, damping=1e-3)
    assert all(bool(torch.isfinite(p).all()) for p in pruned.parameters())
    assert distance(pruned, net, 1) < distance(plain, net, 1)


def test_a_stop_is_obeyed_and_leaves_no_hook():
    class Stopping(NullContext):
        def stop_if_requested(self):
            raise Interrupted("stopped")

    net = Chain()
    groups = net.groups()
    plan = plan_of(groups, {"ab": [0, 1]})
    pruned = remove(net, groups, plan)
    modules = consumers(groups, plan, shapes_of(net.state_dict()))
    with pytest.raises(Interrupted):
        compensate_(pruned, net, modules, [lambda model: model(net.inputs(1))], Stopping())
    assert not any(m._forward_hooks for model in (net, pruned) for m in model.modules())


def test_progress_ends_at_its_total():
    class Told(NullContext):
        def __init__(self):
            self.steps = []

        def progress(self, step, total, **figures):
            self.steps.append((step, total))

    net = Deep(7)
    groups = net.groups()
    plan = plan_of(groups, {g.name: [0, 1] for g in groups})
    pruned = remove(net, groups, plan)
    modules = consumers(groups, plan, shapes_of(net.state_dict()))
    for packages in (1, 4, 9):
        told = Told()
        compensate_(pruned, net, modules, [lambda model: model(net.inputs(1))], told, packages=packages)
        assert told.steps[-1][0] == told.steps[-1][1] and len(told.steps) <= packages


class Deep(nn.Module):
    """`layers` Linears in a row."""

    def __init__(self, layers: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x

    def groups(self) -> Groups:
        pairs = [(f"layers.{i}", f"layers.{i + 1}") for i in range(len(self.layers) - 1)]
        return Groups(
            tuple(
                Group(
                    a, "ffn", 4, (Slice(f"{a}.weight", 0), Slice(f"{a}.bias", 0), Slice(f"{b}.weight", 1)), (Site(b),)
                )
                for a, b in pairs
            )
        )

    def inputs(self, seed: int) -> Tensor:
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))


def test_layers_behind_removed_blocks_are_found_under_their_new_names():
    net = Transformer(stages=2, depth=3)
    groups = net.groups()
    with torch.no_grad():
        # of the last block: hidden unit 4 is unit 1 once more
        block = net.stages[1].blocks[2]
        for rows in (slice(4, 5), slice(9, 10)):
            source = rows.start - 3
            block.up.weight[rows], block.up.bias[rows] = block.up.weight[source], block.up.bias[source]
    keep = {"stages.1.blocks.0": [], "stages.1.blocks.0.ff": [0, 1], "stages.1.blocks.2.ff": [0, 1, 2, 3]}
    plan = plan_of(groups, keep)
    pruned = remove(net, groups, plan)
    modules = consumers(groups, plan, shapes_of(net.state_dict()))
    assert set(modules) == {"stages.1.blocks.2.down"}, "a layer that is gone needs no repair"
    plain = copy.deepcopy(pruned)
    errors = compensate_(
        pruned,
        net,
        modules,
        [lambda model, seed=seed: model(*Transformer.inputs(64, seed)) for seed in range(3)],
        NullContext(),
        EXACT,
        removed=removed_blocks(groups, plan),
    )
    assert set(errors) == set(modules)
    changed = {n for n, t in pruned.state_dict().items() if not torch.equal(t, plain.state_dict()[n])}
    assert changed == {"stages.1.blocks.1.down.weight", "stages.1.blocks.1.down.bias"}, "its name in the pruned model"

    def output(model, path):
        seen = []
        handle = model.get_submodule(path).register_forward_hook(lambda m, args, out: seen.append(out))
        with torch.no_grad():
            model(*Transformer.inputs(64, 0))
        handle.remove()
        return seen[0]

    wanted = output(net, "stages.1.blocks.2.down")
    before, after = ((output(m, "stages.1.blocks.1.down") - wanted).norm() for m in (plain, pruned))
    assert after < 0.9 * before


class Grouped(nn.Module):
    """Convolutions of which the second one is fitted to changed inputs and the third one, in groups, loses units.

    A unit of the last gap is one channel of every group of the third convolution, or a whole group where it is
    depthwise.
    """

    def __init__(self, groups: int, bias: bool = True):
        super().__init__()
        self.a = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.b = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.c = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, stride=2, groups=groups, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        return F.silu(self.b(F.relu(self.a(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.features(x))

    def groups(self) -> Groups:
        between = (Slice("a.weight", 0), Slice("a.bias", 0), Slice("b.weight", 1))
        first = Group("ab", "resnet", CHANNELS, between, (Site("b", dim=1),))
        groups, names = self.c.groups, dict(self.named_parameters())
        size = self.c.weight.shape[1]
        halves = {"repeat": groups, "pitch": size} if size > 1 else {}
        slices = [Slice("b.weight", 0, **halves), Slice("b.bias", 0, **halves)]
        slices += [Slice("c.weight", 1)] if halves else [Slice(n, 0) for n in ("c.weight", "c.bias") if n in names]
        attrs = (Attr("c", "in_channels", groups if halves else 1), *(() if halves else (Attr("c", "groups", 1),)))
        last = Group("bc", "resnet", size if halves else CHANNELS, tuple(slices), (Site("c", dim=1, **halves),), attrs)
        return Groups((first, last))

    def inputs(self, seed: int) -> Tensor:
        return torch.randn(6, 3, 9, 8, generator=torch.Generator().manual_seed(seed))


def ridge_regression(rows: Tensor, targets: Tensor, start: Tensor, damping: float, bias: bool) -> tuple[Tensor, float]:
    """The minimum of ``|rows' w - targets|^2 + damping * mean(rows^2) |w - start|^2`` and its first term there."""
    ridge = (damping * rows.square().sum(0).mean()).sqrt()
    design = torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if bias else rows
    damped = torch.cat([design, ridge * torch.eye(design.shape[1])])
    solution = torch.linalg.lstsq(damped, torch.cat([targets, ridge * start])).solution
    return solution, float((design @ solution - targets).square().sum())


def matrix_of(layer: nn.Conv2d, part: slice) -> Tensor:
    """Weights, and the bias if there is one, of some outputs: [inputs, outputs]."""
    biases = [] if layer.bias is None else [layer.bias[part, None]]
    return torch.cat([layer.weight[part].flatten(1), *biases], 1).T.double()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("groups", "kept"), [(1, [0, 2, 3, 5]), (2, [0, 2]), (3, [1]), (CHANNELS, [0, 2, 3, 5])])
def test_a_convolution_in_groups_is_one_least_squares_problem_per_group(groups, kept, bias):
    net, damping = Grouped(groups, bias), 1e-2
    pruned, plain, errors = repaired(net, {"ab": [0, 1, 4], "bc": kept}, damping, packages=2)
    depthwise = groups == CHANNELS
    assert pruned.c.groups == (len(kept) if depthwise else groups)
    x = torch.cat([net.inputs(seed) for seed in (1, 2, 3)])
    given, wanted = pruned.features(x), net(x)[:, kept] if depthwise else net(x)
    left = 0.0
    for part in range(pruned.c.groups):
        ins, outs = (slice(part * n, (part + 1) * n) for n in (t.shape[1] // pruned.c.groups for t in (given, wanted)))
        rows = F.unfold(given[:, ins], 3, padding=1, stride=2).mT.flatten(0, 1).double()
        targets = wanted[:, outs].movedim(1, -1).flatten(0, 2).double()
        solution, error = ridge_regression(rows, targets, matrix_of(plain.c, outs), damping, bias)
        assert torch.allclose(matrix_of(pruned.c, outs), solution, atol=1e-4)
        left += error
    energy = float(wanted.double().square().sum())
    assert errors["c"] == pytest.approx((left / energy) ** 0.5, rel=1e-3)
    assert (pruned.c(given) - wanted).norm() < (plain.c(given) - wanted).norm()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_in_groups_absorbs_dependent_channels_of_every_group(groups):
    net = Grouped(groups)
    size = CHANNELS // groups
    for part in range(groups):
        make_redundant_(net.b, part * size, {part * size + 2: 1.0})  # twice the same channel
    pruned, plain, errors = repaired(net, {"bc": list(range(1, size))})
    assert distance(plain, net, 9) > 0.05
    assert distance(pruned, net, 9) < 1e-3 and errors["c"] < 1e-3


def test_heads_are_consumed_in_blocks():
    """Attention heads own runs of channels; the projection behind them is refitted."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = 3
            self.inner = nn.Linear(4, 6)
            self.out = nn.Linear(6, 4)

        def forward(self, x):
            return self.out(torch.tanh(self.inner(x)))

        def groups(self):
            slices = (
                Slice("inner.weight", 0, block=2),
                Slice("inner.bias", 0, block=2),
                Slice("out.weight", 1, block=2),
            )
            return Groups((Group("heads", "head", 3, slices, (Site("out", block=2),), (Attr("", "count", 1),)),))

        def inputs(self, seed):
            return torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))

    net = Heads()
    for unit, source in ((0, 4), (1, 5)):
        make_redundant_(net.inner, unit, {source: -1.0})  # tanh is odd
    pruned, plain, _ = repaired(net, {"heads": [1, 2]})
    assert pruned.count == 2 and distance(plain, net, 9) > 0.05 and distance(pruned, net, 9) < 1e-3


def test_plans_of_other_groups_are_refused():
    net = Chain()
    other = Plan({"x": torch.arange(2)}, {"x": 3})
    from gencompress.errors import PlanError

    with pytest.raises(PlanError):
        consumers(net.groups(), other, shapes_of(net.state_dict()))
