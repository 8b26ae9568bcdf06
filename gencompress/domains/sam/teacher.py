"""The dense model beside the pictures on which pruned ones imitate it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from gencompress.config import Config, SamDomain, sam_kinds
from gencompress.domains.sam.cache import TeacherCache
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.images import Batches, ImageSource, open_images, split_off
from gencompress.domains.sam.labelled import LabelledImages, open_labelled
from gencompress.domains.sam.load import load_sam
from gencompress.domains.sam.processor import load_processor
from gencompress.hub import locate_segmenter

_CACHE = "embeddings"  # folder of the run directory


@dataclass(frozen=True, eq=False)
class Teacher:
    """What every stage starts from.

    Args:
        sam: the dense model, frozen, with the kinds of groups that may be removed.
        processor: prepares pictures and prompts for it.
        images: batches of pixel values, without labels, that students learn from.
        judges: pictures of the same kind that they do not see.
        labelled: pictures with masks to judge by, if there are any.
        cache: its embeddings of them.
        device: where all models are.
    """

    sam: Sam
    processor: Any
    images: Batches
    judges: ImageSource
    labelled: LabelledImages | None
    cache: TeacherCache
    device: str

    @classmethod
    def load(cls, config: Config, run: Path, say: Callable[[str], None]) -> Teacher:
        """Open what `config` names. Raises ModelError, DataError, RunError (embeddings of another model)."""
        device = config.model.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = locate_segmenter(config.model.path)
        model = load_sam(folder, device=device).requires_grad_(False)
        kinds = sam_kinds(cast(SamDomain, config.domain))
        sam = Sam(model, kinds, uniform=config.budget.uniform)
        processor = load_processor(folder)
        taught, judges = split_off(open_images(str(config.data.images)))
        images = Batches(taught, processor, config.run.seed)
        labelled = open_labelled(config.data.validation) if config.data.validation else None
        where = Path(config.data.cache) if config.data.cache else run / _CACHE
        cache = TeacherCache(where, sam.encoder, images, int(config.data.cache_mb * 1e6), say)
        return cls(sam, processor, images, judges, labelled, cache, device)

    def student(self, folder: Path) -> Sam:
        """A pruned model that a stage has saved."""
        return replace(self.sam, model=load_sam(folder, device=self.device).requires_grad_(False), uniform=False)
