"""Valid files with random bytes changed, removed or doubled: they are read or refused, and nothing else happens."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

from gencompress.errors import FormatError
from gencompress.formats import read_cameras, read_scene, write_scene
from tests.formats.synthetic import synthetic
from tests.hostile import corpus, corpus_cameras

ROUNDS = 150


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Up to eight changes, mostly near the beginning, where lengths and counts stand."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        reach = len(changed) if rng.random() < 0.3 else min(len(changed), 200)
        if reach < 2:
            break
        at = int(rng.integers(reach))
        match rng.integers(4):
            case 0:
                changed[at] = int(rng.integers(256))
            case 1:
                changed[at : at + 4] = rng.bytes(4)
            case 2:
                del changed[at : at + int(rng.integers(1, 16))]
            case _:
                changed[at:at] = changed[at : at + 16]
    return bytes(changed)


def refuse_or_read(read, path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(path)
    except FormatError:
        return False
    return True


def survives(read, path, data: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes = []
    tracemalloc.start()
    for _ in range(ROUNDS):
        path.write_bytes(mutated(data, rng))
        outcomes.append(refuse_or_read(read, path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 256 << 20
    assert not all(outcomes)


@pytest.mark.parametrize("name", [name for name in corpus.whole_files() if name != "splat"])
def test_small_scene_files(tmp_path, name):
    ending, data = corpus.whole_files()[name]
    survives(read_scene, tmp_path / f"a{ending}", data, seed=1)


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply", ".spz", ".glb"])
def test_scene_files_as_they_are_written(tmp_path, ending):
    write_scene(tmp_path / f"a{ending}", synthetic(n=300, degree=2))
    survives(read_scene, tmp_path / f"b{ending}", (tmp_path / f"a{ending}").read_bytes(), seed=2)


@pytest.mark.parametrize("name", corpus_cameras.whole_files())
def test_camera_files(tmp_path, name):
    files, target = corpus_cameras.whole_files()[name]
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    for seed, (file, data) in enumerate(files.items()):
        survives(lambda _: read_cameras(tmp_path / target), tmp_path / file, data, seed)
        (tmp_path / file).write_bytes(data)
