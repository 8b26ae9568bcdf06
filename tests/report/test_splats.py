"""The report of pruned scenes: figures, pictures, links, and foreign text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gencompress.errors import DataError
from gencompress.report import write_report
from tests.html_page import Page
from tests.report.test_html import PAYLOADS

VIEWS = 3


def metrics(keep: float) -> dict[str, Any]:
    """What the evaluation of a pruned scene writes."""
    units, dense = int(1000 * keep), 1000
    side = {"sh_degree": 0, "latency_s": {"median": 0.02, "p10": 0.019, "p90": 0.03, "runs": 10}}
    files = [
        {"format": kind, "path": f"export/cat.{kind}", "bytes": size * units, "bytes_per_splat": float(size),
         "psnr_db": 40.0 - i, "ssim": 0.99, "psnr_close_db": 33.25}
        for i, (kind, size) in enumerate((("ply", 56), ("sog", 13)))
    ]  # fmt: skip
    page = {"format": "html", "path": "export/cat.html", "bytes": 2_000_000}
    return {
        "schema": 1,
        "domain": "splats",
        "model": "/home/somebody/cat.ply",
        "method": "leave_one_out",
        "budget": {"metric": "units", "keep": keep, "asked": units, "reached": units, "dense": dense,
                   "prunable": dense, "scope": "prunable"},
        "hardware": "Some CPU", "date": "2026-11-24", "threads": 1, "command": f"gencompress run budget.keep={keep}",
        "filter": {"not finite": 0, "invisible": 7, "flyaway": 3},
        "removal": {"deleted": 600, "merged": 150},
        "views": {"score": 24, "refine": 100, "test": 12, "close": 8, "width": 400, "height": 400, "source": "orbit"},
        "dense": {"units": dense, "params": 14 * dense, "bytes": 56_000, **side},
        "pruned": {"units": units, "params": 14 * units, "bytes": 56 * units, **side},
        "peak_memory_bytes": 412_000_000, "seconds": 38.5,
        "quality": {"psnr_db": {"mean": 39.5, "se": 0.4, "per_image": [39.0, 31.125]},
                    "ssim": {"mean": 0.9871, "se": 0.001, "per_image": []},
                    "lpips_note": "LPIPS was not measured", "protocol": {"ssim": "11 x 11 Gaussian window"}},
        "quality_close": {"psnr_db": {"mean": 33.25, "se": 0.6, "per_image": [33.0]},
                          "ssim": {"mean": 0.95, "se": 0.002, "per_image": []}},
        "stages": {"prune": {"units": 400, "psnr_db": 37.75, "ssim": 0.98},
                   "merge": {"units": units, "psnr_db": 36.5, "ssim": 0.97},
                   "recover": {"units": units, "psnr_db": 39.875, "ssim": 0.9874}},
        "files": [*files, page],
        "curve": {"step": [1, 2, 3, 4], "loss": [0.05, 0.03, 0.02, 0.01]},
        "images": {},
    }  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(keep, change) writes a run directory with its pictures and returns it."""

    def make(keep: float = 0.25, change: Callable[[dict[str, Any]], object] = lambda m: None) -> Path:
        run = tmp_path / f"run-{keep}"
        for folder in ("eval", "export"):
            (run / folder).mkdir(parents=True)
        value = metrics(keep)
        dense = np.random.default_rng(0).integers(0, 200, (VIEWS, 24, 24, 3), dtype=np.uint8)
        images: dict[str, Any] = {"names": [f"test {i}" for i in range(VIEWS)], "error_gain": 8}
        for kind, pixels in (("dense", dense), ("pruned", dense + 10), ("error", dense * 0 + 80)):
            images[kind] = [f"eval/{kind}-{i}.png" for i in range(VIEWS)]
            for name, picture in zip(images[kind], pixels, strict=True):
                Image.fromarray(picture.astype(np.uint8)).save(run / name)
        images["crops"] = ["eval/crop.png"]
        Image.fromarray(np.concatenate([dense[0]] * 3, axis=1)).save(run / "eval/crop.png")
        value["images"] = images
        change(value)
        (run / "eval/metrics.json").write_text(json.dumps(value))
        (run / "export/cat.html").write_text("<!doctype html>")
        return run

    return make


def render(*runs: Path) -> tuple[str, Page]:
    out = write_report(list(runs), runs[0] / "report" / "report.html")
    html = out.read_text()
    return html, Page(html)


def test_page_shows_the_figures_of_every_run(make_run: Callable[..., Path]) -> None:
    html, page = render(make_run(0.5), make_run(0.25))
    text = page.text.replace("\u00a0", " ")
    for expected in (
        "cat.ply", "keep 0.5", "keep 0.25", "exact leave-one-out error", "At keep 0.25, 250 of 1.00 k splats are left",
        "39.5 dB", "± 0.4", "0.9871", "33.2 dB", "−75 %", ".ply", ".sog", "13.0", "40.00 dB", "39.00 dB", "33.25 dB",
        "after deletion", "after merging", "after refinement", "as written", "37.75 dB", "36.50 dB", "39.88 dB",
        "invisible", "flyaway", "deleted", "600", "merged", "150", "Worst PSNR", "31.1 dB", "38.5 s", "412 MB",
        "24 to score on, 100 to refine on, 12 held-out ones and 8 close-ups", "around the object",
        "11 x 11 Gaussian window", "0.25 of the prunable splats", "gencompress run budget.keep=0.5",
        "differences are shown 8 times as strong",
    ):  # fmt: skip
        assert expected in text, expected
    assert "not finite" not in text, "a reason that no splat had is left out"
    assert "somebody" not in html


