"""EfficientNet-Lite0 as an offline feature extractor: its Fréchet distance is not FID and is not called so.

Architecture: Tan and Le 2019 in the Lite variant of the TensorFlow TPU models (ReLU6, no squeeze-and-excitation, SAME
padding). Submodules carry the names of the published PyTorch state dict, so it loads without renaming.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencompress.errors import ModelError
from gencompress.metrics.extractors import resize
from gencompress.metrics.weights import load_state_dict, sha256_of

FILE = "efficientnet-lite0-57934424.pth"
# repeats, kernel, stride of the first, expansion, output channels (Tan and Le 2019, table 1)
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


class EfficientNetLite0:
    """1280 pooled features of an ImageNet classifier.

    Args:
        path: the weight file, or the folder that holds `FILE`; read with ``weights_only``.
        device: where it runs.

    Raises:
        ModelError: no such file, a pickle with more than tensors, or tensors that do not fit.
    """

    inception = False
    dimension = 1280

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        file = path / FILE if path.is_dir() else path
        self._network = Network()
        try:
            self._network.load_state_dict(load_state_dict(file))
        except RuntimeError as error:
            raise ModelError(f"{file}: not the weights of EfficientNet-Lite0: {error}") from error
        self._network.eval().requires_grad_(False).to(device)
        self._device = device
        self.name = "efficientnet-lite0-224px"
        self.sha256 = sha256_of(file)

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, 1280] of images [B, 3, H, W] in [0, 255]."""
        return self._network.features((resize(images.to(self._device), 224) - 127) / 128)

    def logits(self, images: Tensor) -> Tensor:
        """ImageNet class scores [B, 1000] of images [B, 3, H, W] in [0, 255]."""
        head: Tensor = self._network._fc(self(images))
        return head


class Network(nn.Module):
    """The classifier: stem, 16 inverted residual blocks, head."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, stride=2)
        self._bn0 = _norm(32)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, out in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, out, kernel, stride if repeat == 0 else 1, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv(320, 1280, 1)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features [B, 1280] of a normalised image [B, 3, 224, 224]."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


class _Block(nn.Module):
    """Inverted residual block (Sandler et al. 2018, section 3.3)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self._expands = expansion > 1
        if self._expands:
            self._expand_conv, self._bn0 = _SameConv(channels, inner, 1), _norm(inner)
        self._depthwise_conv = _SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = _SameConv(inner, out, 1), _norm(out)
        self._residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, out, ceil(H / stride), ceil(W / stride)]."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._residual else y


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the odd pixel goes right and below, unlike `padding=k // 2`."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, out, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in x.shape[-2:]]
        (top, left) = (pads[0] // 2, pads[1] // 2)
        return super().forward(F.pad(x, (left, pads[1] - left, top, pads[0] - top)))


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)
