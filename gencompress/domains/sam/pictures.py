"""Pictures of a report: prompts with the masks of both models, and all masks of a picture, before and after."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw

from gencompress.domains.sam.judge import DENSE, PRUNED, Asked, Judged, everything
from gencompress.domains.sam.segment import Image, Segmenter
from gencompress.metrics.segmentation import Mask, Question

_SHOWN, _WORST, _EVERYTHING = 8, 8, 4
_SIDE = 384  # pixels of the longer side
_PAPER = 236  # grey beside pictures that are not square
_TRUTH = (250, 204, 21)
_OF = {DENSE: (37, 99, 235), PRUNED: (234, 88, 12)}
Colour = tuple[int, int, int]
Read = Callable[[int], tuple[Image, list[Mask]]]


def save_pictures(folder: Path, tools: Mapping[str, Segmenter], judged: Judged, read: Read) -> dict[str, Any]:
    """Write the pictures below `folder`, each in a folder named after its kind.

    Args:
        folder: of the stage.
        tools: the models by name.
        judged: what they were asked.
        read: gives a picture by its number, and its true masks if there are any.

    Returns:
        What ``images`` of metrics.json holds. Of typical prompts ``asked``, ``dense`` and ``pruned`` are paths in the
        run directory, ``names`` captions and ``iou_dense`` and ``iou_pruned`` numbers; of those that lost most the
        same with ``worst_`` in front; and of everything in a picture the paths ``everything``, ``everything_dense``
        and ``everything_pruned`` with the numbers of masks in them, ``masks_dense`` and ``masks_pruned``.
    """
    found = _sheet(folder, "", _typical(judged.asked), tools, read)
    found |= _sheet(folder, "worst_", _worst(judged.asked), tools, read)
    return found | _everything(folder, _spread(sorted({a.picture for a in judged.asked}), _EVERYTHING), tools, read)


def _typical(asked: Sequence[Asked]) -> list[Asked]:
    """Prompts of pictures that lie evenly in the set, points and boxes in turns where both were asked."""
    chosen = []
    for number, picture in enumerate(_spread(sorted({a.picture for a in asked}), _SHOWN)):
        own = [a for a in asked if a.picture == picture]
        chosen.append(own[number * (len(own) // 2 | 1) % len(own)])
    return chosen


def _worst(asked: Sequence[Asked]) -> list[Asked]:
    """The prompts that lost most, one of a picture."""
    first: dict[int, Asked] = {}
    for one in sorted(asked, key=lambda a: -a.drop):
        first.setdefault(one.picture, one)
    return list(first.values())[:_WORST]


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most `most` of the numbers, at equal distances."""
    return [numbers[i * len(numbers) // min(most, len(numbers))] for i in range(min(most, len(numbers)))]


def _sheet(
    folder: Path,
    prefix: str,
    asked: Sequence[Asked],
    tools: Mapping[str, Segmenter],
    read: Read,
) -> dict[str, Any]:
    """The prompt alone or with the true mask, and what each model answered."""
    columns: dict[str, list[Image]] = {"asked": [], **{name: [] for name in tools}}
    for one in asked:
        image, masks = read(one.picture)
        truth = None if one.object is None else masks[one.object]
        columns["asked"].append(draw(image, one.question, truth))
        for name, tool in tools.items():
            columns[name].append(draw(image, one.question, truth, tool.answer(image, one.question), _OF[name]))
    found: dict[str, Any] = {f"{prefix}{name}": _save(folder, f"{prefix}{name}", c) for name, c in columns.items()}
    found[f"{prefix}names"] = [f"picture {one.picture + 1}, {one.question.kind}" for one in asked]
    for name in tools:
        found[f"{prefix}iou_{name}"] = [one.iou.get(name) for one in asked]
    return found


def _everything(folder: Path, chosen: Sequence[int], tools: Mapping[str, Segmenter], read: Read) -> dict[str, Any]:
    columns: dict[str, list[Image]] = {"": [], **{f"_{name}": [] for name in tools}}
    counts: dict[str, list[int]] = {f"masks_{name}": [] for name in tools}
    for picture in chosen:
        image, _ = read(picture)
        columns[""].append(draw_all(image, []))
        for name, tool in tools.items():
            masks = _apart(everything(tool, image))
            columns[f"_{name}"].append(draw_all(image, masks))
            counts[f"masks_{name}"].append(len(masks))
    found: dict[str, Any] = {f"everything{k}": _save(folder, f"everything{k}", c) for k, c in columns.items()}
    return {**found, **counts, "everything_names": [f"picture {picture + 1}" for picture in chosen]}


def draw(
    image: Image, question: Question, truth: Mask | None, answer: Mask | None = None, colour: Colour = _TRUTH
) -> Image:
    """A picture [H, W, 3] at a legible size, with a prompt and two masks [H, W].

    What is outside of the answer is dark and grey, because a tint is lost on a picture that has its colour.

    Args:
        image: the picture.
        question: the prompt.
        truth: the true mask, whose outline alone is drawn.
        answer: what stays bright; None darkens nothing.
        colour: of the outline of the answer.
    """
    canvas, zoom = _enlarged(image)
    if answer is not None:
        large = _fitting(answer, canvas)
        grey = canvas[~large].mean(axis=1, keepdims=True)
        canvas[~large] = (0.35 * grey + 0.2 * canvas[~large]).astype(np.uint8)
        canvas[_outline(large, 2)] = colour
    if truth is not None:
        large = _fitting(truth, canvas)
        canvas[_outline(~large, 1)] = 0
        canvas[_outline(large, 1 if answer is not None else 2)] = _TRUTH
    return _prompt(canvas, question, zoom)


def draw_all(image: Image, masks: Sequence[Mask]) -> Image:
    """A picture [H, W, 3] at a legible size, with masks [H, W] in colours of their own."""
    canvas, _ = _enlarged(image)
    for number, mask in enumerate(masks):
        large, colour = _fitting(mask, canvas), _hue(number)
        canvas[large] = (canvas[large] * 0.5 + np.array(colour) * 0.5).astype(np.uint8)
        canvas[_outline(large, 2)] = colour
    return canvas


def _apart(masks: Sequence[Mask]) -> list[Mask]:
    """Those masks of which half or more lies outside of all before, without what those have."""
    kept: list[Mask] = []
    for mask in masks:
        free = mask & ~np.any(kept, axis=0) if kept else mask
        if 2 * int(free.sum()) >= int(mask.sum()):
            kept.append(free)
    return kept


def _enlarged(image: Image) -> tuple[Image, float]:
    """The picture with its longer side near `_SIDE`, to be drawn on, and by how much it was enlarged."""
    height, width = image.shape[:2]
    zoom = _SIDE / max(height, width)
    zoom = float(int(zoom)) if zoom >= 1 else zoom  # whole numbers keep the pixels square
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    how = Pictures.Resampling.NEAREST if zoom >= 1 else Pictures.Resampling.LANCZOS
    return np.array(Pictures.fromarray(image).resize(size, how)), zoom


def _fitting(mask: Mask, canvas: Image) -> Mask:
    """The mask at the size of the canvas."""
    size = canvas.shape[1], canvas.shape[0]
    return np.asarray(Pictures.fromarray(mask).resize(size, Pictures.Resampling.NEAREST))


def _prompt(canvas: Image, question: Question, zoom: float) -> Image:
    """A point as a dot in the middle of its pixel, or a box as a frame, white with a dark edge."""
    picture = Pictures.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    if question.kind == "point":
        x, y = ((value + 0.5) * zoom for value in question.coordinates)
        for radius, ink in ((8, (0, 0, 0)), (6, (255, 255, 255)), (3, (220, 38, 38))):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    else:
        left, top, right, bottom = (value * zoom for value in question.coordinates)
        for distance, line, ink in ((2, 5, (0, 0, 0)), (1, 3, (255, 255, 255))):
            pen.rectangle((left - distance, top - distance, right + distance, bottom + distance), None, ink, line)
    return np.asarray(picture)


def _outline(mask: Mask, pixels: int) -> Mask:
    """The outermost pixels of a mask, where it does not end with the picture."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask, iterations=pixels, border_value=1)


def _hue(number: int) -> Colour:
    """Colours that differ from those before, by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _save(folder: Path, name: str, images: Sequence[Image]) -> list[str]:
    """Write pictures as name/NNN.png, all of one size; their paths in the run directory."""
    (folder / name).mkdir()
    height, width = (max((image.shape[axis] for image in images), default=0) for axis in (0, 1))
    paths = []
    for number, image in enumerate(images):
        canvas = np.full((height, width, 3), _PAPER, np.uint8)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        Pictures.fromarray(canvas).save(folder / name / f"{number:03d}.png")
        paths.append(f"eval/{name}/{number:03d}.png")
    return paths
