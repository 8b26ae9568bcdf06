"""Composites: the same on every call, masks that are the alpha coverage, disjoint splits, a folder that reads back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gencompress import scenes
from gencompress.errors import ConfigError, DataError, RunError
from gencompress.scenes import composites, emoji, material
from gencompress.scenes.composites import Composites


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the bundled material that the module reads instead of its own."""
    folder = tmp_path / "emoji_scenes"
    shutil.copytree(scenes.path("emoji_scenes"), folder)
    monkeypatch.setattr(composites.scenes, "path", lambda _: folder)
    composites._material.cache_clear()
    yield folder
    composites._material.cache_clear()


@pytest.mark.parametrize("size", [128, 200])
def test_a_picture_depends_on_its_arguments_alone(size: int) -> None:
    first, again = Composites("held_out", 9, size, seed=3), Composites("held_out", 4, size, seed=3)
    picture, masks = first.labelled(2)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    first.read(7)  # what was read before does not matter
    assert np.array_equal(again.read(2), picture)
    assert all(np.array_equal(a, b) for a, b in zip(again.labelled(2)[1], masks, strict=True))
    others = [first.read(3), Composites("held_out", 9, size, 4).read(2), Composites("train", 9, size, 3).read(2)]
    assert not any(np.array_equal(other, picture) for other in others)


def test_masks_are_disjoint_and_large_enough() -> None:
    source = Composites("train", 60)
    counts = set()
    for index in range(len(source)):
        _, masks = source.labelled(index)
        assert np.array_equal(sum(mask * n for n, mask in enumerate(masks, 1)), source.label_map(index))
        assert np.sum(masks, axis=0).max() <= 1
        assert min(mask.sum() for mask in masks) >= 0.003 * source.size**2
        counts.add(len(masks))
    assert counts == {1, 2, 3, 4}


def test_masks_are_the_alpha_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """One white emoji on black with colours left alone: the picture is its alpha, and the mask where that is a half."""
    white = []
    for cell in composites._material("held_out")[0]:
        pixels = np.asarray(cell).copy()
        pixels[..., :3] = 255
        white.append(Image.fromarray(pixels))
    monkeypatch.setattr(composites, "_material", lambda _: (white, [Image.new("RGB", (200, 200))]))
    monkeypatch.setattr(composites, "_jitter", lambda pixels, _: pixels.copy())
    monkeypatch.setattr(composites, "OBJECTS", (1, 1))
    source = Composites("held_out", 20)
    for index in range(len(source)):
        picture, masks = source.labelled(index)
        assert len(masks) == 1 and np.array_equal(masks[0], picture[..., 0] >= 128)


