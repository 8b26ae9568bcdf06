"""Pictures of a report: input and result in all judging views, their difference, and the worst region enlarged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

ERROR_GAIN = 8  # a difference of 1/8 is white
_PART, _ENLARGED = 4, 3  # a crop is a quarter of the view each way, shown three times as large

Picture = NDArray[np.uint8]


def save_pictures(folder: Path, truths: tuple[Tensor, Tensor], results: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Write dense/NNN.png, pruned/NNN.png, error/NNN.png and crops/NNN.png below `folder`.

    Args:
        folder: of the stage.
        truths: the input in test views and close-ups, each [C, 3, H, W] in [0, 1].
        results: the result in the same.

    Returns:
        What ``images`` of metrics.json holds: paths in the run directory, a name and the PSNR of every view.
    """
    names = ("dense", "pruned", "error", "crops")
    paths: dict[str, list[str]] = {name: [] for name in names}
    titles: list[str] = []
    psnr: list[float] = []
    for name in names:
        (folder / name).mkdir()
    for kind, truth, result in zip(("test", "close"), truths, results, strict=True):
        for number, (a, b) in enumerate(zip(truth, result, strict=True)):
            error = (a - b).abs()
            sheets = {"dense": a, "pruned": b, "error": (error * ERROR_GAIN).clamp_max(1)}
            sheets["crops"] = _crops(list(sheets.values()), error)
            for name in names:
                path = folder / name / f"{len(titles):03d}.png"
                Image.fromarray(_bytes(sheets[name])).save(path)
                paths[name].append(f"eval/{name}/{path.name}")
            titles.append(f"{kind} {number}")
            psnr.append(float(-10 * torch.log10(error.square().mean().clamp_min(1e-10))))
    return {**paths, "names": titles, "psnr_db": psnr, "error_gain": ERROR_GAIN}


def _crops(sheets: list[Tensor], error: Tensor) -> Tensor:
    """The region of the largest squared error in all `sheets`, side by side and enlarged [3, H', W']."""
    size = [max(1, side // _PART) for side in error.shape[1:]]
    h, w = size
    table = F.pad(error.double().square().sum(0).cumsum(0).cumsum(1), (1, 0, 1, 0))  # of sums over all corners
    sums = table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]
    y, x = divmod(int(sums.argmax()), sums.shape[1])
    crops = [sheet[:, y : y + size[0], x : x + size[1]] for sheet in sheets]
    return torch.cat(crops, dim=2).repeat_interleave(_ENLARGED, dim=1).repeat_interleave(_ENLARGED, dim=2)


def _bytes(image: Tensor) -> Picture:
    """[3, H, W] in [0, 1] as [H, W, 3]."""
    return (image * 255).round().byte().permute(1, 2, 0).numpy()
