"""Rows, tables and comparisons of SAM runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gencompress.board import compare_runs, make_tables, read_runs
from gencompress.board.exports import as_model_index
from gencompress.board.naming import labels
from gencompress.board.site import write_board
from gencompress.board.verdict import as_text, verdict
from gencompress.errors import DataError
from tests.board.runs import make_run
from tests.report.sam_runs import estimate, metrics


def sam_run(
    folder: Path,
    method: str = "disturbed_taylor",
    lost: float = 0.0,
    change: Any = lambda m: None,
    recipe: str = "slimsam",
) -> Path:
    """An evaluated run whose answers to points are worse by `lost`."""

    def write(value: dict[str, Any]) -> None:
        value.clear()
        value |= {**metrics(0.5), "model": "sample:emoji_sam", "method": method, "images": {}}
        points = [0.8, 0.75, 0.7, 0.9, 0.85, 0.65]
        value["quality"]["miou_point"] = estimate(*(v - lost - 0.01 * (i % 3) for i, v in enumerate(points)))
        change(value)

    return make_run(
        folder,
        method,
        0.5,
        change=write,
        options={"domain.name": "sam", "recipe.name": recipe, "compensate.images": 64 if recipe == "slimsam" else 0},
    )


def test_rows_have_miou_and_both_counts_of_macs_and_the_best_is_first(tmp_path):
    runs = [sam_run(tmp_path / "worse", "random", 0.2, recipe="one_shot"), sam_run(tmp_path / "better")]
    (table,) = make_tables(read_runs(runs))
    assert [row.id for row in table.rows] == ["better", "worse"]
    assert [label.name for label in labels(table.rows)] == [
        "slimsam, disturbed_taylor + compensation",
        "one_shot, random",
    ]
    better = table.rows[0]
    assert (
        better.domain == "sam" and better.task == "emoji_sam" and better.about["latency_of"].startswith("one forward")
    )
    assert better.values["miou_point"] == pytest.approx(0.765, abs=1e-3)
    assert {"miou_box", "miou_everything", "agreement", "embedding_error"} <= set(better.values)
    assert better.values["macs"] == 243_000_000 and better.values["macs_without_attention"] == 150_000_000
    assert better.spread["miou_point"] == 0.0125 and better.dense["params"] == 1_000_000
    assert table.quality is not None and table.quality.key == "miou_point" and table.quality.higher
    assert table.about.title == "Segment Anything" and table.baseline == "one_shot, random"
    assert table.conditions == ("64 labelled pictures, from composites, 4 objects, 24 unlabelled pictures, from photos")
    assert any("predicted IoU 0.3" in note for note in table.notes)
    assert "type: mask-generation" in as_model_index([table])


def test_runs_on_other_masks_stand_in_other_tables(tmp_path):
    other = sam_run(tmp_path / "b", change=lambda m: m["pictures"].update(labelled_fingerprint="c" * 64))
    first, second = make_tables(read_runs([sam_run(tmp_path / "a"), other]))
    assert {first.apart, second.apart} == {"masks bbbbbbbbbbbb", "masks cccccccccccc"}


def test_a_comparison_is_paired_by_object(tmp_path):
    found = compare_runs(sam_run(tmp_path / "a"), sam_run(tmp_path / "b", "random", 0.2))
    by_key = {d.measure.key: d for d in found.differences}
    assert by_key["miou_point"].gain.n == 6 and by_key["miou_point"].better == 1
    assert by_key["miou_point"].gain.mean == pytest.approx(0.2)
    assert by_key["agreement"].gain.n == 3 and by_key["agreement"].better == 0
    sentence = verdict(found)[0]
    assert "is better in Point mIoU by 0.2000" in sentence and "over 6 objects, 4 objects and 3 pictures" in sentence
    assert "Point mIoU" in as_text(found)


def test_a_smaller_embedding_error_is_better(tmp_path):
    less = sam_run(tmp_path / "b", change=lambda m: m["quality"].update(embedding_error=estimate(0.1, 0.13, 0.16)))
    found = {d.measure.key: d for d in compare_runs(sam_run(tmp_path / "a"), less).differences}
    assert found["embedding_error"].gain.mean > 0 and found["embedding_error"].better == -1


def test_other_objects_do_not_compare(tmp_path):
    other = sam_run(tmp_path / "b", change=lambda m: m["quality"].update(miou_point=estimate(0.5, 0.6)))
    with pytest.raises(DataError, match="miou_point: 6 objects in the first run and 2 in the second"):
        compare_runs(sam_run(tmp_path / "a"), other)


def test_the_board_is_written(tmp_path):
    write_board([sam_run(tmp_path / "a"), sam_run(tmp_path / "b", "random", 0.2)], tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    assert "Point mIoU" in page and "Segment Anything" in page and "without attention" in page
