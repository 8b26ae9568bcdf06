"""Bundled samples, really trained and small: pipelines and a SAM for `from_pretrained`, scenes of Gaussian splats."""

from __future__ import annotations

from pathlib import Path

from gencompress.errors import ConfigError, nearest

SAMPLES = ("emoji32_ddpm", "emoji64_sd")
SEGMENTERS = ("emoji_sam",)  # SAM models
SPLATS = {"guitar": "guitar.compressed.ply"}  # scenes by name
FILES = ("emoji64_sd_prompts.txt", "emoji_reference.npz", "emoji_scenes")


def path(name: str) -> Path:
    """Folder of a bundled pipeline (`SAMPLES`) or SAM (`SEGMENTERS`), file of a scene (`SPLATS`), or any of `FILES`.

    Raises ConfigError naming the nearest valid names if `name` is unknown, or saying how to make it if it is absent.
    """
    names = {**{known: known for known in SAMPLES + SEGMENTERS + FILES}, **SPLATS}
    if name not in names:
        raise ConfigError(f"no bundled sample {name!r}: {nearest(name, names)}")
    found = Path(__file__).resolve().parent / names[name]
    if not found.exists():
        cure = "install gencompress again" if name in SPLATS else "`make samples` trains it again"
        raise ConfigError(f"the bundled sample {name!r} is missing at {found}; {cure}")
    return found
