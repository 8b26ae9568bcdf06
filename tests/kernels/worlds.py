"""Random splats and cameras for the tests of the rasterizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gencompress.kernels import Contributions, Render, contributions, rasterize

WIDTH, HEIGHT = 72, 40  # more than one tile both ways, the last ones cut
DIFFERENTIABLE = ("means", "quats", "scales", "opacities", "colors", "gates")


@dataclass(frozen=True, eq=False)
class World:
    """The arguments of `rasterize`."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int = WIDTH
    height: int = HEIGHT
    sh_degree: int | None = None
    gates: Tensor | None = None
    background: Tensor | None = None
    antialiased: bool = False

    def __len__(self) -> int:
        return len(self.means)

    @property
    def _first(self) -> tuple[Any, ...]:
        splats = (self.means, self.quats, self.scales, self.opacities, self.colors)
        return (*splats, self.viewmats, self.Ks, self.width, self.height)

    @property
    def _options(self) -> dict[str, Any]:
        return {"sh_degree": self.sh_degree, "background": self.background, "antialiased": self.antialiased}

    def render(self, absgrad: bool = False) -> Render:
        return rasterize(*self._first, **self._options, gates=self.gates, absgrad=absgrad)

    def contributions(self, target: Tensor | None = None) -> Contributions:
        return contributions(*self._first, **self._options, target=target)

    def map(self, change: Callable[[Tensor], Tensor]) -> World:
        """With every differentiable tensor changed."""
        given = {name: getattr(self, name) for name in DIFFERENTIABLE}
        return replace(self, **{name: change(t) for name, t in given.items() if t is not None})

    def take(self, index: Tensor) -> World:
        """Some of the splats."""
        return self.map(lambda t: t[index])

    def to(self, device: str) -> World:
        """On another device."""
        moved = {name: t.to(device) for name, t in vars(self).items() if isinstance(t, Tensor)}
        return replace(self, **moved)


def make(kind: str = "normal", count: int = 300, seed: int = 0, channels: int = 3, **options: Any) -> World:
    """`count` splats in front of a tilted camera; `kind` is one of `KINDS`, colours are SH if `sh_degree` is given."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    means = normal(count, 3) * torch.tensor([1.3, 0.7, 0.8])
    scales = torch.exp(normal(count, 3) * 0.6 - 2.4)
    opacities = torch.rand(count, generator=generator)
    if kind != "wide opacity":
        opacities = 0.1 + 0.8 * opacities
    if kind == "near plane":  # half of them beside or behind the camera, some within a splat's width of it
        means[:, 2] = 2 * means[:, 2] - 3.9
    scales *= {"tiny": 0.02, "huge": 8.0}.get(kind, 1.0)
    terms = None if options.get("sh_degree") is None else (options["sh_degree"] + 1) ** 2
    colors = torch.rand(count, channels, generator=generator) if terms is None else normal(count, terms, 3) * 0.3
    viewmats, Ks = cameras(1)
    return World(means, normal(count, 4), scales, opacities, colors, viewmats, Ks, **options)


KINDS = ("normal", "wide opacity", "tiny", "huge", "near plane")


def cameras(count: int, width: int = WIDTH, height: int = HEIGHT) -> tuple[Tensor, Tensor]:
    """Around the origin at distance 4, all tilted, with a principal point off the centre."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    for i in range(count):
        turn = torch.tensor([[0.0, -0.1, -0.2 - i], [0.1, 0.0, -0.3], [0.2 + i, 0.3, 0.0]], dtype=torch.float64)
        viewmats[i, :3, :3] = torch.linalg.matrix_exp(turn).float()
        viewmats[i, 2, 3] = 4
    K = torch.tensor([[0.85 * width, 0, 0.48 * width], [0, 0.9 * width, 0.55 * height], [0, 0, 1]])
    return viewmats, K.repeat(count, 1, 1)
