"""Write a pruned pipeline as a folder that diffusers opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gencompress.core.plan import Plan
from gencompress.domains.diffusion.families import family_of
from gencompress.domains.diffusion.folders import INDEX
from gencompress.domains.diffusion.load import denoiser_name, denoiser_of
from gencompress.domains.diffusion.portable import component_file
from gencompress.formats.model_folder import read_json
from gencompress.run.atomic import write_dir


def export_pipeline(pipe: Any, plan: Plan, out: Path | str, *, portable: bool = False, card: str | None = None) -> Path:
    """Save a pipeline with its plan; the folder appears whole or not at all.

    It opens with stock `DiffusionPipeline.from_pretrained` after `import gencompress`, or with `gencompress.load`.
    A denoiser that lost whole blocks only is of a stock class and needs neither.

    Args:
        pipe: a diffusers pipeline with the pruned denoiser in it.
        plan: what was removed, saved as ``plan.json``.
        out: the folder to make.
        portable: put the pruned class beside its weights, so that ``trust_remote_code=True`` opens the folder where
            gencompress is not installed.
        card: text of the model card, saved as ``README.md``.

    Raises:
        RunError: `out` is there and not empty, or the disk is full; nothing is left behind.
    """
    out = Path(out)
    with write_dir(out) as folder:
        pipe.save_pretrained(folder, safe_serialization=True)
        extra = _labels(pipe) | (_component_file(folder, pipe) if portable else {})
        if extra:
            index = read_json(folder / INDEX) | extra
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
    return out


def _component_file(folder: Path, pipe: Any) -> dict[str, list[str]]:
    """Write the class beside its weights; the entry of the index that names it. Stock classes need neither."""
    name, denoiser = denoiser_name(pipe), denoiser_of(pipe)
    if not type(denoiser).__name__.startswith("Pruned"):
        return {}
    module, text = component_file(family_of(denoiser).native)
    (folder / name / f"{module}.py").write_text(text, encoding="utf-8")
    return {name: [module, type(denoiser).__name__]}


def _labels(pipe: Any) -> dict[str, dict[str, str]]:
    """The class names of a DiT pipeline, which diffusers reads from the index but does not write there."""
    names: dict[str, str] = {}
    for label, number in getattr(pipe, "labels", {}).items():
        names[str(number)] = f"{names[str(number)]}, {label}" if str(number) in names else label
    return {"id2label": names} if names else {}
