"""The Inception network of pytorch-fid, which clean-fid calls ``legacy_pytorch``: other weights, another resize.

Its values are not those of ``clean``; most numbers published before 2022 were made with it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencompress.errors import ModelError
from gencompress.metrics.weights import load_state_dict, official_file, sha256_of

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d"  # the first digits, as the file's name has them
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "pool", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "pool")
_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


class LegacyInception:
    """2048 features by pytorch-fid's weights, images resized bilinearly (no antialiasing) to 299 pixels.

    Args:
        weights: state dict of the network; `load` gives the official one.
        sha256: of its file.
        device: where it runs.

    Raises:
        ModelError: weights that do not fit.
    """

    inception = True
    dimension = 2048
    name = "pt_inception-2015-12-05 (clean-fid, legacy_pytorch)"

    def __init__(self, weights: dict[str, Tensor], sha256: str, device: torch.device | str = "cpu") -> None:
        self._network = _network(weights).eval().requires_grad_(False).to(device)
        self.sha256, self._device = sha256, device

    @classmethod
    def load(
        cls, folder: Path | None = None, *, download: bool = False, device: torch.device | str = "cpu"
    ) -> LegacyInception:
        """The official weights, from a local folder, torch's cache, or downloaded where allowed.

        Raises:
            WeightsMissing: not found, nor to be downloaded.
            ModelError: other bytes than the official ones.
        """
        file = official_file(URL, SHA256, folder, download=download)
        return cls(load_state_dict(file), sha256_of(file), device)

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, 2048] of images [B, 3, H, W] in [0, 255]."""
        x = images.float().to(self._device)
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False).clamp(0, 255)
        return self._network(2 * (x / 255) - 1).flatten(1)


def _network(weights: dict[str, Tensor]) -> nn.Module:
    """The layers up to the last pooling, with clean-fid's patched blocks in place of torchvision's."""
    import torchvision
    from cleanfid import inception_pytorch as patched

    with torch.device("meta"):
        net = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        net.Mixed_5b = patched.FIDInceptionA(192, pool_features=32)
        net.Mixed_5c = patched.FIDInceptionA(256, pool_features=64)
        net.Mixed_5d = patched.FIDInceptionA(288, pool_features=64)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            setattr(net, f"Mixed_{name}", patched.FIDInceptionC(768, channels_7x7=width))
        net.Mixed_7b, net.Mixed_7c = patched.FIDInceptionE_1(1280), patched.FIDInceptionE_2(2048)
    try:
        net.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelError(f"pytorch-fid's Inception: weights that do not fit: {error}") from error
    layers = [nn.MaxPool2d(3, stride=2) if name == "pool" else getattr(net, name) for name in _STEM]
    layers += [getattr(net, f"Mixed_{name}") for name in _MIXED]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
