"""How close a scene looks to the input, on views that chose nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gencompress.domains.splats.domain import Dense, Views, renders
from gencompress.formats import Cameras, SplatScene
from gencompress.kernels.splats import Splats
from gencompress.metrics import ImageQuality, image_quality


@dataclass(frozen=True)
class Judge:
    """Held-out views of the dense scene, rendered once when they are first needed.

    Args:
        dense: the input.
        views: whose test views and close-ups judge.
    """

    dense: Dense
    views: Views

    @cached_property
    def test(self) -> Tensor:
        """The input in the test views [C, 3, H, W], in [0, 1]."""
        return pictures(self.dense.scene, self.views.rig.test, self.dense.device)

    @cached_property
    def close(self) -> Tensor:
        """The input in the close-ups [C, 3, H, W], in [0, 1]."""
        return pictures(self.dense.scene, self.views.rig.close, self.dense.device)

    def psnr(self, scene: SplatScene) -> float:
        """Mean PSNR over the test views in dB."""
        return self.quality(scene).psnr_db.mean

    def quality(self, scene: SplatScene, close: bool = False) -> ImageQuality:
        """PSNR and SSIM on the test views, or on the close-ups."""
        rig = self.views.rig
        truth, cameras = (self.close, rig.close) if close else (self.test, rig.test)
        return image_quality(truth, pictures(scene, cameras, self.dense.device))


def pictures(scene: SplatScene, cameras: Cameras, device: str) -> Tensor:
    """Images as a display shows them, on black [C, 3, H, W], in [0, 1]."""
    return renders(Splats.of(scene, device), cameras).clamp(0, 1).permute(0, 3, 1, 2).contiguous()
