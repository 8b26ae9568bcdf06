"""Pictures of emoji pasted on photographs, with the exact mask of every emoji: images to prompt SAM models on.

python -m gencompress.scenes.composites OUT --split held_out --count 64

writes `OUT/images/NNNN.png` and `OUT/masks/NNNN.png`: label maps of 8 bits, 0 background, 1 and up the objects.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gencompress import scenes
from gencompress.errors import ConfigError, DataError, GencompressError, nearest
from gencompress.run import atomic

FOLDER = "emoji_scenes"
SPLITS = ("train", "held_out")
VERSION = 1  # of the way of composing; a change of it changes every picture
OBJECTS = (1, 4)  # emoji per picture
SIDE = (28 / 128, 88 / 128)  # side of an emoji's cell, in picture sides
TURN = 60.0  # degrees, either way
MIN_VISIBLE = 0.5  # share of an emoji that others and the border must leave
TRIES = 4  # places tried for an emoji before it is left out


class Composites:
    """`count` pictures of a split; picture i depends on the split, the size, the seed and i alone.

    The train and held_out splits share no emoji and no photograph; the backgrounds of train vary more. The emoji that
    covers a pixel by at least half owns it, the last pasted first, so that masks never overlap.

    Args:
        split: "train" or "held_out".
        count: number of pictures.
        size: side of the pictures in pixels, at least 32.
        seed: another seed gives other pictures of the same split.

    Raises:
        ConfigError: a split that does not exist, a size below 32, a negative seed or no picture.
        DataError: the bundled material is damaged.
    """

    def __init__(self, split: str, count: int, size: int = 128, seed: int = 0):
        if split not in SPLITS:
            raise ConfigError(f"no split {split!r} of the composites: {nearest(split, SPLITS)}")
        if count < 1 or size < 32 or seed < 0:
            raise ConfigError(
                f"composites of count={count}, size={size}, seed={seed}: expected a count from 1, a size from 32 and"
                " a seed from 0"
            )
        self.split, self.count, self.size, self.seed = split, count, size, seed
        self._emoji, self._photos = _material(split)

    def __len__(self) -> int:
        return self.count

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that determines the pictures: the material's files and the arguments."""
        digest = hashlib.sha256(f"{VERSION} {self.split} {self.count} {self.size} {self.seed}".encode())
        for file in sorted(scenes.path(FOLDER).iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    def read(self, index: int) -> np.ndarray:
        """Picture `index`, uint8 [size, size, 3]. IndexError outside the count."""
        return self._compose(index)[0]

    def labelled(self, index: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Picture `index` and the mask of what shows of each of its emoji: 1 to 4 of bool [size, size]."""
        picture, labels = self._compose(index)
        return picture, [labels == label for label in range(1, int(labels.max()) + 1)]

    def label_map(self, index: int) -> np.ndarray:
        """Owner of every pixel of picture `index`, uint8 [size, size]: 0 background, 1 and up the emoji."""
        return self._compose(index)[1]

    def _compose(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self.count:
            raise IndexError(f"picture {index} of {self.count}")
        rng = np.random.default_rng([self.seed, index, SPLITS.index(self.split)])
        picture = self._background(rng)
        labels = np.zeros((self.size, self.size), np.uint8)
        areas: list[int] = []  # pixels of each emoji, hidden ones included
        wanted = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
        while not areas or wanted > 0:  # the first one always finds a place in the end
            wanted -= 1
            patch = self._patch(rng)
            for _ in range(TRIES):
                placed = self._place(rng, patch, labels, areas)
                if placed is not None:
                    labels = placed[0]
                    areas.append(int((patch[..., 3] >= 128).sum()))
                    _blend_(picture, patch, placed[1])
                    break
        return picture, labels

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        cut = self._cut(rng)
        if self.split == "train" and rng.random() < 0.5:  # of few photographs, two on each other make many
            share = rng.uniform(0.25, 0.75)
            cut = np.rint(share * cut + (1 - share) * self._cut(rng)).astype(np.uint8)
        return cut

    def _cut(self, rng: np.random.Generator) -> np.ndarray:
        """A square piece of a photograph in other colours; in training closer up at times, turned or a negative."""
        train = self.split == "train"
        photo = self._photos[rng.integers(len(self._photos))]
        side = int(min(photo.size) * rng.uniform(0.15 if train else 0.35, 1.0))
        x, y = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        box = (x, y, x + side, y + side)
        cut = photo.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
        if rng.random() < 0.5:
            cut = ImageOps.mirror(cut)
        if train and rng.random() < 0.5:
            cut = cut.transpose(Image.Transpose.ROTATE_90)
        if train and rng.random() < 0.5:
            cut = ImageOps.flip(cut)
        if train and rng.random() < 0.2:
            cut = ImageOps.invert(cut)
        return _jitter(np.asarray(cut), rng)

    def _patch(self, rng: np.random.Generator) -> np.ndarray:
        """A scaled, turned and recoloured emoji, uint8 [height, width, 4], cropped to what is opaque."""
        emoji = self._emoji[rng.integers(len(self._emoji))]
        low, high = SIDE
        side = max(round(self.size * low * (high / low) ** rng.random()), 4)
        if rng.random() < 0.5:
            emoji = ImageOps.mirror(emoji)
        scaled = emoji.resize((side, side), Image.Resampling.BICUBIC)
        turned = scaled.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True)
        pixels = np.asarray(turned.crop(turned.getbbox()))
        return np.concatenate([_jitter(pixels[..., :3], rng), pixels[..., 3:]], axis=2)

    def _place(
        self, rng: np.random.Generator, patch: np.ndarray, labels: np.ndarray, areas: list[int]
    ) -> tuple[np.ndarray, tuple[int, int]] | None:
        """New labels and the corner (y, x) of the patch, or None where it would hide too much or show too little."""
        height, width = patch.shape[:2]
        y = int(rng.integers(-height // 4, self.size - 3 * height // 4))
        x = int(rng.integers(-width // 4, self.size - 3 * width // 4))
        inside, shown = _windows((y, x), (height, width), self.size)
        made = labels.copy()
        made[inside][patch[shown][..., 3] >= 128] = len(areas) + 1
        visible = np.bincount(made.ravel(), minlength=len(areas) + 2)[1:]
        whole = np.array([*areas, (patch[..., 3] >= 128).sum()])
        least = np.maximum(MIN_VISIBLE * whole, 0.003 * self.size**2)
        return (made, (y, x)) if (visible >= least).all() else None


def write(composites: Composites, folder: Path) -> None:
    """Write `images/` and `masks/` of all pictures into a new folder. RunError if something stands there already."""
    with atomic.write_dir(folder, durable=False) as part:
        for name in ("images", "masks"):
            (part / name).mkdir()
        for index in range(len(composites)):
            Image.fromarray(composites.read(index)).save(part / "images" / f"{index:04}.png")
            Image.fromarray(composites.label_map(index)).save(part / "masks" / f"{index:04}.png")


@cache
def _material(split: str) -> tuple[list[Image.Image], list[Image.Image]]:
    """The emoji (RGBA) and the photographs (RGB) of a split."""
    folder = scenes.path(FOLDER)
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        held_out = set(index["held_out_emoji"])
        with Image.open(folder / "emoji.webp") as sheet:
            cells = list(_cells(sheet.convert("RGBA"), index))
        photos = []
        for name in index["photos"][split]:
            with Image.open(folder / name) as photo:
                photos.append(photo.convert("RGB"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is damaged ({error}); write it again with gencompress.scenes.material") from error
    return [cell for name, cell in cells if (name in held_out) == (split == "held_out")], photos


def _cells(sheet: Image.Image, index: dict) -> Iterator[tuple[str, Image.Image]]:
    cell = index["cell"]
    for place, name in enumerate(index["emoji"]):
        x, y = place % index["columns"] * cell, place // index["columns"] * cell
        yield name, sheet.crop((x, y, x + cell, y + cell))


def _jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other colours: a gain for each channel, a common shift and contrast, now and then channels swapped."""
    gain = rng.uniform(0.8, 1.2, 3) * rng.uniform(0.7, 1.2)
    shift = rng.uniform(-30, 30) + 128 * (1 - gain)
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    steps = np.arange(256)[:, None] * gain + shift
    table = np.clip(np.rint(steps), 0, 255).astype(np.uint8)
    return np.stack([table[pixels[..., source], target] for target, source in enumerate(order)], axis=-1)


def _windows(corner: tuple[int, int], shape: tuple[int, int], size: int) -> tuple[tuple, tuple]:
    """Where a patch at `corner` lies in the picture, and which part of the patch that is."""
    inside = tuple(slice(max(at, 0), min(at + length, size)) for at, length in zip(corner, shape, strict=True))
    shown = tuple(slice(s.start - at, s.stop - at) for s, at in zip(inside, corner, strict=True))
    return inside, shown


def _blend_(picture: np.ndarray, patch: np.ndarray, corner: tuple[int, int]) -> None:
    inside, shown = _windows(corner, patch.shape[:2], len(picture))
    over = patch[shown].astype(np.float32)
    alpha = over[..., 3:] / 255
    picture[inside] = np.rint(over[..., :3] * alpha + picture[inside] * (1 - alpha)).astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--split", default="held_out", choices=SPLITS)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        write(Composites(args.split, args.count, args.size, args.seed), args.out)
    except GencompressError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(f"{args.count} pictures with masks: {args.out}")


if __name__ == "__main__":
    main()
