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
    from pathlib import Path

    from diffusers import DiffusionPipeline
    from transformers import Sam2Model, SamModel

__version__ = "0.1.0"


def load(source: str | Path, **options: Any) -> DiffusionPipeline | SamModel | Sam2Model:
    """Open a diffusion pipeline or a SAM model, pruned or not: a local folder, ``sample:NAME``, or a pipeline's hub id.

    Takes the options of `gencompress.domains.diffusion.load.load_pipeline` or `gencompress.domains.sam.load.load_sam`,
    and raises what they raise. SAM models of the hub are opened by the latter.
    """
    from gencompress.hub import is_segmenter, locate_segmenter

    if is_segmenter(str(source)):
        from gencompress.domains.sam.load import load_sam

        return load_sam(locate_segmenter(str(source)), **options)
    from gencompress.domains.diffusion.load import load_pipeline

    return load_pipeline(source, **options)
