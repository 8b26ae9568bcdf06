"""A scene of splats with everything that the recipe asks of it: where it came from, what may go, how it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gencompress.config import Config
from gencompress.core.plan import fingerprint
from gencompress.domains.splats.filter import clean
from gencompress.domains.splats.groups import tensors_of
from gencompress.domains.splats.rig import Rig, require_visible, rig_from_cameras, rig_of
from gencompress.formats import Cameras, SplatScene, read_scene
from gencompress.formats.activations import log_scale, logit
from gencompress.formats.camera_files import find_cameras, read_cameras
from gencompress.hub import locate_scene
from gencompress.kernels.splats import Splats


@dataclass(frozen=True, eq=False)
class Dense:
    """The input scene.

    Args:
        scene: its usable splats.
        removed: unusable ones, counted by reason.
        path: the file that it was read from.
        device: where it is rendered.
    """

    scene: SplatScene
    removed: Mapping[str, int]
    path: Path
    device: str

    @classmethod
    def load(cls, config: Config) -> Dense:
        """Read and clean the scene that `config` names. Raises FormatError, DataError, ConfigError."""
        device = config.model.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        path = locate_scene(str(config.scene))
        cleaned = clean(read_scene(path))
        return cls(cleaned.scene, cleaned.removed, path, device)

    @cached_property
    def splats(self) -> Splats:
        """The scene as kernels take it."""
        return Splats.of(self.scene, self.device)

    @cached_property
    def source(self) -> dict[str, str | None]:
        """Fingerprint of the usable splats."""
        return fingerprint(tensors_of(self.scene))

    @property
    def units(self) -> int:
        """Splats that may stay."""
        return len(self.scene)

    @cached_property
    def bytes(self) -> int:
        """Size of the input on disk; of an unbundled .sog that of its folder."""
        folder = self.path if self.path.is_dir() else self.path.parent
        files = [self.path] if self.path.suffix != ".json" and self.path.is_file() else folder.iterdir()
        return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(frozen=True, eq=False)
class Views:
    """All cameras of a run.

    Args:
        rig: those that score and those that judge.
        practice: those that refinement trains on.
    """

    rig: Rig
    practice: Cameras


def place(dense: Dense, config: Config, views: int, seed: int) -> Rig:
    """Cameras of the file that `config` names, else those beside the scene, else a rig made up; all see something.

    Raises FormatError, DataError, ConfigError.
    """
    options = config.rig
    given = Path(options.cameras) if options.cameras else find_cameras(dense.path)
    if given is not None:
        rig = rig_from_cameras(read_cameras(given), views=views, most_pixels=options.size**2)
    else:
        rig = rig_of(
            dense.scene,
            kind=options.kind,  # type: ignore[arg-type]  # config.check has checked the choices
            views=views,
            size=options.size,
            fov_deg=options.fov_deg,
            seed=seed,
            up=options.up,  # type: ignore[arg-type]
        )
    require_visible(dense.scene, rig.scoring)
    return rig


@torch.no_grad()
def renders(splats: Splats, cameras: Cameras, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of all cameras [C, H, W, 3] on the CPU, one at a time."""
    images = torch.empty((len(cameras), cameras.height, cameras.width, 3), dtype=dtype)
    for i in range(len(cameras)):
        images[i] = splats.render(cameras.take(slice(i, i + 1))).image[0]
    return images


def scene_of(splats: Splats, like: SplatScene) -> SplatScene:
    """`splats` before activation; what they do not have (further columns) is that of `like`, splat by splat."""
    colors = splats.colors.cpu().numpy()
    return SplatScene(
        means=splats.means.cpu().numpy(),
        quats=splats.quats.cpu().numpy(),
        log_scales=log_scale(splats.scales.cpu().numpy()),
        logits=logit(splats.opacities.cpu().numpy()),
        sh0=np.ascontiguousarray(colors[:, 0]),
        sh_rest=np.ascontiguousarray(colors[:, 1:]),
        extra=like.extra,
        antialiased=like.antialiased,
    )
