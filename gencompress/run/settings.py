"""`config.yaml` of a run directory: the resolved options, and the refusal to go on with different ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from gencompress.errors import RunError
from gencompress.run.atomic import write_text

NAME = "config.yaml"
_LARGEST = 10**6  # bytes of a config.yaml that is read
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # eight times as fast, where PyYAML has it
_ABSENT = "(absent)"
_SHOWN = 12


def as_mapping(config: Any) -> dict[str, Any]:
    """A dataclass of options as nested plain dicts and lists."""
    return {f.name: _value(getattr(config, f.name)) for f in fields(config)}


def save(folder: Path, config: Any) -> None:
    """Replace `config.yaml`."""
    text = yaml.safe_dump(as_mapping(config), sort_keys=False, allow_unicode=True)
    head = "# The resolved options of this run; `gencompress run` refuses to resume with others.\n"
    write_text(folder / NAME, head + text)


def read(folder: Path) -> dict[str, Any]:
    """The options saved in a run directory. RunError if there are none or the file is damaged."""
    path = folder / NAME
    if not path.is_file():
        raise RunError(f"{folder} is not a run directory: it has no {NAME}")
    try:
        if path.stat().st_size > _LARGEST:
            raise RunError(f"{path}: {path.stat().st_size:,} bytes are too many, {_LARGEST:,} are read")
        raw = _LOADER(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(raw, dict):
        raise RunError(f"{path} is damaged: it holds no options")
    return raw


def refuse_changes(folder: Path, config: Any) -> None:
    """RunError listing every option that differs from the saved ones, with both values.

    Fields with `metadata={"free": True}` change no result and may differ.
    """
    saved, asked, free = dict(_flat(read(folder))), dict(_flat(as_mapping(config))), set(_free(config))
    keys = [k for k in saved | asked if k not in free and saved.get(k, _ABSENT) != asked.get(k, _ABSENT)]
    if not keys:
        return
    lines = [f"  {k}: {saved.get(k, _ABSENT)} in the folder, {asked.get(k, _ABSENT)} asked" for k in keys[:_SHOWN]]
    if len(keys) > _SHOWN:
        lines.append(f"  and {len(keys) - _SHOWN} more")
    raise RunError(
        f"{folder} was made with other options:\n"
        + "\n".join(lines)
        + "\nResume it with the old ones, or choose another folder with run.dir=FOLDER"
    )


def command(config: Any) -> str:
    """The `gencompress run` command with every option that is not at its default, which makes the same run again."""
    words, defaults = ["gencompress run"], type(config)()
    for field in fields(config):
        part, default = getattr(config, field.name), getattr(defaults, field.name)
        if part is None or isinstance(part, str):  # an option that is in no group
            words += [f"{field.name}={_word(part)}"] if part != default else []
            continue
        if type(part) is not type(default):  # a config group: the class was chosen by name
            words.append(f"{field.name}={part.name}")
            default = type(part)()
        changed = {k: v for k, v in vars(part).items() if v != getattr(default, k) and k != "name"}
        if field.name == "budget":
            changed["keep"] = part.keep  # conf/budget has a default of its own, which `target` excludes
        words += [
            f"{field.name}.{key}={_word(value)}"
            for key, value in changed.items()
            if (field.name, key) != ("run", "dir")
        ]
        if field.name == "recipe" and part.name != default.name:
            words.append(f"{field.name}={part.name}")
    return " ".join(words)


def _word(value: Any) -> str:
    """A value in Hydra's grammar, quoted for the shell where needed."""
    if isinstance(value, list):
        return shlex.quote(f"[{','.join(map(str, value))}]")
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    plain = re.fullmatch(r"[\w./:+-]+", text)
    return text if plain else shlex.quote(quoted(text))


def quoted(text: str) -> str:
    """Any text as one value in Hydra's grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _value(value: Any) -> Any:
    if is_dataclass(value):
        return as_mapping(value)
    return list(value) if isinstance(value, tuple) else value


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _free(config: Any, prefix: str = "") -> Iterator[str]:
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _free(value, f"{prefix}{field.name}.")
        elif field.metadata.get("free"):
            yield f"{prefix}{field.name}"
