"""Against gsplat's own torch functions, where gsplat is installed: its CUDA kernels are not needed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from gencompress.kernels import cuda
from gencompress.kernels.rasterizer import Scene, Views
from tests.kernels import reference
from tests.kernels.worlds import KINDS, make

gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed: pip install 'gencompress[splats]'")


def in_gsplat(world):
    """gsplat's projection and harmonics, then the reference's blending."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics

    viewmats, Ks = world.viewmats.double(), world.Ks.double()
    covariances, _ = _quat_scale_to_covar_preci(world.quats.double(), world.scales.double(), True, False, False)
    _, centres, depths, conics, compensations = _fully_fused_projection(
        world.means.double(), covariances, viewmats, Ks, world.width, world.height, calc_compensations=True
    )
    opacities = world.opacities.double() * (compensations[0] if world.antialiased else 1)
    directions = world.means.double() - torch.inverse(viewmats)[0, :3, 3]
    colors = (_spherical_harmonics(world.sh_degree, directions, world.colors.double()) + 0.5).clamp(min=0)
    inverses = conics[0][:, [0, 1, 1, 2]].view(-1, 2, 2)
    visible = (depths[0] >= 0.01).detach()
    safe = torch.where(visible[:, None], centres[0], torch.zeros_like(centres[0]))
    return reference.blend(world, safe, inverses, opacities, colors, depths[0], visible)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
def test_the_reference_is_gsplats_maths(kind, antialiased):
    world = make(kind, count=150, sh_degree=4, antialiased=antialiased)
    ours = world.map(lambda t: t.double().requires_grad_())
    theirs = world.map(lambda t: t.double().requires_grad_())
    expected, found = in_gsplat(theirs), reference.render(ours)
    weights = torch.randn(expected.image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(found.image, expected.image, rtol=0, atol=1e-8)
    (found.image * weights).sum().backward()
    (expected.image * weights).sum().backward()
    for name in ("means", "quats", "scales", "opacities", "colors"):
        a, b = getattr(ours, name).grad, getattr(theirs, name).grad
        assert float((a - b).norm() / b.norm()) < 1e-6, name


def indices_in_range(
    first, last, left, centres, conics, opacities, width, height, tile, offsets, flat
):  # fmt: skip
    """What gsplat's CUDA function of that name does, pixel by pixel, for one image."""
    starts = [*offsets.flatten().tolist(), len(flat)]
    pairs = []
    for pixel in range(width * height):
        x, y = pixel % width, pixel // width
        place = y // tile * offsets.shape[2] + x // tile
        remaining = float(left[0, y, x])
        for n in flat[starts[place] : starts[place + 1]].tolist():
            dx, dy = (centres[0, n] - torch.tensor([x + 0.5, y + 0.5])).tolist()
            a, b, c = conics[0, n].tolist()
            alpha = min(0.999, float(opacities[0, n]) * math.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy))
            if alpha < 1 / 255:
                continue
            if remaining * (1 - alpha) <= 1e-4:
                break
            remaining *= 1 - alpha
            pairs.append((n, pixel))
    splats, pixels = torch.tensor(pairs).reshape(-1, 2).unbind(1)
    return splats, pixels, torch.zeros_like(pixels)


@pytest.mark.parametrize("options", [{"antialiased": True, "sh_degree": 1}, {}], ids=["antialiased, SH", "channels"])
def test_contributions_by_gsplats_functions_are_those_of_the_cpu(monkeypatch, options):
    from gsplat.cuda import _torch_impl as functions

    def projection(means, covars, quats, scales, viewmats, Ks, width, height, calc_compensations, opacities):
        covars, _ = functions._quat_scale_to_covar_preci(quats, scales, True, False, False)
        return functions._fully_fused_projection(
            means, covars, viewmats, Ks, width, height, calc_compensations=calc_compensations
        )

    stand_in = SimpleNamespace(
        fully_fused_projection=projection,
        spherical_harmonics=lambda degree, directions, colors, masks: functions._spherical_harmonics(
            degree, directions, colors
        ),
        isect_tiles=functions._isect_tiles,
        isect_offset_encode=functions._isect_offset_encode,
        rasterize_to_indices_in_range=indices_in_range,
    )
    monkeypatch.setattr(cuda, "gsplat", lambda: stand_in)
    monkeypatch.setattr(cuda, "_BAND", 60)
    world = make(count=60, background=torch.tensor([0.3, 0.6, 0.1]), **options)
    target = torch.rand(1, world.height, world.width, 3, generator=torch.Generator().manual_seed(0))
    degree = -1 if world.sh_degree is None else world.sh_degree
    splats = (world.means, world.quats, world.scales, world.opacities, world.colors)
    scene = Scene(*splats, None, world.background, degree)
    views = Views(world.viewmats, world.Ks, world.width, world.height)
    found = cuda.contributions(scene, views, target, world.antialiased)
    expected = world.contributions(target)
    for name in ("leave_one_out", "toward", "blend_sum", "blend_max", "image"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-3)
    assert int((found.hits - expected.hits).abs().sum()) <= 3
