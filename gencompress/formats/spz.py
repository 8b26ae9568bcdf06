"""Niantic's .spz: attributes quantised to bytes, each in a section of its own (see `spz_container`).

Positions are 24-bit fixed point; log-scale, opacity and colour one byte; a rotation four bytes without its largest
component (v2: x, y, z in three); higher harmonics one byte, of which 5 bits (degree 1) or 4 are used. As published with
the format (github.com/nianticlabs/spz).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gencompress.errors import FormatError
from gencompress.formats import activations, frames, quaternions
from gencompress.formats.bounded import read_bytes
from gencompress.formats.morton import morton_order
from gencompress.formats.scene import Array, SplatScene
from gencompress.formats.spz_container import Bytes, Header, pack, unpack
from gencompress.run.atomic import write_bytes

MAX_FILE = 4 << 30  # bytes
_STORED: Array = np.arange(256, dtype=np.float32)
_COLOUR = 0.15  # of the range of a colour byte per unit of the constant coefficient
_LARGEST = 511  # magnitude of a stored component of a rotation; 1/sqrt(2) in truth
_USUAL_BITS = 12  # of the fraction of a position
_POSITION_LIMIT = (1 << 23) - 1


def read_spz(path: Path) -> SplatScene:
    """The splats of a .spz of version 2 to 4. FormatError names what is wrong with the header or the sections."""
    header, (positions, alphas, colours, scales, rotations, harmonics) = unpack(path, read_bytes(path, MAX_FILE))
    to_ply = frames.from_axes(header.axes)
    quats = _first_three(rotations) if header.version == 2 else _unpack_rotations(rotations)
    logits = activations.logit(_STORED / 255, activations.BYTE)
    log_scales = _STORED / np.float32(16) - np.float32(10)
    sh0 = (_STORED / np.float32(255) - np.float32(0.5)) / np.float32(_COLOUR)
    sh_rest = harmonics.reshape(header.count, -1, 3).astype(np.float32)
    sh_rest -= 128
    sh_rest /= 128
    return SplatScene(
        means=frames.turn_means(_unpack_positions(positions, header.fractional_bits), to_ply),
        quats=frames.turn_quats(quaternions.wxyz(quats), to_ply),
        log_scales=log_scales[scales],
        logits=logits[alphas[:, 0]],
        sh0=sh0[colours],
        sh_rest=frames.turn_harmonics(sh_rest, to_ply),
        antialiased=header.antialiased,
    )


def write_spz(path: Path, scene: SplatScene, version: int = 4) -> None:
    """Replace `path` by a .spz of version 3 (gzip, for older viewers) or 4 (zstd), the splats in Morton order."""
    if version not in (3, 4):
        raise FormatError(f"{path}: .spz version {version!r} is not written; valid are 3 and 4")
    bits = _fractional_bits(path, scene)
    header = Header(version, len(scene), scene.sh_degree, bits, scene.antialiased)
    order = morton_order(scene.means)
    write_bytes(path, pack(header, (_sections(part, bits) for _, part in scene.chunks(order))))


def _fractional_bits(path: Path, scene: SplatScene) -> int:
    """Bits of fraction: the usual 12, more for a scene of tiny splats, fewer for one that reaches far.

    A step of an eighth of the median splat's middle axis moves no splat by a fraction of itself that shows.
    """
    middle = float(np.median(np.sort(scene.log_scales, axis=1)[:, 1]))
    wanted = max(_USUAL_BITS, int(np.ceil((np.log(8) - middle) / np.log(2))))
    reach = float(np.abs(scene.means).max())
    fits = int(np.floor(np.log2(_POSITION_LIMIT / max(reach, 1e-30))))
    if fits < 0:
        raise FormatError(f"{path}: a .spz holds positions up to {_POSITION_LIMIT:,}; the scene reaches {reach:.3g}")
    return min(wanted, fits, 23)


def _sections(part: SplatScene, bits: int) -> list[Bytes]:
    from_ply = frames.from_axes("RUB").T
    quats = quaternions.xyzw(frames.turn_quats(quaternions.unit(part.quats), from_ply))
    return [
        _pack_positions(frames.turn_means(part.means, from_ply), bits),
        activations.to_byte(activations.opacity(part.logits))[:, None],
        _byte(part.sh0 * np.float32(_COLOUR * 255) + np.float32(127.5)),
        _byte((part.log_scales + 10) * 16),
        _pack_rotations(quats),
        _pack_harmonics(frames.turn_harmonics(part.sh_rest, from_ply)),
    ]


def _byte(values: Array) -> Bytes:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _pack_positions(means: Array, bits: int) -> Bytes:
    fixed = np.rint(means.astype(np.float64) * (1 << bits)).astype("<i4")
    return fixed.view(np.uint8).reshape(len(means), 3, 4)[:, :, :3].reshape(len(means), 9)


def _unpack_positions(stored: Bytes, bits: int) -> Array:
    fixed = np.zeros((len(stored), 3, 4), np.uint8)
    fixed[:, :, 1:] = stored.reshape(-1, 3, 3)  # in the upper bytes, so that the shift below brings the sign along
    return (fixed.view("<i4")[:, :, 0] >> 8).astype(np.float32) / np.float32(1 << bits)


def _pack_rotations(xyzw: Array) -> Bytes:
    """Two bits say which is the largest component; the others have a sign and nine bits."""
    largest, others = quaternions.smallest_three(xyzw)
    sizes = np.rint(np.abs(others) * np.float32(_LARGEST * 2**0.5)).astype(np.uint32)
    fields = (others < 0).astype(np.uint32) << 9 | np.minimum(sizes, _LARGEST)
    words = largest.astype(np.uint32) << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)


def _unpack_rotations(stored: Bytes) -> Array:
    words = np.ascontiguousarray(stored).view("<u4")[:, 0]
    fields = np.stack([words >> shift & 0x3FF for shift in (20, 10, 0)], axis=1)
    others = (fields & _LARGEST).astype(np.float32) / np.float32(_LARGEST * 2**0.5)
    return quaternions.from_smallest_three(words >> 30, np.where(fields >> 9, -others, others))


def _first_three(stored: Bytes) -> Array:
    """Version 2: x, y, z of a quaternion xyzw whose real part is positive."""
    xyz = stored.astype(np.float32) / np.float32(127.5) - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(1, keepdims=True)))
    return np.concatenate([xyz, w], axis=1)


def _pack_harmonics(sh_rest: Array) -> Bytes:
    steps = np.where(np.arange(sh_rest.shape[1]) < 3, 8, 16)[:, None].astype(np.float32)  # 5 bits for degree 1, else 4
    levels = np.rint(sh_rest * 128) + 128
    return _byte(np.floor(levels / steps + np.float32(0.5)) * steps).reshape(len(sh_rest), -1)
