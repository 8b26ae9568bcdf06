"""The enlarged region of a report is the one with the largest squared error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gencompress.domains.splats.pictures import ERROR_GAIN, save_pictures


@pytest.mark.parametrize("seed", range(4))
def test_the_worst_region_is_shown_enlarged(tmp_path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(1, 3, 40, 56, generator=generator) / 2
    result = truth + 0.1 * torch.rand(truth.shape, generator=generator)
    made = save_pictures(tmp_path, (truth, truth[:0]), (result, result[:0]))
    energy = (truth - result)[0].square().sum(0)
    height, width = 10, 14
    sums = {
        (y, x): float(energy[y : y + height, x : x + width].sum())
        for y in range(40 - height + 1)
        for x in range(56 - width + 1)
    }
    y, x = max(sums, key=sums.__getitem__)
    strip = np.asarray(Image.open(tmp_path / Path(made["crops"][0]).relative_to("eval")))
    assert strip.shape == (3 * height, 3 * 3 * width, 3)
    difference = ((truth - result)[0].abs() * ERROR_GAIN).clamp_max(1)
    for part, sheet in enumerate((truth[0], result[0], difference)):
        region = (sheet[:, y : y + height, x : x + width] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(strip[::3, 3 * width * part : 3 * width * (part + 1) : 3], region)
