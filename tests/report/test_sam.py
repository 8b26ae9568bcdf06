"""The report of pruned SAM encoders: figures, prompts and masks, and foreign text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gencompress.errors import DataError
from gencompress.metrics.statistics import paired_gain
from gencompress.report import write_report
from tests.html_page import Page
from tests.report.sam_runs import PICTURES, make_run, metrics
from tests.report.test_html import PAYLOADS


def render(*runs: Path) -> tuple[str, Page]:
    html = write_report(list(runs), runs[0] / "report" / "report.html").read_text()
    return html, Page(html)


def words(page: Page) -> str:
    return " ".join(page.text.replace("\u00a0", " ").split())


def test_page_shows_the_figures_of_every_run(tmp_path):
    _, page = render(make_run(tmp_path / "a", 0.5), make_run(tmp_path / "b", 0.25))
    text = words(page)
    for expected in (
        "somebody/small-sam", "At keep 0.25, 250 k of 1.00 M encoder parameters are left.",
        "A picture is embedded 2.00× as fast.", "gives a mean IoU of 0.675", "where the dense model has 0.850",
        "disturbed Taylor score", "486 M", "369 M", "243 M", "150 M", "−50 %", "12.0 ms", "0.850", "−0.175", "0.900",
        "0.812", "± 0.013", "0.280", "Whole model", "1.40 M", "900 k", "everything", "with attention",
        "without attention", "channels of the residual stream 32/64", "dimensions of each head 16/32", "layer 0",
        "embedding_slim", "12.5 s", "61.0 MB",
        "4 objects in 64 pictures of composites", "16 x 16 points, predicted IoU 0.3, stability 0.5; a true mask",
        "4 × 4 points on each of 24 pictures of photos",
        "0.5 of the prunable parameters", "Some CPU, 2 cores", "2026-11-27", "128 x 128 pixels",
        "gencompress run +experiment=slimsam_sample budget.keep=0.5",
    ):  # fmt: skip
        assert expected in text, expected
    titles = [svg["aria-label"] for svg in page.all("svg") if "Loss" in str(svg.get("aria-label"))]
    assert titles == [f"Loss, round “{name}” over the updates" for name in ("embedding", "bottleneck")]


def test_changes_over_the_same_objects_have_intervals(tmp_path):
    text, found = words(render(make_run(tmp_path / "a"))[1]), metrics()
    for key in ("miou_point", "miou_box", "miou_everything"):
        gain = paired_gain(found["quality"][key]["per_image"], found["quality_dense"][key]["per_image"])
        expected = f"{gain.mean:.3f}{gain.low:.3f} to {gain.high:+.3f}".replace("-", "−").replace("+0.000", "0.000")
        assert expected in text, expected
    assert "Changes are over the same objects" in text
    without = words(render(make_run(tmp_path / "b", change=lambda m: m["quality_dense"].clear()))[1])
    assert "Changes are over the same objects" not in without


def test_pictures_have_their_iou_and_are_shared_where_they_are_the_same(tmp_path):
    runs = make_run(tmp_path / "a", 0.5), make_run(tmp_path / "b", 0.25, worst=5)
    _, page = render(*runs)
    shown = [b for b in page.all("button") if "pic" in (b.get("class") or "")]
    # prompts and everything are the same for both runs, the worst are not
    assert len(shown) == PICTURES * (4 + 3 + 3 + 4)
    labels = [b["data-label"] for b in shown[::PICTURES]]
    assert labels == [
        "prompt", "dense", "keep 0.5", "keep 0.25", "prompt", "dense", "keep 0.5", "prompt", "dense", "keep 0.25",
        "picture", "dense", "keep 0.5", "keep 0.25",
    ]  # fmt: skip
    figures = [b["data-figure"] for b in shown]
    assert figures[:9] == ["", "", "", "IoU 0.88", "IoU 0.75", "IoU 0.50", "IoU 0.81", "IoU 0.62", "IoU 0.25"]
    assert figures[-6:] == ["3 masks", "4 masks", "0 masks"] * 2 and figures[-7] == "1 mask"
    names = {str(radio["name"]) for radio in page.all("input") if radio.get("type") == "radio"}
    assert len(names) == 4, "every sheet has controls of its own"
    assert shown[0]["title"] == "picture 1, point" and "Where it lost most" in page.text


def test_runs_without_labels_tell_of_agreement(tmp_path):
    def unlabelled(m: dict[str, Any]) -> None:
        for key in ("miou_point", "miou_box", "miou_everything"):
            del m["quality"][key]
        m["quality_dense"] = {}
        m["pictures"] = {key: v for key, v in m["pictures"].items() if "agreement" in key or "unlabelled" in key}
        m["images"]["iou_dense"] = m["images"]["worst_iou_dense"] = [None] * PICTURES

    text = words(render(make_run(tmp_path / "a", change=unlabelled))[1])
    assert "Its masks agree with the dense model's at a mean IoU of 0.812." in text
    assert "IoU with the dense model's mask" in text and "yellow" not in text
    assert "point prompts" not in text and "objects in" not in text and "reference" in text


def test_whatever_was_not_recorded_is_left_out(tmp_path):
    keys = ("pictures", "quality", "quality_dense", "groups", "rounds", "images", "latency_of", "budget")

    def strip(m: dict[str, Any]) -> None:
        for key in keys:
            del m[key]

    page = render(make_run(tmp_path / "a", change=strip))[1]
    assert "saved no pictures" in page.text and "Quality was not measured" in page.text
    assert "Alignment with" not in page.text and "did not record the groups" in page.text
    for i, shape in enumerate(([], "text", 5, {"miou_point": []}, [3, None], [{"loss": 3, "name": []}])):
        broken = {key: shape for key in keys if key != "images"}
        run = make_run(tmp_path / str(i), change=lambda m, broken=broken: m.update(broken))
        assert "encoder parameters are left" in words(render(run)[1])


def test_pictures_outside_are_refused(tmp_path):
    run = make_run(tmp_path / "a", change=lambda m: m["images"].update(worst_dense=["../../etc/passwd"]))
    with pytest.raises(DataError, match="outside the run directory"):
        render(run)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_of_foreign_origin_stays_text(tmp_path, payload):
    def poison(m: dict[str, Any]) -> None:
        for key in ("model", "method", "hardware", "date", "command", "latency_of"):
            m[key] = payload
        m["pictures"] |= {"labelled_set": payload, "unlabelled_set": payload}
        m["groups"][0] |= {"name": payload, "kind": payload}
        m["rounds"][0]["name"] = payload
        for key in ("names", "worst_names", "everything_names"):
            m["images"][key] = [payload] * PICTURES

    clean_html, clean = render(make_run(tmp_path / "a"))
    html, page = render(make_run(tmp_path / "b", change=poison))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert payload in page.text and html.count("<script") == clean_html.count("<script")
