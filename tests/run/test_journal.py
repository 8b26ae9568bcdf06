from __future__ import annotations

from pathlib import Path

import pytest

from gencompress.run import Run
from gencompress.run.journal import Journal, Outcome, outcome
from tests.run.recipe import Options


def write(folder: Path, *events: tuple[str, dict[str, object]]) -> None:
    journal = Journal(folder)
    for event, data in events:
        journal.write(event, **data)
    journal.close()


def test_a_folder_without_journal_never_started(tmp_path: Path) -> None:
    assert outcome(tmp_path) == Outcome("unfinished", message="never started")


def test_a_run_that_ends_and_one_that_fails(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", Options()):
        pass
    assert outcome(tmp_path / "a") == Outcome("finished")
    with pytest.raises(ValueError, match="too small"), Run.open(tmp_path / "b", Options()):
        raise ValueError("too small")
    assert outcome(tmp_path / "b") == Outcome("failed", "ValueError", "too small")
    with Run.open(tmp_path / "b", Options()):
        assert outcome(tmp_path / "b").state == "unfinished", "the failure before belongs to an earlier opening"
    assert outcome(tmp_path / "b") == Outcome("finished")


def test_a_killed_run_says_where_it_stood(tmp_path: Path) -> None:
    write(tmp_path, ("opened", {}))
    assert outcome(tmp_path).message == "before the first stage"
    write(tmp_path, ("stage_started", {"stage": "scores"}))
    assert outcome(tmp_path).message == "in stage scores"
    write(tmp_path, *(("progress", {"stage": "scores", "step": n, "total": 9000}) for n in range(8000)))
    assert (tmp_path / "journal.jsonl").stat().st_size > 2**18, "the opening is out of reach"
    assert outcome(tmp_path) == Outcome("unfinished", message="in stage scores, step 7999 of 9000")


@pytest.mark.parametrize("tail", [b'{"event": "ended", "err', b"\xff\xfe\x00\n", b"[" * 100_000 + b"\n", b"{}\n[1]\n"])
def test_torn_and_hostile_lines_are_passed_over(tmp_path: Path, tail: bytes) -> None:
    write(tmp_path, ("opened", {}), ("ended", {"error": "ModelError", "message": "no"}))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(tail)
    assert outcome(tmp_path) == Outcome("failed", "ModelError", "no")
