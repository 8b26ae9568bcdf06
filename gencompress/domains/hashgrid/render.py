"""Rays of cameras, and what a field looks like along them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gencompress.domains.hashgrid.field import HashField
from gencompress.errors import ConfigError
from gencompress.formats.cameras import Cameras
from gencompress.formats.spherical_harmonics import basis
from gencompress.kernels.occupancy import OccGridEstimator
from gencompress.kernels.packed import accumulate_along_rays, pack_info, render_weight_from_density

_DEGREE = 3
_RAYS = 4096  # of an image at a time
_EARLY_STOP = 1e-4


@dataclass(frozen=True, eq=False)
class Scene:
    """All that is needed to render.

    Args:
        field: density and colour.
        grid: where samples are taken.
        samples: steps along the diagonal of the box.
        background: colour behind everything, in [0, 1].
    """

    field: HashField
    grid: OccGridEstimator
    samples: int
    background: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 1 << 14:
            raise ConfigError(f"samples={self.samples} must be 1 to {1 << 14:,}")
        if len(self.background) != 3 or not all(0 <= c <= 1 for c in self.background):
            raise ConfigError(f"background={self.background} must be three numbers from 0 to 1")

    @property
    def step(self) -> float:
        """Length of a sample in the world."""
        return 2 * math.sqrt(3) * self.field.settings.bound / self.samples


@dataclass(frozen=True, eq=False)
class Rendered:
    """What n rays see: colour in [0, 1] [n, 3], opacity in [0, 1] and depth times opacity [n], samples taken."""

    color: Tensor
    opacity: Tensor
    depth: Tensor
    samples: int


def camera_rays(cameras: Cameras, index: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions through the middle of every pixel of a camera, row by row [H * W, 3] each."""
    rows, columns = torch.meshgrid(torch.arange(cameras.height), torch.arange(cameras.width), indexing="ij")
    pixels = torch.stack([columns, rows], -1).view(-1, 2)
    viewmat, K = (
        torch.from_numpy(a[index]).expand(len(pixels), *a[index].shape) for a in (cameras.viewmats, cameras.Ks)
    )
    return pixel_rays(viewmat, K, pixels)


def pixel_rays(viewmats: Tensor, Ks: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Rays through the middle of pixels.

    Args:
        viewmats: world to camera of each [n, 4, 4].
        Ks: intrinsics of each [n, 3, 3].
        pixels: column and row of each [n, 2].
    """
    middle = pixels + 0.5
    flat = (middle - Ks[:, :2, 2]) / torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], 1)
    ahead = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)
    rotations = viewmats[:, :3, :3]
    directions = torch.einsum("nij,ni->nj", rotations, ahead)
    origins = -torch.einsum("nij,ni->nj", rotations, viewmats[:, :3, 3])
    return origins, torch.nn.functional.normalize(directions, dim=1)


def render_rays(scene: Scene, rays_o: Tensor, rays_d: Tensor, jitter: Tensor | None = None) -> Rendered:
    """Colours along rays; differentiable in the field.

    Args:
        scene: the field and its box.
        rays_o: origins [n, 3].
        rays_d: unit directions [n, 3].
        jitter: where in its first step each ray begins, in [0, 1] [n]; 0 by default.

    Raises:
        NumericsError: a ray holds NaN or infinity.
    """
    field, n_rays = scene.field, len(rays_o)

    def places(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> Tensor:
        return rays_o[rays] + ((t_starts + t_ends) / 2)[:, None] * rays_d[rays]

    rays, t_starts, t_ends = scene.grid.sampling(
        rays_o, rays_d, lambda *samples: field.density(places(*samples))[0],
        t_min=None if jitter is None else jitter * scene.step,
        render_step_size=scene.step, early_stop_eps=_EARLY_STOP,
    )  # fmt: skip
    density, features = field.density(places(t_starts, t_ends, rays))
    weights, *_ = render_weight_from_density(t_starts, t_ends, density, pack_info(rays, n_rays))
    harmonics = torch.from_numpy(basis(rays_d.cpu().numpy(), _DEGREE)).to(rays_d)
    color = accumulate_along_rays(weights, field.color(features, harmonics[rays]), rays, n_rays)
    opacity = accumulate_along_rays(weights, None, rays, n_rays)
    depth = accumulate_along_rays(weights, ((t_starts + t_ends) / 2)[:, None], rays, n_rays)
    color = color + (1 - opacity) * color.new_tensor(scene.background)
    return Rendered(color, opacity[:, 0], depth[:, 0], len(rays))


@torch.no_grad()
def render_image(scene: Scene, cameras: Cameras, index: int) -> Tensor:
    """What one camera sees, in [0, 1] [H, W, 3]."""
    device = scene.field.table.device
    rays_o, rays_d = (t.to(device) for t in camera_rays(cameras, index))
    chunks = zip(rays_o.split(_RAYS), rays_d.split(_RAYS), strict=True)
    image = torch.cat([render_rays(scene, o, d).color for o, d in chunks])
    return image.view(cameras.height, cameras.width, 3)
