"""Photographs of a coloured ball, by its formula, as views in memory and as files of Blender's kind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gencompress.domains.hashgrid import FieldSettings, TrainSettings, Views
from gencompress.domains.hashgrid.render import pixel_rays

WHITE = (1.0, 1.0, 1.0)
SMALL = FieldSettings(levels=5, coarsest=4, finest=32, log2_entries=11, saliency=16, bound=1.0)
SHORT = TrainSettings(steps=200, rays=256, batch=4096, samples=64, occupancy=16, lr=1e-2, keep=0.2)
RADIUS, DISTANCE = 0.6, 3.0


def poses(count: int) -> Tensor:
    """World to camera [count, 4, 4], from all around towards the middle."""
    found = []
    for i in range(count):
        up, around = math.asin(1.6 * (i + 0.5) / count - 0.8), 2.4 * i
        back = torch.tensor([math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)])
        right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back), dim=0)
        viewmat = torch.eye(4)
        viewmat[:3, :3] = torch.stack([right, -torch.linalg.cross(back, right), -back])
        viewmat[2, 3] = DISTANCE
        found.append(viewmat)
    return torch.stack(found)


def intrinsics(size: int) -> Tensor:
    return torch.tensor([[1.6 * size, 0, size / 2], [0, 1.6 * size, size / 2], [0, 0, 1]])


def photograph(viewmat: Tensor, size: int) -> Tensor:
    """Colour of the normal, and whether the ball is hit [size, size, 4]."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pixels = torch.stack([columns, rows], -1).view(-1, 2)
    n = len(pixels)
    origins, directions = pixel_rays(viewmat.expand(n, 4, 4), intrinsics(size).expand(n, 3, 3), pixels)
    b = (origins * directions).sum(1)
    inner = b**2 - origins.square().sum(1) + RADIUS**2
    at = origins + (-b - inner.clamp(min=0).sqrt())[:, None] * directions
    color = 0.5 + 0.45 * at / RADIUS
    return torch.cat([color, (inner > 0).float()[:, None]], 1).view(size, size, 4)


def ball(count: int = 12, size: int = 24) -> Views:
    viewmats = poses(count)
    pictures = []
    for viewmat in viewmats:
        found = photograph(viewmat, size)
        color = torch.where(found[..., 3:] > 0, found[..., :3], 1.0)
        pictures.append((255 * color).round().to(torch.uint8))
    names = tuple(f"{i}.png" for i in range(count))
    return Views(names, viewmats, intrinsics(size).expand(count, 3, 3), tuple(pictures), WHITE)


def write_blender(folder: Path, count: int = 4, size: int = 16) -> Path:
    """transforms_train.json with pictures that have alpha."""
    (folder / "train").mkdir()
    frames = []
    for i, viewmat in enumerate(poses(count)):
        pixels = (255 * photograph(viewmat, size).numpy()).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"r_{i}.png")
        to_world = torch.linalg.inv(viewmat) @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        frames.append({"file_path": f"./train/r_{i}", "transform_matrix": to_world.tolist()})
    path = folder / "transforms_train.json"
    path.write_text(json.dumps({"camera_angle_x": 2 * math.atan(0.5 / 1.6), "frames": frames}))
    return path
