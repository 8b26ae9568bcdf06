"""What differs between pipelines: conditioning, how the denoiser is called, guidance, decoding. One class per family.

An adapter answers for one stock pipeline class, through that pipeline's own methods (``encode_prompt``,
``prepare_latents``, ``image_processor``), so that a run here equals a run there. Transformer families are in
`gencompress.domains.diffusion.adapters_transformer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gencompress.errors import ConfigError, DataError, ModelError

Conditions = dict[str, Tensor]


class Adapter:
    """Base: a latent text-to-image pipeline whose classifier-free guidance doubles the batch.

    Attributes:
        pipe: a shallow copy of the pipeline, sharing all components; `scheduler` may be replaced on it.
        guidance: guidance scale, the pipeline's own default if the caller gave none.
        height, width: image size in pixels.
    """

    denoiser: ClassVar[str] = "transformer"
    takes_prompts: ClassVar[bool] = True
    resizable: ClassVar[bool] = True

    def __init__(self, pipe: Any, guidance_scale: float | None, height: int | None, width: int | None) -> None:
        self.pipe = pipe
        self.guidance = float(self.default("guidance_scale") if guidance_scale is None else guidance_scale)
        own = self.size()
        self.height = own[0] if height is None else height
        self.width = own[1] if width is None else width
        self._check_size(own)

    def default(self, option: str) -> Any:
        """The default value of an option of the pipeline's ``__call__``."""
        return inspect.signature(type(self.pipe).__call__).parameters[option].default

    @property
    def doubled(self) -> bool:
        """Whether the denoiser sees an unconditional and a conditional copy of every sample."""
        return self.guidance > 1

    @property
    def config(self) -> Any:
        """Config of the denoiser."""
        return getattr(self.pipe, self.denoiser).config

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs."""
        device: torch.device = self.pipe._execution_device
        return device

    def size(self) -> tuple[int, int]:
        """Height and width in pixels when the caller gives none."""
        side = self.config.sample_size
        rows, columns = (side, side) if isinstance(side, int) else side
        return rows * self.pipe.vae_scale_factor, columns * self.pipe.vae_scale_factor

    def _check_size(self, own: tuple[int, int]) -> None:
        """Raise `ConfigError` if an image of this size cannot be made."""
        name = type(self.pipe).__name__
        if not self.resizable:
            if (self.height, self.width) != own:
                raise ConfigError(f"height and width: {name} only makes images of {own[0]} x {own[1]} pixels")
            return
        grain = self.pipe.vae_scale_factor * self.patch()
        for option, pixels in (("height", self.height), ("width", self.width)):
            if pixels < grain or pixels % grain:
                raise ConfigError(f"{option} is {pixels}; {name} takes multiples of {grain}")

    def patch(self) -> int:
        """Latent pixels per side of one token."""
        return int(self.config.get("patch_size") or 1)

    def schedule(self, steps: int) -> dict[str, Any]:
        """Arguments of ``set_timesteps`` besides the number of steps and the device."""
        return {}

    def check_prompts(self, prompts: Sequence[str] | None, seeds: Sequence[int]) -> list[str]:
        """The prompts as a list, one per seed.

        Raises:
            DataError: prompts are missing, too few, or given to a pipeline that takes none.
        """
        if not seeds:
            raise DataError("a batch needs at least one seed")
        name = type(self.pipe).__name__
        if not self.takes_prompts:
            if prompts is not None:
                raise DataError(f"{name} is unconditional: it takes no prompts")
            return []
        if prompts is None or isinstance(prompts, str) or not prompts:
            raise DataError(f"{name} needs a list of prompts, one per seed: give a prompts file")
        if len(prompts) != len(seeds):
            raise DataError(f"{len(prompts)} prompts for {len(seeds)} seeds; each seed needs one prompt")
        return list(prompts)

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """What the denoiser is given besides latents and time, for a batch of `count`; doubled where `doubled`."""
        raise NotImplementedError

    def noise(self, count: int, generators: list[torch.Generator], conditions: Conditions) -> Tensor:
        """Initial latents [count, ...], drawn as the pipeline draws them and scaled for its scheduler."""
        latents: Tensor = self.pipe.prepare_latents(
            count,
            self.config.in_channels,
            self.height,
            self.width,
            conditions["prompt_embeds"].dtype,
            self.device,
            generators,
        )
        return latents

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Raw output of the denoiser `module` for scaled and, where `doubled`, doubled latents `x` at time `t` []."""
        raise NotImplementedError

    def guide(self, output: Tensor) -> Tensor:
        """Classifier-free guidance (Ho & Salimans 2022, eq. 6): [2B, ...] -> [B, ...]; unchanged if not doubled."""
        if not self.doubled:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] of final latents."""
        vae = self.pipe.vae
        return self.postprocess(vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0])

    def postprocess(self, image: Tensor) -> Tensor:
        """The pipeline's own map from VAE output to [0, 1]."""
        pixels: Tensor = self.pipe.image_processor.postprocess(image, output_type="pt")
        return pixels


