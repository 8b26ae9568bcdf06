"""Radiance fields made to break the reader: one FormatError that says what is wrong, soon, and in little memory."""

from __future__ import annotations

import pytest

from gencompress.errors import FormatError
from gencompress.formats.gcnerf import read_gcnerf
from tests.hostile import corpus_gcnerf
from tests.hostile.bounds import refused
from tests.hostile.test_mutations import survives


@pytest.mark.parametrize("name", corpus_gcnerf.cases())
def test_a_hostile_file_is_refused(tmp_path, name):
    data, wrong = corpus_gcnerf.cases()[name]
    path = tmp_path / "a.gcnerf"
    path.write_bytes(data)
    refused(read_gcnerf, path, wrong)


def test_there_are_enough_of_them():
    assert len(corpus_gcnerf.cases()) >= 60


def test_what_they_were_made_from_is_read(tmp_path):
    path = tmp_path / "a.gcnerf"
    path.write_bytes(corpus_gcnerf.whole())
    found = read_gcnerf(path)
    assert found.table.shape == (corpus_gcnerf.ENTRIES, 2) and found.logits.shape == (4, 4, 4)
    assert [w.shape for w in (*found.density_net, *found.color_net)] == [(8, 6), (4, 8), (8, 19), (3, 8)]
    assert found.occupancy.sum() == 8 + 3 + 2


def test_random_changes_are_refused_or_read(tmp_path):
    survives(read_gcnerf, tmp_path / "a.gcnerf", corpus_gcnerf.whole(), seed=7)


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.gcnerf").mkdir()
    for path in (tmp_path / "missing.gcnerf", tmp_path / "folder.gcnerf"):
        with pytest.raises(FormatError, match="is no file"):
            read_gcnerf(path)


def test_a_file_of_gigabytes_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "a.gcnerf", "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(FormatError, match="1,073,741,825 bytes; at most"):
        read_gcnerf(tmp_path / "a.gcnerf")
