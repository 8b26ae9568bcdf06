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
class Arrays:
    """A scene as arrays; colors are [N, D] or [N, K * 3], gates are ones where there are none."""

    means: Floats
    quats: Floats
    scales: Floats
    opacities: Floats
    colors: Floats
    gates: Floats
    sh_degree: int

    @classmethod
    def of(cls, scene: Scene) -> Arrays:
        """The memory of the scene's tensors."""
        gates = torch.ones_like(scene.opacities) if scene.gates is None else scene.gates
        tensors = (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors.flatten(1), gates)
        means, quats, scales, opacities, colors, factors = (t.detach().numpy() for t in tensors)
        return cls(means, quats, scales, opacities, colors, factors, scene.sh_degree)

    def zeros(self) -> Arrays:
        """Zeros of the same shapes."""
        arrays = (self.means, self.quats, self.scales, self.opacities, self.colors, self.gates)
        means, quats, scales, opacities, colors, gates = (np.zeros_like(array) for array in arrays)
        return Arrays(means, quats, scales, opacities, colors, gates, self.sh_degree)


@dataclass(frozen=True, eq=False)
class View:
    """N splats as one camera sees them.

    Args:
        camera: `gencompress.kernels.projection.camera_row`.
        antialiased: whether opacities are compensated.
        rows: projected splats [N, 8].
        features: colours, and after them the depth if it is drawn, then zeros [N, F].
        depths: 0 for splats that are not drawn [N].
        tiles: who reaches which tile.
    """

    camera: NDArray[np.float64]
    antialiased: bool
    rows: Floats
    features: Floats
    depths: Floats
    tiles: Tiles


@dataclass(frozen=True, eq=False)
class Pixels:
    """A drawn view, or the gradient of one: image [H, W, D], depth [H, W], and transmittance (gradient of alpha)."""

    image: Floats
    depth: Floats
    light: Floats


def project_view(splats: Arrays, views: Views, index: int, antialiased: bool, channels: int, depth: bool) -> View:
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
    tiles = sort_into_tiles(rows, depths, views.width, views.height)
    return View(camera, antialiased, rows, features, depths, tiles)


def draw_view(view: View, background: Floats, pixels: Pixels) -> None:
    """Fill `pixels`."""
    parallel(
        render_tiles, len(view.tiles), view.rows, view.features, view.tiles.starts, view.tiles.splats, background,
        pixels.image, pixels.depth, pixels.light,
    )  # fmt: skip


def pull_view(view: View, pixels: Pixels, gradient: Pixels, absgrad: bool) -> Floats:
    """Gradient rows of every splat in every tile [M, 8 + F] from the gradient of the drawn `pixels`."""
    tiles = view.tiles
    pulled = np.zeros((len(tiles.splats), HEAD + view.features.shape[1]), np.float32)
    parallel(
        pull_tiles, len(tiles), view.rows, view.features, tiles.starts, tiles.splats, tiles.slots, absgrad,
        pixels.image, pixels.depth, pixels.light, gradient.image, gradient.depth, gradient.light, pulled,
    )  # fmt: skip
    return pulled


def unproject_view(view: View, splats: Arrays, channels: int, pulled: Floats, found: Arrays, absolute: Floats) -> None:
    """Add the gradients of the splats to `found`; `absolute` [N, 2] takes those of the centres on the image."""
    parallel(
        project_gradient, len(splats.means), splats.means, splats.quats, splats.scales, splats.opacities, splats.gates,
        splats.colors, splats.sh_degree, view.camera, view.antialiased, channels, view.rows, view.tiles.first_slots,
        pulled, found.means, found.quats, found.scales, found.opacities, found.gates, found.colors, absolute,
        grain=_SPLATS,
    )  # fmt: skip


def rasterize(scene: Scene, views: Views, antialiased: bool, absgrad: bool) -> Render:
    """As `gencompress.kernels.rasterize`."""
    inputs = (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors, scene.gates)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        image, alpha, depth, absolute = _Rasterize.apply(*inputs, scene, views, antialiased, absgrad)
        return Render(image, alpha, depth, absolute)
    (image, depth, light), _ = _draw(scene, views, antialiased, keep=False)
    return Render(image, 1 - light, depth)


def _draw(
    scene: Scene, views: Views, antialiased: bool, keep: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], list[View]]:
    """Image, depth and transmittance of all views, and with `keep` what the backward pass needs of each."""
    splats, size = Arrays.of(scene), (len(views.viewmats), views.height, views.width)
    image, depth, light = torch.empty(*size, scene.channels), torch.empty(size), torch.empty(size)
    background = scene.background.detach().numpy()
    kept = []
    for i in range(size[0]):
        view = project_view(splats, views, i, antialiased, scene.channels, True)
        draw_view(view, background, Pixels(image[i].numpy(), depth[i].numpy(), light[i].numpy()))
        if keep:
            kept.append(view)
    return (image, depth, light), kept


class _Rasterize(torch.autograd.Function):
    """`rasterize` with its gradients; its last output is filled by the backward pass."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See `rasterize`; the arguments are the differentiable tensors of the scene, the scene, and its other ones."""
        *inputs, scene, views, antialiased, absgrad = arguments
        drawn, ctx.kept = _draw(scene, views, antialiased, keep=True)
        image, depth, light = drawn
        ctx.save_for_backward(*inputs, image, depth, light)
        ctx.background, ctx.sh_degree = scene.background, scene.sh_degree
        ctx.absolute = torch.zeros(len(ctx.kept), len(scene.means), 2) if absgrad else None
        if absgrad:
            ctx.mark_non_differentiable(ctx.absolute)
        return image, 1 - light, depth, ctx.absolute

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *to_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the differentiable tensors."""
        *inputs, image, depth, light = ctx.saved_tensors
        to_image, to_alpha, to_depth = (t.contiguous().numpy() for t in to_outputs[:3])
        means, quats, scales, opacities, colors, gates = inputs
        splats = Arrays.of(Scene(means, quats, scales, opacities, colors, gates, ctx.background, ctx.sh_degree))
        found, channels = splats.zeros(), image.shape[-1]
        unasked = np.empty((len(means), 2), np.float32)
        for i, view in enumerate(ctx.kept):
            pixels = Pixels(image[i].numpy(), depth[i].numpy(), light[i].numpy())
            pulled = pull_view(view, pixels, Pixels(to_image[i], to_depth[i], to_alpha[i]), ctx.absolute is not None)
            absolute = unasked if ctx.absolute is None else ctx.absolute[i].numpy()
            unproject_view(view, splats, channels, pulled, found, absolute)
        arrays = (found.means, found.quats, found.scales, found.opacities, found.colors, found.gates)
        pairs = zip(arrays, inputs, strict=True)
        return *(None if t is None else torch.from_numpy(a).view(t.shape) for a, t in pairs), None, None, None, None


def contributions(scene: Scene, views: Views, target: Tensor | None, antialiased: bool) -> Contributions:
    """As `gencompress.kernels.contributions`."""
    splats, channels, cameras = Arrays.of(scene), scene.channels, len(views.viewmats)
    count = len(splats.means)
    sums, most = np.zeros((count, SCORES - 1)), np.zeros(count, np.float32)
    image = np.empty((cameras, views.height, views.width, channels), np.float32)
    targets = np.empty((cameras, 0, 0, channels), np.float32) if target is None else target.detach().numpy()
    for i in range(cameras):
        view = project_view(splats, views, i, antialiased, channels, False)
        background = np.zeros(view.features.shape[1], np.float32)
        background[:channels] = scene.background.numpy()
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
