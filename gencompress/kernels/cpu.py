"""The rasterizer on the CPU: projection, tiles and blending of one view after the other, and their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from gencompress.kernels.blending import render_tiles
from gencompress.kernels.blending_gradient import pull_tiles
from gencompress.kernels.compiled import Floats, parallel
from gencompress.kernels.leave_one_out import SCORES, add_scores, score_tiles
from gencompress.kernels.projection import ROW, camera_row, project
from gencompress.kernels.projection_gradient import HEAD, project_gradient
from gencompress.kernels.rasterizer import Contributions, Render, Scene, Views
from gencompress.kernels.tiles import Tiles, sort_into_tiles

_SPLATS = 4096  # per call of a kernel that goes over splats, at least


@dataclass(frozen=True, eq=False)
class _Splats:
    """A scene as arrays; colors are [N, D] or [N, K * 3]."""

    means: Floats
    quats: Floats
    scales: Floats
    opacities: Floats
    colors: Floats
    gates: Floats
    sh_degree: int

    @classmethod
    def of(cls, scene: Scene) -> _Splats:
        gates = torch.ones_like(scene.opacities) if scene.gates is None else scene.gates
        tensors = (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors.flatten(1), gates)
        means, quats, scales, opacities, colors, factors = (t.detach().numpy() for t in tensors)
        return cls(means, quats, scales, opacities, colors, factors, scene.sh_degree)

    def zeros(self) -> _Splats:
        """Zeros of the same shapes."""
        arrays = (self.means, self.quats, self.scales, self.opacities, self.colors, self.gates)
        means, quats, scales, opacities, colors, gates = (np.zeros_like(array) for array in arrays)
        return _Splats(means, quats, scales, opacities, colors, gates, self.sh_degree)


@dataclass(frozen=True, eq=False)
class _Projected:
    """One view of the splats."""

    camera: NDArray[np.float64]
    rows: Floats
    features: Floats
    tiles: Tiles


def _project(splats: _Splats, views: Views, index: int, antialiased: bool, channels: int, depth: bool) -> _Projected:
    """The splats as camera `index` sees them; with `depth` as one more channel."""
    viewmat, K = views.viewmats[index].double().numpy(), views.Ks[index].double().numpy()
    camera = camera_row(viewmat, K, views.width, views.height)
    count = len(splats.means)
    width = -(-(channels + depth) // 4) * 4  # channels are blended in fours
    rows, depths = np.empty((count, ROW), np.float32), np.empty(count, np.float32)
    features = np.zeros((count, width), np.float32)
    parallel(
        project, count, splats.means, splats.quats, splats.scales, splats.opacities, splats.gates, splats.colors,
        splats.sh_degree, camera, views.width, views.height, antialiased, channels if depth else -1, rows, features,
        depths, grain=_SPLATS,
    )  # fmt: skip
    return _Projected(camera, rows, features, sort_into_tiles(rows, depths, views.width, views.height))


def rasterize(scene: Scene, views: Views, antialiased: bool, absgrad: bool) -> Render:
    """As `gencompress.kernels.rasterize`."""
    inputs = (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors, scene.gates)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        image, alpha, depth, absolute = _Rasterize.apply(*inputs, scene, views, antialiased, absgrad)
        return Render(image, alpha, depth, absolute)
    drawn, _ = _draw(scene, views, antialiased, keep=False)
    image, depth, transmittance = (torch.from_numpy(array) for array in drawn)
    return Render(image, 1 - transmittance, depth)


def _draw(
    scene: Scene, views: Views, antialiased: bool, keep: bool
) -> tuple[tuple[Floats, Floats, Floats], list[_Projected]]:
    """Image, depth and transmittance, and with `keep` what the backward pass needs of every view."""
    splats, channels = _Splats.of(scene), scene.channels
    size = (len(views.viewmats), views.height, views.width)
    image, depth = np.empty((*size, channels), np.float32), np.empty(size, np.float32)
    transmittance = np.empty(size, np.float32)
    background = scene.background.detach().numpy()
    kept = []
    for i in range(size[0]):
        view = _project(splats, views, i, antialiased, channels, True)
        parallel(
            render_tiles, len(view.tiles), view.rows, view.features, view.tiles.starts, view.tiles.splats, background,
            image[i], depth[i], transmittance[i],
        )  # fmt: skip
        if keep:
            kept.append(view)
    return (image, depth, transmittance), kept


class _Rasterize(torch.autograd.Function):
    """`rasterize` with its gradients; its last output is filled by the backward pass."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See `rasterize`; the arguments are the differentiable tensors of the scene, the scene, and its other ones."""
        *inputs, scene, views, antialiased, absgrad = arguments
        drawn, ctx.kept = _draw(scene, views, antialiased, keep=True)
        image, depth, transmittance = (torch.from_numpy(array) for array in drawn)
        ctx.save_for_backward(*inputs, image, depth, transmittance)
        ctx.background, ctx.sh_degree, ctx.antialiased = scene.background, scene.sh_degree, antialiased
        absolute = torch.zeros(len(ctx.kept), len(scene.means), 2) if absgrad else None
        ctx.absolute = absolute
        if absolute is not None:
            ctx.mark_non_differentiable(absolute)
        return image, 1 - transmittance, depth, absolute

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *to_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the differentiable tensors."""
        *inputs, image, depth, transmittance = ctx.saved_tensors
        to_image, to_alpha, to_depth = (t.contiguous().numpy() for t in to_outputs[:3])
        means, quats, scales, opacities, colors, gates = inputs
        splats = _Splats.of(Scene(means, quats, scales, opacities, colors, gates, ctx.background, ctx.sh_degree))
        found = splats.zeros()
        for i, view in enumerate(ctx.kept):
            tiles = view.tiles
            gradients = np.zeros((len(tiles.splats), HEAD + view.features.shape[1]), np.float32)
            parallel(
                pull_tiles, len(tiles), view.rows, view.features, tiles.starts, tiles.splats, tiles.slots,
                ctx.absolute is not None, image[i].numpy(), depth[i].numpy(), transmittance[i].numpy(), to_image[i],
                to_depth[i], to_alpha[i], gradients,
            )  # fmt: skip
            absolute = np.empty((len(splats.means), 2), np.float32) if ctx.absolute is None else ctx.absolute[i].numpy()
            parallel(
                project_gradient, len(splats.means), splats.means, splats.quats, splats.scales, splats.opacities,
                splats.gates, splats.colors, splats.sh_degree, view.camera, ctx.antialiased, image.shape[-1], view.rows,
                tiles.first_slots, gradients, found.means, found.quats, found.scales, found.opacities, found.gates,
                found.colors, absolute, grain=_SPLATS,
            )  # fmt: skip
        arrays = (found.means, found.quats, found.scales, found.opacities, found.colors, found.gates)
        pairs = zip(arrays, inputs, strict=True)
        return *(None if t is None else torch.from_numpy(a).view(t.shape) for a, t in pairs), None, None, None, None


def contributions(scene: Scene, views: Views, target: Tensor | None, antialiased: bool) -> Contributions:
    """As `gencompress.kernels.contributions`."""
    splats = _Splats.of(scene)
    count, size = len(splats.means), (len(views.viewmats), views.height, views.width, scene.channels)
    sums, most = np.zeros((count, SCORES - 1)), np.zeros(count, np.float32)
    image = np.empty(size, np.float32)
    targets = np.empty((len(image), 0, 0, scene.channels), np.float32) if target is None else target.numpy()
    for i in range(len(views.viewmats)):
        view = _project(splats, views, i, antialiased, scene.channels, False)
        background = np.zeros(view.features.shape[1], np.float32)
        background[: scene.channels] = scene.background.numpy()
        tiles = view.tiles
        scores = np.zeros((len(tiles.splats), SCORES), np.float32)
        parallel(
            score_tiles, len(tiles), view.rows, view.features, tiles.starts, tiles.splats, tiles.slots, background,
            targets[i], image[i], scores,
        )  # fmt: skip
        parallel(add_scores, count, tiles.first_slots, scores, sums, most, grain=_SPLATS)
    error, toward, blended, hits = torch.from_numpy(sums).unbind(1)
    pixels = torch.from_numpy(image)
    return Contributions(error.float(), toward.float(), blended.float(), torch.from_numpy(most), hits.long(), pixels)
