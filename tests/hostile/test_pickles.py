"""Hostile checkpoints: one typed error, soon and in little memory, and nothing in them is executed."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import pytest
import torch

from gencompress.domains.stylegan.convert import read_networks
from gencompress.errors import FormatError, GencompressError, ModelError
from gencompress.formats.checkpoints import read_checkpoint
from tests.domains.stylegan import held
from tests.domains.stylegan.tiny import tiny_generator
from tests.hostile import corpus_pickles
from tests.hostile.bounds import MEMORY, refused
from tests.hostile.corpus import GARBAGE
from tests.hostile.test_mutations import survives

MARK = Path("/nonexistent/made")  # stands for a path of the test
NAMES = [
    f"{kind.__name__}: {name}"
    for kind in (corpus_pickles.programs, corpus_pickles.containers)
    for name, _ in kind(MARK)
]
BOMBS = dict(corpus_pickles.bombs())
TENSORS = dict(corpus_pickles.tensors())


@pytest.mark.parametrize("name", NAMES)
def test_programs_are_not_executed(tmp_path, name):
    made = tmp_path / "made"
    kind, _, case = name.partition(": ")
    path = tmp_path / "a.pkl"
    path.write_bytes(dict(getattr(corpus_pickles, kind)(made))[case])
    modules = set(sys.modules)
    refused(read_networks, path, kind=GencompressError)
    assert not made.exists() and [p.name for p in tmp_path.iterdir()] == ["a.pkl"]
    assert not {m for m in set(sys.modules) - modules if m in ("antigravity", "pty", "runpy", "torch_utils")}


def test_some_of_them_work():
    """That the corpus is no set of duds: pickle itself would run them."""
    found = dict(corpus_pickles.programs(MARK))
    for name in ("os.system", "stack global", "inst", "obj", "in a dict", "as state", "after a value"):
        seen = []

        class Spy(pickle.Unpickler):
            def find_class(self, module, name, seen=seen):
                seen.append(f"{module}.{name}")
                return (lambda *args: seen.append("called")) if module == "os" else super().find_class(module, name)

        try:
            Spy(io.BytesIO(found[name])).load()
        except TypeError:  # the state that a function gives is none
            pass
        assert seen[-2:] == ["os.system", "called"], name


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(tmp_path, name):
    path = tmp_path / "a.pkl"
    path.write_bytes(BOMBS[name])
    refused(read_networks, path, kind=GencompressError)


@pytest.mark.parametrize("name", [name for name in BOMBS if name.startswith("instructions")])
def test_instructions_are_counted_over_the_whole_file(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(BOMBS[name])
    refused(read_networks, tmp_path / "a.pkl", "instructions")


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_there_are_refused(tmp_path, name):
    path = tmp_path / "a.pt"
    path.write_bytes(TENSORS[name])
    refused(read_networks, path, kind=GencompressError)


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused(tmp_path, name):
    path = tmp_path / "a.pt"
    path.write_bytes(GARBAGE[name])
    refused(read_networks, path, kind=GencompressError)


def test_there_are_enough_of_them():
    assert len(NAMES) >= 90 and len(set(NAMES)) == len(NAMES) and len(BOMBS) >= 50 and len(TENSORS) >= 50


def test_the_tensors_that_they_were_made_from_are_read(tmp_path):
    for data in (corpus_pickles.saved(corpus_pickles.g_ema(corpus_pickles.tensor())),
                 corpus_pickles.older(corpus_pickles.g_ema(corpus_pickles.tensor()), {"0": bytes(4)})):  # fmt: skip
        (tmp_path / "a.pt").write_bytes(data)
        assert torch.equal(read_checkpoint(tmp_path / "a.pt")["g_ema"]["conv1.conv.weight"].load(), torch.zeros(1))


def test_files_that_are_none_and_files_without_end(tmp_path):
    refused(read_checkpoint, tmp_path, "no such file")
    (tmp_path / "empty.pkl").touch()
    refused(read_checkpoint, tmp_path / "empty.pkl", "0 bytes")
    for size, wrong in ((64 << 30, "bytes"), (7 << 30, "malformed")):
        with open(tmp_path / "a.pkl", "wb") as file:
            file.truncate(size)  # a sparse file, which takes no room on the disk
        refused(read_checkpoint, tmp_path / "a.pkl", wrong)
    assert MEMORY < 7 << 30


def _read(path):
    try:
        read_networks(path)
    except ModelError as error:
        raise FormatError(str(error)) from error


@pytest.mark.parametrize("kind", ["nvidia", "zip", "older"])
def test_mutations(tmp_path, kind):
    """Random bytes changed: read or refused, and nothing else happens."""
    torch.manual_seed(0)
    if kind == "nvidia":
        data = held.nvidia_pickle(held.nvidia_generator({4: 2, 8: 2}, dim=4, layers=1))
    else:
        state = {"g_ema": tiny_generator((2, 3, 2, 3)).state_dict()}
        torch.save(state, tmp_path / "whole", _use_new_zipfile_serialization=kind == "zip")
        data = (tmp_path / "whole").read_bytes()
    survives(_read, tmp_path / "a", data, seed=4)
