"""What a splat contributes, against really removing it and against the weights of the dense reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gencompress.errors import NumericsError
from gencompress.formats import read_scene
from gencompress.kernels.splats import Splats
from tests.kernels import reference
from tests.kernels.worlds import KINDS, World, cameras, make


def removal_errors(world: World, chosen: list[int]) -> Tensor:
    """Squared error of the reference's image without each of the chosen splats."""
    everything = torch.arange(len(world))
    whole = reference.render(world).image
    return torch.stack([(reference.render(world.take(everything != n)).image - whole).square().sum() for n in chosen])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"antialiased": True, "sh_degree": 2}], ids=["classic", "antialiased"])
def test_leave_one_out_is_the_error_of_removal(kind, options):
    world = make(kind, count=120, background=torch.tensor([0.8, 0.1, 0.4]), **options)
    scores = world.contributions().leave_one_out.double()
    chosen = torch.argsort(scores, descending=True)[: int((scores > 1e-9).sum())][:40:4].tolist()
    relative = (scores[chosen] / removal_errors(world, chosen) - 1).abs()
    if float(world.render().alpha.max()) < 0.999:
        assert float(relative.max()) < 1e-5
    else:  # a pixel that stops early goes on a little further without the splat, which is no part of the score
        assert kind == "huge"
        assert float(relative.median()) < 0.01
        assert int((relative > 0.02).sum()) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_hits_are_those_of_the_reference(kind):
    world = make(kind, sh_degree=1)
    scores, weights = world.contributions(), reference.render(world).weights
    torch.testing.assert_close(scores.blend_sum.double(), weights.sum((1, 2)), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(scores.blend_max.double(), weights.amax((1, 2)), rtol=1e-4, atol=1e-4)
    missed = scores.hits - (weights > 0).sum((1, 2))
    assert scores.hits.dtype == torch.int64
    assert int(missed.abs().sum()) <= 2


def test_views_add_up():
    viewmats, Ks = cameras(3)
    world = replace(make(), viewmats=viewmats, Ks=Ks)
    together = world.contributions()
    singles = [replace(world, viewmats=viewmats[i, None], Ks=Ks[i, None]).contributions() for i in range(3)]
    torch.testing.assert_close(together.leave_one_out, sum(s.leave_one_out for s in singles))
    torch.testing.assert_close(together.blend_sum, sum(s.blend_sum for s in singles))
    assert torch.equal(together.blend_max, torch.stack([s.blend_max for s in singles]).amax(0))
    assert torch.equal(together.hits, sum(s.hits for s in singles))


def test_blend_weights_are_the_gradient_of_a_gray_image():
    world = make()
    gray = torch.full((len(world), 1), 0.5, requires_grad=True)
    replace(world, colors=gray).render().image.sum().backward()
    torch.testing.assert_close(world.contributions().blend_sum, gray.grad[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 5])
def test_the_error_is_summed_over_channels(channels):
    world = make(channels=channels)
    parts = [replace(world, colors=world.colors[:, c : c + 1]).contributions() for c in range(channels)]
    torch.testing.assert_close(world.contributions().leave_one_out, sum(p.leave_one_out for p in parts))


def test_a_splat_like_what_is_behind_it_is_no_loss():
    """The score sees what shows through: equal colours in front of an opaque wall."""
    world = make(count=2, background=torch.ones(3))
    world = replace(world, means=torch.tensor([[0.0, 0, 0], [0, 0, 1.0]]), scales=torch.tensor([[0.2] * 3, [30.0] * 3]))
    world = replace(world, opacities=torch.tensor([0.7, 1.0]), colors=torch.full((2, 3), 0.25))
    scores = world.contributions()
    assert scores.blend_max[0] > 0.6
    assert scores.leave_one_out[0] < 1e-4 * scores.leave_one_out[1]


def test_bad_numbers_are_refused():
    world = make(count=4)
    with pytest.raises(NumericsError, match="scales holds NaN"):
        replace(world, scales=world.scales * float("nan")).contributions()


def test_leave_one_out_on_a_trained_scene(shared: Path):
    splats = Splats.of(read_scene(shared / "data/3d/splat-playcanvas/biker.compressed.ply"))
    size = 200
    viewmats, Ks = cameras(1, size, size)
    viewmats[0, :3, :3] = torch.eye(3)
    viewmats[0, :3, 3] = -splats.means.median(0).values + torch.tensor([0.0, 0, 2.0])
    parts = (splats.means, splats.quats, splats.scales, splats.opacities, splats.colors)
    world = World(*parts, viewmats, Ks, size, size, sh_degree=splats.sh_degree)
    scores, whole = world.contributions(), world.render().image
    ranked = torch.argsort(scores.leave_one_out, descending=True)
    relative = []
    for n in ranked[torch.linspace(0, 20000, 20).long()].tolist():
        without = replace(world, opacities=splats.opacities.index_fill(0, torch.tensor([n]), 0))
        removed = (without.render().image - whole).square().sum()
        relative.append(float((scores.leave_one_out[n] / removed - 1).abs()))
    assert sorted(relative)[10] < 0.02
    assert int((scores.hits > 0).sum()) > 10_000


def test_against_a_target_the_score_is_what_removal_changes():
    world = make(count=60)
    target = torch.rand(world.height, world.width, 3, generator=torch.Generator().manual_seed(1))
    scores = world.contributions(target[None])
    whole = (reference.render(world).image - target).square().sum()
    everything = torch.arange(len(world))
    for n in torch.argsort(scores.blend_sum, descending=True)[:6].tolist():
        changed = (reference.render(world.take(everything != n)).image - target).square().sum() - whole
        found = (scores.leave_one_out - scores.toward)[n].double()
        torch.testing.assert_close(found, changed, rtol=1e-4, atol=1e-3)
    assert not world.contributions().toward.any()


def test_the_image_is_that_of_rasterize():
    world = make("wide opacity", background=torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(world.contributions().image, world.render().image)
