"""Train the small SAM of the bundled sample on composites of emoji and photographs, from nothing, on one CPU core.

python -m gencompress.scenes.train_sam --minutes 67 --out scenes/emoji_sam

`--evaluate 200` trains nothing and prints the mIoU of the folder on held-out composites instead.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencompress.errors import GencompressError
from gencompress.scenes import training
from gencompress.scenes.composites import Composites

SIZE = 128  # pixels
PATCH = 8
LOGITS = SIZE // 2  # side of the masks that the decoder gives
NEVER_ENDING = 2**40  # pictures of the training split


@dataclass(frozen=True)
class SamRecipe:
    """Everything that decides the result, apart from the speed of the machine."""

    minutes: float = 67.0
    batch: int = 8
    prompts: int = 4  # points, and as many boxes, for each picture
    lr: float = 1e-3
    lr_end: float = 1e-5
    ema: float = 0.998
    seed: int = 0
    width: int = 128
    heads: int = 4
    layers: int = 8
    attend_globally: tuple[int, ...] = (3, 7)
    channels: int = 64
    every_minutes: float = 10.0


@dataclass(frozen=True)
class Batch:
    """Pictures and prompts for them, as many points as boxes, both in pixels.

    Attributes:
        pixels: normalised, float [B, 3, 128, 128].
        points: float [B, P, n, 2], x before y; `labels` int [B, P, n]: 1 on the object, 0 beside it.
        boxes: float [B, P, 4] x, y, x, y.
        masks: share of every cell that the object covers, [B, 2 P, 64, 64] in [0, 1]; first those of the points.
        owners: 0 where nothing is pasted, else the number of the object, int [B, 64, 64].
    """

    pixels: Tensor
    points: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor
    owners: Tensor


def make_sam(recipe: SamRecipe) -> Any:
    """A stock SamModel with the initial weights of the original code.

    What transformers initialises is meant to be overwritten by a checkpoint: the vision encoder with a deviation of
    1e-10, and position frequencies of half the width where SAM has 1, which makes neighbouring points unrelated.
    """
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": recipe.width,
        "num_attention_heads": recipe.heads,
        "num_hidden_layers": recipe.layers,
        "mlp_dim": 4 * recipe.width,
        "image_size": SIZE,
        "patch_size": PATCH,
        "window_size": 8,
        "global_attn_indexes": list(recipe.attend_globally),
        "output_channels": recipe.channels,
        "num_pos_feats": recipe.channels // 2,
    }
    prompt = {"hidden_size": recipe.channels, "image_size": SIZE, "patch_size": PATCH}
    decoder = {
        "hidden_size": recipe.channels,
        "mlp_dim": 4 * recipe.channels,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": 64,
    }
    model: Any = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    nn.init.trunc_normal_(model.vision_encoder.pos_embed, std=0.02)
    nn.init.normal_(model.shared_image_embedding.positional_embedding, std=1.0).requires_grad_(False)
    return model


def make_processor() -> Any:
    """The SamProcessor that brings any picture to 128 pixels and prompts with it."""
    from transformers import SamImageProcessor, SamProcessor

    side = {"height": SIZE, "width": SIZE}
    low = {"height": LOGITS, "width": LOGITS}
    return SamProcessor(
        SamImageProcessor(
            size={"longest_edge": SIZE}, pad_size=side, mask_size={"longest_edge": LOGITS}, mask_pad_size=low
        )
    )


def normalise(pictures: np.ndarray) -> Tensor:
    """uint8 [B, 128, 128, 3] to float [B, 3, 128, 128] as SamImageProcessor does (mean and deviation of ImageNet)."""
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (pixels - mean) / deviation


def draw_batch(composites: Composites, recipe: SamRecipe, step: int) -> Batch:
    """The batch of a step, the same each time: a point anywhere on the object, every fourth step two more points."""
    rng = np.random.default_rng([recipe.seed, step])
    points_each = 3 if step % 4 == 0 else 1
    rows: dict[str, list[Any]] = {name: [] for name in ("picture", "points", "labels", "boxes", "masks", "owners")}
    for place in range(recipe.batch):
        picture, masks = composites.labelled(step * recipe.batch + place)
        chosen = [masks[n % len(masks)] for n in rng.permutation(2 * recipe.prompts)]
        drawn = [_points(mask, points_each, rng) for mask in chosen[: recipe.prompts]]
        small = np.stack([_shrink(mask) for mask in masks])
        rows["picture"].append(picture)
        rows["points"].append([points for points, _ in drawn])
        rows["labels"].append([labels for _, labels in drawn])
        rows["boxes"].append([_jittered_box(mask, rng) for mask in chosen[recipe.prompts :]])
        rows["masks"].append([_shrink(mask) for mask in chosen])
        rows["owners"].append((small.argmax(0) + 1) * (small.max(0) >= 0.5))
    made = {name: torch.from_numpy(np.array(values)) for name, values in rows.items() if name != "picture"}
    return Batch(
        normalise(np.stack(rows["picture"])),
        made["points"].float(),
        made["labels"],
        made["boxes"].float(),
        made["masks"].float(),
        made["owners"],
    )


def tight_box(mask: np.ndarray) -> np.ndarray:
    """First and last pixel of a mask, float [4] x, y, x, y."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], float)


