"""Foreign text in Markdown, YAML and CSV: names, prompts, errors and commands stay what they are, and start nothing."""

from __future__ import annotations

import json
import re

from markupsafe import Markup

_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what spreadsheets take for a formula


def printable(text: str) -> str:
    """The text without control characters, overrides of its direction and lone surrogates; tabs and newlines stay."""
    return _CONTROL.sub("", text)


def markdown(value: object) -> object:
    """Text as one line without markup; whatever is not text, or is `Markup`, as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    line = " ".join(printable(value).split())
    return _MARKDOWN.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def yaml_string(text: str) -> str:
    """A YAML scalar that holds exactly this text, less control characters: JSON strings are YAML."""
    return json.dumps(printable(text), ensure_ascii=False)


def csv_cell(value: object) -> object:
    """Text that a spreadsheet shows and does not compute: what looks like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text
