"""The StyleGAN2 generator (Karras et al. 2020, arXiv 1912.04958) with a width of its own for every layer.

Tensors have the names that rosinality's implementation gives them, so a ``g_ema`` state dict of it loads as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gencompress.domains.stylegan.blocks import ConstantInput, StyledConv, ToRGB
from gencompress.domains.stylegan.config import GeneratorConfig
from gencompress.domains.stylegan.layers import EqualLinear, PixelNorm, normal, wide
from gencompress.domains.stylegan.pretrained import Pretrained
from gencompress.errors import ConfigError, nearest

NoiseMode = Literal["const", "random", "none"]
Space = Literal["z", "w"]


class Generator(Pretrained[GeneratorConfig]):
    """Latents to pictures, RGB in about [-1, 1].

    Three spaces of latents: z [N, style_dim], normal; w [N, style_dim], which `mapping` makes of z; and w+
    [N, latents, style_dim], a w for every layer. Removing channels leaves z, w and w+ as they are, so what projectors
    and editors found for the dense generator holds for the pruned one.

    Args:
        config: sizes.
    """

    config_class = GeneratorConfig
    latent_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        c, dim, clamp = config.channels, config.style_dim, config.clamp
        mapping = (EqualLinear(dim, dim, lr_mult=config.lr_mlp, activate=True) for _ in range(config.n_mlp))
        self.style = nn.Sequential(PixelNorm(), *mapping)
        self.input = ConstantInput(c[0])
        self.conv1 = StyledConv(c[0], c[1], dim, clamp=clamp)
        self.to_rgb1 = ToRGB(c[1], dim, upsample=False, clamp=clamp)
        layers = range(2, len(c))
        self.convs = nn.ModuleList(StyledConv(c[i - 1], c[i], dim, upsample=i % 2 == 0, clamp=clamp) for i in layers)
        self.to_rgbs = nn.ModuleList(ToRGB(c[i], dim, clamp=clamp) for i in layers if i % 2)
        self.noises = _noises(len(c) - 1)
        self.register_buffer("latent_avg", torch.zeros(dim))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take state dicts without `latent_avg`, which rosinality keeps beside them."""
        state_dict.setdefault(f"{prefix}latent_avg", self.latent_avg)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self,
        latents: Tensor,
        space: Space = "z",
        truncation: float = 1.0,
        noise: NoiseMode | Sequence[Tensor] = "const",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Pictures [N, 3, resolution, resolution], in fp32 or wider.

        Args:
            latents: z [N, style_dim], or with ``space="w"`` w or w+.
            space: what `latents` are.
            truncation: psi; 1 is none, 0 the mean picture.
            noise: ``const`` is the generator's own, the same for every picture; ``random`` is drawn; ``none``; or one
                tensor [1 or N, 1, height, width] per layer.
            generator: that random noise is drawn from; on the device of the latents.

        Raises:
            ConfigError: the latents have another shape; an option is unknown.
        """
        if space not in get_args(Space):
            raise ConfigError(f"space={space!r}: {nearest(space, get_args(Space))}")
        w = self.mapping(latents) if space == "z" else latents
        w = self._per_layer(self.truncate(w, truncation))
        return self._synthesis(w, self._noise(noise, len(w), generator))

    def mapping(self, z: Tensor) -> Tensor:
        """From z to w, both [N, style_dim]; w is fp32 or wider. ConfigError for another shape."""
        if z.ndim != 2 or z.shape[1] != self.config.style_dim:
            raise ConfigError(f"z has shape {tuple(z.shape)}, not (N, {self.config.style_dim})")
        w: Tensor = self.style(wide(z))
        return w

    def truncate(self, w: Tensor, psi: float, layers: int | None = None) -> Tensor:
        """Draw w or w+ towards the mean: ``mean + psi * (w - mean)``.

        Args:
            w: [N, style_dim], or [N, latents, style_dim].
            psi: 1 leaves `w` as it is.
            layers: truncate only the first so many entries of w+; the result is w+.
        """
        if psi == 1:
            return w
        mean = self.latent_avg.to(w.dtype)
        if layers is None:
            return torch.lerp(mean.expand_as(w), w, psi)
        w = self._per_layer(w)
        return torch.cat([self.truncate(w[:, :layers], psi), w[:, layers:]], dim=1)

    def mix(self, first: Tensor, second: Tensor, crossover: int) -> Tensor:
        """Style mixing: w+ of `first` before layer `crossover` and of `second` from it on (w or w+ each)."""
        first, second = self._per_layer(first), self._per_layer(second)
        return torch.cat([first[:, :crossover], second[:, crossover:]], dim=1)

    @torch.no_grad()
    def mean_latent(self, samples: int = 10_000, seed: int = 0) -> Tensor:
        """Mean of w over `samples` normal z [style_dim], what truncation draws towards."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(samples, self.config.style_dim, generator=generator)
        return self.mapping(z.to(self.latent_avg.device)).mean(0)

    def _per_layer(self, w: Tensor) -> Tensor:
        count, dim = self.config.latents, self.config.style_dim
        if w.ndim == 2 and w.shape[1] == dim:
            return w[:, None].expand(-1, count, -1)
        if w.ndim == 3 and w.shape[1:] == (count, dim):
            return w
        raise ConfigError(f"w has shape {tuple(w.shape)}, not (N, {dim}) or (N, {count}, {dim})")

    def _noise(
        self, noise: NoiseMode | Sequence[Tensor], batch: int, generator: torch.Generator | None
    ) -> Sequence[Tensor | None]:
        own = list(self.noises.buffers())
        if not isinstance(noise, str):
            if len(noise) != len(own):
                raise ConfigError(f"noise for {len(noise)} layers; the generator has {len(own)}")
            return noise
        if noise == "const":
            return own
        if noise == "none":
            return [None] * len(own)
        if noise != "random":
            raise ConfigError(f"noise={noise!r}: {nearest(noise, get_args(NoiseMode))}")
        return [
            torch.randn(batch, *buffer.shape[1:], generator=generator, dtype=buffer.dtype, device=buffer.device)
            for buffer in own
        ]

    def _synthesis(self, w: Tensor, noise: Sequence[Tensor | None]) -> Tensor:
        """Entry i of w+ is for convolution i, and for the step to RGB after convolution i - 1."""
        x = self.conv1(self.input(len(w)), w[:, 0], noise[0])
        picture: Tensor = self.to_rgb1(x, w[:, 1], None)
        for i, conv in enumerate(self.convs, start=1):
            x = conv(x, w[:, i], noise[i])
            if i % 2 == 0:
                picture = self.to_rgbs[i // 2 - 1](x, w[:, i + 1], picture)
        return picture


def _noises(layers: int) -> nn.Module:
    """Buffers ``noise_0`` at 4 px, then two for every resolution."""
    module = nn.Module()
    for i in range(layers):
        size = 2 ** ((i + 5) // 2)
        module.register_buffer(f"noise_{i}", normal(1, 1, size, size))
    return module
