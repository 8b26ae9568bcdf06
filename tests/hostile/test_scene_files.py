"""Files made to break a reader: one FormatError that says what is wrong, soon, and in little memory."""

from __future__ import annotations

import os

import pytest

from gencompress.errors import FormatError
from gencompress.formats import read_scene
from tests.hostile.bounds import refused, refused_within_limits
from tests.hostile.corpus import scene_cases, whole_files

CASES = scene_cases()


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused(tmp_path, name):
    ending, data, wrong = CASES[name]
    path = tmp_path / f"hostile{ending}"
    path.write_bytes(data)
    refused(read_scene, path, wrong)


@pytest.mark.parametrize("name", whole_files())
def test_what_they_were_made_from_is_read(tmp_path, name):
    ending, data = whole_files()[name]
    (tmp_path / f"whole{ending}").write_bytes(data)
    assert len(read_scene(tmp_path / f"whole{ending}")) in (2, 3)


def test_there_are_enough_of_them():
    assert len(CASES) >= 150


@pytest.mark.parametrize(("ending", "size"), [(".splat", 32 * 50_000_001), (".spz", (4 << 30) + 1), (".glb", 6 << 30)])
def test_a_file_of_gigabytes_is_refused_by_its_size(tmp_path, ending, size):
    """A sparse file, which takes no room on the disk."""
    path = tmp_path / f"huge{ending}"
    with open(path, "wb") as file:
        if ending == ".glb":
            file.write(b"glTF" + (2).to_bytes(4, "little") + b"\xff\xff\xff\xff" + b"\xf0\xff\xff\xffJSON")
        file.truncate(size)
    with pytest.raises(FormatError):
        read_scene(path)


def test_bombs_under_the_limits_of_the_system(tmp_path):
    names = [name for name in CASES if "bomb" in name or "claims" in name or "deep" in name or "huge" in name]
    assert len(names) >= 15
    for index, name in enumerate(names):
        ending, data, _ = CASES[name]
        (tmp_path / f"{index}{ending}").write_bytes(data)
    assert refused_within_limits(tmp_path) == len(names)


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply", ".spz", ".splat", ".glb"])
def test_what_is_no_file(tmp_path, ending):
    missing, folder, pipe = (tmp_path / f"{name}{ending}" for name in ("missing", "folder", "pipe"))
    folder.mkdir()
    os.mkfifo(pipe)
    (tmp_path / f"dangling{ending}").symlink_to(missing)
    for path in (missing, folder, pipe, tmp_path / f"dangling{ending}"):
        with pytest.raises(FormatError, match="is no file"):
            read_scene(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.ply").write_bytes(whole_files()["ply"][1])
    (tmp_path / "a.ply").chmod(0)
    with pytest.raises(FormatError, match="cannot be read"):
        read_scene(tmp_path / "a.ply")
