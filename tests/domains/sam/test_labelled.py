"""Pictures with masks: label maps, one file per object, and everything that can be wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gencompress.domains.sam.labelled import open_labelled
from gencompress.errors import DataError
from tests.domains.sam.picture_files import labels, noise, pictures


@pytest.fixture
def folder(tmp_path):
    """One picture ``images/0.png`` of 56x40, and an empty ``masks/``."""
    pictures(tmp_path / "images", 1)
    (tmp_path / "masks").mkdir()
    return tmp_path


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)


def palette():
    image = Image.fromarray(labels(), mode="P")
    image.putpalette([200, 30, 40] * 256)  # colours say nothing, indices do
    return image


@pytest.mark.parametrize("made", [labels(), labels().astype(np.uint16) * 1000, palette()], ids=["8", "16", "palette"])
def test_label_maps(folder, made):
    save(made, folder / "masks/0.png")
    images = open_labelled(str(folder))
    pixels, masks = images.read(0)
    assert (len(images), images.name) == (1, folder.name)
    assert np.array_equal(pixels, noise(0))
    assert [mask.dtype for mask in masks] == [bool, bool]
    assert np.array_equal(masks[0], labels() == 1) and np.array_equal(masks[1], labels() == 7)


def test_one_file_per_object_below_folders(folder):
    for place in (folder / "images/below", folder / "masks/below"):
        place.mkdir()
    (folder / "images/0.png").rename(folder / "images/below/0.png")
    save(255 * (labels() == 7).astype(np.uint8), folder / "masks/below/0/a.png")
    save(labels() == 1, folder / "masks/below/0/b.png")
    _, masks = open_labelled(folder).read(0)
    assert np.array_equal(masks[0], labels() == 7) and np.array_equal(masks[1], labels() == 1)


def test_the_fingerprint_covers_pictures_and_masks(folder):
    save(labels(), folder / "masks/0.png")
    seen = {open_labelled(folder).fingerprint}
    save(labels()[:, ::-1] * 3, folder / "masks/0.png")
    with open(folder / "masks/0.png", "ab") as file:
        file.write(b"\0")
    seen.add(open_labelled(folder).fingerprint)
    with open(folder / "images/0.png", "ab") as file:
        file.write(b"\0")
    seen.add(open_labelled(folder).fingerprint)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (labels(41), r"56x41 pixels, but 0\.png has 56x40"),
        (0 * labels(), "an empty mask"),
        (noise(0), "mode RGB; a mask is grey"),
        (Image.new("LA", (56, 40)), "mode LA; a mask is grey"),
    ],
    ids=["size", "empty", "colours", "two channels"],
)
def test_a_bad_label_map_is_named(folder, mask, message):
    save(mask, folder / "masks/0.png")
    with pytest.raises(DataError, match=rf"masks/0\.png: .*{message}"):
        open_labelled(folder).read(0)


def test_a_photograph_as_label_map_does_not_fill_the_memory(folder):
    wide = np.random.default_rng(0).integers(1, 65536, (1200, 1200)).astype(np.uint16)
    save(np.zeros((1200, 1200), np.uint8), folder / "images/0.png")
    save(wide, folder / "masks/0.png")
    with pytest.raises(DataError, match=r"0\.png: 65\d\d\d objects"):
        open_labelled(folder).read(0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [(0 * labels(), "an empty mask"), (labels(), "3 values"), (labels(40, 57), "57x40 pixels")],
    ids=["empty", "values", "size"],
)
def test_a_bad_binary_mask_is_named(folder, mask, message):
    save(mask, folder / "masks/0/a.png")
    with pytest.raises(DataError, match=rf"masks/0/a\.png: .*{message}"):
        open_labelled(folder).read(0)


def test_corrupt_masks_and_masks_of_lossy_formats_are_named(folder):
    (folder / "masks/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"masks/0\.png: not a readable picture"):
        open_labelled(folder).read(0)
    (folder / "masks/0.png").unlink()
    save(labels(), folder / "masks/0/a.jpg")
    with pytest.raises(DataError, match=r"masks/0/a\.jpg: masks must be PNG"):
        open_labelled(folder).read(0)


def test_what_does_not_pair_is_refused_at_opening(folder):
    with pytest.raises(DataError, match=r"images/0\.png: has no mask"):
        open_labelled(folder)
    save(labels(), folder / "masks/0.png")
    save(labels(), folder / "masks/1/a.png")
    with pytest.raises(DataError, match=r"masks/1/a\.png: no picture"):
        open_labelled(folder)
    (folder / "masks/1").rename(folder / "masks/0")
    with pytest.raises(DataError, match=r"images/0\.png: has both"):
        open_labelled(folder)


def test_two_pictures_of_one_name_are_refused(folder):
    save(labels(), folder / "masks/0.png")
    save(noise(0), folder / "images/0.jpg")
    with pytest.raises(DataError, match=r"images/0\.png: 0\.jpg has the same name"):
        open_labelled(folder)


def test_sources_that_are_none(tmp_path):
    with pytest.raises(DataError, match="images: not a readable folder"):
        open_labelled(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="images: no pictures"):
        open_labelled(tmp_path)
    with pytest.raises(DataError, match="emoji_scenes"):
        open_labelled("sample:emoji")