def test_the_last_pasted_is_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opaque squares of one colour each: every pixel shows the colour of its owner."""
    squares = [Image.new("RGBA", (64, 64), (level, level, level, 255)) for level in range(40, 240, 10)]
    monkeypatch.setattr(composites, "_material", lambda _: (squares, [Image.new("RGB", (200, 200))]))
    monkeypatch.setattr(composites, "_jitter", lambda pixels, _: pixels.copy())
    monkeypatch.setattr(composites, "TURN", 0.0)  # a turned square has a rim that blends
    source, hidden = Composites("held_out", 20), 0
    for index in range(len(source)):
        picture, masks = source.labelled(index)
        assert [len(np.unique(picture[mask])) for mask in masks] == [1] * len(masks)
        assert picture[~np.any(masks, axis=0)].max(initial=0) == 0
        hidden += sum(not mask[np.ix_(mask.any(1), mask.any(0))].all() for mask in masks)
    assert hidden > 3  # squares are cut by others, or this shows nothing


def test_splits_share_no_emoji_and_no_photograph() -> None:
    index = json.loads((scenes.path("emoji_scenes") / "index.json").read_text())
    assert set(index["held_out_emoji"]) < set(index["emoji"]) and len(set(index["emoji"])) == len(index["emoji"])
    assert not set(index["photos"]["train"]) & set(index["photos"]["held_out"])
    train, held_out = (composites._material(split)[0] for split in composites.SPLITS)
    assert len(held_out) == len(index["held_out_emoji"]) and len(train) + len(held_out) == len(index["emoji"])
    assert not {cell.tobytes() for cell in train} & {cell.tobytes() for cell in held_out}


def test_fingerprint_follows_arguments_and_material(moved: Path) -> None:
    arguments = [("train", 9, 128, 0), ("train", 9, 128, 1), ("train", 9, 64, 0), ("train", 8), ("held_out", 9)]
    prints = {Composites(*given).fingerprint for given in arguments}
    assert len(prints) == len(arguments) and Composites("train", 9).fingerprint in prints
    (moved / "bird.jpg").write_bytes((moved / "parrot.jpg").read_bytes())
    assert Composites("train", 9).fingerprint not in prints


def test_written_folder_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "held out"
    composites.main([str(out), "--count", "3", "--size", "96", "--seed", "5"])
    assert "3 pictures" in capsys.readouterr().out
    source = Composites("held_out", 3, 96, 5)
    for index in range(3):
        with (
            Image.open(out / "images" / f"{index:04}.png") as image,
            Image.open(out / "masks" / f"{index:04}.png") as m,
        ):
            assert m.mode == "L" and np.array_equal(np.asarray(image), source.read(index))
            assert np.array_equal(np.asarray(m), source.label_map(index))
    assert sum(1 for _ in out.rglob("*.png")) == 6
    with pytest.raises(RunError, match="already exists"):
        composites.write(source, out)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'held_out'"):
        Composites("heldout", 3)
    for wrong in ({"count": 0}, {"count": 1, "size": 16}, {"count": 1, "seed": -1}):
        with pytest.raises(ConfigError, match="expected a count from 1"):
            Composites("train", **wrong)
    with pytest.raises(IndexError, match="picture 2 of 2"):
        Composites("train", 2).read(2)


def test_damaged_material_is_named(moved: Path) -> None:
    (moved / "emoji.webp").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"emoji_scenes is damaged.*gencompress\.scenes\.material"):
        Composites("train", 1)


def test_material_keeps_solid_emoji_and_holds_out_every_fifth(tmp_path: Path) -> None:
    disc = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 25
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[disc] = 255
    ring, veil, pair = pixels.copy(), pixels.copy(), pixels.copy()
    ring[np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 22] = 0
    veil[disc, 3] = 150
    pair[:, 28:36] = 0
    assert [material.solid(cell) for cell in (pixels, ring, veil, pair)] == [True, False, False, False]
    cells = [emoji.Cell(f"disc{n}", "", "round", pixels) for n in range(30)]
    chosen = material.choose(
        [*cells, emoji.Cell("flag", "", "country-flag", pixels), emoji.Cell("ring", "", "x", ring)]
    )
    assert len(chosen) == material.PER_KIND and (chosen[0].name, chosen[-1].name) == ("disc0", "disc29")

    sheet = np.concatenate([pixels] * 10, axis=1)
    (tmp_path / "set").mkdir()
    Image.fromarray(sheet).save(tmp_path / "set" / "sheet64.png")
    rows = [{"x": 64 * n, "y": 0, "caption": "", "short_name": f"d{n}", "subcategory": f"k{n // 5}"} for n in range(10)]
    (tmp_path / "set" / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"bird\.png is not a readable photograph"):
        material.write(tmp_path / "out", str(tmp_path / "set"), tmp_path)
    assert not (tmp_path / "out").exists()
    for name in material.TRAIN_PHOTOS + material.HELD_OUT_PHOTOS:
        Image.new("RGB", (800, 500), "red").save(tmp_path / name)
    material.write(tmp_path / "out", str(tmp_path / "set"), tmp_path)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["held_out_emoji"] == ["d2", "d7"] and len(index["emoji"]) == 10
    with Image.open(tmp_path / "out" / "emoji.webp") as made:
        assert np.array_equal(np.asarray(made.convert("RGBA"))[:64, :640], sheet)
    with Image.open(tmp_path / "out" / "bird.jpg") as photo:
        assert photo.size == (400, 250)
