"""Scores of splats from attributes, blend weights and sensitivities, against arithmetic by hand and exact Jacobians."""

from __future__ import annotations

import pytest
import torch

from gencompress.criteria.contribution import blend_max_scores, blend_sum_scores
from gencompress.criteria.opacity import light_gaussian_scores, opacity_scores, opacity_volume_scores
from gencompress.criteria.sensitivity import sensitivity_scores
from gencompress.errors import Interrupted
from gencompress.kernels import rasterize
from gencompress.kernels.splats import Splats
from gencompress.run import NullContext
from tests.criteria.toy import Recorder
from tests.splat_scenes import ball, ring


def test_attributes_by_hand():
    splats = Splats.of(ball(30))
    volumes = splats.scales[:, 0] * splats.scales[:, 1] * splats.scales[:, 2]
    assert torch.equal(opacity_scores(splats)["splats"], splats.opacities)
    torch.testing.assert_close(opacity_volume_scores(splats)["splats"], splats.opacities * volumes)
    reference = sorted(volumes.tolist(), reverse=True)[27]  # nine tenths of 30 are larger
    expected = splats.opacities * (volumes / reference) ** 0.1
    torch.testing.assert_close(light_gaussian_scores(splats)["splats"], expected)
    hits = torch.arange(30)
    torch.testing.assert_close(light_gaussian_scores(splats, hits)["splats"], expected * hits)


def test_flat_splats_have_finite_scores():
    scene = ball(10)
    scene.log_scales[:, 2] = -110  # the volume underflows
    splats = Splats.of(scene)
    for scores in (opacity_volume_scores(splats), light_gaussian_scores(splats)):
        assert bool(torch.isfinite(scores["splats"]).all())


def test_blend_weights_are_the_derivative_of_the_image_by_the_colour():
    splats, cameras = Splats.of(ball(120)), ring(3)
    colors = torch.zeros(120, 1, requires_grad=True)
    image = rasterize(
        splats.means, splats.quats, splats.scales, splats.opacities, colors, torch.from_numpy(cameras.viewmats),
        torch.from_numpy(cameras.Ks), cameras.width, cameras.height,
    ).image  # fmt: skip
    (by_color,) = torch.autograd.grad(image.sum(), colors)
    sums, most = blend_sum_scores(splats, cameras)["splats"], blend_max_scores(splats, cameras)["splats"]
    torch.testing.assert_close(sums, by_color[:, 0], rtol=1e-3, atol=1e-2)
    assert bool((most <= 1).all()) and bool((most <= sums + 1e-6).all()) and float(most.max()) > 0.5


def exact_blocks(splats, cameras):
    """Sum of J J^T by (mean, scale) over all pixels and channels [N, 6, 6], from full Jacobians."""
    viewmats, Ks = torch.from_numpy(cameras.viewmats), torch.from_numpy(cameras.Ks)

    def image(means, scales):
        arguments = (means, splats.quats, scales, splats.opacities, splats.colors, viewmats, Ks)
        return rasterize(*arguments, cameras.width, cameras.height, sh_degree=splats.sh_degree).image.flatten()

    by_mean, by_scale = torch.autograd.functional.jacobian(image, (splats.means, splats.scales))
    joint = torch.cat([by_mean, by_scale], dim=2).double()
    return torch.einsum("pni,pnj->nij", joint, joint)


def test_sensitivity_converges_to_the_exact_log_determinant():
    splats, cameras = Splats.of(ball(12, scale=0.25)), ring(2, size=12)
    exact = torch.linalg.slogdet(exact_blocks(splats, cameras))[1]
    estimates = [sensitivity_scores(splats, cameras, NullContext(), probes)["splats"].double() for probes in (64, 1024)]
    errors = [(estimate - exact).abs().median() for estimate in estimates]
    assert float(errors[1]) < 0.15 and float(errors[1]) < float(errors[0])
    assert int(estimates[1].argmin()) == int(exact.argmin())


def test_sensitivity_of_the_unseen_is_lowest_and_finite():
    scene = ball(40)
    scene.means[:5] += 500
    scores = sensitivity_scores(Splats.of(scene), ring(4), NullContext(), probes=4)["splats"]
    assert bool(torch.isfinite(scores).all()) and float(scores[:5].max()) <= float(scores[5:].min())


def test_a_stopped_sensitivity_goes_on_to_the_same_scores():
    splats, cameras = Splats.of(ball(40)), ring(4, size=24)
    whole = sensitivity_scores(splats, cameras, NullContext(), probes=3, seed=2)["splats"]
    stopped = Recorder(2)
    with pytest.raises(Interrupted):
        sensitivity_scores(splats, cameras, stopped, probes=3, seed=2)
    resumed = Recorder(saved=stopped.saved)
    assert torch.equal(sensitivity_scores(splats, cameras, resumed, probes=3, seed=2)["splats"], whole)
    assert [step for step, _ in resumed.steps] == [3, 4]
