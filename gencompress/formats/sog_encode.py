"""A scene as the files of a SOG: every attribute as coarse as an error allows that is about the same for all of them.

The images are entropy coded, so a level that is not needed is a saving. On trained scenes the tolerances below give
62 dB between renders of the scene and of the file; 16 bits for every position and 8 for everything else give 66 dB in a
file that is a sixth larger.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.formats import activations, quaternions, webp
from gencompress.formats.codebook import fit_codebook, nearest_level
from gencompress.formats.morton import morton_order
from gencompress.formats.prominence import prominence, view_distances
from gencompress.formats.scene import SH_C0, Array, SplatScene
from gencompress.formats.sog_bundle import META
from gencompress.formats.sog_meta import ANTIALIASED, IMAGES, POSITION_STEPS, TAG, decimals
from gencompress.formats.sog_palette import fit_palette
from gencompress.formats.symmetry import least_turned

Bytes = NDArray[np.uint8]
POSITION = 0.004  # rms movement in units of the splat's own size
TURN = 2  # of the 255 steps of a component of a rotation: 0.3 degrees
SCALE = 0.0125  # rms of the log-scale
COLOUR = 0.5 / 255 / SH_C0  # rms of the constant coefficient: half a step of a display


def encode(scene: SplatScene) -> dict[str, bytes]:
    """The content of the files by name, in Morton order; the same for the same scene."""
    weights = prominence(scene)
    quats, log_scales = least_turned(quaternions.unit(scene.quats), scene.log_scales)
    logarithms = np.sign(scene.means) * np.log1p(np.abs(scene.means.astype(np.float64)))
    low, high = logarithms.min(0), logarithms.max(0)
    order = morton_order(logarithms)
    step = (high - low) / POSITION_STEPS
    stride = _stride(scene, weights, step)
    positions = np.rint((logarithms[order] - low) / (np.where(high > low, step, 1) * stride)) * stride
    positions = np.minimum(positions, POSITION_STEPS).astype(np.uint16)
    scales, sh0 = fit_codebook(log_scales, weights, SCALE), fit_codebook(scene.sh0, weights, COLOUR)
    opacities = activations.to_byte(activations.opacity(scene.logits[order]))
    planes = {
        "means_l.webp": _plane(positions & 255),
        "means_u.webp": _plane(positions >> 8),
        "quats.webp": _plane(_pack_quats(quats[order])),
        "scales.webp": _plane(nearest_level(log_scales[order], scales)),
        "sh0.webp": _plane(np.column_stack([nearest_level(scene.sh0[order], sh0), opacities])),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "gencompress"},
        "count": len(scene),
        **({"model": ANTIALIASED} if scene.antialiased else {}),
        "means": {"mins": low.tolist(), "maxs": high.tolist()},
        "scales": {"codebook": decimals(scales)},
        "quats": {},
        "sh0": {"codebook": decimals(sh0)},
    }
    if scene.sh_degree:
        palette = fit_palette(scene.sh_rest, order)
        planes["shN_centroids.webp"] = palette.pixels
        planes["shN_labels.webp"] = _plane(np.column_stack([palette.labels & 255, palette.labels >> 8]))
        meta["shN"] = {"count": palette.entries, "bands": scene.sh_degree, "codebook": decimals(palette.codebook)}
    for name in IMAGES.keys() & meta.keys():
        meta[name]["files"] = IMAGES[name]
    with ThreadPoolExecutor() as pool:
        files = dict(zip(planes, pool.map(webp.encode, planes.values()), strict=True))
    return {**files, META: json.dumps(meta, separators=(",", ":"), allow_nan=False).encode()}


def _stride(scene: SplatScene, weights: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """The power of two by axis [3] of which stored positions are multiples; the low bits are then all zero.

    A splat of area A seen from a distance d fills opacity A / d^2 of a view; if it moves by m, about m^2 / A of that
    changes: opacity m^2 / d^2. The sum of the latter over that of the former is kept below `POSITION` squared.
    """
    seen = (activations.opacity(scene.logits) / view_distances(scene))[:, None]
    moved = step * (1 + np.abs(scene.means.astype(np.float64)))  # a step of the logarithm, at each splat
    share = np.sqrt((seen * moved**2).sum(0) / weights.sum() / 12)  # 1/12: the mean square of rounding
    return 2.0 ** np.clip(np.floor(np.log2(POSITION / np.maximum(share, 1e-30))), 0, 8)


def _pack_quats(quats: Array) -> Bytes:
    largest, others = quaternions.smallest_three(quats)
    steps = (others * np.float32(0.5**0.5) + np.float32(0.5)) * 255
    return np.column_stack([np.rint(steps / TURN) * TURN, largest + TAG]).astype(np.uint8)


def _plane(columns: NDArray[np.integer]) -> Bytes:
    """Pixels [H, W, 4], both sides multiples of 4, with columns [N, up to 4]; alpha is 255 where it is not given."""
    count, used = columns.shape
    width = -(-int(np.ceil(np.sqrt(count))) // 4) * 4
    height = -(-count // (4 * width)) * 4
    pixels = np.zeros((height * width, 4), np.uint8)
    pixels[:, 3] = 255
    pixels[:count, :used] = columns
    return pixels.reshape(height, width, 4)
