"""How much of the work that pruning takes from SAM's encoder becomes time, and what the teacher's cache saves.

    python -m benchmarks.sam_speed

One thread, random weights. Latency: encoders of ViT-B's size at 1024 pixels by the shapes of `benchmarks.sam_sizes`,
with transformers' attention and with ours. Processor time is compared, which other programs do not stretch. Cache: two
epochs of distillation at 256 pixels over JPEG files of composites, each with the student's step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from benchmarks.record import record, table
from benchmarks.sam_sizes import ROWS, build
from gencompress.core.budget import solve_ratio
from gencompress.domains.sam.attention import attend_in_rows_
from gencompress.domains.sam.cache import TeacherCache
from gencompress.domains.sam.costs import example_image
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.families import family_of
from gencompress.domains.sam.images import Batches, open_images
from gencompress.domains.sam.processor import default_processor
from gencompress.domains.sam.subject import embeddings
from gencompress.metrics import peak_memory
from gencompress.scenes.composites import Composites

GOAL = 0.85
RUNS = 2
PICTURES, PICTURE_SIDE, BATCH = 64, 640, 4
SMALL = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 12, "mlp_dim": 768, "image_size": 256}


def narrowed(dense: Sam, keep: float) -> tuple[Sam, int, int]:
    """The model with `keep` of every width, and the MACs of its encoder with and without products of attention."""
    scores = {g.name: torch.zeros(g.size) for g in dense.groups}
    plan = solve_ratio(dense.groups, scores, keep, dense.cost("params"))
    macs = (dense.cost("macs", attention=attention).total(plan.counts) for attention in (True, False))
    return dense.prune(plan), *macs


def filled(encoder: nn.Module) -> nn.Module:
    """An encoder of the meta device with random weights on the CPU, attending by SDPA."""
    torch.manual_seed(0)
    encoder.config._attn_implementation = "sdpa"  # type: ignore[union-attr]
    made: nn.Module = type(encoder)(encoder.config).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_(0, 0.02)
    return made


def processor_seconds(fn: Callable[[], object]) -> float:
    """Processor time of a call in this process."""
    began = time.process_time()
    fn()
    return time.process_time() - began


@torch.inference_mode()
def timed(encoder: nn.Module) -> dict[str, float]:
    """Seconds of one picture, the best of `RUNS`, and the peak memory above the weights."""
    image = example_image(encoder).normal_()
    seconds: list[float] = []
    wall = time.perf_counter()
    peak = peak_memory(lambda: seconds.append(processor_seconds(lambda: encoder(image))))
    wall = time.perf_counter() - wall
    seconds += [processor_seconds(lambda: encoder(image)) for _ in range(RUNS - 1)]
    return {"seconds": min(seconds), "wall_seconds": wall, "peak_bytes": peak.bytes or 0}


def latency() -> list[dict[str, Any]]:
    """Every shape of ViT-B with both attentions."""
    rows: list[dict[str, Any]] = []
    for label, name, keep, kinds in ROWS:
        if name != "ViT-B":
            continue
        small, macs, linear = narrowed(Sam(build(name), kinds, uniform=True), keep)
        encoder = filled(small.encoder)
        for attention in ("stock", "in rows"):
            if attention == "in rows":
                attend_in_rows_(encoder)
            row = {"encoder": label, "attention": attention, "macs": macs, "macs_without_attention": linear}
            rows.append({**row, **timed(encoder)})
            dense = next(r for r in rows if r["attention"] == attention)
            rows[-1]["faster"] = dense["seconds"] / rows[-1]["seconds"]
            rows[-1]["of_macs"] = rows[-1]["faster"] / (dense["macs"] / macs)
    return rows


def cached_epochs(folder: Path) -> dict[str, Any]:
    """Seconds of two epochs of distillation to half of every width, with the teacher's embeddings kept on disk."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    vision = {**SMALL, "global_attn_indexes": [2, 5, 8, 11]}
    dense = Sam(SamModel(SamConfig(vision_config=vision)).eval().requires_grad_(False), uniform=True)
    student = narrowed(dense, 0.5)[0].encoder.requires_grad_(True)
    composites = Composites("train", PICTURES, size=PICTURE_SIDE)
    (folder / "images").mkdir()
    for i in range(PICTURES):
        Image.fromarray(composites.read(i)).save(folder / f"images/{i:03d}.jpg", quality=92)
    processor = default_processor(family_of(dense.encoder), SMALL["image_size"])
    batches = Batches(open_images(folder / "images"), processor)
    cache = TeacherCache(folder / "cache", dense.encoder, batches, limit_bytes=1 << 30)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)

    def epoch(number: int) -> None:
        steps = PICTURES // BATCH
        for index in range(number * steps, (number + 1) * steps):
            optimizer.zero_grad()
            (embeddings(student, batches(index, BATCH)) - cache.targets(index, BATCH)).square().mean().backward()
            optimizer.step()

    embeddings(student, batches(0, 1))  # kernels are chosen at the first call
    first, second = (processor_seconds(lambda n=n: epoch(n)) for n in range(2))
    size = sum(file.stat().st_size for file in (folder / "cache").rglob("*.safetensors"))
    return {"first": first, "second": second, "faster": first / second, "bytes_per_picture": size / PICTURES}


def main() -> None:
    """Measure and print both tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cache = cached_epochs(Path(folder))
    rows = latency()
    columns = [
        "encoder", "attention", "GMACs", "without attention", "seconds", "faster than stock ViT-B", "than ViT-B so",
        f"of MACs (goal {GOAL})", "peak, MB",
    ]  # fmt: skip
    cells = [
        [r["encoder"], r["attention"], f"{r['macs'] / 1e9:.1f}", f"{r['macs_without_attention'] / 1e9:.1f}",
         r["seconds"], f"{rows[0]['seconds'] / r['seconds']:.2f}x", f"{r['faster']:.2f}x", f"{r['of_macs']:.2f}",
         f"{r['peak_bytes'] / 1e6:,.0f}"]
        for r in rows
    ]  # fmt: skip
    epochs = [
        [PICTURES, cache["first"], cache["second"], f"{cache['faster']:.2f}x", f"{cache['bytes_per_picture']:,.0f}"]
    ]
    tables = [
        table(columns, cells),
        table(["pictures", "first epoch, s", "second epoch, s", "faster", "bytes per picture"], epochs),
    ]
    record("sam_speed", "python -m benchmarks.sam_speed", tables, {"latency": rows, "cache": cache})


if __name__ == "__main__":
    main()
