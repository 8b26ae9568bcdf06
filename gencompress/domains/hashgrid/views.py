"""Photographs with their cameras: Blender's and nerfstudio's transforms, and COLMAP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gencompress.domains.hashgrid.render import pixel_rays
from gencompress.errors import DataError
from gencompress.formats import read_pinholes
from gencompress.formats.cameras import Cameras
from gencompress.formats.pictures import decode
from gencompress.formats.pinhole import Pinhole
from gencompress.metrics.views import to_srgb8

_ASPECT = 0.01  # how far width over height of a photograph may be off its camera's
_ENDINGS = ("", ".png", ".jpg", ".jpeg", ".webp")  # Blender's names have none


@dataclass(frozen=True, eq=False)
class Views:
    """V photographs, which may differ in size.

    Args:
        names: of the files.
        viewmats: world to camera [V, 4, 4].
        Ks: intrinsics in pixels of the photographs [V, 3, 3].
        pictures: colours on the background, uint8, each [H, W, 3].
        background: what was put behind transparent pixels, in [0, 1].
    """

    names: tuple[str, ...]
    viewmats: Tensor
    Ks: Tensor
    pictures: tuple[Tensor, ...]
    background: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.names)

    def camera(self, index: int) -> Cameras:
        """The camera of one photograph."""
        height, width, _ = self.pictures[index].shape
        row = slice(index, index + 1)
        return Cameras(self.viewmats[row].numpy(), self.Ks[row].numpy(), width, height)

    def draw(self, count: int, dice: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Rays through random pixels of random photographs: origins, directions, colours in [0, 1]; each [count, 3]."""
        chosen = torch.randint(len(self), (count,), generator=dice)
        sizes = torch.tensor([picture.shape[:2] for picture in self.pictures])[chosen]
        at = (torch.rand(count, 2, generator=dice) * sizes).long().clamp(max=sizes - 1)
        colors = torch.empty(count, 3)
        for view in chosen.unique().tolist():
            rows = chosen == view
            colors[rows] = self.pictures[view][at[rows, 0], at[rows, 1]].float() / 255
        return *pixel_rays(self.viewmats[chosen], self.Ks[chosen], at.flip(1)), colors


def read_views(path: str | Path, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Views:
    """The photographs that a file of cameras names.

    Lens distortion is not modelled: photographs must be undistorted, as COLMAP's image undistorter leaves them.

    Args:
        path: a transforms.json (Blender, nerfstudio, instant-ngp) or a COLMAP folder.
        background: behind transparent pixels, in [0, 1].

    Raises:
        FormatError: the cameras cannot be read.
        DataError: a photograph is missing, unreadable, or has not the shape of its camera.
    """
    path = Path(path)
    pinholes = read_pinholes(path)
    pictures, Ks = [], []
    for pinhole in pinholes:
        file = _photograph(path, pinhole)
        picture = decode(file)
        has_alpha = "A" in picture.getbands() or "transparency" in picture.info
        pixels = to_srgb8(np.array(picture.convert("RGBA" if has_alpha else "RGB")), background, "srgb", str(file))
        pictures.append(torch.from_numpy(pixels))
        Ks.append(_fitted(file, pinhole, *pixels.shape[:2]))
    viewmats = torch.from_numpy(np.stack([pinhole.viewmat for pinhole in pinholes]))
    names = tuple(pinhole.name for pinhole in pinholes)
    return Views(names, viewmats, torch.from_numpy(np.stack(Ks)), tuple(pictures), background)


def _photograph(path: Path, pinhole: Pinhole) -> Path:
    """Where the photograph of a camera is."""
    for file in _places(path, pinhole.name):
        if file.is_file():
            return file
    raise DataError(f"{path}: no photograph {pinhole.name!r} in its folder or in images/ beside it")


def _places(path: Path, name: str) -> Iterator[Path]:
    folders = [path.parent] if path.is_file() else [path, *path.absolute().parents[:2]]
    for folder in folders:
        for ending in _ENDINGS:
            yield folder / f"{name}{ending}"
            yield folder / "images" / f"{name}{ending}"


def _fitted(file: Path, pinhole: Pinhole, height: int, width: int) -> np.ndarray:
    """Intrinsics at the photograph's size: photographs are often scaled after their cameras were found."""
    if abs(width / height / (pinhole.width / pinhole.height) - 1) > _ASPECT:
        raise DataError(f"{file}: {width}x{height} has not the shape of its camera, {pinhole.width}x{pinhole.height}")
    scales = np.array([[width / pinhole.width], [height / pinhole.height], [1]])
    return (pinhole.K * scales).astype(np.float32)
