"""Rasterizers of Gaussian splats: numba on the CPU, gsplat on CUDA, behind one signature.

    from gencompress.kernels import contributions, rasterize
    render = rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height)

Names are imported when they are first used.
"""

from __future__ import annotations

from gencompress.lazy import attach

_WHERE = dict.fromkeys(("Contributions", "Render", "contributions", "rasterize"), "rasterizer")

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
