"""Leaderboards and comparisons out of run directories.

Names are imported on first use, so `import gencompress.board` loads neither numpy nor jinja2.
"""

from __future__ import annotations

from gencompress.lazy import attach

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

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
