"""The same features and images through clean-fid, torchmetrics and torch-fidelity: one number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cleanfid import fid
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image import (
    KernelInceptionDistance,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
)
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from gencompress.metrics.frechet import FeatureStatistics, frechet_distance
from gencompress.metrics.images import image_quality
from gencompress.metrics.kernel import kernel_distance

RELATIVE = 1e-6


def features(n, d, seed, shift=0.0):
    """Correlated features whose covariance has full rank, as float64."""
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(d, d)) / np.sqrt(d) + np.eye(d)
    return generator.normal(size=(n, d)) @ mix + shift


class FirstPixels(torch.nn.Module):
    """A feature extractor for torchmetrics: the first numbers of an image, untouched."""

    num_features = 12

    def forward(self, images):
        return images.flatten(1)[:, : self.num_features].double()


def as_images(rows):
    """Features written into images that `FirstPixels` reads them from."""
    images = torch.zeros(len(rows), 3, 2, 2, dtype=torch.float64)
    images.flatten(1)[:, : rows.shape[1]] = torch.from_numpy(rows)
    return images


@pytest.fixture(scope="module", params=[(400, 500, 64), (300, 260, 12)])
def pair(request):
    n, m, d = request.param
    return features(n, d, 0), features(m, d, 1, shift=0.2)


def test_frechet_equals_clean_fid(pair):
    a, b = pair
    theirs = fid.frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=RELATIVE)


def test_frechet_equals_torch_fidelity(pair):
    a, b = pair
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)), verbose=False
    )["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=RELATIVE)


def test_frechet_equals_torchmetrics(pair):
    a, b = pair
    moments = [t for x in (a, b) for t in (torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x.T)))]
    assert frechet_distance(a, b) == pytest.approx(float(_compute_fid(*moments)), rel=RELATIVE)


def test_frechet_streamed_equals_torchmetrics_streamed():
    a, b = features(200, 12, 0), features(150, 12, 1, shift=0.2)
    theirs = FrechetInceptionDistance(FirstPixels(), input_img_size=(3, 2, 2), normalize=True).set_dtype(torch.float64)
    theirs.used_custom_model = True
    ours = [FeatureStatistics(12), FeatureStatistics(12)]
    for rows, real, statistics in ((a, True, ours[0]), (b, False, ours[1])):
        for part in np.array_split(rows, 7):
            theirs.update(as_images(part), real=real)
            statistics.update(part)
    assert frechet_distance(*ours) == pytest.approx(float(theirs.compute()), rel=RELATIVE)


def test_kernel_distance_equals_all_three_on_one_subset():
    a, b = features(80, 12, 0), features(80, 12, 1, shift=0.2)
    ours = kernel_distance(a, b).mean
    assert ours == pytest.approx(fid.kernel_distance(a, b, num_subsets=1, max_subset_size=80), rel=RELATIVE)
    options = {**DEFAULTS, "kid_subsets": 1, "kid_subset_size": 80, "verbose": False}
    fidelity = kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **options)
    assert ours == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=RELATIVE)
    theirs = KernelInceptionDistance(FirstPixels(), subsets=1, subset_size=80, normalize=True).set_dtype(torch.float64)
    theirs.used_custom_model = True
    theirs.update(as_images(a), real=True)
    theirs.update(as_images(b), real=False)
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=RELATIVE)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float64])
def test_psnr_and_ssim_equal_torchmetrics(kind):
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(6, 3, 40, 48, generator=generator, dtype=torch.float64)
    b = (a + 0.1 * torch.randn(a.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    if kind is torch.uint8:
        a, b = ((x * 255).round().to(torch.uint8) for x in (a, b))
    found = image_quality(a, b)
    a, b = (x / 255 if kind is torch.uint8 else x for x in (a.double(), b.double()))
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0, reduction="none").set_dtype(torch.float64)(b, a)
    psnr = [float(PeakSignalNoiseRatio(data_range=1.0)(y, x)) for x, y in zip(a, b, strict=True)]
    assert found.ssim.per_image == pytest.approx(ssim.tolist(), rel=RELATIVE)
    assert found.psnr_db.per_image == pytest.approx(psnr, rel=RELATIVE)
