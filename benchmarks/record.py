"""What benchmarks share: rows that survive an interruption, and a table that says where, when and how, also as JSON."""

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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows measured so far, one JSON object a line; none if the file is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row as soon as it is measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats are given with three digits."""
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:#.3g}" if isinstance(value, float) else str(value)
