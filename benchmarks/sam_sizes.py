"""Sizes of SAM's image encoders and of what uniform pruning leaves of ViT-B, from shapes alone.

    python -m benchmarks.sam_sizes

The models are built from stock configs on the meta device, so that no weight is allocated; every width keeps the same
ratio, rounded down as stock configs need it. No model is run.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.record import record, table
from gencompress.core.budget import solve_ratio
from gencompress.domains.sam.domain import Sam

# hidden size, heads, layers, layers that attend globally: configs of facebook/sam-vit-base, -large and -huge
DENSE = {
    "ViT-B": (768, 12, 12, (2, 5, 8, 11)),
    "ViT-L": (1024, 16, 24, (5, 11, 17, 23)),
    "ViT-H": (1280, 16, 32, (7, 15, 23, 31)),
}
WHOLE_HEADS = ("width", "head", "ffn")
ROWS: tuple[tuple[str, str, float, tuple[str, ...] | None], ...] = (
    ("ViT-B", "ViT-B", 1, None),
    ("half of every width", "ViT-B", 0.5, None),
    ("0.23 of every width", "ViT-B", 0.23, None),
    ("3 heads of 64", "ViT-B", 0.25, WHOLE_HEADS),
    ("ViT-L", "ViT-L", 1, None),
    ("ViT-H", "ViT-H", 1, None),
)
TABLES = ("pos_embed", "rel_pos_h", "rel_pos_w")


def build(name: str) -> Any:
    """A `SamModel` without weights."""
    from transformers import SamConfig, SamModel

    width, heads, layers, attend_globally = DENSE[name]
    vision = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "mlp_dim": 4 * width}
    with torch.device("meta"):
        return SamModel(SamConfig(vision_config={**vision, "global_attn_indexes": list(attend_globally)})).eval()


def measure(label: str, name: str, keep: float, kinds: tuple[str, ...] | None) -> dict[str, Any]:
    """One row: widths, parameters of encoder and model, of the model without position tables, MACs of one image."""
    dense = Sam(build(name), kinds, uniform=True)
    scores = {g.name: torch.zeros(g.size) for g in dense.groups}
    plan = solve_ratio(dense.groups, scores, keep, dense.cost("params"))
    model = dense.prune(plan).model
    config, named = model.vision_encoder.config, list(model.named_parameters())
    return {
        "encoder": label,
        "hidden, heads, MLP": f"{config.hidden_size}, {config.num_attention_heads}, {config.mlp_dim}",
        "params": plan.budget["reached"],
        "of the whole model": sum(p.numel() for _, p in named),
        "of it without position tables": sum(p.numel() for n, p in named if n.rsplit(".", 1)[-1] not in TABLES),
        "macs": dense.cost("macs").total(plan.counts),
        "macs without attention products": dense.cost("macs", attention=False).total(plan.counts),
    }


def main() -> None:
    """Measure all rows and print a table."""
    rows = [measure(*row) for row in ROWS]
    columns = [*list(rows[0])[:2], "params, M", "whole model", "without position tables", "GMACs", "without attention"]
    units = (1e6, 1e6, 1e6, 1e9, 1e9)
    cells = [
        [*list(row.values())[:2], *(f"{v / u:.1f}" for v, u in zip(list(row.values())[2:], units, strict=True))]
        for row in rows
    ]
    record("sam_sizes", "python -m benchmarks.sam_sizes", [table(columns, cells)], {"rows": rows})


if __name__ == "__main__":
    main()
