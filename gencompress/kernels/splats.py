"""A scene in the form that kernels and criteria take: activated torch tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.formats.cameras import Cameras
from gencompress.formats.scene import SplatScene
from gencompress.kernels.rasterizer import Contributions, Render, contributions, rasterize


@dataclass(frozen=True, eq=False)
class Splats:
    """N activated splats, fp32, in gsplat's conventions.

    Args:
        means: centres [N, 3].
        quats: rotations as wxyz [N, 4], of any length but zero.
        scales: standard deviations along the splat's own axes [N, 3], >= 0.
        opacities: in [0, 1] [N].
        colors: spherical harmonics [N, K, 3], K = (degree + 1)^2; colour is ``max(0, 0.5 + SH(direction))``.
        antialiased: to be rendered with the anti-aliased rasterizer.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    antialiased: bool = False

    @classmethod
    def of(cls, scene: SplatScene, device: torch.device | str = "cpu") -> Splats:
        """The activated copy of `scene` on `device`."""
        colors = np.concatenate([scene.sh0[:, None], scene.sh_rest], axis=1)

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32)).to(device)

        return cls(
            tensor(scene.means),
            tensor(scene.quats),
            tensor(scene.scales),
            tensor(scene.opacities),
            tensor(colors),
            scene.antialiased,
        )

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics."""
        return round(self.colors.shape[1] ** 0.5) - 1

    def take(self, index: Tensor) -> Splats:
        """The splats at `index` (integers or a mask)."""
        return Splats(
            self.means[index],
            self.quats[index],
            self.scales[index],
            self.opacities[index],
            self.colors[index],
            self.antialiased,
        )

    def put_(self, index: Tensor, others: Splats) -> None:
        """Replace the splats at `index` [M] by M others, in place."""
        for name, values in vars(others).items():
            if isinstance(values, Tensor):
                getattr(self, name)[index] = values

    def render(self, cameras: Cameras, *, gates: Tensor | None = None) -> Render:
        """What `cameras` see, on black (`gencompress.kernels.rasterize`).

        Args:
            cameras: C views.
            gates: factors of the opacities [N].
        """
        return rasterize(
            self.means, self.quats, self.scales, self.opacities, self.colors, *self._views(cameras),
            sh_degree=self.sh_degree, gates=gates, antialiased=self.antialiased,
        )  # fmt: skip

    def contributions(self, cameras: Cameras, *, target: Tensor | None = None) -> Contributions:
        """What every splat does to the images of `cameras` on black (`gencompress.kernels.contributions`).

        Args:
            cameras: C views.
            target: images [C, H, W, 3] that the renders should resemble.
        """
        return contributions(
            self.means, self.quats, self.scales, self.opacities, self.colors, *self._views(cameras),
            sh_degree=self.sh_degree, target=target, antialiased=self.antialiased,
        )  # fmt: skip

    def _views(self, cameras: Cameras) -> tuple[Tensor, Tensor, int, int]:
        device = self.means.device
        viewmats, Ks = (torch.from_numpy(array).to(device) for array in (cameras.viewmats, cameras.Ks))
        return viewmats, Ks, cameras.width, cameras.height
