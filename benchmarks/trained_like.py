"""Large scenes that are distributed as trained ones are: copies of a trained scene, each splat changed a little."""

from __future__ import annotations

import numpy as np

from gencompress.formats import SplatScene

# Standard deviations of the bands of the harmonics, as of a published scene of 500,000 splats of degree 2. There they
# are as good as uncorrelated between neighbours, nine tenths of the variance are common to the three channels, sizes
# differ by a factor of ten, and one splat in a hundred has none.
BANDS = (0.25, 0.18, 0.13)
COMMON, SPREAD, NONE = 0.95, 0.6, 0.01


def trained_like(source: SplatScene, n: int, degree: int, seed: int = 0) -> SplatScene:
    """A scene of n splats: copies of `source` side by side, or some of its splats, with harmonics of a degree."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(len(source))[np.arange(n) % len(source)]
    copy = np.arange(n) // len(source)
    base = source.take(which)
    width = np.ptp(source.means, axis=0) * 1.1

    def jitter(spread: float, *shape: int) -> np.ndarray:
        return (rng.normal(size=(n, *shape)) * spread).astype(np.float32)

    return SplatScene(
        means=base.means + np.stack([copy % 3, np.zeros(n), copy // 3], 1).astype(np.float32) * width
        + jitter(0.3, 3) * base.scales,
        quats=base.quats + jitter(0.05, 4),
        log_scales=base.log_scales + jitter(0.1, 3),
        logits=base.logits + jitter(0.2),
        sh0=base.sh0 + jitter(0.05, 3),
        sh_rest=_harmonics(n, degree, rng),
    )  # fmt: skip


def _harmonics(n: int, degree: int, rng: np.random.Generator) -> np.ndarray:
    size = np.exp(rng.normal(size=(n, 1, 1)) * SPREAD) * (rng.random((n, 1, 1)) > NONE)
    parts = [np.zeros((n, 0, 3))]
    for band, spread in enumerate(BANDS[:degree], start=1):
        shared, own = (rng.normal(size=(n, 2 * band + 1, channels)) for channels in (1, 3))
        parts.append((COMMON * shared + (1 - COMMON**2) ** 0.5 * own) * spread * size)
    return np.concatenate(parts, axis=1).astype(np.float32)
