"""Hostile SOG bundles and folders: one FormatError that says what is wrong, soon, and in little memory."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import time
import tracemalloc
import zipfile

import pytest

from gencompress.errors import FormatError
from gencompress.formats import read_scene, write_scene
from tests.formats.synthetic import synthetic
from tests.hostile import corpus_sog
from tests.hostile.corpus import GARBAGE, cuts
from tests.hostile.test_mutations import survives

MAKERS = (corpus_sog.sog_meta, corpus_sog.sog_meta1, corpus_sog.sog_images, corpus_sog.sog_names, corpus_sog.sog_zips,
          corpus_sog.sog_bombs)  # fmt: skip
CASES = {f"{maker.__name__}: {name}": (data, wrong) for maker in MAKERS for name, data, wrong in maker()}
CASES |= {f"garbage: {name}": (data, "not a .sog") for name, data in GARBAGE.items()}
CASES |= {f"cut at {at}": (corpus_sog.sog()[:at], "not a .sog") for at in cuts(corpus_sog.sog(), 8)}


def refused(path, wrong: str) -> None:
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(FormatError, match=wrong) as caught:
        read_scene(path)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600
    assert seconds < 2 and peak < 256 << 20


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_bundle_is_refused(tmp_path, name):
    data, wrong = CASES[name]
    (tmp_path / "hostile.sog").write_bytes(data)
    refused(tmp_path / "hostile.sog", wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.sog"]


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_folder_is_refused(tmp_path, name):
    """What of a bundle can be laid out as a folder."""
    data, wrong = CASES[name]
    try:
        members = zipfile.ZipFile(io.BytesIO(data))
        names = members.namelist()
        content = {plain: members.read(plain) for plain in names if plain in corpus_sog.files()}
    except Exception:
        pytest.skip("about the zip itself")
    if len(names) != len(set(names)) or "zips" in name or "bomb" in name or "megabytes" in name:
        pytest.skip("about the zip itself")
    for plain, part in content.items():
        (tmp_path / plain).write_bytes(part)
    refused(tmp_path, wrong)


def test_there_are_enough_of_them():
    assert len(CASES) >= 150


@pytest.mark.parametrize("meta", [corpus_sog.META, corpus_sog.META1])
def test_what_they_were_made_from_is_read(tmp_path, meta):
    (tmp_path / "a.sog").write_bytes(corpus_sog.sog(None, meta))
    scene = read_scene(tmp_path / "a.sog")
    assert (len(scene), scene.sh_degree) == (2, 1)


def test_links_lead_nowhere_else(tmp_path):
    """A name is looked up in the folder alone; what is no file there is none."""
    folder = tmp_path / "scene"
    folder.mkdir()
    for name, data in corpus_sog.files().items():
        (folder / name).write_bytes(data)
    (folder / "sh0.webp").unlink()
    os.mkfifo(folder / "sh0.webp")
    refused(folder, "no file sh0.webp")
    (folder / "sh0.webp").unlink()
    (folder / "sh0.webp").symlink_to("/dev/zero")
    refused(folder, "no file sh0.webp")


def test_a_file_of_gigabytes_is_refused(tmp_path):
    """A sparse file, which takes no room on the disk."""
    with open(tmp_path / "a.sog", "wb") as file:
        file.truncate(64 << 30)
    refused(tmp_path / "a.sog", "not a .sog")
    for name, data in corpus_sog.files().items():
        (tmp_path / name).write_bytes(data)
    for name in ("sh0.webp", "meta.json"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(8 << 30)
        refused(tmp_path, "at most")


def test_bombs_under_the_limits_of_the_system(tmp_path):
    """What tracemalloc cannot see: the address space of a process that reads all bombs."""
    names = [name for name in CASES if any(word in name for word in ("bomb", "claims", "megapixel", "largest"))]
    assert len(names) >= 8
    for index, name in enumerate(names):
        (tmp_path / f"{index}.sog").write_bytes(CASES[name][0])
    code = """
import resource, sys
from pathlib import Path
from gencompress.errors import FormatError
from gencompress.formats import read_scene
import gencompress.formats.sog
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


@pytest.mark.parametrize("name", ["small", "as written", "meta.json", "sh0.webp", "quats.webp", "shN_centroids.webp"])
def test_mutations(tmp_path, name):
    """Random bytes changed: read or refused, and nothing else happens."""
    if name == "as written":
        write_scene(tmp_path / "a.sog", synthetic(n=300, degree=1))
        survives(read_scene, tmp_path / "b.sog", (tmp_path / "a.sog").read_bytes(), seed=1)
    elif name == "small":
        survives(read_scene, tmp_path / "b.sog", corpus_sog.sog(), seed=2)
    else:
        for file, data in corpus_sog.files().items():
            (tmp_path / file).write_bytes(data)
        survives(lambda _: read_scene(tmp_path), tmp_path / name, corpus_sog.files()[name], seed=3)
