"""Sums along packed rays: nerfacc's documented values, a reference by loops, gradients, and rays without samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gencompress.errors import ConfigError
from gencompress.kernels.packed import (
    accumulate_along_rays,
    exclusive_sum,
    pack_info,
    render_visibility_from_density,
    render_weight_from_density,
    scan_torch,
)

# the example that nerfacc 0.5.3 gives for its functions of these names
T_STARTS = torch.arange(7.0)
SIGMAS = torch.tensor([0.4, 0.8, 0.1, 0.8, 0.1, 0.0, 0.9])
RAYS = torch.tensor([0, 0, 0, 1, 1, 2, 2])


def packed(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ray, start, end and density of the samples of 60 rays, many of which have none."""
    dice = torch.Generator().manual_seed(seed)
    counts = torch.randint(-6, 12, (60,), generator=dice).clamp(min=0)
    counts[0] = counts[-1] = 0
    ray_indices = torch.arange(60).repeat_interleave(counts)
    starts = torch.rand(len(ray_indices), generator=dice)
    return (
        ray_indices,
        starts,
        starts + torch.rand(starts.shape, generator=dice),
        torch.rand(starts.shape, generator=dice) * 4,
    )


def by_loops(rays: Tensor, starts: Tensor, ends: Tensor, sigmas: Tensor) -> Tensor:
    """Weights by the definition, sample by sample."""
    weights, light, ray = [], 1.0, -1
    for r, a, b, sigma in zip(rays.tolist(), starts.tolist(), ends.tolist(), sigmas.tolist(), strict=True):
        light = light if r == ray else 1.0
        ray = r
        weights.append(light * (1 - math.exp(-sigma * (b - a))))
        light *= math.exp(-sigma * (b - a))
    return torch.tensor(weights)


def test_documented_values_of_pack_info_and_exclusive_sum():
    info = pack_info(torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2]), 3)
    assert info.tolist() == [[0, 2], [2, 3], [5, 4]]
    assert exclusive_sum(torch.arange(1.0, 10), info).tolist() == [0, 1, 0, 3, 7, 0, 6, 13, 21]


def test_documented_values_of_weights():
    found = render_weight_from_density(T_STARTS, T_STARTS + 1, SIGMAS, pack_info(RAYS, 3))
    weights, transmittance, alphas = ([round(v, 2) for v in t.tolist()] for t in found)
    assert weights == [0.33, 0.37, 0.03, 0.55, 0.04, 0.00, 0.59]
    assert transmittance == [1.00, 0.67, 0.30, 1.00, 0.45, 1.00, 1.00]
    assert alphas == [0.33, 0.55, 0.10, 0.55, 0.10, 0.00, 0.59]


def test_documented_values_of_visibility():
    seen = render_visibility_from_density(T_STARTS, T_STARTS + 1, SIGMAS, pack_info(RAYS, 3), 0.3, 0.2)
    # the third sample is reached by exp(-1.2) = 0.301 of the light, and its opacity is 0.095
    assert seen.tolist() == [True, True, False, True, False, False, True]


@pytest.mark.parametrize("seed", range(3))
def test_weights_equal_the_definition(seed):
    rays, starts, ends, sigmas = packed(seed)
    weights, *_ = render_weight_from_density(starts, ends, sigmas, pack_info(rays, 60))
    torch.testing.assert_close(weights, by_loops(rays, starts, ends, sigmas), rtol=1e-5, atol=1e-6)


def test_the_weights_of_a_ray_and_the_light_behind_it_are_one():
    rays, starts, ends, sigmas = packed()
    weights, *_ = render_weight_from_density(starts, ends, sigmas, pack_info(rays, 60))
    opacity = accumulate_along_rays(weights, None, rays, 60)[:, 0]
    behind = torch.exp(-accumulate_along_rays(sigmas * (ends - starts), None, rays, 60)[:, 0])
    torch.testing.assert_close(opacity + behind, torch.ones(60), rtol=0, atol=2e-6)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_compiled_sum_equals_torch(backwards):
    rays, *_, sigmas = packed()
    info = pack_info(rays, 60)
    inputs = sigmas.clone().requires_grad_()
    found = exclusive_sum(inputs, info)
    if backwards:
        (found,) = torch.autograd.grad(found, inputs, sigmas)
    torch.testing.assert_close(found.detach(), scan_torch(sigmas, info, backwards), rtol=1e-6, atol=1e-6)


