"""The field: its size as published, what saliency and gate do, and that equal seeds give equal fields."""

from __future__ import annotations

import pytest
import torch

from gencompress.domains.hashgrid import FieldSettings, HashField
from gencompress.domains.hashgrid.field import INIT_SCALE, _interpolate
from gencompress.errors import ConfigError
from tests.domains.hashgrid.ball import SMALL


def count(*parts) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def points(n: int = 50, bound: float = SMALL.bound) -> torch.Tensor:
    return bound * (2 * torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) - 1)


def test_the_networks_are_as_large_as_published():
    field = HashField(SMALL)
    wide = HashField(FieldSettings(log2_entries=10))
    assert count(wide.density_net, wide.color_net) == 9344
    assert field.logits.numel() == 16**3 and field.table.shape == (SMALL.layout.entries, 2)


def test_interpolation_meets_the_grid_points_with_x_running_fastest():
    grid = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    z, y, x = torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(5), indexing="ij")
    unit = torch.stack([x / 4, y / 3, z / 2], -1).view(-1, 3)
    torch.testing.assert_close(_interpolate(grid, unit), grid.flatten(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(_interpolate(grid, torch.tensor([[0.125, 0, 0]])), grid[0, 0, :2].mean()[None])


def test_where_nothing_matters_there_is_nothing():
    field = HashField(SMALL)
    with torch.no_grad():
        field.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        field.logits[:, :, :8] = -200.0  # the half with x < 0, and a little more
    at = points()
    density, _ = field.density(at)
    hollow = at[:, 0] < -0.1
    assert not density[hollow].any() and bool((density[at[:, 0] > 0.1] > 0).all())


def test_the_gate_closes_with_the_saliency_at_the_start():
    """Table within 1e-4 and slope 1e4: open at p = 1, nearly closed at 0.01; ten times the slope opens it again."""
    field = HashField(SMALL)
    plain = HashField(FieldSettings(**{**vars(SMALL), "saliency": 0}))
    at = points(400)
    ungated = plain.density(at)[0]  # exp of nearly nothing: 1
    torch.testing.assert_close(ungated, torch.ones(400), rtol=0, atol=1e-3)
    found = []
    for share, alpha in ((0.9999, 1), (0.01, 1), (0.01, 10)):
        with torch.no_grad():
            field.logits.fill_(torch.tensor(share).logit())
            field.alpha.fill_(alpha / INIT_SCALE)
        found.append(float(field.density(at)[0].detach().median()))
    assert found[0] > 0.5 and found[1] < 0.05 and 5 * found[1] < found[2]


def test_every_weight_has_a_finite_gradient_also_where_features_are_zero():
    field = HashField(SMALL)
    with torch.no_grad():
        field.table[: len(field.table) // 2] = 0
    density, features = field.density(points())
    (density.sum() + field.color(features, torch.ones(50, 16)).sum()).backward()
    for name, parameter in field.named_parameters():
        assert bool(torch.isfinite(parameter.grad).all()) and bool(parameter.grad.any()), name


def test_the_gradient_is_the_slope_of_the_density():
    field = HashField(SMALL)
    with torch.no_grad():
        field.table.mul_(1000)
    at = points()
    field.density(at)[0].log().sum().backward()
    for parameter in (field.table, field.logits, field.density_net[0].weight):
        direction = parameter.grad.clone()
        step = 0.02 / float(direction.norm())
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                sums.append(float(field.density(at)[0].log().double().sum()))
                parameter.sub_(sign * step * direction)
        assert (sums[0] - sums[1]) / (2 * step) == pytest.approx(float(direction.square().sum()), rel=2e-2)


def test_seeds_decide():
    one, same, other = HashField(SMALL, 1), HashField(SMALL, 1), HashField(SMALL, 2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.table, other.table)
    assert float(one.table.detach().abs().max()) <= INIT_SCALE


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bound": 0.0}, "bound=0.0 must be greater than 0"),
        ({"saliency": 1}, "saliency=1 must be 2 to 256"),
        ({"saliency": 300}, "saliency=300 must be"),
        ({"finest": 2}, "finer last"),
    ],
)
def test_bad_sizes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        HashField(FieldSettings(**{**vars(SMALL), **change}))
