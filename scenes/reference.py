"""The training pictures of the bundled samples, packed in one small file: Frechet reference and recovery data.

`python -m gencompress.scenes.reference` writes emoji_reference.npz and emoji64_sd_prompts.txt again.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gencompress import scenes
from gencompress.errors import ConfigError, DataError, nearest
from gencompress.scenes import emoji

ARCHIVE = "emoji_reference.npz"
PROMPTS = "emoji64_sd_prompts.txt"
OF_SAMPLE = {"emoji32_ddpm": ("emoji32", 32), "emoji64_sd": ("emoji64", 64)}


@dataclass(frozen=True)
class Reference:
    """Training pictures of one sample: `pixels` uint8 [N, size, size, 3] on white, and a caption for each."""

    pixels: np.ndarray
    captions: list[str]


def load(sample: str) -> Reference:
    """The training pictures of a bundled sample, by its name.

    Raises ConfigError for an unknown name, DataError if the archive is damaged.
    """
    if sample not in OF_SAMPLE:
        raise ConfigError(f"no reference pictures for {sample!r}: {nearest(sample, OF_SAMPLE)}")
    subset, _ = OF_SAMPLE[sample]
    archive = scenes.path(ARCHIVE)
    try:
        with np.load(archive, allow_pickle=False) as stored:
            return Reference(stored[subset], [str(c) for c in stored[f"{subset}_captions"]])
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} is damaged ({error}); write it again with gencompress.scenes.reference") from error


def write(folder: Path, data: str | Path | None = None) -> None:
    """Write the archive and the prompts file into `folder`, from the emoji set in `data`."""
    everything = emoji.read_emoji(data)
    arrays: dict[str, Any] = {}
    for subset, size in OF_SAMPLE.values():
        chosen = emoji.choose(everything, subset)
        arrays[subset] = emoji.stack(chosen, size)
        arrays[f"{subset}_captions"] = np.array([e.caption for e in chosen])
    part = folder / f".{ARCHIVE}"
    with open(part, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(part, folder / ARCHIVE)
    lines = [str(c) for c in arrays["emoji64_captions"]]
    (folder / PROMPTS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the emoji set (default: the shared folder)")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    args = parser.parse_args(argv)
    write(args.out, args.data)


if __name__ == "__main__":
    main()
