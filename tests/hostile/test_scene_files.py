"""Files made to break a reader: one FormatError that says what is wrong, soon, and in little memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import tracemalloc

import pytest

from gencompress.errors import FormatError
from gencompress.formats import read_scene
from tests.hostile.corpus import scene_cases, whole_files

CASES = scene_cases()
SECONDS, MEMORY = 2.0, 256 << 20


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused(tmp_path, name):
    ending, data, wrong = CASES[name]
    path = tmp_path / f"hostile{ending}"
    path.write_bytes(data)
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(FormatError, match=wrong or None) as caught:
        read_scene(path)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600
    assert seconds < SECONDS and peak < MEMORY


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
    """What tracemalloc cannot see: the address space and the processor time of a process that reads all bombs."""
    names = [name for name in CASES if "bomb" in name or "claims" in name or "deep" in name or "huge" in name]
    assert len(names) >= 15
    for index, name in enumerate(names):
        ending, data, _ = CASES[name]
        (tmp_path / f"{index}{ending}").write_bytes(data)
    code = """
import resource, sys
from pathlib import Path
from gencompress.errors import FormatError
from gencompress.formats import read_scene
import gencompress.formats.glb, gencompress.formats.ply, gencompress.formats.spz, zstandard
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_scene(path)
    except FormatError as error:
        assert "memory of this machine" not in str(error), error
        refused += 1
print(refused)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the address space of a process is read from /proc, which this system lacks")
    limit = (resource.RLIMIT_CPU, (60, 60))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, timeout=600, preexec_fn=lambda: resource.setrlimit(*limit),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(names)


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
