from __future__ import annotations

from pathlib import Path

import pytest

from gencompress.domains.diffusion.prompts import read_prompts
from gencompress.errors import DataError


def test_one_prompt_a_line_without_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red fox\r\n\r\n  ein grüner Apfel  \n\n# 3 not a comment\nno line\u2028break".encode())
    expected = ["a red fox", "ein grüner Apfel", "# 3 not a comment", "no line\u2028break"]
    assert read_prompts(file) == expected
    assert read_prompts(str(file)) == expected


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt does not exist"):
        read_prompts(tmp_path / "nowhere.txt")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"prompts\.txt is empty"):
        read_prompts(file)


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("a fox\nein grüner Apfel\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 text \(line 2\)"):
        read_prompts(file)
