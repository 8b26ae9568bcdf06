"""Bundled sample pipelines, really trained and small: `path("emoji32_ddpm")` is a folder for `from_pretrained`."""

from __future__ import annotations

from pathlib import Path

from gencompress.errors import ConfigError, nearest

SAMPLES = ("emoji32_ddpm", "emoji64_sd")
FILES = ("emoji64_sd_prompts.txt", "emoji_reference.npz")


def path(name: str) -> Path:
    """Folder of a bundled sample pipeline, or path of a bundled file (`FILES`).

    Raises ConfigError naming the nearest valid names if `name` is unknown, or saying how to make it if it is absent.
    """
    if name not in SAMPLES + FILES:
        raise ConfigError(f"no bundled sample {name!r}: {nearest(name, SAMPLES + FILES)}")
    found = Path(__file__).resolve().parent / name
    if not found.exists():
        raise ConfigError(f"the bundled sample {name!r} is missing at {found}; `make samples` trains it again")
    return found
