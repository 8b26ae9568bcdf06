"""Adapters of the transformer families: DiT, PixArt, Stable Diffusion 3, FLUX and Sana.

Latents and scheduler state are kept in the dtype in which the stock pipeline keeps them: fp32 for Sana, the text
encoder's dtype for the other text models, the transformer's dtype for DiT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.domains.diffusion.adapters import Adapter, Conditions, draw
from gencompress.errors import ConfigError, DataError, nearest


class DiT(Adapter):
    """DiTPipeline: class labels instead of prompts.

    The pipeline doubles the batch as ``cat([conditional, unconditional])``, the reverse of all others, and never scales
    the initial noise, so that Euler is right here only. Its label of "no class" is the last row of the table.
    """

    resizable = False

    def size(self) -> tuple[int, int]:
        """The sample size of the transformer, through the VAE."""
        side = self.config.sample_size * 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        return side, side

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """``class_labels`` [B or 2B]."""
        labels = torch.tensor([self._label(prompt) for prompt in prompts], device=self.device)
        null = torch.full_like(labels, self.config.num_embeds_ada_norm)
        return {"class_labels": torch.cat([labels, null]) if self.doubled else labels}

    def _label(self, prompt: str) -> int:
        classes = int(self.config.num_embeds_ada_norm)
        name = prompt.strip()
        if name in self.pipe.labels:
            return int(self.pipe.labels[name])
        if name.isdecimal():
            if int(name) < classes:
                return int(name)
            raise DataError(f"class {name} does not exist; this model has 0 to {classes - 1}")
        hint = nearest(name, self.pipe.labels) if self.pipe.labels else f"give a number from 0 to {classes - 1}"
        raise DataError(f"no class is called {name!r}; {hint}")

    def noise(self, count: int, generators: list[torch.Generator], conditions: Conditions) -> Tensor:
        """Noise in the dtype of the transformer."""
        side = self.config.sample_size
        latents = draw(
            (count, self.config.in_channels, side, side), generators, self.device, self.pipe.transformer.dtype
        )
        return latents * self.pipe.scheduler.init_noise_sigma

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The learned half of the variance is dropped, as the pipeline does."""
        output = module(x, timestep=_times(t, x), class_labels=conditions["class_labels"], return_dict=False)[0]
        return _without_variance(output, self.config)

    def guide(self, output: Tensor) -> Tensor:
        """Conditional first."""
        if not self.doubled:
            return output
        conditional, unconditional = output.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def decode(self, latents: Tensor) -> Tensor:
        """The pipeline multiplies with the reciprocal, and has no image processor."""
        vae = self.pipe.vae
        image: Tensor = vae.decode(1 / vae.config.scaling_factor * latents, return_dict=False)[0]
        return (image / 2 + 0.5).clamp(0, 1)


