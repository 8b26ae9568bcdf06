"""The windowed mean against scipy, its gradient, and the way of other devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from gencompress.kernels.window import SIGMA, SIZE, mean_anywhere, windowed


@pytest.mark.parametrize("shape", [(40, 53, 3), (7, 90, 1), (16, 3, 4), (1, 1, 3)])
def test_the_mean_is_that_of_scipy_also_where_the_window_is_larger_than_the_image(shape):
    image = np.random.default_rng(0).random(shape)
    weights = np.exp(-(np.arange(-(SIZE // 2), SIZE // 2 + 1) ** 2) / (2 * SIGMA**2))
    expected = image
    for axis in (0, 1):
        expected = correlate1d(expected, weights / weights.sum(), axis=axis, mode="constant")
    np.testing.assert_allclose(windowed(torch.from_numpy(image)).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(windowed(torch.from_numpy(image).float()).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(mean_anywhere(torch.from_numpy(image)).numpy(), expected, rtol=1e-12)


def test_its_gradient():
    image = torch.rand(9, 13, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(windowed, image)


def test_the_number_of_threads_changes_nothing():
    image, before = torch.rand(200, 31, 3, generator=torch.Generator().manual_seed(1)), torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(windowed(image))
    torch.set_num_threads(before)
    assert torch.equal(*found)
