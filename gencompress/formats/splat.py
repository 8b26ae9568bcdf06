"""The .splat of antimatter15's viewer: 32 bytes per splat, no header, no spherical harmonics.

Position and scale are three floats each, then colour and opacity as four bytes and the quaternion wxyz as four bytes,
0 standing for -1 and 128 for 0. The frame is that of the .ply.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import activations, quaternions
from gencompress.formats.bounded import check_count
from gencompress.formats.scene import SplatScene
from gencompress.run.atomic import write_file

_ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def read_splat(path: Path) -> SplatScene:
    """The splats of a .splat file. FormatError if its length is no multiple of 32 bytes."""
    count, rest = divmod(path.stat().st_size, _ROW.itemsize)
    if rest:
        raise FormatError(f"{path}: {rest} bytes are left after {count:,} splats of 32 bytes: truncated, or no .splat")
    check_count(path, count)
    rows = np.memmap(path, _ROW, "r", 0, (count,))
    quats = (np.arange(256, dtype=np.float32) - 128) / 128
    logits = activations.logit(np.arange(256) * activations.BYTE, activations.BYTE)
    sh0 = activations.sh0_of_colour(np.arange(256) * activations.BYTE)
    return SplatScene(
        means=np.array(rows["mean"]),
        quats=quats[rows["quat"]],
        log_scales=activations.log_scale(rows["scale"]),
        logits=logits[rows["rgba"][:, 3]],
        sh0=sh0[rows["rgba"][:, :3]],
        sh_rest=np.empty((count, 0, 3), np.float32),
    )


def cover_order(scene: SplatScene) -> NDArray[np.int64]:
    """The order [N] of splats by opacity times volume, the greatest first; stable."""
    cover = scene.log_scales.sum(1, dtype=np.float64) + np.log(activations.opacity(scene.logits) + 1e-30)
    return np.argsort(-cover, kind="stable")


def write_splat(path: Path, scene: SplatScene) -> None:
    """Replace `path` by a .splat, the splats that cover most first, as progressive viewers expect them."""
    order = cover_order(scene)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            for _, part in scene.chunks(order):
                rows = np.empty(len(part), _ROW)
                rows["mean"] = part.means
                rows["scale"] = activations.scale(part.log_scales)
                rows["rgba"][:, :3] = activations.to_byte(activations.colour(part.sh0))
                rows["rgba"][:, 3] = activations.to_byte(activations.opacity(part.logits))
                rows["quat"] = np.clip(np.rint(quaternions.unit(part.quats) * 128 + 128), 0, 255)
                file.write(rows.data)

    write_file(path, write, needed=len(scene) * _ROW.itemsize)
