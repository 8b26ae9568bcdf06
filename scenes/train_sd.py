"""Train the text-to-image 64 x 64 emoji pipeline, stock Stable Diffusion classes, on one CPU core.

python -m gencompress.scenes.train_sd --set emoji64 --minutes 60 --out scenes/emoji64_sd

Three phases share the time: the autoencoder on all emoji; UNet and text encoder together on the captioned subset;
the decoder alone on the subset's latents with noise. With the small subset the model memorises its pictures;
`--set full` takes all 1,911 captions and wants a GPU or a day.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencompress.errors import GencompressError
from gencompress.scenes import emoji, training
from gencompress.scenes.tokenizer import write_tokenizer

HEAD_WIDTH = 16


@dataclass(frozen=True)
class SdConfig:
    """Everything that decides the result, apart from the speed of the machine."""

    subset: str = "emoji64"
    minutes: float = 60.0
    vae_share: float = 0.183
    decoder_share: float = 0.07
    batch: int = 8
    lr: float = 1e-3
    lr_vae: float = 2e-3
    lr_end: float = 2e-5
    ema: float = 0.999
    seed: int = 0
    kl: float = 1e-6
    no_caption: float = 0.1
    channels: tuple[int, ...] = (64, 96)
    text_width: int = 128
    text_layers: int = 2
    text_length: int = 16
    every_minutes: float = 7.0


def make_vae() -> Any:
    """AutoencoderKL, 64 px to 16 x 16 x 4, without attention."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=emoji.CELL,
    )


def make_unet(config: SdConfig) -> Any:
    """UNet2DConditionModel on 16 x 16 latents: cross attention below the top level and in the middle, heads of 16."""
    from diffusers import UNet2DConditionModel

    lower = len(config.channels) - 1
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=config.channels,
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=tuple(c // HEAD_WIDTH for c in config.channels),  # diffusers: the number of heads
        cross_attention_dim=config.text_width,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * lower),
        up_block_types=(*("CrossAttnUpBlock2D",) * lower, "UpBlock2D"),
    )


def make_text_encoder(config: SdConfig, vocabulary: int) -> Any:
    """CLIPTextModel of random weights; the last two tokens of the vocabulary are start and end."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=config.text_width,
            intermediate_size=2 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_width // HEAD_WIDTH // 2,
            max_position_embeddings=config.text_length,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def as_pictures(pixels: list[emoji.Emoji]) -> Tensor:
    """Pictures in [-1, 1], shape [N, 3, 64, 64]."""
    stacked = torch.from_numpy(emoji.stack(pixels, emoji.CELL)).float()
    return (stacked.permute(0, 3, 1, 2) / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 at 64, 32 and 16 pixels, of neighbour differences (edges), and squared colour error at 16 pixels.

    Without the last term a short training gets the shapes and paints them all brown: L1 is content with the median.
    """
    loss = F.l1_loss(made, wanted)
    loss = loss + F.l1_loss(made.diff(dim=-1), wanted.diff(dim=-1)) + F.l1_loss(made.diff(dim=-2), wanted.diff(dim=-2))
    for scale in (2, 4):
        loss = loss + 0.5 * F.l1_loss(F.avg_pool2d(made, scale), F.avg_pool2d(wanted, scale))
    return loss + 4 * F.mse_loss(_chroma(made), _chroma(wanted))


def _chroma(pictures: Tensor) -> Tensor:
    red, green, blue = F.avg_pool2d(pictures, 4).unbind(1)
    return torch.stack([red - green, blue - (red + green) / 2], dim=1)


