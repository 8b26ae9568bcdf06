"""Lets stock transformers open encoders whose layers differ in width, once `import gencompress` has run.

transformers has no config key for widths per layer; ours is ``vision_config.pruning``, and the stock encoder class is
taught to read it as soon as transformers imports its module. Until then nothing heavy is imported here, and models
without that key are built as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from gencompress.domains.sam.families import FAMILIES

# modules of transformers, and ours that teach their encoders
_TEACHERS: Mapping[str, str] = {family.module: family.teacher for family in FAMILIES.values()}


class _WhenImported(MetaPathFinder):
    """Finds nothing itself: it lets the others find a module of encoders, and teaches the module after it has run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _TEACHERS:
            return None
        found = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self and hasattr(f, "find_spec"))
        spec = next((s for s in found if s is not None), None)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_teach(module: ModuleType) -> None:
            run(module)
            _teach(name)

        spec.loader.exec_module = run_and_teach  # type: ignore[method-assign]  # the loader is this spec's own
        return spec


def _teach(name: str) -> None:
    import_module(_TEACHERS[name]).read_pruning_()


def register() -> None:
    """Teach the modules that are imported already, and the others when they are."""
    if not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())
    for name in _TEACHERS:
        if name in sys.modules:
            _teach(name)


register()
