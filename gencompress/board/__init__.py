"""Leaderboards and comparisons out of run directories.

Names are imported on first use, so `import gencompress.board` loads neither numpy nor jinja2.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Comparison": "compare",
    "Row": "rows",
    "Table": "tables",
    "compare_runs": "compare",
    "make_tables": "tables",
    "read_quoted": "quoted",
    "read_runs": "collect",
    "write_board": "site",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
