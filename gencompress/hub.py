"""From the name of a model or a scene to what readers take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gencompress.errors import ConfigError, DataError, ModelError, nearest

_SAMPLE = "sample:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(model: str) -> str:
    """The folder or hub id of a diffusion pipeline: a local folder, an `owner/name` of the hub, or `sample:NAME`.

    ModelError or ConfigError, naming the nearest valid names, if it is none of these. Nothing is downloaded.
    """
    from gencompress.scenes import SAMPLES

    return _located(model, SAMPLES)


def locate_segmenter(model: str) -> str:
    """The same of a SAM model."""
    from gencompress.scenes import SEGMENTERS

    return _located(model, SEGMENTERS)


def is_segmenter(model: str) -> bool:
    """Whether `model` is a SAM rather than a diffusion pipeline: a bundled one, or a folder that holds one model."""
    from gencompress.scenes import SEGMENTERS

    folder = Path(model).expanduser()
    alone = (folder / "config.json").is_file() and not (folder / "model_index.json").exists()
    return alone or model.removeprefix(_SAMPLE) in SEGMENTERS


def _located(model: str, samples: Sequence[str]) -> str:
    from gencompress.scenes import SAMPLES, SEGMENTERS, SPLATS, path

    name = model.removeprefix(_SAMPLE)
    if model.startswith(_SAMPLE) and name not in samples:
        for others, use in (
            (SPLATS, f"is a scene: use +experiment=splat_prune scene={model}"),
            (SAMPLES, f"is a diffusion pipeline: use +experiment=ecodiff_sample model.path={model}"),
            (SEGMENTERS, f"is a SAM: use +experiment=slimsam_sample model.path={model}"),
        ):
            if name in others:
                raise ModelError(f"model.path={model!r} {use}")
    if model.startswith(_SAMPLE):
        return str(path(name))
    if Path(model).is_dir() or _HUB_ID.fullmatch(model):
        return model
    raise ModelError(
        f"model.path={model!r} is no folder here, no hub id (owner/name) and no bundled sample: "
        f"{nearest(model, [_SAMPLE + known for known in samples])}"
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
