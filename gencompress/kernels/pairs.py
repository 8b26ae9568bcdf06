"""Contributions from a list of pairs of splat and pixel, in plain torch on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gencompress.kernels.rasterizer import Contributions

_ALPHA_MAX = 0.999


@dataclass(frozen=True, eq=False)
class Pairs:
    """M pairs of a splat and a pixel to which it is drawn, pixel by pixel, from front to back in each.

    Args:
        splats: int64 [M].
        pixels: int64, row by row [M]; equal ones stand together.
        width: of the image in pixels.
    """

    splats: Tensor
    pixels: Tensor
    width: int

    def alphas(self, centres: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
        """Opacity of the splat at the pixel's centre [M], fp64."""
        x, y = self.pixels % self.width + 0.5, torch.div(self.pixels, self.width, rounding_mode="floor") + 0.5
        offset = torch.stack([x, y], 1) - centres[self.splats]
        a, b, c = conics[self.splats].unbind(1)
        exponent = 0.5 * (a * offset[:, 0] ** 2 + c * offset[:, 1] ** 2) + b * offset[:, 0] * offset[:, 1]
        return (opacities[self.splats] * torch.exp(-exponent)).clamp(max=_ALPHA_MAX).double()


class Totals:
    """Sums over pairs and views of what `Contributions` holds, for `count` splats."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._error, self._toward, self._blended, self._most = torch.zeros(4, count, dtype=torch.float64, device=device)
        self._hits = torch.zeros(count, dtype=torch.int64, device=device)

    def add_(self, pairs: Pairs, alpha: Tensor, colors: Tensor, image: Tensor, target: Tensor | None) -> None:
        """Add the pairs of one image, or of a part of it.

        Args:
            pairs: of the image.
            alpha: of every pair, fp64 [M].
            colors: of the splats [N, D].
            image: the background, to which the splats are added in place [H, W, D].
            target: what the image should resemble [H, W, D].
        """
        if len(pairs.pixels) == 0:
            return
        pixels, place, length = pairs.pixels.unique_consecutive(return_inverse=True, return_counts=True)
        last = length.cumsum(0) - 1
        first = (last - length + 1)[place]
        through = torch.log1p(-alpha)
        passed = _before(through, first)
        weight = alpha * passed.exp()
        end = (passed + through)[last].exp()
        error, toward = torch.zeros_like(weight), torch.zeros_like(weight)
        for channel in range(colors.shape[1]):
            plane = image[..., channel].flatten().double()
            added = weight * colors[pairs.splats, channel]
            blended = _before(added, first) + added
            color = blended[last] + end * plane[pixels]
            change = added - alpha / (1 - alpha) * (color[place] - blended)
            error += change**2
            if target is not None:
                toward += 2 * change * (color - target[..., channel].flatten()[pixels])[place]
            image[..., channel] = plane.index_copy(0, pixels, color).view(image.shape[:2])
        for sums, values in ((self._error, error), (self._toward, toward), (self._blended, weight)):
            sums.index_add_(0, pairs.splats, values)
        self._most.scatter_reduce_(0, pairs.splats, weight, "amax")
        self._hits += torch.bincount(pairs.splats, minlength=len(self._hits))

    def contributions(self, image: Tensor) -> Contributions:
        """The sums so far, with the images they were made from [C, H, W, D]."""
        sums = (self._error, self._toward, self._blended, self._most)
        error, toward, blended, most = (part.float() for part in sums)
        return Contributions(error, toward, blended, most, self._hits, image)


def _before(values: Tensor, first: Tensor) -> Tensor:
    """Sum of the values ahead of each in its own segment, which begins at `first` [M]."""
    sums = values.cumsum(0) - values
    return sums - sums[first]
