"""Prompts files: UTF-8 text, one prompt a line."""

from __future__ import annotations

from pathlib import Path

from gencompress.errors import DataError


def read_prompts(path: str | Path) -> list[str]:
    """The prompts in the file at `path`, in order, without surrounding white space; blank lines are skipped.

    For a class-conditional model a line is a class name or number.

    Raises:
        DataError: the file is missing, unreadable, not UTF-8, or has no prompt in it.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"prompts file {path} does not exist; it should be a text file with one prompt a line"
        ) from None
    except OSError as error:
        raise DataError(f"prompts file {path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")  # Windows editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"prompts file {path} is not UTF-8 text (line {line}); save it as UTF-8") from None
    # Only \n and \r\n end a line: str.splitlines would also cut at characters that may stand inside a prompt.
    prompts = [line.strip() for line in text.split("\n")]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise DataError(f"prompts file {path} is empty; it should have one prompt a line")
    return prompts
