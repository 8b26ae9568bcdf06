"""The Inception network by which FID and KID are defined, over clean-fid (Parmar et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gencompress.metrics.weights import official_file

URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


class Inception:
    """2048 features of inception-2015-12-05 with clean-fid's "clean" resize: bicubic by Pillow in float, 299 pixels.

    Args:
        network: maps [B, 3, 299, 299] in [0, 255] to [B, 2048]; `load` gives the official one.
        sha256: of its weights.
        device: where it runs.
    """

    inception = True
    dimension = 2048
    name = "inception-2015-12-05 (clean-fid, clean)"

    def __init__(self, network: Callable[[Tensor], Tensor], sha256: str, device: torch.device | str = "cpu") -> None:
        from cleanfid.resize import build_resizer

        self._network, self.sha256, self._device = network, sha256, device
        self._resize: Callable[[np.ndarray], np.ndarray] = build_resizer("clean")

    @classmethod
    def load(
        cls, folder: Path | None = None, *, download: bool = False, device: torch.device | str = "cpu"
    ) -> Inception:
        """The official weights, from a local folder, torch's cache, or downloaded where allowed.

        The file is a TorchScript archive, which can run code, so it is opened only after its hash was found right.

        Raises:
            WeightsMissing: not found, nor to be downloaded.
            ModelError: other bytes than the official ones.
        """
        from cleanfid.inception_torchscript import InceptionV3W

        file = official_file(URL, SHA256, folder, download=download)
        return cls(InceptionV3W(str(file.parent), download=False).to(device), SHA256, device)

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, 2048] of images [B, 3, H, W] in [0, 255]."""
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack([self._resize(picture) for picture in pictures]))
        return self._network(resized.permute(0, 3, 1, 2).to(self._device))
