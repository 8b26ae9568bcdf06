"""Embeddings of the teacher on the disk, so that it runs once per picture and not once per step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gencompress.core.plan import fingerprint
from gencompress.domains.sam.images import Batches
from gencompress.domains.sam.subject import embeddings
from gencompress.errors import NumericsError
from gencompress.run.shards import HEADER, Shards


class TeacherCache:
    """What a frozen image encoder makes of pictures, computed when first asked for and then read from the disk.

    Values are kept as float16: against float32 that is half of the disk (2 MB a picture at 1024 pixels), a relative
    error of 2e-4, and on the bundled scenes a mIoU that differs by 5e-5. They are given as if read from there, whether
    they were or not, and the teacher sees one picture at a time: what comes out depends neither on what the cache
    holds nor on how pictures are batched, so a resumed run repeats an undisturbed one.

    Args:
        folder: of the cache; one of the same teacher, pictures and processor is continued.
        encoder: the teacher, in evaluation mode.
        batches: the pictures as pixel values.
        limit_bytes: embeddings of the first pictures up to so many bytes are kept, those of the others are computed
            every time.
        say: is told once how many pictures do not fit.

    Raises:
        RunError: `folder` holds something else, or a cache of another teacher, other pictures or another processor.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Any,
        batches: Batches,
        limit_bytes: int,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        origins = {
            "teacher": str(fingerprint(encoder.state_dict())["weights"]),
            "images": batches.images.fingerprint,
            "processor": batches.settings,
            "dtype": "float16",
        }
        self._shards, self._encoder, self._batches = Shards(folder, origins), encoder, batches
        self._limit_bytes, self._say = limit_bytes, say
        self._kept: int | None = None  # pictures that fit; known when the first embedding is

    def targets(self, index: int, size: int) -> Tensor:
        """Embeddings of the `index`-th batch of `size` pictures, of the shape that `SamSubject.targets` has.

        Raises:
            NumericsError: the teacher gives NaN, infinity, or values beyond float16; names the picture.
            RunError: the disk is full.
        """
        rows = [self._row(index, size, i, picture) for i, picture in enumerate(self._batches.ids(index, size))]
        parameter = next(self._encoder.parameters())
        return torch.stack(rows).to(parameter.device, parameter.dtype)

    def _row(self, index: int, size: int, place: int, picture: int) -> Tensor:
        """The embedding of one picture of a batch, float16."""
        stored = self._shards.read(picture)
        found = self._computed(self._batches(index, size)[place], picture) if stored is None else stored
        fits = picture < self._fitting(found.nbytes + HEADER)
        if fits and stored is None:
            self._shards.write(picture, found)
        return found

    @torch.no_grad()
    def _computed(self, pixels: Tensor, picture: int) -> Tensor:
        found = embeddings(self._encoder, pixels[None])[0].to("cpu", torch.float16).contiguous()
        if not bool(torch.isfinite(found).all()):
            raise NumericsError(
                f"picture {picture} of {self._batches.images.name}: the teacher's embedding is not finite in float16"
            )
        return found

    def _fitting(self, each: int) -> int:
        """How many pictures are kept, of `each` bytes; what a cache of a larger limit has beyond is removed."""
        if self._kept is None:
            total = len(self._batches.images)
            self._kept = min(self._limit_bytes // each, total)
            self._shards.limit(self._kept)
            if self._kept < total:
                self._say(
                    f"the cache holds embeddings of {self._kept:,} of {total:,} pictures, {each:,} bytes each; "
                    f"those of the others are computed every time"
                )
        return self._kept
