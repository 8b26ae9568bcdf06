"""The image encoders that can be pruned: their transformers classes and what each offers.

This table is the one place that lists them; it imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gencompress.errors import ModelError

KINDS = ("width", "head_dim", "head", "ffn", "depth")
DEFAULT = ("width", "head_dim", "ffn")


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of image encoder.

    Args:
        native: name of the encoder's class in transformers.
        model: name of the class of the whole model.
        types: values of ``model_type`` in the config of a whole model.
        module: where transformers defines both.
        processor: name of the class that prepares pictures and prompts for the model.
        teacher: our module whose `read_pruning_` teaches the encoder's class to build widths per layer.
        kinds: kinds of groups.
    """

    native: str
    model: str
    types: tuple[str, ...]
    module: str
    processor: str
    teacher: str
    kinds: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    family.native: family
    for family in (
        Family(
            "SamVisionEncoder",
            "SamModel",
            ("sam",),
            "transformers.models.sam.modeling_sam",
            "SamProcessor",
            "gencompress.domains.sam.modeling_vit",
            KINDS,
        ),
        Family(
            "Sam2VisionModel",
            "Sam2Model",
            ("sam2", "sam2_video"),  # the published checkpoints are of the video model, which has the image model in it
            "transformers.models.sam2.modeling_sam2",
            "Sam2Processor",
            "gencompress.domains.sam.modeling_hiera",
            ("width", "head_dim", "ffn", "depth"),
        ),
    )
}


def family_of(encoder: Any) -> Family:
    """The family of an image encoder, dense or already pruned.

    Raises:
        ModelError: its class is none of the supported ones, which the message lists.
    """
    for cls in type(encoder).__mro__:
        if cls.__name__ in FAMILIES:
            return FAMILIES[cls.__name__]
    known = " and ".join(f"{family.native} of a {family.model}" for family in FAMILIES.values())
    raise ModelError(f"cannot prune a {type(encoder).__name__}; supported are the {known}")