def test_gradients_equal_those_of_dense_rays():
    """Every ray alone, padded to nothing, through torch's own cumulative sum in fp64."""
    rays, starts, ends, sigmas = packed()
    noise = torch.randn(sigmas.shape, generator=torch.Generator().manual_seed(1))
    ours = sigmas.clone().requires_grad_()
    weights, light, _ = render_weight_from_density(starts, ends, ours, pack_info(rays, 60))
    ((weights + 0.3 * light) * noise).sum().backward()
    exact = sigmas.double().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for ray in rays.unique():
        at = rays == ray
        thickness = exact[at] * (ends[at] - starts[at]).double()
        passed = torch.exp(-(thickness.cumsum(0) - thickness))
        loss = loss + ((passed * (1 - torch.exp(-thickness)) + 0.3 * passed) * noise[at]).sum()
    loss.backward()
    assert float((ours.grad - exact.grad).norm() / exact.grad.norm()) < 1e-5


def test_gradients_of_sums_equal_finite_differences():
    rays = torch.tensor([1, 1, 1, 3])
    weights, values = torch.rand(4, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda w, v: accumulate_along_rays(w, v, rays, 5), (weights.requires_grad_(), values.requires_grad_())
    )


def test_accumulated_values():
    weights, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[1.0, 0.0], [0.5, 1.0], [2.0, -1.0]])
    rays = torch.tensor([1, 1, 3])
    assert accumulate_along_rays(weights, values, rays, 5).tolist() == [[0, 0], [2, 2], [0, 0], [6, -3], [0, 0]]
    assert accumulate_along_rays(weights, None, rays, 5).flatten().tolist() == [0, 3, 0, 3, 0]


@pytest.mark.parametrize("n_rays", [0, 4])
def test_rays_that_meet_nothing(n_rays):
    none, no_ray = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    info = pack_info(no_ray, n_rays)
    assert info.shape == (n_rays, 2) and not info.any()
    weights, *_ = render_weight_from_density(none.detach(), none.detach(), none, info)
    image = accumulate_along_rays(weights, torch.zeros(0, 3), no_ray, n_rays)
    assert image.shape == (n_rays, 3) and not image.any()
    assert scan_torch(none.detach(), info, False).shape == scan_torch(none.detach(), info, True).shape == (0,)
    image.sum().backward()
    assert none.grad.shape == (0,)


def test_a_wall_does_not_disturb_the_next_ray():
    """Rays of any density are summed apart: one sum over all would drown the second ray in the first."""
    rays = torch.tensor([0, 0, 1, 1])
    sigmas = torch.tensor([3e38, 1.0, 0.5, 0.25])
    sums = exclusive_sum(sigmas, pack_info(rays, 2))
    assert sums[2:].tolist() == [0, 0.5]
    weights, *_ = render_weight_from_density(torch.zeros(4), torch.full((4,), 2.0), sigmas, pack_info(rays, 2))
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.0, 1 - math.exp(-1), math.exp(-1) * (1 - math.exp(-0.5))]))


@pytest.mark.parametrize("indices", [[1, 0], [0, 3], [-1, 0]])
def test_indices_that_are_not_packed_are_refused(indices):
    with pytest.raises(ConfigError, match="ray_indices must ascend from 0 to at most 2"):
        pack_info(torch.tensor(indices), 3)


def test_threads_change_no_bit():
    dice = torch.Generator().manual_seed(0)
    rays = torch.randint(0, 5000, (100_000,), generator=dice).sort().values
    inputs, info = torch.rand(100_000, generator=dice), pack_info(rays, 5000)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = exclusive_sum(inputs, info)
        torch.set_num_threads(3)
        assert torch.equal(exclusive_sum(inputs, info), one)
    finally:
        torch.set_num_threads(before)
