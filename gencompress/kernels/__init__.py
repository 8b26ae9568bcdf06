"""Rasterizers of Gaussian splats and hash grids of radiance fields, on the CPU and on CUDA behind one signature.

    from gencompress.kernels import HashLayout, contributions, encode, rasterize
    render = rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height)
    features = encode(points, table, HashLayout.geometric(16, 16, 2048, log2_entries=19))

Names are imported when they are first used.
"""

from __future__ import annotations

from gencompress.lazy import attach

_WHERE = {
    **dict.fromkeys(("Contributions", "Render", "contributions", "rasterize"), "rasterizer"),
    **dict.fromkeys(("HashLayout", "encode"), "hash_grid"),
}

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
