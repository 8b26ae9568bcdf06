"""Sums along rays whose samples lie packed one behind the other, with the calls of nerfacc (arXiv 2305.04966).

The samples of a ray are neighbours, and `packed_info` [n_rays, 2] gives the first of each ray and how many it has.
nerfacc's own packed sums need CUDA; these run on every device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gencompress.errors import ConfigError
from gencompress.kernels.compiled import Floats, Longs, jit, parallel

_RAYS = 256  # per call of the kernel, at least


@torch.no_grad()
def pack_info(ray_indices: Tensor, n_rays: int) -> Tensor:
    """First sample and number of samples of every ray [n_rays, 2], int64.

    Args:
        ray_indices: ray of every sample [N], int64, ascending.
        n_rays: number of rays, those without samples included.

    Raises:
        ConfigError: the indices descend somewhere, or one is no ray.
    """
    if len(ray_indices):
        first, last = int(ray_indices[0]), int(ray_indices[-1])
        if first < 0 or last >= n_rays or bool((ray_indices.diff() < 0).any()):
            raise ConfigError(f"ray_indices must ascend from 0 to at most {n_rays - 1}; found are {first} to {last}")
    counts = torch.bincount(ray_indices, minlength=n_rays)
    return torch.stack([counts.cumsum(0) - counts, counts], 1)


def exclusive_sum(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Sum of what stands before each sample on its ray [N], fp32; differentiable in `inputs`.

    Args:
        inputs: a number per sample [N].
        packed_info: of `pack_info`.
    """
    found: Tensor = _ExclusiveSum.apply(inputs.float().contiguous(), packed_info)
    return found


def render_transmittance_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor]:
    """Light that reaches each sample, and opacity of each, both in [0, 1] [N]; arguments of the function below."""
    thickness = sigmas * (t_ends - t_starts)
    return torch.exp(-exclusive_sum(thickness, packed_info)), -torch.expm1(-thickness)


def render_weight_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend weight, transmittance and opacity of every sample (NeRF, arXiv 2003.08934, equation 3).

    Differentiable in `sigmas`.

    Args:
        t_starts: where each sample begins on its ray [N].
        t_ends: where it ends [N].
        sigmas: densities per unit of t, >= 0 [N].
        packed_info: of `pack_info`.

    Returns:
        ``(weights, transmittance, alphas)``, each [N] in [0, 1].
    """
    transmittance, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, packed_info)
    return transmittance * alphas, transmittance, alphas


@torch.no_grad()
def render_visibility_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
) -> Tensor:
    """Whether at least `early_stop_eps` of the light reaches a sample whose opacity is at least `alpha_thre` [N]."""
    transmittance, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, packed_info)
    return (transmittance >= early_stop_eps) & (alphas >= alpha_thre)


def accumulate_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    """Weighted sums of the samples of every ray [n_rays, D]; differentiable in weights and values.

    Args:
        weights: of the samples [N].
        values: what is summed [N, D]; None sums the weights themselves, D = 1.
        ray_indices: ray of every sample [N], int64.
        n_rays: number of rays; those without samples get zeros.
    """
    weighted = weights[:, None] if values is None else weights[:, None] * values
    return weighted.new_zeros(n_rays, weighted.shape[1]).index_add(0, ray_indices, weighted)


class _ExclusiveSum(torch.autograd.Function):
    """`exclusive_sum`; the gradient is the same sum from behind."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed_info: Tensor) -> Tensor:
        """Sums [N]."""
        ctx.save_for_backward(packed_info)
        return _scan(inputs, packed_info, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_sums: Tensor) -> tuple[Tensor, None]:
        """Gradient of the inputs [N]."""
        (packed_info,) = ctx.saved_tensors
        return _scan(to_sums.contiguous(), packed_info, True), None


def _scan(inputs: Tensor, packed_info: Tensor, backwards: bool) -> Tensor:
    if inputs.device.type == "cpu":
        out = torch.empty_like(inputs)
        info = packed_info.contiguous().numpy()
        parallel(_scan_rays, len(info), info, inputs.detach().numpy(), backwards, out.numpy(), grain=_RAYS)
        return out
    return scan_torch(inputs, packed_info, backwards)


def scan_torch(inputs: Tensor, packed_info: Tensor, backwards: bool) -> Tensor:
    """The sums on CUDA, and the reference of the tests: one sum over all samples, less what stood before each ray.

    In fp64, in which rounding is small even beside the sum of all rays.
    """
    if backwards:
        turned = torch.stack([len(inputs) - packed_info.sum(1), packed_info[:, 1]], 1).flip(0)
        return scan_torch(inputs.flip(0), turned, False).flip(0)
    values = inputs.double()
    before = values.cumsum(0) - values
    starts = packed_info[:, 0].clamp(max=max(len(inputs) - 1, 0))  # a last ray without samples starts behind the end
    of_rays = before[starts] if len(inputs) else before.new_zeros(len(packed_info))
    base = of_rays.repeat_interleave(packed_info[:, 1])
    return (before - base).to(inputs.dtype)


@jit
def _scan_rays(start: int, stop: int, info: Longs, inputs: Floats, backwards: bool, out: Floats) -> None:
    """Sums of the rays start to stop, in fp64."""
    for ray in range(start, stop):
        first, last = info[ray, 0], info[ray, 0] + info[ray, 1]
        total = 0.0
        if backwards:
            for i in range(last - 1, first - 1, -1):
                out[i] = total
                total += inputs[i]
        else:
            for i in range(first, last):
                out[i] = total
                total += inputs[i]