def inner_point(mask: np.ndarray) -> np.ndarray:
    """The pixel of a mask that is farthest from its edge, float [2] x, y."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x, y], float)


def _points(mask: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` points as (x, y) and their labels: the first on the object, each other one beside it half of the time."""
    labels = np.array([1] + [int(rng.integers(2)) for _ in range(count - 1)])
    found = [rng.choice(np.flatnonzero(mask == bool(label))) for label in labels]
    return np.array([(at % mask.shape[1], at // mask.shape[1]) for at in found], float), labels


def _jittered_box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A box whose sides are off by a deviation of a twentieth of its extent, by a tenth at most."""
    box = tight_box(mask)
    extent = np.tile(box[2:] - box[:2], 2)
    off = np.clip(rng.normal(0, 0.05, 4), -0.1, 0.1) * extent
    return np.clip(box + off, 0, mask.shape[0] - 1)


def _shrink(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(LOGITS, 2, LOGITS, 2).mean((1, 3), dtype=np.float32)


def mask_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Five times the cross-entropy plus the Dice loss of mask logits [..., h, w] against shares [..., h, w]: [...]."""
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((-2, -1))
    made = logits.sigmoid()
    overlap, total = (made * masks).sum((-2, -1)), (made + masks).sum((-2, -1))
    return 5 * entropy + 1 - (2 * overlap + 1) / (total + 1)


def iou(logits: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union [...] of where logits are positive and where masks are at least a half."""
    made, true = logits > 0, masks >= 0.5
    return (made & true).sum((-2, -1)) / (made | true).sum((-2, -1)).clamp(min=1)


def prompt_loss(logits: Tensor, scores: Tensor, masks: Tensor) -> Tensor:
    """Loss of the best of the proposed masks, as SAM is trained, plus a little of all and of the predicted IoU.

    Args:
        logits: [B, P, proposals, h, w].
        scores: predicted IoU [B, P, proposals].
        masks: [B, P, h, w] in [0, 1].
    """
    true = masks[:, :, None].expand_as(logits)
    losses = mask_losses(logits, true)
    achieved = iou(logits.detach(), true)
    # a twentieth of the mean: a proposal that never wins would learn nothing and could be picked all the same
    return losses.amin(-1).mean() + 0.05 * losses.mean() + F.mse_loss(scores, achieved)


def dense_loss(made: Tensor, owners: Tensor) -> Tensor:
    """Cross-entropy of "something is pasted here" and "here is an edge", from every cell's own embedding.

    It speaks to the encoder directly, where the mask loss reaches it through a decoder that knows nothing at first.

    Args:
        made: logits [B, 32, 16, 16]: of 4 x 4 parts of every cell, twice.
        owners: [B, 64, 64].
    """
    beside = F.pad(owners[:, None].float(), (0, 1, 0, 1), mode="replicate")[:, 0]
    edge = (beside[:, 1:, :-1] != owners) | (beside[:, :-1, 1:] != owners)
    true = torch.stack([owners > 0, edge], 1).float()
    return F.binary_cross_entropy_with_logits(F.pixel_shuffle(made, LOGITS * PATCH // SIZE), true)


def batch_loss(modules: nn.ModuleDict, batch: Batch, multimask: bool) -> Tensor:
    """Loss of the points and the boxes of a batch, on one embedding of its pictures."""
    sam: Any = modules["sam"]
    embedding = sam.vision_encoder(batch.pixels).last_hidden_state
    count = batch.points.shape[1]
    by_point = sam(
        image_embeddings=embedding,
        input_points=batch.points,
        input_labels=batch.labels,
        multimask_output=multimask,
    )
    by_box = sam(image_embeddings=embedding, input_boxes=batch.boxes, multimask_output=multimask)
    return (
        prompt_loss(by_point.pred_masks, by_point.iou_scores, batch.masks[:, :count])
        + prompt_loss(by_box.pred_masks, by_box.iou_scores, batch.masks[:, count:])
        + dense_loss(modules["dense"](embedding), batch.owners)
    )


@torch.no_grad()
def evaluate(model: Any, composites: Composites) -> dict[str, float]:
    """Mean IoU over all objects at 128 pixels, prompted by one `inner_point` and by the `tight_box`.

    Of the three masks the one with the highest predicted IoU counts.
    """
    achieved: dict[str, list[float]] = {"point": [], "box": []}
    for index in range(len(composites)):
        picture, found = composites.labelled(index)
        masks = torch.from_numpy(np.stack(found))
        embedding = model.get_image_embeddings(normalise(picture[None]))
        prompts = {
            "point": {"input_points": np.stack([inner_point(mask) for mask in found])[None, :, None]},
            "box": {"input_boxes": np.stack([tight_box(mask) for mask in found])[None]},
        }
        for kind, prompt in prompts.items():
            tensors = {name: torch.from_numpy(values).float() for name, values in prompt.items()}
            out = model(image_embeddings=embedding, **tensors)
            best = out.iou_scores[0].argmax(-1)
            logits = out.pred_masks[0, torch.arange(len(found)), best]
            full = F.interpolate(logits[:, None], size=SIZE, mode="bilinear", align_corners=False)[:, 0]
            achieved[kind] += iou(full, masks).tolist()
    return {kind: float(np.mean(values)) for kind, values in achieved.items()}


def make_modules(recipe: SamRecipe) -> nn.ModuleDict:
    """The model, and the head of `dense_loss` that is thrown away in the end."""
    parts = (LOGITS * PATCH // SIZE) ** 2
    return nn.ModuleDict({"sam": make_sam(recipe), "dense": nn.Conv2d(recipe.channels, 2 * parts, 1)})


def publish(trainer: training.Trainer, recipe: SamRecipe, out: Path, pictures: int = 32) -> None:
    """Write the EMA weights as a folder for SamModel and SamProcessor, and print their mIoU on held-out composites."""
    copies = make_modules(recipe)
    trainer.ema_into_(copies)
    sam: Any = copies["sam"].eval()

    def fill(folder: Path) -> None:
        sam.save_pretrained(folder)
        make_processor().save_pretrained(folder)

    training.replace_folder(out, fill)
    found = evaluate(sam, Composites("held_out", pictures))
    print(f"step {trainer.schedule.step}  held-out mIoU: {_shown(found)}", flush=True)


def make_trainer(recipe: SamRecipe, checkpoint: Path) -> training.Trainer:
    """The trainer of a recipe, continued from its checkpoint if there is one."""
    torch.manual_seed(recipe.seed)
    schedule = training.Schedule(recipe.minutes, recipe.lr, recipe.lr_end)
    trainer = training.Trainer(make_modules(recipe), schedule, checkpoint, recipe.seed, recipe.ema)
    trainer.resume()
    return trainer


def step_loss(trainer: training.Trainer, composites: Composites, recipe: SamRecipe) -> Tensor:
    """Loss of the step that the trainer is at; what is drawn depends on the step alone, so that a resumed run agrees.

    Every eighth step trains the mask and the score that SAM gives when one mask alone is asked for.
    """
    step = trainer.schedule.step
    return batch_loss(trainer.modules, draw_batch(composites, recipe, step), multimask=step % 8 != 7)


def train(recipe: SamRecipe, out: Path) -> float:
    """Train (or continue) and leave the model in `out`; returns the running loss."""
    trainer = make_trainer(recipe, out.parent / ".training" / f"{out.name}.safetensors")
    composites = Composites("train", NEVER_ENDING, SIZE, recipe.seed)

    return trainer.fit(
        lambda _: step_loss(trainer, composites, recipe), lambda: publish(trainer, recipe, out), recipe.every_minutes
    )


def _shown(found: dict[str, float]) -> str:
    return ", ".join(f"{kind} {value:.3f}" for kind, value in found.items())


def main(argv: list[str] | None = None) -> None:
    """Command line: the defaults are SamRecipe's."""
    base = SamRecipe()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=base.minutes)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "emoji_sam")
    parser.add_argument("--evaluate", type=int, metavar="COUNT", help="only print the mIoU on COUNT held-out pictures")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        if args.evaluate:
            from transformers import SamModel

            model: Any = SamModel.from_pretrained(args.out)
            print(f"held-out mIoU: {_shown(evaluate(model.eval(), Composites('held_out', args.evaluate)))}")
            return
        loss = train(SamRecipe(minutes=args.minutes), args.out)
    except GencompressError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(f"finished with running loss {loss:.4f}: {args.out}")


if __name__ == "__main__":
    main()
