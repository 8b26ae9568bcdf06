"""From the name of a model or a scene to what readers take."""

from __future__ import annotations

import re
from pathlib import Path

from gencompress.errors import ConfigError, DataError, ModelError, nearest

_SAMPLE = "sample:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(model: str) -> str:
    """The folder or hub id for `model`: a local folder, an `owner/name` of the hub, or `sample:NAME`.

    ModelError or ConfigError, naming the nearest valid names, if it is none of these. Nothing is downloaded.
    """
    from gencompress.scenes import SAMPLES, SEGMENTERS, SPLATS, path

    if model.startswith(_SAMPLE):
        name = model.removeprefix(_SAMPLE)
        if name in SPLATS:
            raise ModelError(f"model.path={model!r} is a scene: use +experiment=splat_prune scene={model}")
        if name in SEGMENTERS:
            raise ModelError(f"model.path={model!r} is a SAM, not a diffusion pipeline")
        return str(path(name))
    if Path(model).is_dir() or _HUB_ID.fullmatch(model):
        return model
    samples = [_SAMPLE + name for name in SAMPLES]
    raise ModelError(
        f"model.path={model!r} is no folder here, no hub id (owner/name) and no bundled sample: "
        f"{nearest(model, samples)}"
    )


def locate_scene(scene: str) -> Path:
    """The file or folder for `scene`: a path, or `sample:NAME`.

    DataError or ConfigError, naming the nearest valid names, if it is neither.
    """
    from gencompress.scenes import SPLATS, path

    if scene.startswith(_SAMPLE):
        name = scene.removeprefix(_SAMPLE)
        if name not in SPLATS:
            raise ConfigError(f"scene={scene!r}: no bundled scene: {nearest(name, SPLATS)}")
        return path(name)
    if not Path(scene).exists():
        raise DataError(f"scene={scene!r}: no such file")
    return Path(scene)
