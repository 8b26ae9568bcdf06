"""What a person reads after a run: one HTML file, and the model card of the exported folder.

Names are imported on first use, so `import gencompress.report` loads neither jinja2 nor pillow.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {"model_card": "card", "write_report": "html"}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
