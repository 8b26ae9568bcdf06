"""The CPU rasterizer against the dense fp64 reference, for every parameter and at every edge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gencompress.errors import ConfigError, NumericsError
from tests.kernels import reference
from tests.kernels.worlds import DIFFERENTIABLE, KINDS, World, cameras, make

MODES = {
    "SH 4": {"sh_degree": 4, "background": torch.tensor([0.2, 0.5, 0.9])},
    "SH 3, antialiased": {"sh_degree": 3, "antialiased": True},
    "6 channels": {"channels": 6, "background": torch.linspace(0, 1, 6)},
}


def gated(kind: str, mode: str) -> World:
    world = make(kind, **MODES[mode])
    return replace(world, gates=0.5 + 0.7 * torch.rand(len(world), generator=torch.Generator().manual_seed(1)))


def assert_alike(found: Tensor, expected: Tensor, most: float = 3e-5, outliers: int = 2) -> None:
    """Equal to rounding, but for a few places: a pair of splat and pixel may fall on the other side of a threshold."""
    error = (found.double() - expected).abs() / expected.abs().clamp(min=1)
    assert int((error > most).sum()) <= outliers
    assert float(error.mean()) < 2e-6


def objective(image: Tensor, alpha: Tensor, depth: Tensor) -> Tensor:
    """A loss in which everything that is rendered has a random weight."""
    generator = torch.Generator().manual_seed(2)
    parts = ((image, 1.0), (alpha, 1.0), (depth, 0.2))
    return sum(scale * (torch.randn(x.shape, generator=generator).to(x.dtype) * x).sum() for x, scale in parts)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_images_and_gradients_equal_the_reference(kind, mode):
    world = gated(kind, mode).map(lambda t: t.clone().requires_grad_())
    exact = world.map(lambda t: t.detach().double().requires_grad_())
    render, expected = world.render(), reference.render(exact)
    for name in ("image", "alpha", "depth"):
        assert_alike(getattr(render, name)[0].detach(), getattr(expected, name).detach())
    objective(render.image[0], render.alpha[0], render.depth[0]).backward()
    objective(expected.image, expected.alpha, expected.depth).backward()
    for name in DIFFERENTIABLE:
        found, wanted = getattr(world, name).grad.double(), getattr(exact, name).grad
        assert float((found - wanted).norm() / wanted.norm()) <= 1e-4, name
        assert float(torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)) >= 0.99999, name


@pytest.mark.parametrize("channels", [1, 2, 4, 7, 35])
def test_channels_are_independent(channels):
    world = make(channels=channels)
    image = world.render().image
    assert image.shape[-1] == channels
    for c in range(0, channels, 6):
        assert torch.equal(image[..., c : c + 1], replace(world, colors=world.colors[:, c : c + 1]).render().image)


def test_colors_through_harmonics_are_colors():
    world = make(sh_degree=2)
    directions = world.means.double() + torch.linalg.solve(
        world.viewmats[0, :3, :3].double(), world.viewmats[0, :3, 3].double()
    )
    basis = reference.spherical_harmonics(torch.nn.functional.normalize(directions, dim=1), 2)
    colors = (0.5 + (basis[..., None] * world.colors).sum(1)).clamp(min=0).float()
    plain = replace(world, colors=colors, sh_degree=None)
    assert_alike(world.render().image, plain.render().image.double(), most=1e-6)


def test_lower_degree_reads_the_first_coefficients():
    world = make(sh_degree=3)
    cut = replace(world, colors=world.colors[:, :4].contiguous(), sh_degree=1)
    assert torch.equal(replace(world, sh_degree=1).render().image, cut.render().image)


def test_several_cameras_are_drawn_as_one_each():
    viewmats, Ks = cameras(3)
    world = replace(make(sh_degree=1), viewmats=viewmats, Ks=Ks).map(lambda t: t.clone().requires_grad_())
    render = world.render()
    (render.image.square().sum() + render.depth.sum()).backward()
    singles = world.map(lambda t: t.detach().clone().requires_grad_())
    for i in range(3):
        single = replace(singles, viewmats=viewmats[i : i + 1], Ks=Ks[i : i + 1]).render()
        assert torch.equal(single.image[0], render.image[i])
        (single.image.square().sum() + single.depth.sum()).backward()
    for name in ("means", "quats", "scales", "opacities", "colors"):
        torch.testing.assert_close(getattr(world, name).grad, getattr(singles, name).grad, rtol=1e-4, atol=1e-4)


def test_the_law_of_gates():
    world = make()
    keep = torch.rand(len(world), generator=torch.Generator().manual_seed(3)) < 0.5
    closed = replace(world, gates=keep.float()).render()
    removed = world.take(keep).render()
    for name in ("image", "alpha", "depth"):
        assert torch.equal(getattr(closed, name), getattr(removed, name))


@pytest.mark.parametrize("width, height", [(1, 1), (64, 32), (65, 33), (7, 90)])
def test_sizes_that_fit_tiles_and_do_not(width, height):
    viewmats, Ks = cameras(1, width, height)
    world = replace(make(count=60), viewmats=viewmats, Ks=Ks, width=width, height=height)
    render = world.render()
    assert render.image.shape == (1, height, width, 3)
    assert_alike(render.image[0], reference.render(world).image)


def test_alpha_is_what_the_background_lacks():
    world = replace(make(), background=torch.ones(3))
    black = replace(world, background=None).render()
    torch.testing.assert_close(world.render().image - black.image, (1 - black.alpha)[..., None].expand(-1, -1, -1, 3))


@pytest.mark.parametrize("what", ["behind", "beside", "faint", "none"])
def test_nothing_in_sight_leaves_the_background(what):
    world = make(background=torch.tensor([0.1, 0.2, 0.3]))
    turned = world.viewmats.clone()
    turned[0, 2, 3] = -50
    far = torch.tensor([1e4, 0.0, 0.0])
    hidden = {
        "behind": replace(world, viewmats=turned),
        "beside": replace(world, means=world.means @ torch.zeros(3, 3) + far @ world.viewmats[0, :3, :3]),
        "faint": replace(world, opacities=torch.full_like(world.opacities, 0.0039)),
        "none": world.take(torch.zeros(0, dtype=torch.int64)),
    }[what].map(lambda t: t.clone().requires_grad_())
    render = hidden.render()
    assert torch.equal(render.image, hidden.background.expand_as(render.image))
    assert not render.alpha.any() and not render.depth.any()
    (render.image.sum() + render.depth.sum()).backward()
    assert not hidden.means.grad.any() and not hidden.colors.grad.any()
    scores = hidden.contributions()
    assert len(scores.leave_one_out) == len(hidden)
    assert not any(part.any() for part in (scores.leave_one_out, scores.blend_sum, scores.blend_max, scores.hits))


def test_quaternions_need_no_length():
    world = make()
    longer = replace(world, quats=world.quats * torch.logspace(-3, 3, len(world))[:, None])
    assert_alike(longer.render().image, world.render().image.double(), most=1e-5)


def test_a_zero_quaternion_turns_nothing():
    world = make(count=20)
    zero = replace(world, quats=torch.zeros(20, 4, requires_grad=True))
    upright = replace(world, quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(20, 1))
    assert torch.equal(zero.render().image, upright.render().image)
    zero.render().image.sum().backward()
    assert not zero.quats.grad.any()


@pytest.mark.parametrize("antialiased", [False, True])
def test_flat_and_point_splats(antialiased):
    """Zero scales are dots of 0.3 px^2, which the anti-aliased mode does not show; gradients stay finite."""
    world = make(count=40, antialiased=antialiased)
    scales = world.scales.clone()
    scales[:20] = 0
    scales[20:, 0] = 0
    world = replace(world, scales=scales).map(lambda t: t.clone().requires_grad_())
    render = world.render()
    assert_alike(render.image[0].detach(), reference.render(world.map(lambda t: t.detach())).image)
    render.image.sum().backward()
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert bool(torch.isfinite(getattr(world, name).grad).all()), name


def test_needles_and_planes_across_the_whole_view():
    world = make(count=30)
    scales = world.scales.clone()
    scales[:, 0] *= 1000
    scales[::2, 1] *= 1000
    world = replace(world, scales=scales)
    assert_alike(world.render().image[0], reference.render(world).image)


def test_opaque_splats_stop_at_the_largest_alpha():
    world = replace(make(count=50), opacities=torch.ones(50, requires_grad=True))
    render = world.render()
    assert_alike(render.image[0].detach(), reference.render(replace(world, opacities=torch.ones(50))).image)
    assert float(render.alpha.detach().max()) < 1
    exact = replace(world, opacities=torch.ones(50, dtype=torch.float64, requires_grad=True))
    render.image.sum().backward()
    reference.render(exact).image.sum().backward()
    torch.testing.assert_close(world.opacities.grad.double(), exact.opacities.grad, rtol=1e-3, atol=1e-3)


def test_equal_depths_are_drawn_by_index():
    world = replace(make(count=1), means=torch.zeros(1, 3))
    twice = world.map(lambda t: t.repeat(2, *[1] * (t.ndim - 1)))
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    scores = replace(twice, colors=colors).contributions()
    assert scores.blend_sum[0] > scores.blend_sum[1] > 0


def test_absolute_gradients_of_the_centres():
    viewmats, Ks = cameras(1, 20, 12)
    world = replace(make(count=12, seed=4), viewmats=viewmats, Ks=Ks, width=20, height=12)
    world = world.map(lambda t: t.clone().requires_grad_())
    weights = torch.randn(world.height, world.width, 3, generator=torch.Generator().manual_seed(5))
    render = world.render(absgrad=True)
    assert render.absgrad is not None and not render.absgrad.any()
    (render.image[0] * weights).sum().backward()
    expected = torch.zeros(len(world), 2, dtype=torch.float64)
    dense = reference.render(world)
    for y in range(world.height):
        line = (dense.image[y] * weights[y]).sum(1)
        for x in torch.nonzero(dense.alpha[y] > 0).flatten().tolist():
            (pulled,) = torch.autograd.grad(line[x], dense.centres, retain_graph=True)
            expected += pulled.abs()
    torch.testing.assert_close(render.absgrad[0].double(), expected, rtol=1e-4, atol=1e-4)


def test_no_gradient_is_asked_no_gradient_is_kept():
    world = make(count=10)
    assert world.render().image.grad_fn is None
    with torch.no_grad():
        assert replace(world, means=world.means.requires_grad_()).render().image.grad_fn is None


def test_a_changed_image_is_noticed_before_it_spoils_the_gradient():
    world = make(count=10).map(lambda t: t.clone().requires_grad_())
    render = world.render()
    loss = render.image.square().sum()
    render.image.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_other_layouts_and_types_are_taken():
    world = make()
    turned = world.map(lambda t: t.double().t().contiguous().t() if t.ndim == 2 else t.double())
    assert torch.equal(turned.render().image, world.render().image)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors", "gates", "background", "viewmats"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(name, value):
    world = replace(make(count=5), gates=torch.ones(5), background=torch.zeros(3))
    bad = getattr(world, name).clone()
    bad.view(-1)[-1] = value
    with pytest.raises(NumericsError, match=rf"^{name} holds NaN or infinity in 1 of {bad.numel()}"):
        replace(world, **{name: bad}).render()


def test_huge_finite_numbers_are_no_infinity():
    world = make(count=5)
    colors = torch.full_like(world.colors, 3e38)
    assert bool(torch.isfinite(replace(world, colors=colors, opacities=world.opacities * 0.5).render().alpha).all())


@pytest.mark.parametrize("seed", range(8))
def test_extreme_finite_numbers_neither_crash_nor_make_nan(seed):
    """Every number of every splat from denormal to the largest fp32, as damaged files hold them."""
    generator = torch.Generator().manual_seed(seed)

    def extreme(t: Tensor) -> Tensor:
        exponents = torch.empty(t.shape).uniform_(-44, 38.5, generator=generator)
        signs = torch.rand(t.shape, generator=generator).sub(0.5).sign()
        hit = torch.rand(t.shape, generator=generator) < 0.4
        return torch.where(hit, (signs * 10.0**exponents).clamp(-3e38, 3e38), t)

    world = make(count=200, antialiased=seed % 2 == 1)
    wild = world.map(lambda t: t if t is world.colors else extreme(t))
    render, scores = wild.render(), wild.contributions()
    assert all(bool(torch.isfinite(t).all()) for t in (render.image, render.alpha, render.depth, scores.leave_one_out))
    leaves = wild.map(lambda t: t.clone().requires_grad_())
    leaves.render().image.sum().backward()
    assert bool(torch.isfinite(leaves.colors.grad).all())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"means": torch.zeros(5, 2)}, r"means has shape \(5, 2\), expected \(5, 3\)"),
        ({"quats": torch.zeros(4, 4)}, r"quats has shape \(4, 4\), expected \(5, 4\)"),
        ({"opacities": torch.zeros(5, 1)}, "opacities has shape"),
        ({"colors": torch.zeros(5, 0)}, r"colors has shape \(5, 0\), expected \(5, 1\)"),
        ({"colors": torch.zeros(5, 9, 3), "sh_degree": 3}, "sh_degree=3 must be 0 to 4"),
        ({"colors": torch.zeros(5, 99, 3), "sh_degree": 9}, "sh_degree=9 must be 0 to 4"),
        ({"background": torch.zeros(4)}, "background has shape"),
        ({"viewmats": torch.eye(4)[None].repeat(2, 1, 1)}, "Ks has shape"),
        ({"viewmats": torch.zeros(1, 4, 4)}, "viewmats: the rotation of a camera is singular"),
        ({"Ks": torch.zeros(1, 3, 3)}, "Ks: focal lengths must be positive"),
        ({"width": 0}, "width=0 and height=40 must be at least 1"),
    ],
)
def test_bad_arguments_have_one_message(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(make(count=5), **change).render()


def test_threads_change_no_bit():
    world = replace(make("wide opacity", count=12000, sh_degree=1), scales=torch.full((12000, 3), 0.05))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = world.map(lambda t: t.clone().requires_grad_())
            render = leaves.render()
            objective(render.image, render.alpha, render.depth).backward()
            scores = vars(world.contributions()).values()
            grads = [getattr(leaves, name).grad for name in DIFFERENTIABLE[:-1]]
            found.append([render.image.detach(), render.alpha.detach(), render.depth.detach(), *grads, *scores])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
