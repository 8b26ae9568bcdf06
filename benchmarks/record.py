"""What every benchmark ends with: a Markdown table under a line that says where, when and how, and the same as JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gencompress.metrics import hardware_description

RESULTS = Path(__file__).parent / "results"


def record(name: str, command: str, tables: Sequence[str], figures: dict[str, Any]) -> None:
    """Print `tables` and write `figures` to ``results/<name>.json``, both with hardware, date and `command`."""
    head = {
        "hardware": hardware_description(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": str(datetime.date.today()),
        "command": command,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**head, **figures}, indent=1) + "\n", encoding="utf-8")
    print(f"`{command}`, {head['hardware']}, {head['threads']} thread(s), torch {head['torch']}, {head['date']}\n")
    print("\n\n".join(tables))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats are given with three digits."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:#.3g}" if isinstance(value, float) else str(value)
