"""The processor of a model folder."""

from __future__ import annotations

import json

import pytest
from transformers import Sam2ImageProcessor, Sam2Processor, SamImageProcessor, SamProcessor

from gencompress.domains.sam.processor import load_processor
from gencompress.errors import ModelError
from tests.domains.sam.tiny import SIZE, tiny_sam, tiny_sam2


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models without processors."""
    made = {}
    for name, model in (("sam", tiny_sam()), ("sam2", tiny_sam2())):
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
    return made


def stored(images, folder):
    processor = Sam2Processor if isinstance(images, Sam2ImageProcessor) else SamProcessor
    processor(images).save_pretrained(folder)


@pytest.mark.parametrize(("name", "cls"), [("sam", SamProcessor), ("sam2", Sam2Processor)])
def test_without_a_processor_the_defaults_are_taken_at_the_size_of_the_model(folders, name, cls):
    processor = load_processor(folders[name])
    assert type(processor) is cls
    size = processor.image_processor.size
    assert (size.longest_edge or size.height, processor.target_size) == (SIZE, SIZE)


def test_the_settings_of_the_folder_are_taken(folders, tmp_path):
    folder = folders["sam"].rename(tmp_path / "sam")
    try:
        images = SamImageProcessor(
            size={"longest_edge": SIZE}, pad_size={"height": SIZE, "width": SIZE}, image_mean=[0.1] * 3
        )
        stored(images, folder)
        assert list(load_processor(str(folder)).image_processor.image_mean) == [0.1] * 3
        (folder / "processor_config.json").unlink()
        images.save_pretrained(folder)
        assert list(load_processor(folder).image_processor.image_mean) == [0.1] * 3, "as older folders have it"
    finally:
        (folder / "preprocessor_config.json").unlink(missing_ok=True)
        folder.rename(folders["sam"])


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        ("sam", SamImageProcessor(), "size is {'longest_edge': 1024} .* takes pictures of 64x64"),
        ("sam", SamImageProcessor(size={"longest_edge": 64}), "pad_size is {'height': 1024, 'width': 1024}"),
        ("sam2", Sam2ImageProcessor(), "size is {'height': 1024, 'width': 1024} .* takes pictures of 64x64"),
        ("sam2", Sam2ImageProcessor(size={"height": 64, "width": 64}, do_resize=False), "do_resize False"),
    ],
)
def test_a_processor_of_another_size_is_refused(folders, name, images, message):
    stored(images, folders[name])
    try:
        with pytest.raises(ModelError, match=message):
            load_processor(folders[name])
    finally:
        (folders[name] / "processor_config.json").unlink()


def test_bad_folders(folders, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelError, match=r"config\.json is of a model of type 'clip'"):
        load_processor(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        load_processor(tmp_path / "nowhere")
    (tmp_path / "config.json").write_bytes((folders["sam"] / "config.json").read_bytes())
    for text in ("{", "[]", '{"size": "large"}', '{"image_processor": 3}', '{"size": {"longest_edge": [1]}}'):
        (tmp_path / "processor_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"processor_config\.json"):
            load_processor(tmp_path)
