"""`gencompress run --help`: groups with their choices, and every option with default, range and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

from gencompress.config import TABLES, Config
from gencompress.run.mistakes import groups

_HEAD = """\
usage: gencompress run [+experiment=NAME] [GROUP=CHOICE ...] [OPTION=VALUE ...] [-m] [--cfg job] [--config-dir DIR]

  -m, --multirun      run a sweep:  -m budget.keep=0.9,0.8,0.7
  -c, --cfg job       print the options instead of running
  --config-dir DIR    take further YAML files from DIR
  --hydra-help        all of Hydra's flags
"""


def text() -> str:
    """The whole help."""
    lines = [_HEAD, "groups:"]
    lines += [f"  {'+' * (name == 'experiment')}{name}=  {'  '.join(found)}" for name, found in groups().items()]
    lines += ["", "options, with their defaults before an experiment or a group changes them:"]
    for f in fields(Config):
        kinds = TABLES.get(f.name)
        if kinds is None:
            lines += _about(f, "")
            continue
        for name, kind in kinds.items():
            own = [o for o in fields(kind) if o.name != "name"]
            lines += [f"  {f.name}={name}", *(line for o in own for line in _about(o, f"{f.name}."))] if own else []
    return "\n".join(lines) + "\n"


def _about(f: Field[Any], prefix: str) -> Iterator[str]:
    default = f.default_factory() if callable(f.default_factory) else f.default
    if is_dataclass(default):
        for inner in fields(default):
            yield from _about(inner, f"{f.name}.")
        return
    shown = "..." if default == "???" else default if isinstance(default, str) else json.dumps(default)
    choices = f.metadata["choices"]
    suffix = f" ({', '.join(choices)})" if len(choices) > 1 else ""
    yield f"  {f'{prefix}{f.name}={shown}':36}{f.metadata['meaning']}{suffix}"
