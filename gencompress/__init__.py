"""Compress generative models and 3D scenes into files that the stock tools open.

    import gencompress
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained("a-pruned-pipeline")

The first line is all that stock diffusers needs to open a pruned pipeline, and stock transformers a SAM model whose
layers differ in width. Neither torch nor diffusers nor transformers is imported before something is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# diffusers opens pruned components only if the module that its model_index.json names has been imported already
import gencompress.diffusers as _registered  # noqa: F401

# transformers opens encoders with widths per layer only if it was taught to when it imports their module
import gencompress.transformers as _taught  # noqa: F401

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__version__ = "0.1.0"


def load(source: str, **options: Any) -> DiffusionPipeline:
    """Open a pipeline, pruned or not: a local folder, a hub id, or ``sample:NAME``.

    Takes the options of `gencompress.domains.diffusion.load.load_pipeline`, and raises what it raises.
    """
    from gencompress.domains.diffusion.load import load_pipeline

    return load_pipeline(source, **options)
