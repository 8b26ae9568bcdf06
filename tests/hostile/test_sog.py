"""Hostile SOG bundles and folders: one FormatError that says what is wrong, soon, and in little memory."""

from __future__ import annotations

import io
import os
import zipfile

import pytest

from gencompress.formats import read_scene, write_scene
from tests.formats.synthetic import synthetic
from tests.hostile import corpus_sog
from tests.hostile.bounds import refused, refused_within_limits
from tests.hostile.corpus import GARBAGE, cuts
from tests.hostile.test_mutations import survives

MAKERS = (corpus_sog.sog_meta, corpus_sog.sog_meta1, corpus_sog.sog_images, corpus_sog.sog_names, corpus_sog.sog_zips,
          corpus_sog.sog_bombs)  # fmt: skip
CASES = {f"{maker.__name__}: {name}": (data, wrong) for maker in MAKERS for name, data, wrong in maker()}
CASES |= {f"garbage: {name}": (data, "not a .sog") for name, data in GARBAGE.items()}
CASES |= {f"cut at {at}": (corpus_sog.sog()[:at], "not a .sog") for at in cuts(corpus_sog.sog(), 8)}


def laid_out(name: str) -> dict[str, bytes] | None:
    """A case as the files of a folder; None where it is about the zip itself."""
    if any(word in name for word in ("zips", "bomb", "megabytes")):
        return None
    try:
        members = zipfile.ZipFile(io.BytesIO(CASES[name][0]))
        names = members.namelist()
        content = {plain: members.read(plain) for plain in names if plain in corpus_sog.files()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError):
        return None
    return content if len(names) == len(set(names)) else None


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_bundle_is_refused(tmp_path, name):
    data, wrong = CASES[name]
    (tmp_path / "hostile.sog").write_bytes(data)
    refused(read_scene, tmp_path / "hostile.sog", wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.sog"]


FOLDERS = {name: content for name in CASES if (content := laid_out(name)) is not None}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_is_refused(tmp_path, name):
    for plain, part in FOLDERS[name].items():
        (tmp_path / plain).write_bytes(part)
    refused(read_scene, tmp_path, CASES[name][1])


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
    refused(read_scene, folder, "no file sh0.webp")
    (folder / "sh0.webp").unlink()
    (folder / "sh0.webp").symlink_to("/dev/zero")
    refused(read_scene, folder, "no file sh0.webp")


def test_a_file_of_gigabytes_is_refused(tmp_path):
    """A sparse file, which takes no room on the disk."""
    with open(tmp_path / "a.sog", "wb") as file:
        file.truncate(64 << 30)
    refused(read_scene, tmp_path / "a.sog", "not a .sog")
    for name, data in corpus_sog.files().items():
        (tmp_path / name).write_bytes(data)
    for name in ("sh0.webp", "meta.json"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(8 << 30)
        refused(read_scene, tmp_path, "at most")


def test_bombs_under_the_limits_of_the_system(tmp_path):
    names = [name for name in CASES if any(word in name for word in ("bomb", "claims", "megapixel", "largest"))]
    assert len(names) >= 8
    for index, name in enumerate(names):
        (tmp_path / f"{index}.sog").write_bytes(CASES[name][0])
    assert refused_within_limits(tmp_path) == len(names)


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
