"""The stock processor that belongs to a model folder: how pictures become pixel values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gencompress.domains.sam.families import FAMILIES, Family
from gencompress.domains.sam.load import locate
from gencompress.errors import ModelError
from gencompress.formats.model_folder import explained, read_json

_FILES = ("processor_config.json", "preprocessor_config.json")


def load_processor(source: str | Path) -> Any:
    """The `SamProcessor` or `Sam2Processor` of a model: as its folder says, or the defaults at the model's size.

    Args:
        source: what `gencompress.domains.sam.load.load_sam` opens.

    Raises:
        ModelError: no such model, or the processor makes pictures of another size than the encoder takes.
    """
    folder = locate(source)
    family, size = _model(folder / "config.json")
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        return default_processor(family, size)
    images = _image_class(family)
    with explained(file):
        read_json(file)
        images = images.from_pretrained(folder)
    _check_size(images, family, size, file)
    return _whole(family, images)


def default_processor(family: Family, size: int) -> Any:
    """The processor of the published models, for an encoder of `size` x `size` pixels."""
    return _whole(family, _image_class(family)(**_sizes(family, size)))


def _model(config: Path) -> tuple[Family, int]:
    """What kind of model a folder has, and the side of the square of pixels that its encoder takes."""
    from transformers import AutoConfig

    kind = read_json(config).get("model_type")
    family = next((family for family in FAMILIES.values() if kind in family.types), None)
    if family is None:
        raise ModelError(f"{config} is of a model of type {kind!r}, which has no processor like SAM's")
    with explained(config):
        vision = AutoConfig.from_pretrained(config.parent).vision_config
        size = getattr(vision, "backbone_config", vision).image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ModelError(f"{config}: image_size is {height}x{width}; the stock processor makes squares only")
    return family, height


def _sizes(family: Family, size: int) -> dict[str, dict[str, int]]:
    """The settings of an image processor that hang on the size; SAM pads to the square, Sam2 stretches to it."""
    square, masks = {"height": size, "width": size}, {"height": size // 4, "width": size // 4}
    if family.processor == "Sam2Processor":
        return {"size": square, "mask_size": masks}
    longest, masks_longest = {"longest_edge": size}, {"longest_edge": size // 4}
    return {"size": longest, "pad_size": square, "mask_size": masks_longest, "mask_pad_size": masks}


def _check_size(images: Any, family: Family, size: int, file: Path) -> None:
    settings, wanted = images.to_dict(), _sizes(family, size)
    steps = {"size": "do_resize", "pad_size": "do_pad"}
    for key, step in steps.items():
        if key in wanted and (settings.get(key) != wanted[key] or not settings.get(step)):
            raise ModelError(
                f"{file}: {key} is {settings.get(key)} and {step} {settings.get(step)}, but the encoder takes pictures "
                f"of {size}x{size} (image_size in config.json), which needs {wanted[key]} and True"
            )


def _image_class(family: Family) -> Any:
    import transformers

    return getattr(transformers, family.processor.replace("Processor", "ImageProcessor"))


def _whole(family: Family, images: Any) -> Any:
    import transformers

    return getattr(transformers, family.processor)(images)