class SdRun:
    """The modules and data of one training run; the phases are methods, in order."""

    def __init__(self, config: SdConfig, out: Path, data: str | None):
        torch.manual_seed(config.seed)
        everything = emoji.read_emoji(data)
        chosen = emoji.choose(everything, config.subset)
        self.config, self.out, self.work = config, out, out.parent / ".training"
        self.captions = [e.caption for e in chosen]
        self.pictures, self.all_pictures = as_pictures(chosen), as_pictures(everything)
        vocabulary = write_tokenizer(self.captions, self.work / "tokenizer", config.text_length)
        self.vae = make_vae().to(memory_format=torch.channels_last)
        self.unet = make_unet(config).to(memory_format=torch.channels_last)
        self.text = make_text_encoder(config, vocabulary)
        self.scheduler = training.make_scheduler()

    def tokenizer(self) -> Any:
        """The CLIPTokenizer of the captions."""
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.work / "tokenizer")

    def _trainer(self, name: str, modules: dict[str, nn.Module], share: float, lr: float) -> training.Trainer:
        schedule = training.Schedule(self.config.minutes * share, lr, self.config.lr_end)
        checkpoint = self.work / f"{self.out.name}-{name}.safetensors"
        trainer = training.Trainer(nn.ModuleDict(modules), schedule, checkpoint, self.config.seed, self.config.ema)
        trainer.resume()
        return trainer

    def train_vae(self) -> float:
        """Autoencoder: half of every batch from the whole set, half from the subset; then the scaling factor."""
        modules: dict[str, nn.Module] = {"vae": self.vae}
        trainer = self._trainer("vae", modules, self.config.vae_share, self.config.lr_vae)
        half = self.config.batch // 2

        def loss_of(rng: torch.Generator) -> Tensor:
            some = self.all_pictures[torch.randint(len(self.all_pictures), (half,), generator=rng)]
            ours = self.pictures[torch.randint(len(self.pictures), (half,), generator=rng)]
            wanted = torch.cat([some, ours])
            posterior = self.vae.encode(wanted).latent_dist
            made = self.vae.decode(posterior.sample(rng)).sample
            return picture_loss(made, wanted) + self.config.kl * posterior.kl().mean()

        loss = trainer.fit(loss_of, lambda: None, self.config.every_minutes)
        trainer.ema_into_(nn.ModuleDict(modules))
        self.vae.requires_grad_(False)
        self.vae.register_to_config(scaling_factor=round(1 / self._encode().std().item(), 5))
        return loss

    @torch.no_grad()
    def _encode(self) -> Tensor:
        return torch.cat([self.vae.encode(p).latent_dist.mode() for p in self.pictures.split(32)])

    def train_unet(self) -> float:
        """UNet and text encoder on the scaled latents, with 10 % empty captions for classifier-free guidance."""
        latents = (self._encode() * self.vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer()([*self.captions, ""], max_length=self.config.text_length, **options).input_ids
        empty = len(self.captions)
        alphas = self.scheduler.alphas_cumprod
        share = 1 - self.config.vae_share - self.config.decoder_share
        trainer = self._trainer("unet", {"unet": self.unet, "text": self.text}, share, self.config.lr)

        def loss_of(rng: torch.Generator) -> Tensor:
            rows = torch.randint(empty, (self.config.batch,), generator=rng)
            dropped = torch.rand(len(rows), generator=rng) < self.config.no_caption
            states = self.text(ids[torch.where(dropped, empty, rows)])[0]
            predict = lambda x, t: self.unet(x, t, states, return_dict=False)[0]  # noqa: E731
            return training.denoising_loss(latents[rows], alphas, rng, predict)

        def publish() -> None:
            copies = {"unet": make_unet(self.config), "text": make_text_encoder(self.config, len(self.tokenizer()))}
            trainer.ema_into_(nn.ModuleDict(copies))
            self.publish(copies["unet"], copies["text"])

        loss = trainer.fit(loss_of, publish, self.config.every_minutes)
        trainer.ema_into_(nn.ModuleDict({"unet": self.unet, "text": self.text}))
        return loss

    def train_decoder(self) -> float:
        """Decoder alone on the subset: latents with noise, as a sampler leaves them (encoder and latents stay)."""
        latents = self._encode()
        level = 0.1 * latents.std()
        modules: dict[str, nn.Module] = {"decoder": self.vae.decoder, "after": self.vae.post_quant_conv}
        for module in modules.values():
            module.requires_grad_(True)
        trainer = self._trainer("decoder", modules, self.config.decoder_share, self.config.lr)

        def loss_of(rng: torch.Generator) -> Tensor:
            rows = torch.randint(len(latents), (self.config.batch,), generator=rng)
            clean = latents[rows]
            made = self.vae.decode(clean + level * torch.randn(clean.shape, generator=rng)).sample
            return picture_loss(made, self.pictures[rows])

        loss = trainer.fit(loss_of, lambda: None, self.config.every_minutes)
        trainer.ema_into_(nn.ModuleDict(modules))
        self.publish(self.unet, self.text)
        return loss

    def publish(self, unet: Any, text: Any) -> None:
        """Write a StableDiffusionPipeline with a grid of samples."""
        from diffusers import StableDiffusionPipeline

        pipeline: Any = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=text.eval(),
            tokenizer=self.tokenizer(),
            unet=unet.eval(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        prompts = self.captions[:: max(1, len(self.captions) // 64)][:64]

        def fill(folder: Path) -> None:
            pipeline.save_pretrained(folder)
            for name in ("vocab.json", "merges.txt"):  # transformers 5 writes tokenizer.json alone
                shutil.copy(self.work / "tokenizer" / name, folder / "tokenizer" / name)
            rng = torch.Generator().manual_seed(1000)
            images = pipeline(prompts, num_inference_steps=20, guidance_scale=2.0, generator=rng).images
            training.save_grid(images, 8, folder / "samples.png")

        training.replace_folder(self.out, fill)


def train(config: SdConfig, out: Path, data: str | None = None) -> dict[str, float]:
    """Train (or continue) all phases and leave the pipeline in `out`; returns the running loss of each phase."""
    run = SdRun(config, out, data)
    return {"vae": run.train_vae(), "unet": run.train_unet(), "decoder": run.train_decoder()}


def main(argv: list[str] | None = None) -> None:
    """Command line: the defaults are SdConfig's."""
    base = SdConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default=base.subset, choices=[*emoji.SUBSETS, "full"])
    parser.add_argument("--minutes", type=float, default=base.minutes)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "emoji64_sd")
    parser.add_argument("--data", help="folder of the emoji set (default: the shared folder)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        losses = train(SdConfig(subset=args.set, minutes=args.minutes), args.out, args.data)
    except GencompressError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print("finished:", ", ".join(f"{k} {v:.4f}" for k, v in losses.items()), args.out)


if __name__ == "__main__":
    main()
