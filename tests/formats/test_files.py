from __future__ import annotations

import builtins
import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from gencompress import formats
from gencompress.errors import FormatError, RunError
from gencompress.formats import FORMATS, read_scene, scene_format, write_scene
from tests.formats.synthetic import assert_equal, synthetic

WRITTEN = [".ply", ".compressed.ply", ".spz", ".splat", ".glb"]


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.ply", ".ply"),
        ("A.PLY", ".ply"),
        ("a.compressed.ply", ".compressed.ply"),
        ("point.cloud.spz", ".spz"),
        ("meta.json", "meta.json"),
        ("a.sog", ".sog"),
    ],
)
def test_the_ending_chooses_the_format(name, ending):
    assert scene_format(name)[0] == ending


def test_a_folder_is_an_unbundled_sog(tmp_path):
    assert scene_format(tmp_path)[0] == "meta.json"


@pytest.mark.parametrize(
    ("name", "near"), [("a.plyy", r"'\.ply'"), ("a.spx", r"'\.spz'"), ("a.gltf", r"'\.glb'"), ("a", "valid are")]
)
def test_an_unknown_ending_names_the_nearest(name, near):
    for act in (read_scene, lambda path: write_scene(path, synthetic(n=2))):
        with pytest.raises(FormatError, match=near):
            act(name)


def test_a_plain_and_a_compressed_ply_are_told_apart_by_their_content(tmp_path):
    scene = synthetic(n=300, degree=1)
    write_scene(tmp_path / "a.compressed.ply", scene)
    os.rename(tmp_path / "a.compressed.ply", tmp_path / "b.ply")
    assert len(read_scene(tmp_path / "b.ply")) == 300


@pytest.mark.parametrize("ending", WRITTEN)
def test_an_empty_scene_is_not_written(tmp_path, ending):
    with pytest.raises(FormatError, match="no splats"):
        write_scene(tmp_path / f"a{ending}", synthetic(n=2).take(slice(0, 0)))


@pytest.mark.parametrize("ending", WRITTEN)
def test_a_missing_or_closed_folder(tmp_path, ending):
    scene = synthetic(n=5)
    with pytest.raises(RunError, match="cannot be written"):
        write_scene(tmp_path / "none" / f"a{ending}", scene)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_scene(tmp_path / "file" / f"a{ending}", scene)
    (tmp_path / "folder" / f"a{ending}" / "full").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot be written"):
        write_scene(tmp_path / "folder" / f"a{ending}", scene)
    assert (tmp_path / "folder" / f"a{ending}" / "full").is_dir()


@pytest.mark.parametrize("ending", WRITTEN)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, ending, code):
    """The disk fills with the third write, wherever that is in the file."""
    old, new = synthetic(n=40_000, degree=1), synthetic(n=40_000, degree=1, seed=1)
    path = tmp_path / f"a{ending}"
    write_scene(path, old)
    before = path.read_bytes()
    real, writes = builtins.open, []

    class Filling:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            writes.append(len(data))
            if len(writes) == (1 if ending == ".spz" else 3):  # which is written in one piece
                raise OSError(code, os.strerror(code))
            return self.file.write(data)

        def seek(self, *arguments):
            return self.file.seek(*arguments)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    def full(name, mode="r", *arguments, **named):
        file = real(name, mode, *arguments, **named)
        return Filling(file) if mode == "wb" else file

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(RunError, match="disk is full" if code != errno.EIO else "cannot be written"):
        write_scene(path, new)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", WRITTEN)
def test_writing_twice_gives_the_same_bytes(tmp_path, ending):
    for name in ("a", "b"):
        write_scene(tmp_path / f"{name}{ending}", synthetic(n=700, degree=2))
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_the_scene_is_not_changed_by_writing(tmp_path):
    scene = synthetic(n=400, degree=2)
    for ending in WRITTEN:
        write_scene(tmp_path / f"a{ending}", scene)
    assert_equal(scene, synthetic(n=400, degree=2))


def test_chunks_are_the_scene_in_order():
    scene = synthetic(n=40_000, degree=1)
    order = np.random.default_rng(0).permutation(len(scene))
    for given, expected in ((None, scene), (order, scene.take(order))):
        parts = list(scene.chunks(given))
        assert [part.stop - part.start for part, _ in parts] == [len(piece) for _, piece in parts]
        for name in ("means", "sh_rest", "logits"):
            whole = np.concatenate([getattr(piece, name) for _, piece in parts])
            np.testing.assert_array_equal(whole, getattr(expected, name))


def test_every_name_of_the_package_is_there_and_nothing_heavy_is_loaded():
    code = (
        "import sys; from gencompress import formats; [getattr(formats, name) for name in dir(formats)];"
        "assert not {'torch', 'numba', 'diffusers', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert set(formats.__all__) >= {"read_scene", "write_scene", "read_cameras", "SplatScene", "Cameras"}


def test_every_format_of_the_table_says_what_it_holds():
    assert {ending for ending, kind in FORMATS.items() if kind.any_value} == {".ply"}
    assert all(0 <= kind.sh_degree <= 4 for kind in FORMATS.values())
