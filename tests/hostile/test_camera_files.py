"""Camera files made to break a reader: one FormatError that names the fault, soon, and in little memory."""

from __future__ import annotations

import pytest

from gencompress.errors import FormatError
from gencompress.formats import read_cameras
from tests.hostile.bounds import refused
from tests.hostile.corpus_cameras import camera_cases, whole_files

CASES = camera_cases()


def write(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused(tmp_path, name):
    files, target, wrong = CASES[name]
    write(tmp_path, files)
    refused(read_cameras, tmp_path / target, wrong, named=tmp_path)


@pytest.mark.parametrize("name", whole_files())
def test_what_they_were_made_from_is_read(tmp_path, name):
    files, target = whole_files()[name]
    write(tmp_path, files)
    (cameras,) = read_cameras(tmp_path / target)
    assert (len(cameras), cameras.width, cameras.height) == (1, 64, 48)


@pytest.mark.parametrize("name", ["cameras.json", "transforms.json", "images.png", "cameras.bin", "nothing"])
def test_what_is_missing_or_something_else(tmp_path, name):
    with pytest.raises(FormatError, match=r"cannot be read|no cameras"):
        read_cameras(tmp_path / name)


def test_a_json_file_of_gigabytes_is_refused_by_its_size(tmp_path):
    for name in ("cameras.json", "transforms.json"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(5 << 30)
        with pytest.raises(FormatError, match="at most"):
            read_cameras(tmp_path / name)
