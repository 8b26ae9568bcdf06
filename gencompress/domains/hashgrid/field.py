"""The field: density and colour at a point from a hash grid, two small networks, and a grid of what matters."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gencompress.errors import ConfigError
from gencompress.kernels import HashLayout, encode

INIT_SCALE = 1e-4  # the table starts uniform within this; the gate's slope follows from it
INIT_LOGIT = 2.0  # of the saliency, 0.88: nothing is hollow before it has been seen to be
HARMONICS = 16  # of the direction, degree 3
_HIDDEN, _GEOMETRY = 64, 15
_MOST_LOG_DENSITY = 15.0
_TINY = 2.0**-64  # under the root of the norm, whose slope it bounds; its own root is exact


@dataclass(frozen=True)
class FieldSettings:
    """Size of a field. Without saliency it is Instant-NGP's.

    Args:
        levels: of the hash grid.
        coarsest: cells per axis of the first level.
        finest: cells per axis of the last level.
        log2_entries: most entries of a level, as power of two.
        saliency: grid points per axis of the saliency grid (HollowNeRF: 64); 0 for none.
        bound: half the side of the box around the origin of the world.
    """

    levels: int = 16
    coarsest: int = 16
    finest: int = 1024
    log2_entries: int = 17
    saliency: int = 64
    bound: float = 1.5

    def __post_init__(self) -> None:
        if self.saliency not in range(257) or self.saliency == 1:
            raise ConfigError(f"saliency={self.saliency} must be 2 to 256 grid points per axis, or 0 for none")
        if not 0 < self.bound < float("inf"):
            raise ConfigError(f"bound={self.bound} must be greater than 0: the box would have no inside")

    @property
    def layout(self) -> HashLayout:
        """Of the table."""
        return HashLayout.geometric(self.levels, self.coarsest, self.finest, self.log2_entries)


class HashField(nn.Module):
    """Density and colour, as HollowNeRF has them (arXiv 2308.10122) on the field of Instant-NGP.

    The features f of a point are scaled to ``v = p f`` with the saliency p, a sigmoid of interpolated logits: where p
    is zero, an entry of the table serves the other points that share it. The density is gated behind its activation by
    ``tanh(alpha |v|)``, since only there no features mean no density.

    Args:
        settings: size.
        seed: of the initial weights.

    Attributes:
        table: features [entries, 2].
        logits: of the saliency [T, T, T], z slowest, or None.
        alpha: slope of the gate, a scalar; for training to set.
    """

    alpha: Tensor

    def __init__(self, settings: FieldSettings, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.layout = settings, settings.layout
        self.register_buffer("alpha", torch.tensor(1 / INIT_SCALE))
        side = settings.saliency
        self.table = nn.Parameter(torch.empty(self.layout.entries, 2))
        self.logits = nn.Parameter(torch.full((side, side, side), INIT_LOGIT)) if side else None
        self.density_net = _network(self.layout.width, _HIDDEN, 1 + _GEOMETRY)
        self.color_net = _network(HARMONICS + _GEOMETRY, _HIDDEN, _HIDDEN, 3)
        self._reset_(seed)

    @torch.no_grad()
    def _reset_(self, seed: int) -> None:
        dice = torch.Generator().manual_seed(seed)
        self.table.uniform_(-INIT_SCALE, INIT_SCALE, generator=dice)
        for net in (self.density_net, self.color_net):
            for layer in net:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=dice)

    @property
    def aabb(self) -> Tensor:
        """Least and greatest corner of the box [6]."""
        bound = self.settings.bound
        return self.table.new_tensor([-bound] * 3 + [bound] * 3)

    def saliency(self) -> Tensor | None:
        """How much each point of the saliency grid matters, in (0, 1) [T, T, T]; None without such a grid."""
        return None if self.logits is None else self.logits.sigmoid()

    def density(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density per unit of length >= 0 [N], and features for the colour [N, 15], at points in the world [N, 3]."""
        unit = (points / self.settings.bound + 1) / 2
        features = encode(unit, self.table, self.layout)
        gate = None
        if self.logits is not None:
            features = _interpolate(self.logits, unit).sigmoid()[:, None] * features
            norm = (features.square().sum(1) + _TINY).sqrt() - _TINY**0.5
            gate = torch.tanh(self.alpha * norm)
        raw = self.density_net(features)
        density = raw[:, 0].clamp(max=_MOST_LOG_DENSITY).exp()
        return density if gate is None else gate * density, raw[:, 1:]

    def color(self, features: Tensor, harmonics: Tensor) -> Tensor:
        """Colour in [0, 1] [N, 3] from `density`'s features and the harmonics of the direction [N, 16]."""
        found: Tensor = self.color_net(torch.cat([harmonics, features], 1)).sigmoid()
        return found


def _network(*widths: int) -> nn.Sequential:
    """Layers without bias, ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _interpolate(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation of a grid [T, T, T], z slowest, at points in [0, 1] [N, 3]; [N]."""
    places = (2 * points - 1).view(1, -1, 1, 1, 3)
    found = nn.functional.grid_sample(grid[None, None], places, padding_mode="border", align_corners=True)
    return found.view(-1)
