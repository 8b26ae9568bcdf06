"""The SAM recipe: losses by hand, training that learns and resumes, and the bundled model on unseen emoji."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gencompress import scenes
from gencompress.errors import ModelError
from gencompress.hub import locate
from gencompress.scenes import train_sam
from gencompress.scenes.composites import Composites

TINY = train_sam.SamRecipe(
    minutes=1e9, batch=2, prompts=2, width=32, heads=2, layers=2, attend_globally=(1,), channels=16
)


def test_mask_losses_by_hand() -> None:
    masks = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    logits = torch.stack([20 * (2 * masks - 1), torch.zeros(2, 2), -20 * (2 * masks - 1)])
    right, undecided, wrong = train_sam.mask_losses(logits, masks.expand(3, 2, 2)).tolist()
    assert right == pytest.approx(0, abs=1e-6)
    assert undecided == pytest.approx(5 * np.log(2) + 1 - 3 / 5)
    assert wrong == pytest.approx(5 * 20 + 1 - 1 / 5)
    assert train_sam.iou(logits, masks).tolist() == [1, 0, 0]


def test_the_best_proposal_is_trained_and_every_score() -> None:
    """Where one of three proposals is right the others hardly count, and scores are pulled to the IoU of each."""
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :] = 1
    logits = torch.stack([20 * (2 * masks - 1), 0.1 * torch.ones_like(masks), -20 * (2 * masks - 1)], 2)
    logits.requires_grad_()
    scores = torch.tensor([[[1.0, 0.5, 0.0]]], requires_grad=True)
    train_sam.prompt_loss(logits, scores, masks).backward()
    assert scores.grad is not None and scores.grad.abs().max() < 1e-6  # each is what was achieved
    assert logits.grad is not None and logits.grad[0, 0, 0].abs().max() < 1e-6 < logits.grad[0, 0, 1].abs().max()


def test_dense_loss_marks_objects_and_their_edges() -> None:
    owners = torch.zeros(1, 64, 64, dtype=torch.int64)
    owners[:, 8:24, 8:24] = 1
    owners[:, 8:24, 24:40] = 2
    edge = torch.zeros(64, 64, dtype=torch.bool)
    edge[7, 8:40] = edge[23, 8:40] = edge[8:24, 7] = edge[8:24, 23] = edge[8:24, 39] = True
    right = 40.0 * torch.stack([owners[0] > 0, edge])[None] - 20
    cells = torch.nn.functional.pixel_unshuffle(right, 4)
    assert train_sam.dense_loss(cells, owners) < 1e-6
    assert train_sam.dense_loss(-cells, owners) == pytest.approx(20)


def test_prompts_lie_on_their_objects() -> None:
    composites = Composites("train", 1000)
    for step in (4, 5):
        batch = train_sam.draw_batch(composites, TINY, step)
        count = batch.points.shape[2]
        assert count == (3 if step % 4 == 0 else 1) and batch.masks.shape == (2, 4, 64, 64)
        assert bool((batch.labels[..., 0] == 1).all())
        for picture in range(2):
            found = composites.labelled(2 * step + picture)[1]
            for prompt in range(2):
                mask = next(m for m in found if np.allclose(train_sam._shrink(m), batch.masks[picture, prompt]))
                for (x, y), label in zip(batch.points[picture, prompt], batch.labels[picture, prompt], strict=True):
                    assert mask[int(y), int(x)] == bool(label)
                mask = next(m for m in found if np.allclose(train_sam._shrink(m), batch.masks[picture, 2 + prompt]))
                box, tight = batch.boxes[picture, prompt].numpy(), train_sam.tight_box(mask)
                extent = np.tile(tight[2:] - tight[:2], 2)
                assert (np.abs(box - tight) <= 0.1 * extent + 1e-3).all()
    mask = np.zeros((9, 12), bool)
    mask[2:7, 4:9] = True
    assert train_sam.tight_box(mask).tolist() == [4, 2, 8, 6] and train_sam.inner_point(mask).tolist() == [6, 4]


def _train(folder: Path, steps: int) -> tuple[Any, list[float]]:
    """Train the tiny model, on and on with the same rate, until its step `steps`; the trainer and the losses."""
    recipe = replace(TINY, lr=3e-3, lr_end=3e-3)
    trainer = train_sam.make_trainer(recipe, folder / "state.safetensors")
    trainer.schedule.warmup = 1
    composites = Composites("train", train_sam.NEVER_ENDING)
    losses = []

    def loss_of(_: torch.Generator) -> torch.Tensor:
        if trainer.schedule.step == steps:
            trainer.schedule.elapsed = float("inf")
        loss = train_sam.step_loss(trainer, composites, recipe)
        losses.append(loss.item())
        return loss

    trainer.fit(loss_of, lambda: None, every_minutes=1e9)
    trainer.schedule.elapsed = 0.0
    trainer.save()
    return trainer, losses


def test_training_learns_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    """A few steps lower the loss, and half of them, then the rest in another trainer, end at the same weights."""
    whole, losses = _train(tmp_path / "whole", 24)
    assert np.mean(losses[-6:]) < 0.85 * np.mean(losses[:6]), losses
    _train(tmp_path / "halves", 12)
    halves, _ = _train(tmp_path / "halves", 24)
    assert halves.schedule.step == 24
    for name, weight in whole.modules.state_dict().items():
        assert torch.equal(weight, halves.modules.state_dict()[name]), name
        assert name not in whole.shadow or torch.equal(whole.shadow[name], halves.shadow[name]), name


def test_published_folder_opens_in_stock_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import SamModel, SamProcessor

    trainer = train_sam.make_trainer(TINY, tmp_path / "state.safetensors")
    train_sam.publish(trainer, TINY, tmp_path / "sam", pictures=1)
    assert "held-out mIoU: point 0." in capsys.readouterr().out
    model = SamModel.from_pretrained(tmp_path / "sam")
    assert isinstance(SamProcessor.from_pretrained(tmp_path / "sam"), SamProcessor)
    for name, weight in model.state_dict().items():
        if name in (shadow := {key[4:]: value for key, value in trainer.shadow.items()}):
            assert torch.equal(weight, shadow[name]), name


@pytest.fixture(scope="module")
def sample() -> Any:
    from transformers import SamModel

    return SamModel.from_pretrained(scenes.path("emoji_sam")).eval()


def test_sample_segments_unseen_emoji(sample: Any) -> None:
    assert sample.dtype == torch.float32
    found = train_sam.evaluate(sample, Composites("held_out", 24))
    assert found["point"] >= 0.6 and found["box"] >= 0.7, found


def test_sample_takes_pictures_of_any_size(sample: Any) -> None:
    """Through the bundled processor: a wide picture of 300 x 200 with a point and a box on its emoji."""
    from transformers import SamProcessor

    processor = SamProcessor.from_pretrained(scenes.path("emoji_sam"))
    picture, masks = Composites("held_out", 8, 300).labelled(1)
    picture, mask = picture[:200], max((mask[:200] for mask in masks), key=np.sum)
    for prompt in (
        {"input_points": [[train_sam.inner_point(mask).tolist()]]},
        {"input_boxes": [[train_sam.tight_box(mask).tolist()]]},
    ):
        inputs = processor(picture, return_tensors="pt", **prompt)
        assert inputs["pixel_values"].shape == (1, 3, 128, 128)
        with torch.no_grad():
            out = sample(**inputs)
        made = processor.post_process_masks(out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
        best = made[0][0, out.iou_scores[0, 0].argmax()].numpy()
        assert best.shape == (200, 300) and (best & mask).sum() / (best | mask).sum() > 0.6


def test_sample_is_not_a_pipeline() -> None:
    with pytest.raises(ModelError, match="is a SAM"):
        locate("sample:emoji_sam")
