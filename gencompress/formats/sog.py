"""PlayCanvas SOG (Spatially Ordered Gaussians): attributes as bytes in the pixels of lossless WebP images.

Positions are 16-bit steps of sign(x) log(1 + |x|) between their bounds; a rotation is three bytes without its largest
component; log-scales and colours are indices into codebooks of 256 numbers, higher harmonics into a palette of up to
65,536 entries. A scene is a zip (.sog) or a folder with a meta.json. Layout: developer.playcanvas.com, The SOG Format.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import quaternions, webp
from gencompress.formats.bounded import check_ratio
from gencompress.formats.scene import Array, SplatScene
from gencompress.formats.sog_bundle import META, Files, open_files, write_bundle, write_folder
from gencompress.formats.sog_encode import encode
from gencompress.formats.sog_meta import MAX_META, POSITION_STEPS, TAG, Meta, parse
from gencompress.formats.sog_palette import MOST_PIXELS, look_up

Bytes = NDArray[np.uint8]


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
    if scene.sh_degree > 3:
        raise FormatError(f"{path}: SOG holds spherical harmonics up to degree 3; the scene has {scene.sh_degree}")
    if path.suffix.lower() == ".sog":
        write_bundle(path, encode(scene))
    else:
        write_folder(path.parent if path.name.lower() == META else path, encode(scene))


class _Images:
    """The images of a scene, each opened once and let go."""

    def __init__(self, path: Path, files: Files, meta: Meta) -> None:
        self._path, self._files, self._meta = path, files, meta

    def read(self, property_name: str, index: int) -> Bytes:
        """Pixels [H, W, 4]."""
        name = self._meta.images[property_name][index]
        data = self._files.read(name, self._meta.count * 8 + (16 << 20))
        width, height = webp.size_of(self._path, name, data)
        if width * height > 2 * self._meta.count + MOST_PIXELS:
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
        logarithm = meta.low[axis] + (meta.high[axis] - meta.low[axis]) * (step / POSITION_STEPS)
        means[:, axis] = np.sign(logarithm) * np.expm1(np.abs(logarithm))
    return means


def _unpack_quats(path: Path, pixels: Bytes) -> Array:
    tags = pixels[:, 3]
    if tags.min() < TAG:
        raise FormatError(f"{path}: a rotation has the tag {tags.min()}; {TAG} to 255 say which component is left out")
    others = (pixels[:, :3].astype(np.float32) / 255 - 0.5) * np.float32(2**0.5)
    return quaternions.from_smallest_three(tags - TAG, others.astype(np.float32))
