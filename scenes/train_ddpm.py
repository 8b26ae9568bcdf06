"""Train the unconditional 32 x 32 emoji pipeline (UNet2DModel + DDIM) on one CPU core.

python -m gencompress.scenes.train_ddpm --set emoji32 --minutes 41 --out scenes/emoji32_ddpm

With a few dozen pictures the model memorises them; `--set full` takes all 1,911 and wants a GPU or a day.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.errors import GencompressError
from gencompress.scenes import emoji, training


@dataclass(frozen=True)
class DdpmConfig:
    """Everything that decides the result, apart from the speed of the machine."""

    subset: str = "emoji32"
    minutes: float = 41.0
    batch: int = 8
    lr: float = 1e-3
    lr_end: float = 2e-5
    ema: float = 0.999
    seed: int = 0
    channels: tuple[int, ...] = (32, 64, 96)
    every_minutes: float = 8.0


def make_unet(config: DdpmConfig) -> Any:
    """UNet2DModel with attention heads of 16 at 8 x 8 and in the middle, 16 groups in every norm."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=config.channels,
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


def load_pictures(config: DdpmConfig, data: str | None) -> Tensor:
    """Training pictures in [-1, 1], shape [N, 3, 32, 32]."""
    chosen = emoji.choose(emoji.read_emoji(data), config.subset)
    pixels = torch.from_numpy(emoji.stack(chosen, 32)).float()
    return (pixels.permute(0, 3, 1, 2) / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def publish(trainer: training.Trainer, config: DdpmConfig, out: Path) -> None:
    """Write the EMA weights as a stock DDIMPipeline with a grid of samples."""
    from diffusers import DDIMPipeline

    copies = nn.ModuleDict({"unet": make_unet(config)})
    trainer.ema_into_(copies)
    pipeline: Any = DDIMPipeline(unet=copies["unet"], scheduler=training.make_scheduler())
    pipeline.set_progress_bar_config(disable=True)

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        rng = torch.Generator().manual_seed(1000)
        images = pipeline(batch_size=64, num_inference_steps=20, generator=rng).images
        training.save_grid(images, 8, folder / "samples.png")

    training.replace_folder(out, fill)


def train(config: DdpmConfig, out: Path, data: str | None = None) -> float:
    """Train (or continue) and leave the pipeline in `out`; returns the running loss."""
    torch.manual_seed(config.seed)
    pictures = load_pictures(config, data)
    unet = make_unet(config).to(memory_format=torch.channels_last)
    alphas = training.make_scheduler().alphas_cumprod
    schedule = training.Schedule(config.minutes, config.lr, config.lr_end)
    checkpoint = out.parent / ".training" / f"{out.name}.safetensors"
    trainer = training.Trainer(nn.ModuleDict({"unet": unet}), schedule, checkpoint, config.seed, config.ema)
    trainer.resume()

    def loss_of(rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(pictures), (config.batch,), generator=rng)
        return training.denoising_loss(pictures[rows], alphas, rng, lambda x, t: unet(x, t, return_dict=False)[0])

    return trainer.fit(loss_of, lambda: publish(trainer, config, out), config.every_minutes)


def main(argv: list[str] | None = None) -> None:
    """Command line: the defaults are DdpmConfig's."""
    base = DdpmConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default=base.subset, choices=[*emoji.SUBSETS, "full"])
    parser.add_argument("--minutes", type=float, default=base.minutes)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "emoji32_ddpm")
    parser.add_argument("--data", help="folder of the emoji set (default: the shared folder)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        loss = train(DdpmConfig(subset=args.set, minutes=args.minutes), args.out, args.data)
    except GencompressError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(f"finished with running loss {loss:.4f}: {args.out}")


if __name__ == "__main__":
    main()
