"""Pictures of any kind as a stream, and batches of them by the stock processors."""

from __future__ import annotations

import io
import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from gencompress.domains.sam.families import FAMILIES
from gencompress.domains.sam.images import Batches, open_images
from gencompress.domains.sam.labelled import open_labelled
from gencompress.domains.sam.processor import default_processor
from gencompress.errors import DataError
from gencompress.formats import pictures as formats
from tests.domains.sam.picture_files import noise, pictures
from tests.domains.sam.tiny import SIZE

SAM, SAM2 = FAMILIES["SamVisionEncoder"], FAMILIES["Sam2VisionModel"]


def batches(folder, seed=0, family=SAM):
    return Batches(open_images(folder), default_processor(family, SIZE), seed)


def test_a_folder_is_searched_in_the_order_of_names_and_nothing_is_decoded_at_opening(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "set")
    pictures(folder / "below", 1)
    (folder / "notes.txt").write_text("no picture")
    (folder / "._0.png").write_bytes(b"what another system left")
    (folder / "loop").symlink_to(folder)
    with monkeypatch.context() as patch:
        patch.setattr(formats.Image, "open", None)
        images = open_images(str(folder))
    assert (len(images), images.name) == (6, "set")
    expected = [noise(i, 40 + i, 56 - i) for i in (0, 1, 2, 3, 4, 0)]
    assert all(np.array_equal(images.read(i), expected[i]) for i in range(6))


def test_the_fingerprint_changes_with_names_sizes_and_times(tmp_path):
    folder = pictures(tmp_path / "set")
    seen = [open_images(folder).fingerprint]
    assert open_images(folder.rename(tmp_path / "moved")).fingerprint == seen[0]
    folder = tmp_path / "moved"
    os.utime(folder / "1.png", (1e9, 1e9))
    seen.append(open_images(folder).fingerprint)
    (folder / "2.png").rename(folder / "2b.png")
    seen.append(open_images(folder).fingerprint)
    with open(folder / "3.png", "ab") as file:
        file.write(b"\0")
    seen.append(open_images(folder).fingerprint)
    assert len(set(seen)) == 4


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA"])
def test_other_modes_become_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(noise(0)).convert(mode).save(tmp_path / f"a.{suffix}")
    pixels = open_images(tmp_path).read(0)
    assert pixels.shape == (40, 56, 3) and pixels.dtype == np.uint8
    if mode in ("L", "1"):
        assert np.array_equal(
            pixels, np.array(Image.fromarray(noise(0)).convert(mode).convert("L"))[..., None] + 0 * pixels
        )
    if mode == "RGBA":
        assert np.array_equal(pixels, noise(0))


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(noise(0)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(open_images(tmp_path).read(0), np.rot90(noise(0), -1))


def _png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _bomb():
    """A PNG whose header claims 65535 x 65535 pixels."""
    data = bytearray(_png(Image.new("RGB", (1, 1))))
    data[16:24] = (65535).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable picture"),
        (_png(Image.fromarray(noise(0)))[:900], "not a readable picture"),
        (_bomb(), "pixels"),
        (_png(Image.new("LA", (9, 9))), r"2 channel\(s\) of mode LA"),
        (_png(Image.new("I;16", (9, 9))), r"1 channel\(s\) of mode I;16"),
        (_png(Image.new("RGBA", (9, 9), (1, 2, 3, 254))), "transparent"),
        (_png(Image.new("RGB", (650, 10))), "650x10 is more than 64 times"),
    ],
    ids=["empty", "another format", "cut off", "bomb", "two channels", "16 bits", "transparent", "a line"],
)
def test_bad_pictures_are_named(tmp_path, data, message):
    pictures(tmp_path, 1)
    (tmp_path / "bad.png").write_bytes(data)
    images = open_images(tmp_path)
    assert images.read(0).any()
    with pytest.raises(DataError, match=rf"bad\.png: .*{message}"):
        images.read(1)


def test_damage_anywhere_is_an_error_or_a_picture(tmp_path):
    """Decoders meet flipped bytes at every place; whatever they raise becomes one error."""
    rng, whole, refused = np.random.default_rng(0), {}, 0
    for suffix in ("png", "jpg", "webp", "bmp", "tif"):
        Image.fromarray(noise(0)).save(tmp_path / f"a.{suffix}")
        whole[suffix] = (tmp_path / f"a.{suffix}").read_bytes()
    images = open_images(tmp_path)
    for i, (suffix, data) in enumerate(sorted(whole.items())):
        for _ in range(60):
            bad = bytearray(data[: rng.integers(8, len(data))] if rng.random() < 0.3 else data)
            for place in rng.integers(0, min(len(bad), 200), 3):
                bad[place] = rng.integers(256)
            (tmp_path / f"a.{suffix}").write_bytes(bad)
            try:
                assert images.read(i).ndim == 3
            except DataError as error:
                refused += f"a.{suffix}" in str(error)
    assert refused > 60


def test_sources_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        open_images(tmp_path)
    with pytest.raises(DataError, match="nowhere: not a readable folder"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="emoji_scenes"):
        open_images("sample:emoji_scene")


def test_every_picture_once_per_epoch_in_another_order(tmp_path):
    stream = batches(pictures(tmp_path, 7))
    shown = [i for index in range(7) for i in stream.ids(index, 3)]
    epochs = [shown[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [stream.ids(i, 1)[0] for i in range(21)] == shown, "the order does not hang on the size of batches"
    assert batches(tmp_path).ids(5, 3) == shown[15:18], "nor on what was asked before"
    assert batches(tmp_path, seed=1).ids(0, 7) != epochs[0]


@pytest.mark.parametrize("family", [SAM, SAM2], ids=lambda f: f.model)
def test_batches_are_what_the_stock_processor_makes_of_each_picture(tmp_path, family):
    stream = batches(pictures(tmp_path), family=family)
    made = stream(1, 3)
    assert made.shape == (3, 3, SIZE, SIZE) and made.dtype == torch.float32
    processor = default_processor(family, SIZE)
    for row, i in zip(made, stream.ids(1, 3), strict=True):
        alone = processor(images=Image.open(tmp_path / f"{i}.png"), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(row, alone)
    assert torch.equal(batches(tmp_path, family=family)(1, 3), made)


def test_pictures_three_pixels_high_are_not_taken_for_channels(tmp_path):
    Image.fromarray(noise(0, 3, 50)).save(tmp_path / "a.png")
    assert batches(tmp_path)(0, 1)[0, :, 10:].abs().max() == 0, "only 64 / 50 * 3 rows are not padding"


def test_the_bundled_scenes_train_and_measure_on_different_pictures():
    images, labelled = open_images("sample:emoji_scenes"), open_labelled("sample:emoji_scenes")
    assert (len(images), len(labelled)) == (4000, 64)
    assert images.fingerprint != labelled.fingerprint
    pixels, masks = labelled.read(63)
    assert images.read(3999).shape == pixels.shape and pixels.dtype == np.uint8
    assert masks and all(mask.shape == pixels.shape[:2] and mask.dtype == bool and mask.any() for mask in masks)
