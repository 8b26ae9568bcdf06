"""The Noto Emoji picture set (Apache-2.0): read from a local folder or an unpacked npm package, and its subsets.

Two layouts are read:
- a folder with `sheet64.png` and `captions.jsonl` (one JSON object a line: x, y, caption, short_name);
- the npm package emoji-datasource-google 16.0.0 as `npm pack` and `tar xzf` leave it
  (`img/google/sheets-clean/64.png`, `emoji.json`): the cells are 66 pixels apart with a border of one pixel.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gencompress.errors import ConfigError, DataError, nearest

CELL = 64
PITCH = CELL + 2
LOCAL = ("sheet64.png", "captions.jsonl")
NPM = ("img/google/sheets-clean/64.png", "emoji.json")
Row = tuple[int, int, str, str, str]  # x, y, name, caption, subcategory

# Unconditional sample: round or compact things with few thin parts, which 32 pixels can show.
SUBSET32 = """
grinning heart_eyes sunglasses open_mouth cry smile_cat
mouse rabbit monkey_face dog pig frog bear panda_face fox_face penguin ladybug fish
tomato lemon green_apple cherries strawberry watermelon eggplant carrot doughnut mushroom heart
"""

# Text-to-image sample: what is visually clear at 64 pixels: animals, food, plants, faces, vehicles, sky.
SUBSET64 = """
mouse cow rabbit cat monkey_face dog pig frog bear panda_face koala lion_face fox_face tiger unicorn_face penguin
hatched_chick bird turtle ladybug butterfly fish whale2 octopus elephant owl
tomato tangerine lemon apple green_apple pear cherries strawberry watermelon banana pineapple avocado eggplant carrot
mushroom hamburger pizza doughnut cookie cake icecream fried_egg coffee
rose sunflower cactus evergreen_tree
grinning heart_eyes sunglasses neutral_face cry alien ghost robot_face heart blue_heart green_heart yellow_heart
car blue_car taxi bus rocket boat sunny crescent_moon snowman fire star zap droplet
"""

# Captions of the text-to-image subset that nobody would type are replaced by plain words.
PLAIN = {
    "heart_eyes": "face with heart eyes",
    "sunglasses": "face with sunglasses",
    "alien": "alien face",
    "ladybug": "ladybug",
    "hatched_chick": "front-facing chick",
    "eggplant": "eggplant",
    "cake": "strawberry cake",
    "fried_egg": "fried egg in a pan",
    "icecream": "ice cream cone",
    "coffee": "cup of coffee",
    "heart": "red heart",
    "car": "red car",
    "blue_car": "blue car",
    "sunny": "sun",
    "star": "yellow star",
    "zap": "lightning bolt",
    "droplet": "water drop",
}

SUBSETS = {"emoji32": SUBSET32, "emoji64": SUBSET64}


@dataclass(frozen=True)
class Cell:
    """One cell of the sheet: `pixels` is uint8 [64, 64, 4] with alpha, `kind` its subcategory in the set."""

    name: str
    caption: str
    kind: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Emoji:
    """One picture: `pixels` is uint8 [64, 64, 3] on white."""

    name: str
    caption: str
    pixels: np.ndarray


def source_folder(given: str | Path | None = None) -> Path:
    """The folder to read: `given`, else the noto-emoji-64 folder under GENCOMPRESS_SHARED or `../shared`."""
    if given is not None:
        return Path(given)
    shared = os.environ.get("GENCOMPRESS_SHARED") or Path(__file__).resolve().parents[2] / "shared"
    return Path(shared) / "data" / "images" / "noto-emoji-64"


def read_emoji(folder: str | Path | None = None) -> list[Emoji]:
    """All emoji of a folder in either layout, in sheet order; captions in lower case, some in plainer words (`PLAIN`).

    Raises DataError naming the missing or unreadable file.
    """
    found = []
    for cell in read_cells(folder):
        white = Image.new("RGBA", (CELL, CELL), "white")
        white.alpha_composite(Image.fromarray(cell.pixels))
        plain = PLAIN.get(cell.name, cell.caption.lower())
        found.append(Emoji(cell.name, plain, np.asarray(white.convert("RGB"))))
    return found


def read_cells(folder: str | Path | None = None) -> list[Cell]:
    """All emoji of a folder in either layout with their transparency, in sheet order.

    Raises DataError naming the missing or unreadable file.
    """
    root = source_folder(folder)
    for sheet, index, rows_of in ((*LOCAL, _local_rows), (*NPM, _npm_rows)):
        if (root / sheet).is_file() and (root / index).is_file():
            return _cut(_open(root / sheet), rows_of(root / index), root / index)
    raise DataError(
        f"no emoji set in {root}: expected {' + '.join(LOCAL)}, or the unpacked npm package emoji-datasource-google"
        f" with {' + '.join(NPM)} (npm pack emoji-datasource-google@16.0.0; tar xzf emoji-datasource-google-16.0.0.tgz)"
    )


def choose(emoji: list[Emoji], subset: str) -> list[Emoji]:
    """The emoji of a named subset (`SUBSETS`) in its order, or all of them for "full".

    Raises ConfigError for an unknown subset, DataError if the set lacks a picture of it.
    """
    if subset == "full":
        return list(emoji)
    if subset not in SUBSETS:
        raise ConfigError(f"no emoji subset {subset!r}: {nearest(subset, [*SUBSETS, 'full'])}")
    by_name = {e.name: e for e in emoji}
    wanted = SUBSETS[subset].split()
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise DataError(f"the emoji set lacks {', '.join(missing)}, needed by subset {subset!r}")
    return [by_name[name] for name in wanted]


def stack(emoji: list[Emoji], size: int) -> np.ndarray:
    """The pictures as uint8 [N, size, size, 3]; `size` is 64, or a divisor of it (box-filtered)."""
    pixels = np.stack([e.pixels for e in emoji])
    if CELL % size:
        raise ConfigError(f"picture size {size} does not divide {CELL}")
    step = CELL // size
    blocks = pixels.reshape(len(emoji), size, step, size, step, 3).astype(np.float32)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as sheet:
            return sheet.convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is not a readable PNG sheet: {error}") from error


def _local_rows(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            kind = str(row.get("subcategory", ""))
            rows.append((int(row["x"]), int(row["y"]), str(row["short_name"]), str(row["caption"]), kind))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: expected an object with x, y, short_name, caption") from error
    return rows


def _npm_rows(path: Path) -> list[Row]:
    try:
        rows = [r for r in json.loads(path.read_text(encoding="utf-8")) if r.get("has_img_google")]
        return [
            (r["sheet_x"] * PITCH + 1, r["sheet_y"] * PITCH + 1, r["short_name"], r["name"], r.get("subcategory", ""))
            for r in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected a list of objects with sheet_x, sheet_y, short_name, name") from error


def _cut(sheet: Image.Image, rows: list[Row], index: Path) -> list[Cell]:
    found = []
    for x, y, name, caption, kind in rows:
        if min(x, y) < 0 or x + CELL > sheet.width or y + CELL > sheet.height:
            raise DataError(f"{index}: {name!r} at ({x}, {y}) lies outside the {sheet.width}x{sheet.height} sheet")
        found.append(Cell(name, caption, kind, np.asarray(sheet.crop((x, y, x + CELL, y + CELL)))))
    return found
