from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.images import PSNR_CAP_DB, image_quality


def pictures(n=5, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(n, 3, size, size, generator=generator)
    b = (a + 0.1 * torch.randn(n, 3, size, size, generator=generator)).clamp(0, 1)
    return a, b


def test_psnr_of_a_constant_shift_is_the_closed_form():
    a = torch.full((2, 3, 16, 16), 0.5)
    assert image_quality(a, a + 0.1).psnr_db.mean == pytest.approx(20.0, abs=1e-5)


def test_equals_torchmetrics_image_by_image():
    a, b = (x.double() for x in pictures(n=40))  # more than one batch
    quality = image_quality(a, b)
    for i in range(40):
        x, y = b[i : i + 1], a[i : i + 1]
        assert quality.psnr_db.per_image[i] == pytest.approx(float(peak_signal_noise_ratio(x, y, 1.0)), rel=1e-6)
        ssim = structural_similarity_index_measure(x, y, data_range=1.0)
        assert quality.ssim.per_image[i] == pytest.approx(float(ssim), rel=1e-6)
    assert quality.psnr_db.mean == pytest.approx(np.mean(quality.psnr_db.per_image))


def test_uint8_and_float_agree():
    a, b = ((x * 255).round().to(torch.uint8) for x in pictures())
    whole, fraction = image_quality(a, b), image_quality(a / 255, b / 255)
    assert whole.psnr_db.mean == pytest.approx(fraction.psnr_db.mean, abs=1e-4)
    assert (whole.protocol["input"], fraction.protocol["input"]) == ("uint8", "float")


def test_identical_images_stay_finite():
    a, _ = pictures()
    quality = image_quality(a, a)
    assert quality.psnr_db.per_image == (PSNR_CAP_DB,) * 5
    assert quality.ssim.mean == pytest.approx(1.0)


def test_inputs_are_not_changed():
    a, b = pictures()
    before = a.clone(), b.clone()
    image_quality(a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a * 2 - 1, r"in \[0, 1\]"),
        (lambda a: a.permute(0, 2, 3, 1), "channels first"),
        (lambda a: (a * 255).to(torch.int64), "uint8"),
        (lambda a: a[..., :8, :8], "11 x 11"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    a, _ = pictures()
    with pytest.raises(DataError, match=message):
        image_quality(change(a), change(a))


def test_nan_and_unequal_shapes_are_refused():
    a, b = pictures()
    with pytest.raises(DataError, match="differ in shape"):
        image_quality(a, b[:4])
    b[2, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match="images: an image holds NaN"):
        image_quality(a, b)
