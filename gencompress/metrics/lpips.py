"""LPIPS v0.1 with its official weights (Zhang et al. 2018), or a sentence that says why it is absent; no substitutes.

Backbones are torchvision's ImageNet networks; the linear heads come with torchmetrics or from a local folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gencompress.errors import DataError, ModelError
from gencompress.metrics.images import unit_range
from gencompress.metrics.statistics import Estimate
from gencompress.metrics.weights import WeightsMissing, load_state_dict, official_file, sha256_of

Net = Literal["alex", "vgg", "squeeze"]
_BATCH = 16
_LEAST = 32  # below 31 pixels a pooling layer of AlexNet has nothing left; the heads were fitted on 64-pixel patches


@dataclass(frozen=True)
class Backbone:
    """Which network, its published file, the layers that are compared, and the official heads' hash."""

    model: str
    url: str
    sha256: str
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    heads_sha256: str


_HUB = "https://download.pytorch.org/models/"
BACKBONES: dict[Net, Backbone] = {
    "alex": Backbone(
        "alexnet", _HUB + "alexnet-owt-7be5be79.pth", "7be5be79", (1, 4, 7, 9, 11), (64, 192, 384, 256, 256),
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
    "vgg": Backbone(
        "vgg16", _HUB + "vgg16-397923af.pth", "397923af", (3, 8, 15, 22, 29), (64, 128, 256, 512, 512),
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "squeeze": Backbone(
        "squeezenet1_1", _HUB + "squeezenet1_1-b8a52dc0.pth", "b8a52dc0", (1, 4, 7, 9, 10, 11, 12),
        (64, 128, 256, 384, 384, 512, 512),
        "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    ),
}  # fmt: skip


class Lpips:
    """LPIPS per image pair; smaller is closer.

    Args:
        net: "alex" (the usual one), "vgg" or "squeeze".
        backbone: state dict of torchvision's network.
        heads: ``lin{i}.model.1.weight`` of shape [1, C, 1, 1] for every compared layer.
        device: where it runs.

    Raises:
        ModelError: weights that do not fit.
    """

    def __init__(
        self,
        net: Net,
        backbone: dict[str, Tensor],
        heads: dict[str, Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        import torchvision

        self.name, self._device, table = f"LPIPS v0.1 {net}", device, BACKBONES[net]
        with torch.device("meta"):  # the weights come next, so none are drawn at random, and none are missed
            network: nn.Module = getattr(torchvision.models, table.model)(weights=None)
        try:
            network.load_state_dict(backbone, assign=True)
            self._heads = [
                heads[f"lin{i}.model.1.weight"].reshape(1, c, 1, 1).to(device) for i, c in enumerate(table.channels)
            ]
        except (RuntimeError, KeyError) as error:
            raise ModelError(f"{self.name}: weights that do not fit: {error}") from error
        features = network.get_submodule("features")
        self._layers = nn.Sequential(*features.children())[: table.taps[-1] + 1].eval().requires_grad_(False).to(device)
        self._taps = table.taps
        # ImageNet mean and deviation, moved from [0, 1] to [-1, 1]
        self._shift = torch.tensor([-0.030, -0.088, -0.188], device=device).reshape(1, 3, 1, 1)
        self._scale = torch.tensor([0.458, 0.448, 0.450], device=device).reshape(1, 3, 1, 1)

    @classmethod
    def load(
        cls,
        net: Net = "alex",
        folder: Path | None = None,
        *,
        download: bool = False,
        device: torch.device | str = "cpu",
    ) -> Lpips:
        """LPIPS with its official weights, hashes checked.

        Args:
            net: which backbone.
            folder: where torchvision's backbone file lies, and the heads as ``{net}.pth`` if wanted from there.
            download: whether a backbone that is in neither `folder` nor torch's cache may be fetched.
            device: where it runs.

        Raises:
            WeightsMissing: the backbone is not at hand.
            ModelError: weights that are not the official ones.
        """
        table = BACKBONES[net]
        heads = _heads_file(net, folder)
        if sha256_of(heads) != table.heads_sha256:
            raise ModelError(f"{heads}: not the official LPIPS v0.1 heads, sha256 {table.heads_sha256[:16]}...")
        backbone = official_file(table.url, table.sha256, folder, download=download)
        return cls(net, load_state_dict(backbone), load_state_dict(heads), device)

    def __call__(self, reference: Tensor, images: Tensor) -> Estimate:
        """LPIPS of every image to the reference at the same place.

        Args:
            reference: [N, 3, H, W], uint8 or floating in [0, 1].
            images: the same shape.
        """
        if tuple(reference.shape) != tuple(images.shape):
            raise DataError(f"reference {tuple(reference.shape)} and images {tuple(images.shape)} differ in shape")
        first, second = unit_range(reference, "reference").float(), unit_range(images, "images").float()
        pairs = zip(first.split(_BATCH), second.split(_BATCH), strict=True)
        with torch.inference_mode():
            values = torch.cat([self._distance(a.to(self._device), b.to(self._device)) for a, b in pairs])
        return Estimate.of(values.double().cpu().numpy(), self.name)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Zhang et al. 2018, eq. 1, [N]."""
        total = torch.zeros(len(a), device=a.device)
        for head, x, y in zip(self._heads, self._activations(a), self._activations(b), strict=True):
            total += (head * (_unit(x) - _unit(y)) ** 2).sum(1).mean((1, 2))
        return total

    def _activations(self, images: Tensor) -> list[Tensor]:
        """Activations of the compared layers; grey images are repeated to three channels."""
        x = (2 * images.expand(-1, 3, -1, -1) - 1 - self._shift) / self._scale
        kept = []
        for index, layer in enumerate(self._layers):
            x = layer(x)
            if index in self._taps:
                kept.append(x.clone())  # the next ReLU of torchvision's networks works in place
        return kept


def lpips_or_note(reference: Tensor, images: Tensor, load: Callable[[], Lpips]) -> dict[str, Any]:
    """``{"lpips": {...}}``, or ``{"lpips_note": why}`` where it cannot be measured.

    Args:
        reference: [N, 3, H, W], uint8 or floating in [0, 1].
        images: the same shape.
        load: gives the metric, for example ``partial(Lpips.load, "alex", folder)``.

    Raises:
        ModelError: weights are there but are not the official ones; that is a mistake, not an absence.
    """
    if min(images.shape[-2:]) < _LEAST:
        size = "x".join(str(n) for n in images.shape[-2:])
        return {
            "lpips_note": f"LPIPS was not measured: it needs {_LEAST} pixels a side or more, the images have {size}"
        }
    try:
        metric = load()
    except WeightsMissing as error:
        return {"lpips_note": f"LPIPS was not measured: its official weights ({error.file}) were not at hand"}
    return {"lpips": {**metric(reference, images).to_json(), "net": metric.name}}


def _unit(x: Tensor) -> Tensor:
    """Each pixel's channel vector scaled to length one."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _heads_file(net: Net, folder: Path | None) -> Path:
    """``{net}.pth`` in `folder`, else the copy that torchmetrics ships."""
    if folder is not None and (folder / f"{net}.pth").is_file():
        return folder / f"{net}.pth"
    import torchmetrics

    return Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
