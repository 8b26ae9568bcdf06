from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from gencompress.errors import NumericsError, RunError
from gencompress.run import atomic
from tests.run.recipe import in_child, wait


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writers_replace_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_json(path, {"a": [1, 2.5, None]})
    atomic.write_json(path, {"b": 1})
    assert path.read_text() == '{\n "b": 1\n}\n'
    atomic.write_bytes(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert names(tmp_path) == ["a.json"]


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyError("no")

    with pytest.raises(KeyError):
        atomic.write_file(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"quality": {"psnr": [1.0, float("nan")]}}, r"quality\.psnr\[1\] = nan"),
        ({"loss": float("inf")}, "loss = inf"),
        ([1.0, -float("inf")], r"value\[1\] = -inf"),
    ],
)
def test_json_refuses_what_is_not_finite_and_names_it(tmp_path: Path, value: object, key: str) -> None:
    with pytest.raises(NumericsError, match=key):
        atomic.write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out" / "model"
    with pytest.raises(KeyError), atomic.write_dir(target) as folder:
        (folder / "a").write_text("1")
        raise KeyError("no")
    assert names(tmp_path / "out") == []
    with atomic.write_dir(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert names(target) == ["a"]
    with pytest.raises(RunError, match="already exists"), atomic.write_dir(target):
        pytest.fail("the block must not start")
    assert names(tmp_path / "out") == ["model"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_folder_is_replaced_only_where_the_caller_lets_it(tmp_path: Path, durable: bool) -> None:
    target = tmp_path / "site"

    def refuse(path: Path) -> None:
        if (path / "mine").exists():
            raise RunError("mine")

    for text in ("1", "2"):
        with atomic.write_dir(target, refuse=refuse, durable=durable) as folder:
            (folder / text).write_text(text)
    assert names(target) == ["2"]
    with pytest.raises(RunError, match="mine"), atomic.write_dir(target, refuse=refuse, durable=durable):
        (target / "mine").write_text("put there while the new one was made")
    assert names(target) == ["2", "mine"] and names(tmp_path) == ["site"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_names_path_and_bytes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"a: the disk is full: 1,234 bytes are needed, [\d,]+ bytes are free"):
        atomic.write_bytes(path, bytes(1234))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_full_disk_inside_safetensors_is_recognised(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    def full(temporary: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(RunError, match="the disk is full"):
        atomic.write_file(tmp_path / "a", full)


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "absent" / "a", b"1")


def test_sweeping_removes_temporaries_alone(tmp_path: Path) -> None:
    for name in ("a.tmp-12", "a.tmp-x", "keep"):
        (tmp_path / name).write_text("1")
    (tmp_path / "scores.tmp-7" / "deep").mkdir(parents=True)
    atomic.sweep(tmp_path)
    assert names(tmp_path) == ["a.tmp-x", "keep"]


def test_sweeping_beside_the_owner_of_a_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process of the run removes its own temporary folder at the same moment."""
    mine, theirs = tmp_path / "a.tmp-1", tmp_path / "b.tmp-2"
    mine.mkdir()
    theirs.mkdir()
    remove = shutil.rmtree

    def raced(path: Path) -> None:
        if path == theirs:
            remove(path)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", raced)
    atomic.sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_killed_while_a_real_device_is_full(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC, so this goes through the kernel's own error."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def write() -> None:
        def full(temporary: Path) -> None:
            with open("/dev/full", "wb") as file:
                file.write(b"1")

        try:
            atomic.write_file(tmp_path / "a", full)
        except RunError:
            return
        raise AssertionError("no error")

    assert wait(in_child(write)) == 0
    assert names(tmp_path) == []