class PixArt(Adapter):
    """PixArtSigmaPipeline: T5 with an attention mask, learned variance."""

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """``prompt_embeds`` [., tokens, width] and their ``attention_mask`` [., tokens]."""
        embeds, mask, negative, negative_mask = self.pipe.encode_prompt(
            prompts,
            self.doubled,
            negative_prompt=self.default("negative_prompt"),
            device=self.device,
            clean_caption=self.default("clean_caption"),
            max_sequence_length=self.default("max_sequence_length"),
        )
        if self.doubled:
            embeds, mask = torch.cat([negative, embeds]), torch.cat([negative_mask, mask])
        return {"prompt_embeds": embeds, "attention_mask": mask}

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Sizes, where the model knows them, are added to the time embedding."""
        output = module(
            x,
            encoder_hidden_states=conditions["prompt_embeds"],
            encoder_attention_mask=conditions["attention_mask"],
            timestep=_times(t, x),
            added_cond_kwargs={name: conditions.get(name) for name in ("resolution", "aspect_ratio")},
            return_dict=False,
        )[0]
        return _without_variance(output, self.config)

    def decode(self, latents: Tensor) -> Tensor:
        """In the dtype of the VAE."""
        return super().decode(latents.to(self.pipe.vae.dtype))


class PixArtAlpha(PixArt):
    """PixArtAlphaPipeline: its 1024 px model is also told the size. (The pipeline's one-step shortcut is not taken.)"""

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """As PixArt, with ``resolution`` [., 2] and ``aspect_ratio`` [., 1] for the large model."""
        conditions = super().encode(prompts, count)
        if self.config.sample_size == 128:
            embeds = conditions["prompt_embeds"]
            conditions["resolution"] = embeds.new_tensor([[self.height, self.width]]).repeat(len(embeds), 1)
            conditions["aspect_ratio"] = embeds.new_tensor([[self.height / self.width]]).repeat(len(embeds), 1)
        return conditions


class StableDiffusion3(Adapter):
    """StableDiffusion3Pipeline (SD 3, 3.5)."""

    def schedule(self, steps: int) -> dict[str, Any]:
        """The time shift grows with the number of image tokens where the scheduler says so."""
        grain = self.pipe.vae_scale_factor * self.config.patch_size
        return _dynamic_shift(self.pipe, (self.height // grain) * (self.width // grain), largest=1.16)

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """``prompt_embeds`` [., tokens, width] and ``pooled`` [., width]."""
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=self.doubled,
            max_sequence_length=self.default("max_sequence_length"),
        )
        if self.doubled:
            embeds, pooled = torch.cat([negative, embeds]), torch.cat([negative_pooled, pooled])
        return {"prompt_embeds": embeds, "pooled": pooled}

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Joint attention over text and image."""
        output: Tensor = module(
            hidden_states=x,
            timestep=t.expand(len(x)),
            encoder_hidden_states=conditions["prompt_embeds"],
            pooled_projections=conditions["pooled"],
            return_dict=False,
        )[0]
        return output

    def decode(self, latents: Tensor) -> Tensor:
        """Latents are scaled and shifted."""
        return self.postprocess(self.pipe.vae.decode(_unshifted(latents, self.pipe.vae), return_dict=False)[0])


class Flux(Adapter):
    """FluxPipeline: guidance is an input of the distilled transformer (FLUX.1-dev) or absent (FLUX.1-schnell).

    Latents are packed: [B, tokens, 4 x channels].
    """

    def __init__(self, pipe: Any, guidance_scale: float | None, height: int | None, width: int | None) -> None:
        super().__init__(pipe, guidance_scale, height, width)
        if guidance_scale is not None and not self.config.guidance_embeds:
            raise ConfigError("guidance_scale: this FLUX model is distilled to run without guidance")

    @property
    def doubled(self) -> bool:
        """Never: the transformer is told the guidance scale."""
        return False

    def size(self) -> tuple[int, int]:
        """The config of the transformer has no size; the pipeline has."""
        side = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        return side, side

    def patch(self) -> int:
        """Packing, whatever ``patch_size`` says."""
        return 2

    def schedule(self, steps: int) -> dict[str, Any]:
        """Evenly spaced sigmas, shifted with the number of image tokens."""
        grain = self.pipe.vae_scale_factor * self.patch()
        options = _dynamic_shift(self.pipe, (self.height // grain) * (self.width // grain), largest=1.15)
        if not self.pipe.scheduler.config.get("use_flow_sigmas", False):
            options["sigmas"] = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).numpy()
        return options

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """``prompt_embeds`` [B, tokens, width], ``pooled`` [B, width], position ids [tokens, 3], ``guidance`` [B]."""
        embeds, pooled, text_ids = self.pipe.encode_prompt(
            prompts, None, device=self.device, max_sequence_length=self.default("max_sequence_length")
        )
        grain = self.pipe.vae_scale_factor * self.patch()
        image_ids = self.pipe._prepare_latent_image_ids(
            count, self.height // grain, self.width // grain, self.device, embeds.dtype
        )
        conditions = {"prompt_embeds": embeds, "pooled": pooled, "text_ids": text_ids, "image_ids": image_ids}
        if self.config.guidance_embeds:
            conditions["guidance"] = torch.full([count], self.guidance, device=self.device, dtype=torch.float32)
        return conditions

    def noise(self, count: int, generators: list[torch.Generator], conditions: Conditions) -> Tensor:
        """Drawn as an image, then packed."""
        dtype = conditions["prompt_embeds"].dtype
        latents: Tensor = self.pipe.prepare_latents(
            count, self.config.in_channels // 4, self.height, self.width, dtype, self.device, generators
        )[0]
        return latents

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Time is rounded to the dtype of the latents before it is divided, as in the pipeline."""
        output: Tensor = module(
            hidden_states=x,
            timestep=t.expand(len(x)).to(x.dtype) / 1000,
            guidance=conditions.get("guidance"),
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=conditions["prompt_embeds"],
            txt_ids=conditions["text_ids"],
            img_ids=conditions["image_ids"],
            return_dict=False,
        )[0]
        return output

    def decode(self, latents: Tensor) -> Tensor:
        """Unpacked, scaled and shifted."""
        latents = self.pipe._unpack_latents(latents, self.height, self.width, self.pipe.vae_scale_factor)
        return self.postprocess(self.pipe.vae.decode(_unshifted(latents, self.pipe.vae), return_dict=False)[0])


class Sana(Adapter):
    """SanaPipeline: latents and scheduler state in fp32 whatever the dtype of the transformer."""

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """``prompt_embeds`` [., tokens, width] and their ``attention_mask`` [., tokens]."""
        embeds, mask, negative, negative_mask = self.pipe.encode_prompt(
            prompts,
            self.doubled,
            negative_prompt=self.default("negative_prompt"),
            device=self.device,
            clean_caption=self.default("clean_caption"),
            max_sequence_length=self.default("max_sequence_length"),
            complex_human_instruction=self.default("complex_human_instruction"),
        )
        if self.doubled:
            embeds, mask = torch.cat([negative, embeds]), torch.cat([negative_mask, mask])
        return {"prompt_embeds": embeds, "attention_mask": mask}

    def noise(self, count: int, generators: list[torch.Generator], conditions: Conditions) -> Tensor:
        """In fp32."""
        latents: Tensor = self.pipe.prepare_latents(
            count, self.config.in_channels, self.height, self.width, torch.float32, self.device, generators
        )
        return latents

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The transformer in its own dtype, its output in fp32."""
        dtype = self.pipe.transformer.dtype
        output = module(
            x.to(dtype),
            encoder_hidden_states=conditions["prompt_embeds"].to(dtype),
            encoder_attention_mask=conditions["attention_mask"],
            timestep=t.expand(len(x)) * self.config.timestep_scale,
            return_dict=False,
        )[0]
        return _without_variance(output.float(), self.config)

    def decode(self, latents: Tensor) -> Tensor:
        """In the dtype of the VAE."""
        return super().decode(latents.to(self.pipe.vae.dtype))


def _times(t: Tensor, x: Tensor) -> Tensor:
    """Time [] on the device of `x`, once per sample."""
    return t.to(x.device).expand(len(x))


def _without_variance(output: Tensor, config: Any) -> Tensor:
    """The first half of the channels where the denoiser also predicts a variance."""
    return output.chunk(2, dim=1)[0] if config.out_channels // 2 == config.in_channels else output


def _unshifted(latents: Tensor, vae: Any) -> Tensor:
    return latents / vae.config.scaling_factor + vae.config.shift_factor


def _dynamic_shift(pipe: Any, tokens: int, largest: float) -> dict[str, Any]:
    """``mu`` for this number of image tokens if the scheduler of `pipe` wants it, with the pipelines' default ends."""
    config = pipe.scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return {}
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    return {"mu": calculate_shift(tokens, few, many, config.get("base_shift", 0.5), config.get("max_shift", largest))}