class Unconditional(Adapter):
    """UNet2DModel in pixel space: DDPMPipeline and DDIMPipeline.

    Those pipelines never scale the input for Euler schedulers; here it is scaled, so that Euler is right here only.
    """

    denoiser = "unet"
    takes_prompts = False
    resizable = False

    def __init__(self, pipe: Any, guidance_scale: float | None, height: int | None, width: int | None) -> None:
        if guidance_scale is not None:
            raise ConfigError(f"guidance_scale: {type(pipe).__name__} is unconditional and has no guidance")
        super().__init__(pipe, 1.0, height, width)

    def size(self) -> tuple[int, int]:
        """Latents are pixels."""
        side = self.config.sample_size
        return (side, side) if isinstance(side, int) else (side[0], side[1])

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """Nothing."""
        return {}

    def noise(self, count: int, generators: list[torch.Generator], conditions: Conditions) -> Tensor:
        """Noise in the dtype of the UNet."""
        shape = (count, self.config.in_channels, self.height, self.width)
        return draw(shape, generators, self.device, self.pipe.unet.dtype) * self.pipe.scheduler.init_noise_sigma

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The UNet takes latents and time alone."""
        output: Tensor = module(x, t, return_dict=False)[0]
        return output

    def decode(self, latents: Tensor) -> Tensor:
        """From [-1, 1] to [0, 1]."""
        return (latents / 2 + 0.5).clamp(0, 1)


class StableDiffusion(Adapter):
    """StableDiffusionPipeline (SD 1.x, 2.x)."""

    denoiser = "unet"

    def __init__(self, pipe: Any, guidance_scale: float | None, height: int | None, width: int | None) -> None:
        super().__init__(pipe, guidance_scale, height, width)
        if self.config.time_cond_proj_dim is not None:
            raise ModelError("a UNet with time_cond_proj_dim (distilled guidance, as in LCM) is not supported")

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """``prompt_embeds`` [B or 2B, tokens, width]."""
        embeds, negative = self.pipe.encode_prompt(prompts, self.device, 1, self.doubled)
        return {"prompt_embeds": torch.cat([negative, embeds]) if self.doubled else embeds}

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The UNet attends to the text."""
        output: Tensor = module(x, t, encoder_hidden_states=conditions["prompt_embeds"], return_dict=False)[0]
        return output


class StableDiffusionXL(StableDiffusion):
    """StableDiffusionXLPipeline: pooled text and size embeddings besides the prompt."""

    def encode(self, prompts: list[str], count: int) -> Conditions:
        """``prompt_embeds`` [., tokens, width], ``text_embeds`` [., width] and ``time_ids`` [., 6]."""
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=self.doubled
        )
        size = (self.height, self.width)
        times = self.pipe._get_add_time_ids(
            size, self.default("crops_coords_top_left"), size, embeds.dtype, pooled.shape[-1]
        )
        if self.doubled:
            embeds, pooled = torch.cat([negative, embeds]), torch.cat([negative_pooled, pooled])
        times = times.to(self.device).repeat(len(embeds), 1)
        return {"prompt_embeds": embeds, "text_embeds": pooled, "time_ids": times}

    def predict(self, module: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Pooled text and sizes are added to the time embedding."""
        added = {name: conditions[name] for name in ("text_embeds", "time_ids")}
        embeds = conditions["prompt_embeds"]
        output: Tensor = module(x, t, encoder_hidden_states=embeds, added_cond_kwargs=added, return_dict=False)[0]
        return output

    def decode(self, latents: Tensor) -> Tensor:
        """As the base, with latent statistics if the VAE has them, and in fp32 where fp16 overflows."""
        vae, config = self.pipe.vae, self.pipe.vae.config
        latents = latents / config.scaling_factor
        if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
            mean, std = (latents.new_tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
            latents = latents * std + mean
        if vae.dtype != torch.float16 or not config.force_upcast:
            return self.postprocess(vae.decode(latents, return_dict=False)[0])
        vae.to(torch.float32)  # this VAE overflows in fp16
        try:
            return self.postprocess(vae.decode(latents.float(), return_dict=False)[0])
        finally:
            vae.to(torch.float16)


def draw(shape: tuple[int, ...], generators: list[torch.Generator], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal noise, one generator per sample, as every stock pipeline draws it."""
    from diffusers.utils.torch_utils import randn_tensor

    noise: Tensor = randn_tensor(shape, generator=generators, device=device, dtype=dtype)
    return noise
