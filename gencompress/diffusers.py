"""The name under which diffusers finds pruned models: ``["gencompress.diffusers", "PrunedUNet2DConditionModel"]``.

``model_index.json`` of a pruned pipeline names this module, and diffusers looks it up among those that are already
imported, which `import gencompress` sees to. Its classes are made when they are first asked for, so that importing it
imports neither torch nor diffusers.
"""

from __future__ import annotations

from typing import Any

from gencompress.domains.diffusion.families import FAMILIES

__all__ = [f"Pruned{native}" for native in FAMILIES]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from gencompress.domains.diffusion.modeling import pruned_class

        made = pruned_class(name.removeprefix("Pruned"), module=__name__)
        globals()[name] = made
        return made
    if name == "ModelMixin":  # diffusers asks the module of a component which loading methods its classes can have
        from diffusers import ModelMixin

        return ModelMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
