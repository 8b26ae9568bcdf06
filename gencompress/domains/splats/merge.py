"""Pairs of splats replaced by one: moments matched, colour averaged by mass, opacity that fits the images best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.domains.splats.pairs import covariances, pair_errors
from gencompress.formats.cameras import Cameras
from gencompress.formats.scene import SH_C0
from gencompress.kernels.compiled import inline, jit, parallel
from gencompress.kernels.neighbours import nearest_neighbours
from gencompress.kernels.projection import camera_row
from gencompress.kernels.splats import Splats

_GRAIN = 1024
_FLATTEST = 1e-4  # least scale of a merged splat as a part of its largest, where rounding left nothing

Index = NDArray[np.int32]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """P candidates for merging.

    Args:
        first: one splat of every pair, int32 [P].
        second: the other one, int32 [P].
        errors: squared error that the exchange is predicted to add to the images, over all views and channels [P].
        opacities: of the merged splat [P].
    """

    first: Index
    second: Index
    errors: Floats
    opacities: Floats

    def take(self, index: NDArray[np.int64]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.first[index], self.second[index], self.errors[index], self.opacities[index])


_NONE, _NOTHING = np.empty(0, np.int32), np.empty(0, np.float32)
NO_PAIRS = Pairs(_NONE, _NONE, _NOTHING, _NOTHING)


@dataclass(frozen=True, eq=False)
class Merges:
    """Merges in the order in which they were made; a merged splat is known by the number of its first member.

    Args:
        first: int32 [K].
        second: int32 [K].
        opacities: of the merged splats [K].
        rounds: number of the round, ascending, int32 [K]; within a round no splat takes part twice.
    """

    first: Index
    second: Index
    opacities: Floats
    rounds: Index

    @classmethod
    def none(cls) -> Merges:
        """Before the first one."""
        return cls(_NONE, _NONE, _NOTHING, _NONE)

    def then(self, first: Index, second: Index, opacities: Floats) -> Merges:
        """These and one more round."""
        rounds = np.full(len(first), self.rounds[-1] + 1 if len(self.rounds) else 0, np.int32)
        return Merges(
            np.concatenate([self.first, first]),
            np.concatenate([self.second, second]),
            np.concatenate([self.opacities, opacities]),
            np.concatenate([self.rounds, rounds]),
        )

    def members(self, survivors: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Of N source splats those that live on in the `survivors` [N], alone or in a merged one, ascending."""
        alive = survivors.copy()
        for chosen in self._by_round()[::-1]:
            alive[self.second[chosen]] = alive[self.first[chosen]]
        return np.flatnonzero(alive).astype(np.int32)

    def among(self, kept: NDArray[np.integer]) -> Merges:
        """Those of the splats `kept` (ascending), in the numbers that these have among themselves."""
        inside = np.isin(self.first, kept)
        first, second = (np.searchsorted(kept, ids[inside]).astype(np.int32) for ids in (self.first, self.second))
        return Merges(first, second, self.opacities[inside], self.rounds[inside])

    def apply(self, splats: Splats) -> Splats:
        """All splats, every merged one in place of its first member; the second members stay where they are."""
        out = splats.take(torch.arange(len(splats)))
        for chosen in self._by_round():
            first, second = self.first[chosen], self.second[chosen]
            pairs = Pairs(first, second, np.zeros(len(chosen), np.float32), self.opacities[chosen])
            out.put_(torch.from_numpy(first).long(), merged(out, pairs))
        return out

    def _by_round(self) -> list[NDArray[np.int64]]:
        """Places of the merges of every round."""
        return np.split(np.arange(len(self.first)), np.flatnonzero(np.diff(self.rounds)) + 1)


def candidate_pairs(splats: Splats, cameras: Cameras, seen: Floats, neighbours: int) -> Pairs:
    """Pairs of near splats with the predicted error of merging them (`gencompress.domains.splats.pairs`).

    Args:
        splats: N splats on the CPU.
        cameras: V views.
        seen: leave-one-out squared error and sum of blend weights of every splat in every view [N, V, 2].
        neighbours: how many of the nearest of every splat are its candidates.
    """
    means = splats.means.numpy()
    first, second = neighbour_pairs(means, neighbours)
    cov = np.empty((len(splats), 6), np.float32)
    parallel(covariances, len(splats), splats.quats.numpy(), splats.scales.numpy(), cov, grain=_GRAIN)
    colors = splats.colors[:, 0].numpy() * np.float32(SH_C0)
    views = zip(cameras.viewmats.astype(np.float64), cameras.Ks.astype(np.float64), strict=True)
    rows = np.stack([camera_row(viewmat, K, cameras.width, cameras.height) for viewmat, K in views])
    errors, opacities = np.empty(len(first), np.float32), np.empty(len(first), np.float32)
    given = (first, second, means, cov, splats.opacities.numpy(), np.ascontiguousarray(colors), rows, seen)
    parallel(pair_errors, len(first), *given, errors, opacities, grain=_GRAIN)
    return Pairs(first, second, errors, opacities)


