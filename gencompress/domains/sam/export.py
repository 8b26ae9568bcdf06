"""Write a pruned SAM model as a folder that transformers opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gencompress.core.plan import Plan
from gencompress.domains.sam.quiet import without_bars
from gencompress.run.atomic import write_dir


def export_sam(model: Any, plan: Plan, out: Path | str, *, processor: Any = None, card: str | None = None) -> Path:
    """Save a `SamModel` or `Sam2Model` with its plan; the folder appears whole or not at all.

    It opens with `from_pretrained` of its class and of `AutoModel`: in plain transformers if its config is a stock one
    (`gencompress.domains.sam.configs.require_stock`), and else after `import gencompress`.

    Args:
        model: the pruned model.
        plan: what was removed, saved as ``plan.json``.
        out: the folder to make.
        processor: the `SamProcessor` or `Sam2Processor` that goes with the model, saved beside it.
        card: text of the model card, saved as ``README.md``.

    Raises:
        RunError: `out` is there and not empty, or the disk is full; nothing is left behind.
    """
    out = Path(out)
    with write_dir(out) as folder, without_bars():
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
    return out
