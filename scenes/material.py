"""Cut the raw material of the composites (`emoji_scenes/`) from the emoji set and a folder of photographs.

python -m gencompress.scenes.material --emoji FOLDER --photos FOLDER --out scenes/emoji_scenes

The emoji are solid ones: a compact body in one piece, with hardly any half-transparent pixels. Every fifth of them, and
the photographs of `HELD_OUT_PHOTOS`, are held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from gencompress.errors import DataError, GencompressError
from gencompress.run import atomic
from gencompress.scenes import emoji

COLUMNS = 20
PER_KIND = 9  # at most so many emoji of one subcategory: clocks, signs and faces would fill the sheet otherwise
TRAIN_PHOTOS = (
    "bird.png",
    "cat_1080p.jpg",
    "dragonfly.png",
    "grace_hopper.png",
    "hot_dog.jpg",
    "kite_and_cold.jpg",
    "sunflower.png",  # so like an emoji that as a background it wants to have been seen
)
HELD_OUT_PHOTOS = ("parrot.jpg", "pets.jpg")
PHOTO_SIDE = 400  # pixels of the longer side


def solid(pixels: np.ndarray) -> bool:
    """Whether an RGBA cell shows one compact body: at least 30 % opaque, under 10 % half-transparent, one piece."""
    from scipy import ndimage

    alpha = pixels[..., 3]
    body = alpha >= 128
    if body.mean() < 0.3 or ((alpha > 20) & (alpha < 235)).mean() > 0.1:
        return False
    pieces, _ = ndimage.label(body)
    return bool(np.bincount(pieces[body]).max() > 0.98 * body.sum())


def choose(cells: list[emoji.Cell]) -> list[emoji.Cell]:
    """Solid emoji, evenly spaced within each subcategory, without flags (rectangles all) and skin tones."""
    by_kind: dict[str, list[emoji.Cell]] = {}
    for cell in cells:
        if "flag" not in cell.kind and cell.kind != "skin-tone" and solid(cell.pixels):
            by_kind.setdefault(cell.kind, []).append(cell)
    chosen = []
    for kind in sorted(by_kind):
        found = by_kind[kind]
        places = np.linspace(0, len(found) - 1, min(PER_KIND, len(found))).round().astype(int)
        chosen += [found[place] for place in places]
    return chosen


def sheet_of(cells: list[emoji.Cell]) -> Image.Image:
    """The emoji side by side in rows of `COLUMNS`; colour where nothing shows is set to 0, which packs better."""
    cell, rows = emoji.CELL, -(-len(cells) // COLUMNS)
    pixels = np.zeros((rows * cell, COLUMNS * cell, 4), np.uint8)
    for place, one in enumerate(cells):
        y, x = (place // COLUMNS) * cell, (place % COLUMNS) * cell
        pixels[y : y + cell, x : x + cell] = one.pixels * (one.pixels[..., 3:] > 0)
    return Image.fromarray(pixels, "RGBA")


def read_photo(path: Path) -> Image.Image:
    """A photograph in RGB, its longer side `PHOTO_SIDE` pixels. DataError names a file that is none."""
    try:
        with Image.open(path) as photo:
            rgb = photo.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is not a readable photograph: {error}") from error
    scale = PHOTO_SIDE / max(rgb.size)
    width, height = (round(scale * side) for side in rgb.size)
    return rgb.resize((width, height), Image.Resampling.LANCZOS)


def write(folder: Path, emoji_folder: str | None, photos: Path) -> None:
    """Replace `folder` by `emoji.webp`, `index.json` and the photographs of both splits."""
    chosen = choose(emoji.read_cells(emoji_folder))
    held_out = [place for place in range(len(chosen)) if place % 5 == 2]
    index: dict[str, Any] = {
        "cell": emoji.CELL,
        "columns": COLUMNS,
        "emoji": [cell.name for cell in chosen],
        "held_out_emoji": [chosen[place].name for place in held_out],
        "photos": {"train": [], "held_out": []},
    }
    with atomic.write_dir(folder, refuse=lambda _: None) as part:
        sheet_of(chosen).save(part / "emoji.webp", lossless=True, quality=100, method=6)
        for split, names in (("train", TRAIN_PHOTOS), ("held_out", HELD_OUT_PHOTOS)):
            for name in names:
                file = f"{Path(name).stem}.jpg"
                read_photo(photos / name).save(part / file, quality=88, optimize=True)
                index["photos"][split].append(file)
        atomic.write_json(part / "index.json", index)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    images = emoji.source_folder().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", help="folder of the emoji set (default: the shared folder)")
    parser.add_argument("--photos", type=Path, default=images / "coral-photos")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "emoji_scenes")
    args = parser.parse_args(argv)
    try:
        write(args.out, args.emoji, args.photos)
    except GencompressError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
