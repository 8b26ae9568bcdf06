"""The grid that says where in a box something is: kept up during training, marched through by rays.

Calls and update are those of nerfacc's estimator of the same name (arXiv 2305.04966), with one level, so that either
serves a training loop. Random numbers follow from the step, so a resumed training sees the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gencompress.errors import ConfigError, NumericsError
from gencompress.kernels.marching import march
from gencompress.kernels.packed import pack_info, render_visibility_from_density

MAX_RESOLUTION = 512

DensityAt = Callable[[Tensor], Tensor]  # points [N, 3] -> N numbers
DensityOf = Callable[[Tensor, Tensor, Tensor], Tensor]  # t_starts, t_ends, ray_indices [N] -> densities [N]


class OccGridEstimator(nn.Module):
    """Occupancy of the cells of a box: a decaying maximum of what was found in each, and which cells count.

    Args:
        roi_aabb: least and greatest corner of the box [6].
        resolution: cells per axis.

    Attributes:
        occs: opacity of a step in each cell [resolution^3], x slowest; zeros at first.
        binaries: cells in which samples are taken [1, resolution, resolution, resolution]; none at first.
    """

    aabbs: Tensor
    occs: Tensor
    binaries: Tensor

    def __init__(self, roi_aabb: Tensor, resolution: int = 128) -> None:
        super().__init__()
        if not 1 <= resolution <= MAX_RESOLUTION:
            raise ConfigError(f"resolution={resolution} must be 1 to {MAX_RESOLUTION}")
        if tuple(roi_aabb.shape) != (6,) or not bool((roi_aabb[3:] > roi_aabb[:3]).all()):
            raise ConfigError(f"roi_aabb {roi_aabb.tolist()} must be two corners, the second greater on every axis")
        self.resolution = resolution
        self.register_buffer("aabbs", roi_aabb.float()[None].clone())
        self.register_buffer("occs", torch.zeros(resolution**3))
        self.register_buffer("binaries", torch.zeros(1, resolution, resolution, resolution, dtype=torch.bool))

    @torch.no_grad()
    def sampling(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        sigma_fn: DensityOf | None = None,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        t_min: Tensor | None = None,
        render_step_size: float = 1e-3,
        early_stop_eps: float = 1e-4,
        alpha_thre: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Packed samples of rays in occupied cells, without those that `sigma_fn` finds invisible.

        Args:
            rays_o: origins [n, 3].
            rays_d: unit directions [n, 3].
            sigma_fn: densities of samples; None keeps all.
            near_plane: least t of a sample.
            far_plane: greatest t of a sample.
            t_min: where the lattice of each ray begins if that is later than `near_plane` [n]; for jittered steps.
            render_step_size: length of a sample.
            early_stop_eps: the light that reaches a visible sample is at least this.
            alpha_thre: opacity of a visible sample is at least this, or the mean occupancy if that is less.

        Returns:
            ``(ray_indices, t_starts, t_ends)`` [N]; nothing where the rays meet nothing.

        Raises:
            ConfigError: a shape is wrong, or the step is no positive part of the box.
            NumericsError: a ray holds NaN or infinity.
        """
        t_first = rays_o.new_full((len(rays_o),), near_plane)
        if t_min is not None:
            t_first = torch.maximum(t_first, t_min)
        samples = march(rays_o, rays_d, self.binaries[0], self.aabbs[0], t_first, far_plane, render_step_size)
        if sigma_fn is None or not len(samples[0]):
            return samples
        ray_indices, t_starts, t_ends = samples
        seen = render_visibility_from_density(
            t_starts, t_ends, sigma_fn(t_starts, t_ends, ray_indices), pack_info(ray_indices, len(rays_o)),
            early_stop_eps, min(alpha_thre, float(self.occs.mean())),
        )  # fmt: skip
        return ray_indices[seen], t_starts[seen], t_ends[seen]

    def update_every_n_steps(
        self,
        step: int,
        occ_eval_fn: DensityAt,
        occ_thre: float = 1e-2,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
        n: int = 16,
    ) -> None:
        """Look every `n` steps into all cells, after the warm-up into a quarter of all and a quarter of the occupied.

        A cell keeps the greater of what is found and `ema_decay` times what it had, and is occupied if that exceeds
        `occ_thre` or the mean, whichever is less.

        Args:
            step: training step.
            occ_eval_fn: opacity of a step at points in the world.
            occ_thre: threshold of an occupied cell.
            ema_decay: factor per update.
            warmup_steps: steps during which all cells are looked into.
            n: steps between updates.

        Raises:
            NumericsError: `occ_eval_fn` gives NaN.
        """
        if step % n == 0:
            self._update(step, occ_eval_fn, occ_thre, ema_decay, step < warmup_steps)

    @torch.no_grad()
    def _update(self, step: int, occ_eval_fn: DensityAt, occ_thre: float, ema_decay: float, everywhere: bool) -> None:
        dice = torch.Generator().manual_seed(step)
        cells = torch.arange(len(self.occs)) if everywhere else self._some_cells(dice)
        side = self.resolution
        corners = torch.stack([cells // side**2, cells // side % side, cells % side], 1)
        places = ((corners + torch.rand(corners.shape, generator=dice)) / side).to(self.occs.device)
        low, high = self.aabbs[0, :3], self.aabbs[0, 3:]
        found = occ_eval_fn(low + places * (high - low)).reshape(len(cells)).to(self.occs)
        if bool(found.isnan().any()):
            raise NumericsError(f"occupancy: {int(found.isnan().sum())} of {len(found)} densities are NaN")
        cells = cells.to(self.occs.device)
        # a cell may be drawn twice: it keeps the greatest of all, in any order of the draws
        faded = self.occs.clone()
        faded[cells] *= ema_decay
        self.occs.copy_(faded.scatter_reduce(0, cells, found, "amax"))
        self.binaries.copy_((self.occs > self.occs.mean().clamp(max=occ_thre)).view_as(self.binaries))

    def _some_cells(self, dice: torch.Generator) -> Tensor:
        """A quarter of the cells, drawn with repetition, and as many of the occupied ones."""
        count = max(1, len(self.occs) // 4)
        drawn = torch.randint(len(self.occs), (count,), generator=dice)
        occupied = self.binaries.flatten().nonzero().flatten().cpu()
        if len(occupied) > count:
            occupied = occupied[torch.randint(len(occupied), (count,), generator=dice)]
        return torch.cat([drawn, occupied])
