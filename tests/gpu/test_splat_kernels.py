"""gsplat on CUDA against the CPU rasterizer: images, gradients, contributions, edges. Skipped without a CUDA device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.kernels.worlds import DIFFERENTIABLE, KINDS, World, cameras, make

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: gsplat parity is not measured")
gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed: pip install 'gencompress[splats]'")

MODES = {
    "SH 3": {"sh_degree": 3, "background": torch.tensor([0.2, 0.5, 0.9])},
    "antialiased": {"sh_degree": 1, "antialiased": True},
    "6 channels": {"channels": 6},
}


def assert_alike(found: torch.Tensor, expected: torch.Tensor, most: float = 2e-3, part: float = 0.002) -> None:
    """Equal on average, and in all but a few places: fast-math exponentials flip pairs at the thresholds."""
    error = (found.cpu() - expected).abs() / expected.abs().clamp(min=1)
    assert float(error.mean()) < 2e-5
    assert float((error > most).float().mean()) <= part


def backward(world: World) -> World:
    leaves = world.map(lambda t: t.detach().clone().requires_grad_())
    render = leaves.render()
    weights = torch.randn(render.image.shape, generator=torch.Generator().manual_seed(2)).to(render.image.device)
    ((render.image * weights).sum() + render.alpha.sum() + 0.1 * render.depth.sum()).backward()
    return leaves


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_images_and_gradients_are_those_of_the_cpu(kind, mode):
    world = replace(make(kind, **MODES[mode]), gates=torch.full((300,), 0.9))
    expected, found = world.render(), world.to("cuda").render()
    for name in ("image", "alpha", "depth"):
        assert_alike(getattr(found, name), getattr(expected, name))
    there, here = backward(world.to("cuda")), backward(world)
    for name in DIFFERENTIABLE:
        a, b = getattr(there, name).grad.cpu().flatten(), getattr(here, name).grad.flatten()
        assert float(torch.cosine_similarity(a, b, dim=0)) > 0.999, name
        assert float((a - b).norm() / b.norm()) < 0.03, name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_those_of_the_cpu(kind, mode):
    viewmats, Ks = cameras(2)
    world = replace(make(kind, **MODES[mode]), viewmats=viewmats, Ks=Ks)
    found, expected = world.to("cuda").contributions(), world.contributions()
    for name in ("leave_one_out", "blend_sum", "blend_max"):
        a, b = getattr(found, name).cpu(), getattr(expected, name)
        assert float((a - b).norm() / b.norm()) < 5e-3, name
    assert int((found.hits.cpu() - expected.hits).abs().sum()) <= 0.005 * int(expected.hits.sum())
    assert_alike(found.image, expected.image)


def test_bands_change_nothing(monkeypatch):
    from gencompress.kernels import cuda

    world = make().to("cuda")
    whole = world.contributions()
    monkeypatch.setattr(cuda, "_BAND", 50)
    for a, b in zip(vars(world.contributions()).values(), vars(whole).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_absolute_gradients_are_those_of_the_cpu():
    found = []
    for device in ("cpu", "cuda"):
        world = make().to(device).map(lambda t: t.clone().requires_grad_())
        render = world.render(absgrad=True)
        assert not render.absgrad.any()
        render.image.square().sum().backward()
        found.append(render.absgrad.cpu())
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.01


@pytest.mark.parametrize("count", [0, 20])
def test_nothing_in_sight_leaves_the_background(count):
    world = make(count=20, background=torch.tensor([0.1, 0.2, 0.3])).take(torch.arange(count))
    world = replace(world, means=world.means + torch.tensor([0.0, 0.0, -100.0])).to("cuda")
    render, scores = world.render(), world.contributions()
    assert torch.equal(render.image, world.background.expand_as(render.image))
    assert torch.equal(scores.image, render.image)
    assert not scores.hits.any()


def test_zero_quaternions_turn_nothing():
    world = replace(make(), quats=torch.zeros(300, 4))
    assert_alike(world.to("cuda").render().image, world.render().image)
