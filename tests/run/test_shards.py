"""Tensors that processes share and may die while writing."""

from __future__ import annotations

import subprocess
import sys

import torch

from gencompress.run.shards import Shards

_WRITERS = """
import os, signal, sys, time
from pathlib import Path
import torch
from gencompress.run.shards import Shards

folder = Path(sys.argv[1])

def tensor(number):
    return torch.full((40, 50), number / 8, dtype=torch.float16)

def write():
    shards = Shards(folder, {"teacher": "a"})
    shards.limit(8)
    for turn in range(5):
        for number in range(8):
            found = shards.read(number)
            assert found is None or torch.equal(found, tensor(number)), number
            shards.write(number, tensor(number))

def forked(work):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child

def forever():
    while True:
        write()

writers, victims = [forked(write) for _ in range(2)], [forked(forever) for _ in range(3)]
for victim in victims:
    time.sleep(0.05)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
sys.exit(any(os.waitpid(writer, 0)[1] for writer in writers))
"""


def test_writers_at_once_and_killed_ones_never_show_half_a_tensor(tmp_path):
    folder = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", _WRITERS, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shards = Shards(folder, {"teacher": "a"})
    shards.limit(8)
    assert sorted(file.name for file in folder.rglob("*.*")) == sorted(
        ["cache.json", *(f"{i:07d}.safetensors" for i in range(8))]
    )
    for number in range(8):
        found = shards.read(number)
        assert found is not None and bool((found == number / 8).all())


def test_numbers_are_spread_over_folders(tmp_path):
    shards = Shards(tmp_path / "cache", {"teacher": "a"})
    for number in (0, 999, 1000, 12_345_678):
        shards.write(number, torch.tensor([float(number)]))
    found = {n: shards.read(n) for n in (0, 999, 1000, 12_345_678, 1)}
    assert [None if t is None else t.item() for t in found.values()] == [0, 999, 1000, 12_345_678, None]
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["0000", "0001", "12345", "cache.json"]
