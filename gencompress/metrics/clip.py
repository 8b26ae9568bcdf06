"""CLIP as a judge: CLIP score of images to their prompts, and CMMD between image sets, over transformers' CLIPModel.

Weights come from a local folder or a hub id. Images are resized, cropped and normalised by the model's own processor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.errors import DataError, ModelError
from gencompress.metrics.images import unit_range
from gencompress.metrics.statistics import Estimate

_BATCH = 32


class Clip:
    """Embeddings of images and texts, of unit length; a `FeatureExtractor` of images.

    Args:
        model: transformers' CLIPModel in evaluation mode.
        processor: its CLIPProcessor.
        name: shown beside the number.
    """

    inception = False

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self._model, self._processor = model.eval(), processor
        self.name, self.dimension = f"CLIP {name}", int(model.config.projection_dim)
        self.sha256 = _hash_weights(model)

    @classmethod
    def load(cls, source: str, device: torch.device | str = "cpu") -> Clip:
        """CLIP from a local folder or a hub id, safetensors only. ModelError if it cannot be opened."""
        from transformers import CLIPModel, CLIPProcessor

        try:
            model: Any = CLIPModel.from_pretrained(source, use_safetensors=True)
            processor = CLIPProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ModelError(f"{source}: no CLIP model with safetensors can be opened there: {error}") from error
        return cls(model.to(device), processor, source.rstrip("/").rsplit("/", 1)[-1])

    def __call__(self, images: Tensor) -> Tensor:
        """Embeddings [B, D] of images [B, 3, H, W] in [0, 255], of unit length."""
        pictures = images.round().clamp(0, 255).to(torch.uint8).cpu()
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        with torch.inference_mode():
            found = self._model.get_image_features(pixel_values=inputs["pixel_values"].to(self._model.device))
        return _unit(found)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [B, D] of texts, cut at the model's context length, of unit length."""
        limit = self._model.config.text_config.max_position_embeddings
        inputs = self._processor(text=list(texts), return_tensors="pt", padding=True, truncation=True, max_length=limit)
        given = {key: inputs[key].to(self._model.device) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return _unit(self._model.get_text_features(**given))


def clip_score(clip: Clip, images: Tensor, prompts: Sequence[str]) -> Estimate:
    """100 max(cos, 0) of every image to its own prompt (Hessel et al. 2021, scaled as torchmetrics does).

    Args:
        clip: the judge; part of the number.
        images: [N, 3, H, W], uint8 or floating in [0, 1].
        prompts: one per image.

    Raises:
        DataError: not as many prompts as images, or no image.
    """
    if len(images) != len(prompts) or not len(prompts):
        raise DataError(f"a CLIP score needs one prompt per image, got {len(prompts)} for {len(images)}")
    pixels = (unit_range(images, "images") * 255).expand(-1, 3, -1, -1)
    scores = []
    for start in range(0, len(prompts), _BATCH):
        some = slice(start, start + _BATCH)
        cosine = (clip(pixels[some]) * clip.texts(prompts[some])).sum(dim=1)
        scores.append(100 * cosine.clamp(min=0))
    return Estimate.of(torch.cat(scores).double().cpu().numpy(), "CLIP score")


def cmmd(features_a: NDArray[np.float64], features_b: NDArray[np.float64]) -> float:
    """1000 times the squared MMD of unit CLIP embeddings, Gaussian kernel with sigma 10 (Jayasumana et al. 2024).

    The estimate with the smaller variance, whose within-set sums include each image with itself, as the authors
    compute it: never negative, zero for equal sets. 1000 and 10 are theirs; so is ViT-L/14 at 336 pixels.

    Args:
        features_a: [N, D].
        features_b: [M, D].
    """
    from gencompress.metrics.kernel import mean_gaussian_kernel

    sigma = 10.0
    within = mean_gaussian_kernel(features_a, features_a, sigma) + mean_gaussian_kernel(features_b, features_b, sigma)
    return 1000 * (within - 2 * mean_gaussian_kernel(features_a, features_b, sigma))


def _unit(found: Any) -> Tensor:
    """Rows of unit length; newer transformers wrap the embedding in an output object."""
    embedding: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return embedding / embedding.norm(dim=-1, keepdim=True)


def _hash_weights(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
