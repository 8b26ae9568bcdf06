"""Rasterizers of Gaussian splats: numba on the CPU, gsplat on CUDA, behind one signature.

    from gencompress.kernels import contributions, rasterize
    render = rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height)

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gencompress.kernels.rasterizer import Contributions, Render, contributions, rasterize

__all__ = ["Contributions", "Render", "contributions", "rasterize"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gencompress.kernels import rasterizer

    return getattr(rasterizer, name)
