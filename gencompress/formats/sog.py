"""PlayCanvas SOG (Spatially Ordered Gaussians): attributes as bytes in the pixels of lossless WebP images.

Positions are 16-bit steps of sign(x) log(1 + |x|) between their bounds; a rotation is three bytes without its largest
component; log-scales and colours are indices into codebooks of 256 numbers, higher harmonics into a palette of up to
65,536 entries. A scene is a zip (.sog) or a folder with a meta.json. Layout: developer.playcanvas.com, The SOG Format.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import activations, quaternions, webp
from gencompress.formats.bounded import check_ratio
from gencompress.formats.codebook import fit_codebook, nearest_level
from gencompress.formats.morton import morton_order
from gencompress.formats.scene import Array, SplatScene
from gencompress.formats.sog_bundle import META, Files, open_files, write_bundle, write_folder
from gencompress.formats.sog_meta import MAX_META, Meta, build, parse
from gencompress.formats.sog_palette import fit_palette, look_up

Bytes = NDArray[np.uint8]
_STEPS = (1 << 16) - 1
_TAG = 252  # of a rotation without its real part; up to 255 without z


def read_sog(path: Path) -> SplatScene:
    """The splats of a .sog bundle, of a folder, or of the folder of a meta.json, version 1 or 2.

    Raises:
        FormatError: a file is missing, damaged, of the wrong size, or claims more than its bytes can hold.
    """
    with open_files(path) as files:
        meta = parse(path, files.read(META, MAX_META))
        _check_size(path, files, meta)
        images = _Images(path, files, meta)
        low, high = (images.splats("means", index)[:, :3] for index in (0, 1))
        quats = _unpack_quats(path, images.splats("quats"))
        scales, colours = images.splats("scales"), images.splats("sh0")
        sh_rest = np.zeros((meta.count, 0, 3), np.float32)
        if meta.harmonics:
            labels = images.splats("shN", 1).astype(np.int32)
            sh_rest = look_up(path, meta.harmonics, images.read("shN", 0), labels[:, 0] | labels[:, 1] << 8)
    return SplatScene(
        means=_unpack_means(meta, low, high),
        quats=quats,
        log_scales=np.stack([meta.scales[axis, scales[:, axis]] for axis in range(3)], axis=1),
        logits=meta.logits[colours[:, 3]],
        sh0=np.stack([meta.sh0[channel, colours[:, channel]] for channel in range(3)], axis=1),
        sh_rest=sh_rest,
        antialiased=meta.antialiased,
    )


def write_sog(path: Path, scene: SplatScene) -> None:
    """Replace `path` by a .sog of version 2; another name is a new folder, meta.json one in the folder that it is in.

    The splats are put in Morton order. The same scene gives the same bytes.

    Raises:
        FormatError: the harmonics are of degree 4, which the format has not.
        RunError: the folder is not empty, or the disk is full.
    """
    if path.suffix.lower() == ".sog":
        write_bundle(path, _encode(path, scene))
    else:
        write_folder(path.parent if path.name.lower() == META else path, _encode(path, scene))


class _Images:
    """The images of a scene, each opened once and let go."""

    def __init__(self, path: Path, files: Files, meta: Meta) -> None:
        self._path, self._files, self._meta = path, files, meta

    def read(self, property_name: str, index: int) -> Bytes:
        """Pixels [H, W, 4]."""
        name = self._meta.images[property_name][index]
        data = self._files.read(name, self._meta.count * 8 + (16 << 20))
        width, height = webp.size_of(self._path, name, data)
        if width * height > 2 * self._meta.count + (1 << 22):
            raise FormatError(f"{self._path}: {name} has {width} x {height} pixels for {self._meta.count:,} splats")
        return webp.decode(self._path, name, data)

    def splats(self, property_name: str, index: int = 0) -> Bytes:
        """Pixels [count, 4], one for each splat."""
        pixels = self.read(property_name, index).reshape(-1, 4)
        if len(pixels) < self._meta.count:
            name = self._meta.images[property_name][index]
            raise FormatError(f"{self._path}: {name} has {len(pixels):,} pixels for {self._meta.count:,} splats")
        return pixels[: self._meta.count]


def _check_size(path: Path, files: Files, meta: Meta) -> None:
    """FormatError if the scene would be a hundred times as large as the images that it is made of."""
    packed = sum(files.size(name) for names in meta.images.values() for name in names)
    degree = 0 if meta.harmonics is None else meta.harmonics.sh_degree or 3
    check_ratio(path, packed, meta.count * 4 * (11 + 3 * (degree + 1) ** 2))


def _unpack_means(meta: Meta, low: Bytes, high: Bytes) -> Array:
    means = np.empty((meta.count, 3), np.float32)
    for axis in range(3):
        step = high[:, axis].astype(np.float64) * 256 + low[:, axis]
        logarithm = meta.low[axis] + (meta.high[axis] - meta.low[axis]) * (step / _STEPS)
        means[:, axis] = np.sign(logarithm) * np.expm1(np.abs(logarithm))
    return means


def _unpack_quats(path: Path, pixels: Bytes) -> Array:
    tags = pixels[:, 3]
    if tags.min() < _TAG:
        raise FormatError(f"{path}: a rotation has the tag {tags.min()}; {_TAG} to 255 say which component is left out")
    others = (pixels[:, :3].astype(np.float32) / 255 - 0.5) * np.float32(2**0.5)
    return quaternions.from_smallest_three(tags - _TAG, others.astype(np.float32))


def _encode(path: Path, scene: SplatScene) -> dict[str, bytes]:
    """The files of a scene by name."""
    if scene.sh_degree > 3:
        raise FormatError(f"{path}: SOG holds spherical harmonics up to degree 3; the scene has {scene.sh_degree}")
    logarithms = np.sign(scene.means) * np.log1p(np.abs(scene.means.astype(np.float64)))
    low, high = logarithms.min(0), logarithms.max(0)
    order = morton_order(logarithms)
    steps = np.rint((logarithms[order] - low) * (_STEPS / np.where(high > low, high - low, 1))).astype(np.uint16)
    scales, sh0 = (fit_codebook([v], float(v.min()), float(v.max())) for v in (scene.log_scales, scene.sh0))
    palette = fit_palette(scene.sh_rest, np.ones(len(scene), np.float32)) if scene.sh_degree else None
    planes = {
        "means_l.webp": _plane(steps & 255),
        "means_u.webp": _plane(steps >> 8),
        "quats.webp": _plane(_pack_quats(scene.quats[order])),
        "scales.webp": _plane(nearest_level(scene.log_scales[order], scales)),
        "sh0.webp": _plane(
            np.column_stack(
                [nearest_level(scene.sh0[order], sh0), activations.to_byte(activations.opacity(scene.logits[order]))]
            )
        ),
    }
    if palette:
        labels = palette.labels[order]
        planes["shN_centroids.webp"] = palette.pixels
        planes["shN_labels.webp"] = _plane(np.column_stack([labels & 255, labels >> 8]))
    meta = build(
        len(scene), (low.tolist(), high.tolist()), scales, sh0,
        (palette.entries, scene.sh_degree, palette.codebook) if palette else None, scene.antialiased,
    )
    with ThreadPoolExecutor() as pool:
        packed = pool.map(webp.encode, planes.values())
        files = dict(zip(planes, packed, strict=True))
    return {**files, META: json.dumps(meta, separators=(",", ":"), allow_nan=False).encode()}


def _pack_quats(quats: Array) -> Bytes:
    largest, others = quaternions.smallest_three(quaternions.unit(quats))
    return np.column_stack([activations.to_byte(others * np.float32(0.5**0.5) + 0.5), largest + _TAG]).astype(np.uint8)


def _plane(columns: NDArray[np.integer]) -> Bytes:
    """Pixels [H, W, 4], both sides multiples of 4, with columns [N, up to 4]; alpha is 255 where it is not given."""
    count, used = columns.shape
    width = -(-int(np.ceil(np.sqrt(count))) // 4) * 4
    height = -(-count // (4 * width)) * 4
    pixels = np.zeros((height * width, 4), np.uint8)
    pixels[:, 3] = 255
    pixels[:count, :used] = columns
    return pixels.reshape(height, width, 4)
