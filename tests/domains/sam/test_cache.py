"""Embeddings of the teacher on the disk: equal to computed ones, made once, never those of something else."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from gencompress.domains.sam.cache import TeacherCache
from gencompress.domains.sam.families import family_of
from gencompress.domains.sam.images import Batches, open_images
from gencompress.domains.sam.processor import default_processor
from gencompress.domains.sam.subject import embeddings
from gencompress.errors import NumericsError, RunError
from tests.domains.sam.picture_files import pictures
from tests.domains.sam.tiny import SIZE, tiny_sam, tiny_sam2


class Counted(torch.nn.Module):
    """An encoder that counts the pictures that it sees."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.seen = encoder, 0

    def forward(self, pixels):
        self.seen += len(pixels)
        return self.encoder(pixels)


@pytest.fixture(scope="module")
def teacher():
    return tiny_sam().vision_encoder


def opened(tmp_path, encoder, limit=10**9, **options):
    """A cache and the batches that it is of; pictures are made where there are none."""
    images = tmp_path / "images"
    if not images.exists():
        pictures(images)
    stream = Batches(open_images(images), default_processor(family_of(getattr(encoder, "encoder", encoder)), SIZE))
    return TeacherCache(tmp_path / "cache", encoder, stream, limit, **options), stream


def files(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("model", [tiny_sam, tiny_sam2])
def test_targets_are_those_of_the_teacher_computed_once(tmp_path, model):
    encoder = Counted(model().vision_encoder)
    cache, stream = opened(tmp_path, encoder)
    first = [cache.targets(i, 2) for i in range(3)]
    assert encoder.seen == 5, "the sixth picture is the first of the next epoch"
    with torch.no_grad():
        expected = [embeddings(encoder.encoder, stream(i, 2)) for i in range(3)]
    for mine, theirs in zip(first, expected, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=2**-10, atol=1e-4)
    again, _ = opened(tmp_path, encoder)
    assert all(torch.equal(again.targets(i, 2), first[i]) for i in range(3))
    assert torch.equal(again.targets(0, 4), torch.cat(first[:2])), "however the pictures are batched"
    assert encoder.seen == 5


def test_what_does_not_fit_is_computed_every_time_and_said_once(tmp_path, teacher):
    encoder, said = Counted(teacher), []
    each = 2 * 16 * 8 * 8 + 512
    cache, _ = opened(tmp_path, encoder, 3 * each + 100, say=said.append)
    first, second = cache.targets(0, 5), cache.targets(0, 5)
    assert torch.equal(first, second), "stored or not, values are the same"
    assert encoder.seen == 5 + 2
    assert [f.stem for f in files(tmp_path)] == ["0000000", "0000001", "0000002"]
    assert sum(f.stat().st_size for f in files(tmp_path)) <= 3 * each
    assert len(said) == 1 and "3 of 5 pictures" in said[0]
    smaller, _ = opened(tmp_path, encoder, each)
    assert torch.equal(smaller.targets(0, 5), first)
    assert [f.stem for f in files(tmp_path)] == ["0000000"]
    nothing, _ = opened(tmp_path, encoder, 0)
    assert torch.equal(nothing.targets(0, 5), first) and not files(tmp_path)


def _cut(file):
    os.truncate(file, file.stat().st_size // 2)


def _flip(file):
    data = bytearray(file.read_bytes())
    data[-7] ^= 16
    file.write_bytes(data)


def _other_origins(file):
    save_file({"tensor": torch.zeros(16, 8, 8, dtype=torch.float16)}, file, metadata={"origins": "0", "crc32": "0"})


def _other_tensor(file):
    save_file({"embedding": torch.zeros(3)}, file)


@pytest.mark.parametrize("spoil", [_cut, _flip, _other_origins, _other_tensor, os.remove])
def test_damaged_files_are_made_again(tmp_path, teacher, spoil):
    encoder = Counted(teacher)
    cache, _ = opened(tmp_path, encoder)
    first = cache.targets(0, 5)
    spoil(files(tmp_path)[2])
    again, _ = opened(tmp_path, encoder)
    assert torch.equal(again.targets(0, 5), first) and encoder.seen == 6
    assert torch.equal(again.targets(0, 5), first) and encoder.seen == 6, "and are whole again"


def test_what_a_killed_writer_left_is_swept_away(tmp_path, teacher):
    cache, _ = opened(tmp_path, teacher)
    cache.targets(0, 5)
    left = files(tmp_path)[0].with_name("0000004.safetensors.tmp-123")
    left.write_bytes(b"half")
    again, _ = opened(tmp_path, teacher)
    again.targets(0, 1)
    assert not left.exists() and len(files(tmp_path)) == 5


def test_a_cache_of_something_else_is_refused_by_what_differs(tmp_path, teacher):
    opened(tmp_path, teacher)[0].targets(0, 2)
    with pytest.raises(RunError, match=r"another teacher .* name another folder, or remove"):
        opened(tmp_path, tiny_sam(seed=1).vision_encoder)
    os.utime(tmp_path / "images/0.png", (1e9, 1e9))
    with pytest.raises(RunError, match="another images"):
        opened(tmp_path, teacher)
    stream = Batches(open_images(tmp_path / "images"), default_processor(family_of(teacher), 2 * SIZE))
    head = tmp_path / "cache/cache.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"images": stream.images.fingerprint}))
    with pytest.raises(RunError, match="another processor"):
        TeacherCache(tmp_path / "cache", teacher, stream, 10**9)
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '"x"', "\udcff"])
def test_a_damaged_head_is_refused(tmp_path, teacher, text):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/cache.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"cache\.json: damaged .* remove the folder"):
        opened(tmp_path, teacher)


def test_a_folder_of_something_else_is_refused(tmp_path, teacher):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/thesis.txt").write_text("")
    with pytest.raises(RunError, match="neither empty nor a cache"):
        opened(tmp_path, teacher)
    (tmp_path / "cache/thesis.txt").unlink()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("")
    with pytest.raises(RunError, match="cache is a file"):
        opened(tmp_path, teacher)


def test_embeddings_that_float16_cannot_hold_are_named(tmp_path):
    encoder = tiny_sam().vision_encoder
    encoder.neck.layer_norm2.weight.mul_(1e6)
    with pytest.raises(NumericsError, match=r"picture \d of images: .* not finite in float16"):
        opened(tmp_path, encoder)[0].targets(0, 2)
    assert not files(tmp_path)
