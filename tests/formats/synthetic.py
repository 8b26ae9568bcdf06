"""A scene of random splats in the ranges that trained ones have."""

from __future__ import annotations

import numpy as np

from gencompress.formats import SplatScene


def synthetic(n: int = 3000, degree: int = 3, seed: int = 0, **changes: object) -> SplatScene:
    rng = np.random.default_rng(seed)

    def normal(*shape: int, spread: float = 1.0, middle: float = 0.0) -> np.ndarray:
        return (rng.normal(size=shape) * spread + middle).astype(np.float32)

    values: dict[str, object] = {
        "means": normal(n, 3, spread=4),
        "quats": normal(n, 4),
        "log_scales": normal(n, 3, spread=0.8, middle=-4.5),
        "logits": normal(n, spread=2.5),
        "sh0": normal(n, 3, spread=0.9),
        "sh_rest": np.clip(normal(n, (degree + 1) ** 2 - 1, 3, spread=0.15), -0.9, 0.9),
    }
    return SplatScene(**(values | changes))  # type: ignore[arg-type]


FIELDS = ("means", "quats", "log_scales", "logits", "sh0", "sh_rest")


def assert_equal(a: SplatScene, b: SplatScene) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.antialiased == b.antialiased
    assert sorted(a.extra) == sorted(b.extra)
    for name, column in a.extra.items():
        np.testing.assert_array_equal(column, b.extra[name], err_msg=name)
