"""The rasterizer on the CPU: projection, tiles and blending of one view after the other, and their gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gencompress.kernels.blending import render_tiles
from gencompress.kernels.compiled import Floats, parallel
from gencompress.kernels.leave_one_out import SCORES, add_scores, score_tiles
from gencompress.kernels.projection import ROW, camera_row, project
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
    splats, channels = _Splats.of(scene), scene.channels
    size = (len(views.viewmats), views.height, views.width)
    image, depth = np.empty((*size, channels), np.float32), np.empty(size, np.float32)
    transmittance = np.empty(size, np.float32)
    background = scene.background.detach().numpy()
    for i in range(size[0]):
        view = _project(splats, views, i, antialiased, channels, True)
        parallel(
            render_tiles, len(view.tiles), view.rows, view.features, view.tiles.starts, view.tiles.splats, background,
            image[i], depth[i], transmittance[i],
        )  # fmt: skip
    return Render(torch.from_numpy(image), 1 - torch.from_numpy(transmittance), torch.from_numpy(depth))


def contributions(scene: Scene, views: Views, antialiased: bool) -> Contributions:
    """As `gencompress.kernels.contributions`."""
    splats = _Splats.of(scene)
    count = len(splats.means)
    sums, most = np.zeros((count, SCORES - 1)), np.zeros(count, np.float32)
    for i in range(len(views.viewmats)):
        view = _project(splats, views, i, antialiased, scene.channels, False)
        background = np.zeros(view.features.shape[1], np.float32)
        background[: scene.channels] = scene.background.numpy()
        tiles = view.tiles
        scores = np.zeros((len(tiles.splats), SCORES), np.float32)
        parallel(
            score_tiles, len(tiles), view.rows, view.features, tiles.starts, tiles.splats, tiles.slots, background,
            views.width, views.height, scores,
        )  # fmt: skip
        parallel(add_scores, count, tiles.first_slots, scores, sums, most, grain=_SPLATS)
    error, blended, hits = torch.from_numpy(sums).unbind(1)
    return Contributions(error.float(), blended.float(), torch.from_numpy(most), hits.long())
