"""What a person reads after a run: one HTML file, and the model card of the exported folder.

Names are imported on first use, so `import gencompress.report` loads neither jinja2 nor pillow.
"""

from __future__ import annotations

from gencompress.lazy import attach

_WHERE = {"model_card": "card", "write_report": "html"}

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
