"""Sensitivity of the renders to where a splat is and how large it is (PUP 3D-GS, arXiv 2406.10219), without images."""

from __future__ import annotations

import torch
from torch import Tensor

from gencompress.core.subject import Progress
from gencompress.formats.cameras import Cameras
from gencompress.kernels import rasterize
from gencompress.kernels.splats import Splats


def sensitivity_scores(
    splats: Splats, cameras: Cameras, ctx: Progress, probes: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    """Log-determinant of the 6 x 6 Gauss-Newton block of mean and scale: ``{"splats": [N]}``, finite.

    The block is the sum of J J^T over pixels and channels of all views, J the derivative of a pixel by (mean, scale).
    It is estimated from random signs z: ``E[(J^T z)(J^T z)^T]`` is the sum, one backward pass per draw. A block of less
    than full rank, as of a splat that no view sees, gets the lowest score.

    Args:
        splats: what is scored.
        cameras: the views.
        ctx: progress, checkpoints after every view, stopping.
        probes: draws of z per view; ``probes * views`` must be at least 6 for blocks of full rank.
        seed: of the draws.
    """
    blocks = torch.zeros(len(splats), 6, 6, device=splats.means.device)
    saved = ctx.load_checkpoint()
    if saved is not None:
        blocks.copy_(saved.tensors["blocks"])
    for view in range(0 if saved is None else saved.step, len(cameras)):
        gradients = _pulled_back(splats, cameras.take(slice(view, view + 1)), probes, (seed, view))
        blocks += torch.einsum("pni,pnj->nij", gradients, gradients) / probes
        ctx.progress(view + 1, len(cameras))
        ctx.save_checkpoint(view + 1, {"blocks": blocks})
        ctx.stop_if_requested()
    return {"splats": _log_determinants(blocks)}


def _pulled_back(splats: Splats, camera: Cameras, probes: int, seed: tuple[int, int]) -> Tensor:
    """J^T z by (mean, scale) for every draw [probes, N, 6]."""
    device = splats.means.device
    means, scales = splats.means.clone().requires_grad_(), splats.scales.clone().requires_grad_()
    viewmats, Ks = torch.from_numpy(camera.viewmats).to(device), torch.from_numpy(camera.Ks).to(device)
    with torch.enable_grad():
        image = rasterize(
            means, splats.quats, scales, splats.opacities, splats.colors, viewmats, Ks, camera.width, camera.height,
            sh_degree=splats.sh_degree, antialiased=splats.antialiased,
        ).image  # fmt: skip
    generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
    rows = []
    for probe in range(probes):
        signs = torch.randint(0, 2, image.shape, generator=generator).to(image) * 2 - 1
        last = probe == probes - 1
        rows.append(torch.cat(torch.autograd.grad(image, (means, scales), signs, retain_graph=not last), dim=1))
    return torch.stack(rows)


def _log_determinants(blocks: Tensor, chunk: int = 1 << 16) -> Tensor:
    """Log-determinants [N] of positive semidefinite [N, 6, 6]; those of singular ones are the lowest finite one."""
    parts = []
    for part in blocks.split(chunk):
        # Scaled to a unit diagonal, as the entries of far and tiny splats differ by more than the range of a float.
        diagonal = part.double().diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        safe = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))
        sign, value = torch.linalg.slogdet(part.double() / (safe[:, :, None] * safe[:, None, :]))
        full = (sign > 0) & (diagonal > 0).all(dim=1)
        parts.append(torch.where(full, value + 2 * safe.log().sum(dim=1), -torch.inf))
    scores = torch.cat(parts)
    finite = scores[torch.isfinite(scores)]
    return scores.clamp_min(float(finite.min()) if len(finite) else 0.0).float()
