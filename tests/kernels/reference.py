"""The rasterizer written down once more: dense, O(splats x pixels), fp64, plain torch with autograd.

It shares no code with the kernels. Spherical harmonics come from the recurrence of the associated Legendre functions,
covariances are inverted as matrices, and every splat visits every pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.kernels.worlds import World


@dataclass(frozen=True, eq=False)
class Dense:
    """One view: image [H, W, D], alpha and depth [H, W], blend weights [N, H, W], centres on the image [N, 2]."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    weights: Tensor
    centres: Tensor


def render(world: World, camera: int = 0) -> Dense:
    """What camera `camera` of `world` sees."""
    viewmat, K = world.viewmats[camera].double(), world.Ks[camera].double()
    means, scales, opacities = world.means.double(), world.scales.double(), world.opacities.double()
    points = means @ viewmat[:3, :3].T + viewmat[:3, 3]
    visible = (points[:, 2] >= 0.01).detach()
    x, y, z = torch.where(visible[:, None], points, torch.ones_like(points)).unbind(1)
    centres = torch.stack([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]], 1)
    axes = viewmat[:3, :3] @ rotations(world.quats.double()) * scales[:, None]
    J = jacobians(x, y, z, K, world.width, world.height)
    covariances = J @ axes @ axes.mT @ J.mT
    blurred = covariances + 0.3 * torch.eye(2, dtype=torch.float64)
    if world.antialiased:
        opacities = opacities * (determinant(covariances) / determinant(blurred)).clamp(min=0).sqrt()
    if world.gates is not None:
        opacities = opacities * world.gates.double()
    colors = world.colors.double()
    if world.sh_degree is not None:
        position = -torch.linalg.solve(viewmat[:3, :3], viewmat[:3, 3])
        basis = spherical_harmonics(torch.nn.functional.normalize(means - position, dim=1), world.sh_degree)
        colors = (0.5 + (basis[..., None] * colors[:, : basis.shape[1]]).sum(1)).clamp(min=0)
    return blend(world, centres, torch.linalg.inv(blurred), opacities, colors, z, visible)


def blend(
    world: World, centres: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, depths: Tensor, visible: Tensor
) -> Dense:
    """Front to back, pixel centres at half-integers."""
    rows, columns = torch.arange(world.height).double() + 0.5, torch.arange(world.width).double() + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    left = torch.ones(world.height, world.width, dtype=torch.float64)
    stopped = torch.zeros_like(left, dtype=torch.bool)
    nothing = torch.zeros_like(left)
    weights = [nothing] * len(centres)
    for n in torch.argsort(depths.detach(), stable=True).tolist():
        offset = pixels - centres[n]
        exponent = -0.5 * torch.einsum("hwi,ij,hwj->hw", offset, conics[n], offset)
        alpha = (opacities[n] * exponent.exp()).clamp(max=0.999)
        drawn = (alpha >= 1 / 255) & ~stopped & visible[n]
        after = left * (1 - alpha)
        stopped = stopped | (drawn & (after <= 1e-4))
        drawn = drawn & ~stopped
        weights[n] = torch.where(drawn, alpha * left, nothing)
        left = torch.where(drawn, after, left)
    blended = torch.stack(weights)
    background = torch.zeros(colors.shape[1]) if world.background is None else world.background
    image = torch.einsum("nhw,nd->hwd", blended, colors) + left[..., None] * background.double()
    return Dense(image, 1 - left, torch.einsum("nhw,n->hw", blended, depths), blended, centres)


def jacobians(x: Tensor, y: Tensor, z: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """Of the pinhole projection [N, 2, 3], with x/z and y/z held within 1.3 times the field of view."""

    def held(ratio: Tensor, focal: Tensor, centre: Tensor, size: int) -> Tensor:
        margin = 0.15 * size / focal
        return ratio.clamp(float(-centre / focal - margin), float((size - centre) / focal + margin))

    zero, fx, fy = torch.zeros_like(z), K[0, 0], K[1, 1]
    first = torch.stack([fx / z, zero, -fx / z * held(x / z, fx, K[0, 2], width)], 1)
    second = torch.stack([zero, fy / z, -fy / z * held(y / z, fy, K[1, 2], height)], 1)
    return torch.stack([first, second], 1)


def rotations(quats: Tensor) -> Tensor:
    """[N, 3, 3] of quaternions wxyz [N, 4] of any length: v -> q v q* / |q|^2, for the three unit vectors v."""
    w, u = quats[:, :1], quats[:, 1:]
    columns = []
    for v in torch.eye(3, dtype=quats.dtype):
        v = v.expand_as(u)
        cross = torch.linalg.cross(u, v)
        columns.append(v * (w * w - (u * u).sum(1, True)) + 2 * u * (u * v).sum(1, True) + 2 * w * cross)
    return torch.stack(columns, 2) / (quats * quats).sum(1)[:, None, None]


def determinant(matrices: Tensor) -> Tensor:
    return matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics [N, (degree + 1)^2] with the Condon-Shortley phase, l then m = -l..l."""
    x, y, z = directions.unbind(1)
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]  # real and imaginary part of (x + iy)^m
    for _ in range(degree):
        c, s = cosines[-1], sines[-1]
        cosines.append(c * x - s * y)
        sines.append(c * y + s * x)
    legendre: dict[tuple[int, int], Tensor] = {}  # P_l^m(z) / (1 - z^2)^(m / 2)
    for m in range(degree + 1):
        legendre[m, m] = torch.full_like(z, math.prod(range(1, 2 * m, 2)))
        legendre[m - 1, m] = torch.zeros_like(z)
        for n in range(m + 1, degree + 1):
            legendre[n, m] = ((2 * n - 1) * z * legendre[n - 1, m] - (n + m - 1) * legendre[n - 2, m]) / (n - m)
    terms = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            k = abs(m)
            norm = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - k) / math.factorial(n + k))
            wave = cosines[0] if m == 0 else math.sqrt(2) * (cosines[k] if m > 0 else sines[k])
            terms.append((-1) ** k * norm * legendre[n, k] * wave)
    return torch.stack(terms, 1)
