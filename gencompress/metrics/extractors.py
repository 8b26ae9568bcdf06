"""Feature extractors: what a Fréchet or kernel distance sees of an image. The extractor is part of the number."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gencompress.errors import NumericsError
from gencompress.metrics.images import unit_range


class FeatureExtractor(Protocol):
    """A fixed map from images to feature vectors, with a name and a hash that go into every result.

    Attributes:
        name: shown beside the number.
        sha256: of the weights.
        dimension: D.
        inception: True only for the network by which FID and KID are defined.
    """

    name: str
    sha256: str
    dimension: int
    inception: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, H, W], floating in [0, 255]."""
        ...


def extract(extractor: FeatureExtractor, images: Tensor, batch_size: int = 32) -> NDArray[np.float64]:
    """Features of all images, float64 [N, D].

    Args:
        extractor: on any device; it moves its own input.
        images: [N, 3, H, W] or grey [N, 1, H, W], uint8 or floating in [0, 1]. Floating images are rounded to 8 bits,
            because that is what a saved picture would hold.
        batch_size: images at a time.

    Raises:
        DataError: a shape or range that does not fit.
        NumericsError: the extractor gave NaN.
    """
    batches = unit_range(images, "images").split(batch_size)
    features = np.concatenate([features_of(extractor, batch) for batch in batches])
    if not np.isfinite(features).all():
        raise NumericsError(f"{extractor.name}: the features hold NaN or infinity")
    return features


def features_of(extractor: FeatureExtractor, images: Tensor, name: str = "images") -> NDArray[np.float64]:
    """Features of one batch, float64 [B, D], rounded to 8 bits as `extract` says; errors call the images `name`."""
    rounded = (unit_range(images, name) * 255).round().expand(-1, 3, -1, -1).float()
    with torch.inference_mode():
        return extractor(rounded).double().cpu().numpy()


class RandomConvolutions:
    """Three random convolutions with mean and spread pooled after each: needs no file, gives the same on every machine.

    A stand-in where no trained extractor is at hand (random features rank image sets usefully: Naeem et al. 2020,
    section 4.2). It is not FID and never called so.

    Args:
        seed: of the weights.
        size: images are resized to this many pixels a side, so that distances do not depend on it.
    """

    widths = (16, 32, 64)
    inception = False

    def __init__(self, seed: int = 0, size: int = 64) -> None:
        generator = np.random.default_rng(seed)
        self._size = size
        self._kernels: list[Tensor] = []
        digest, inputs = hashlib.sha256(), 3
        for width in self.widths:
            # He scaling keeps the activations of all three layers comparable.
            kernel = generator.standard_normal((width, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
            digest.update(kernel.tobytes())
            self._kernels.append(torch.from_numpy(kernel))
            inputs = width
        self.name = f"random-convolutions-{size}px-seed{seed}"
        self.sha256 = digest.hexdigest()
        self.dimension = 2 * sum(self.widths)

    def __call__(self, images: Tensor) -> Tensor:
        """Features [B, 224] of images [B, 3, H, W] in [0, 255]."""
        x = resize(images, self._size).double() / 127.5 - 1
        pooled = []
        for depth, kernel in enumerate(self._kernels):
            x = F.relu(F.conv2d(x, kernel.to(x.device), stride=1 if depth == 0 else 2, padding=1))
            pooled += [x.mean((2, 3)), x.std((2, 3))]
        return torch.cat(pooled, dim=1)


def resize(images: Tensor, size: int) -> Tensor:
    """Bicubic, antialiased, square: [B, 3, H, W] in [0, 255] to [B, 3, size, size] in [0, 255]."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)