def neighbour_pairs(means: Floats, neighbours: int) -> tuple[Index, Index]:
    """Every pair of splats with one among the `neighbours` nearest of the other, once; lower index first, ascending."""
    index = nearest_neighbours(means, neighbours).index
    second, starts = _joined(index)
    return np.repeat(np.arange(len(index), dtype=np.int32), np.diff(starts)), second


@jit
def _joined(index: Index) -> tuple[Index, NDArray[np.int64]]:
    """Of every row of `index` [N, k] the higher splats that it is joined to, ascending; and where each row starts."""
    n = len(index)
    starts = np.zeros(n + 1, np.int64)
    for own in range(n):
        for other in index[own]:
            if own < other or not _among(index[other], own):
                starts[min(own, other) + 1] += 1
    for own in range(n):
        starts[own + 1] += starts[own]
    filled = starts[:-1].copy()
    second = np.empty(starts[n], np.int32)
    for own in range(n):
        for other in index[own]:
            if own < other or not _among(index[other], own):
                low = min(own, other)
                second[filled[low]] = max(own, other)
                filled[low] += 1
    for own in range(n):
        second[starts[own] : starts[own + 1]].sort()
    return second, starts


@inline
def _among(row: Index, splat: int) -> bool:
    for other in row:
        if other == splat:
            return True
    return False


def merged(splats: Splats, pairs: Pairs) -> Splats:
    """One splat [P] for every pair.

    Mean and covariance follow from the law of total variance, with mass (opacity times mean projected area) as the
    weight; all harmonics of the colour are averaged by mass, since they are linear in the light.
    """
    one, other = (splats.take(torch.from_numpy(index).long()) for index in (pairs.first, pairs.second))
    cov_one, cov_other = covariance(one), covariance(other)
    mass_one = one.opacities.double() * projected_area(cov_one)
    mass_other = other.opacities.double() * projected_area(cov_other)
    a = mass_one / (mass_one + mass_other)
    apart = one.means.double() - other.means.double()
    mean = other.means.double() + a[:, None] * apart
    between = (a * (1 - a))[:, None, None] * apart[:, :, None] * apart[:, None, :]
    cov = a[:, None, None] * cov_one + (1 - a)[:, None, None] * cov_other + between
    quats, scales = axes_of(cov)
    share = a.float()[:, None, None]
    colors = share * one.colors + (1 - share) * other.colors
    return Splats(mean.float(), quats, scales, torch.from_numpy(pairs.opacities), colors, splats.antialiased)


def covariance(splats: Splats) -> Tensor:
    """Covariance of every splat, fp64 [N, 3, 3]."""
    axes = rotations(splats.quats.double()) * splats.scales.double()[:, None, :]
    return axes @ axes.mT


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions wxyz [N, 4] of any length but zero."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def projected_area(cov: Tensor) -> Tensor:
    """Root mean square over all directions of the area that Gaussians of covariance [N, 3, 3] cover, up to a factor."""
    squared = (cov.diagonal(dim1=1, dim2=2).sum(1) ** 2 - (cov * cov).sum((1, 2))) / 2  # trace of the adjugate
    return squared.clamp_min(torch.finfo(cov.dtype).tiny).sqrt()


def axes_of(cov: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation as quaternion wxyz [N, 4] and scales [N, 3], fp32, of covariances [N, 3, 3]."""
    values, vectors = torch.linalg.eigh(cov)
    largest = values[:, -1:]
    scales = values.clamp_min(0).maximum(largest * _FLATTEST**2).sqrt()
    vectors = vectors * torch.linalg.det(vectors).sign()[:, None, None]  # a rotation, no reflection
    return quaternions(vectors).float(), scales.float()


def quaternions(rotation: Tensor) -> Tensor:
    """Unit quaternions wxyz [N, 4] of rotation matrices [N, 3, 3]; the largest component is found first (Shepperd)."""
    m = rotation
    trace = m.diagonal(dim1=1, dim2=2).sum(1)
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    squares = torch.stack([1 + trace, 1 + 2 * xx - trace, 1 + 2 * yy - trace, 1 + 2 * zz - trace], dim=1)  # 4 q^2
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    d, e, f = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    products = torch.stack(
        [squares[:, 0], a, b, c, a, squares[:, 1], d, e, b, d, squares[:, 2], f, c, e, f, squares[:, 3]], dim=1
    ).reshape(-1, 4, 4)  # 4 q q^T
    row = squares.argmax(dim=1)
    chosen = products[torch.arange(len(m)), row]
    return chosen / chosen.norm(dim=1, keepdim=True)