def test_pictures_are_shown_with_their_differences_and_worst_regions(make_run: Callable[..., Path]) -> None:
    _, page = render(make_run())
    shown = [b for b in page.all("button") if "pic" in (b.get("class") or "")]
    assert len(shown) == 3 * VIEWS and {b["title"] for b in shown} == {"test 0", "test 1", "test 2"}
    by_label = {b["data-label"]: b["data-figure"].replace("\u00a0", " ") for b in shown}
    assert by_label == {"input": "", "keep 0.25": "28.1 dB", "keep 0.25, difference": ""}  # 20 log10(255 / 10)
    (strip,) = [image for image in page.all("img") if "region 1" in (image.get("alt") or "")]
    assert strip["width"] == "72" and strip["src"].startswith("data:image/png;base64,")


def test_the_worst_views_have_their_regions_shown(make_run: Callable[..., Path]) -> None:
    def change(m: dict[str, Any]) -> None:
        m["images"]["crops"] = [f"eval/crop{i}.png" for i in range(9)]
        m["images"]["psnr_db"] = [40, 30, 50, None, 20, 60, 45, 25, 35]

    run = make_run(change=change)
    for i in range(9):
        Image.new("RGB", (30 + i, 10)).save(run / f"eval/crop{i}.png")
    strips = [image for image in render(run)[1].all("img") if "region" in (image.get("alt") or "")]
    assert [int(str(strip["width"])) - 30 for strip in strips] == [4, 7, 1, 8, 0, 6]


def test_the_viewer_page_is_linked_if_it_is_there(make_run: Callable[..., Path]) -> None:
    run = make_run()
    assert [a["href"] for a in render(run)[1].all("a")] == ["../export/cat.html"]
    (run / "export/cat.html").unlink()
    assert render(run)[1].all("a") == []


@pytest.mark.parametrize("path", ["javascript:alert(1)", "../../secret.html", "/etc/passwd", "export", "\0", 7, None])
def test_no_link_leads_out_of_the_run_directory(make_run: Callable[..., Path], tmp_path: Path, path: object) -> None:
    (tmp_path / "secret.html").write_text("")
    _, page = render(make_run(change=lambda m: m["files"][2].update(path=path)))
    assert page.all("a") == []


def test_budgets_of_size_and_quality_have_words(make_run: Callable[..., Path]) -> None:
    size = {"metric": "bytes", "max_mb": 8, "asked": 8_000_000, "reached": 7_950_000, "dense": 1000, "units": 400}
    text = render(make_run(change=lambda m: m.update(budget=size)))[1].text.replace("\u00a0", " ")
    assert "≤ 8 MB" in text and "size of the first file at most 8 MB, 7.95 MB reached" in text
    quality = {"metric": "psnr", "min_psnr": 35.5, "asked": 35.5, "reached": 35.625, "dense": 1000, "units": 400}
    text = render(make_run(0.3, change=lambda m: m.update(budget=quality)))[1].text.replace("\u00a0", " ")
    assert "≥ 35.5 dB" in text and "PSNR to the input's own renders at least 35.5 dB, 35.62 dB reached" in text


def test_whatever_was_not_recorded_is_left_out(make_run: Callable[..., Path]) -> None:
    def strip(m: dict[str, Any]) -> None:
        for key in ("filter", "removal", "views", "quality", "quality_close", "stages", "files", "curve", "images"):
            del m[key]

    _, page = render(make_run(change=strip))
    assert "saved no pictures" in page.text and "Quality was not measured" in page.text
    assert "files were not measured" in page.text and "Refinement" not in page.text
    for shape in ([], "text", 5, {"psnr_db": []}, [3, None]):
        broken = {key: shape for key in ("filter", "removal", "views", "quality", "stages", "files", "curve")}
        run = make_run(0.3 + 0.01 * len(str(shape)), change=lambda m, broken=broken: m.update(broken))
        assert "splats are left" in render(run)[1].text


def test_pictures_that_are_missing_or_outside_are_refused(make_run: Callable[..., Path]) -> None:
    run = make_run(change=lambda m: m["images"].update(crops=["../../etc/passwd"]))
    with pytest.raises(DataError, match="outside the run directory"):
        render(run)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_of_foreign_origin_stays_text(make_run: Callable[..., Path], payload: str) -> None:
    def poison(m: dict[str, Any]) -> None:
        for key in ("model", "method", "hardware", "date", "command"):
            m[key] = payload
        m["filter"] = {payload: 3}
        m["removal"] = {payload: 4}
        m["views"]["source"] = payload
        m["quality"] |= {"lpips_note": payload, "protocol": {"ssim": payload}}
        m["files"][0]["format"] = payload
        m["images"]["names"] = [payload] * VIEWS

    clean_html, clean = render(make_run())
    html, page = render(make_run(0.5, change=poison))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert payload in page.text and len(re.findall("<script", html)) == len(re.findall("<script", clean_html))
