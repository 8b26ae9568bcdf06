from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from gencompress.errors import DataError, RunError
from gencompress.report import write_report
from tests.html_page import Page

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "</style><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "<!--",
    "]]>",
]


def render(*runs):
    out = write_report(list(runs), runs[0] / "report" / "report.html")
    html = out.read_text()
    return html, Page(html)


def test_page_shows_the_figures_of_every_run(make_run):
    _, page = render(make_run("a", 0.8), make_run("b", 0.6))
    text = page.text.replace("\u00a0", " ")
    for expected in (
        "small model", "keep 0.8", "keep 0.6", "1.81 M", "1.09 M", "−40 %", "4.35 MB", "1.33× as fast", "27.6 dB",
        "± 0.3", "0.931", "random-convolutions; they are not FID", "x.pth) were not at hand", "DDIMScheduler, 20 steps",
        "5 min 12 s", "gencompress run budget.keep=0.6", "0.8 of the prunable parameters, 0.7990 reached",
        "Some CPU, 2 cores", "200 mJ", "150 mJ", "−25 %", "RAPL, 1 package", "resident set",
    ):  # fmt: skip
        assert expected in text, expected


def test_budget_of_the_solver_reads_as_a_part_and_a_folder_gives_only_its_name(make_run):
    def change(m):
        plan = {"metric": "params", "keep": 0.6, "scope": "prunable", "dense": 1000, "prunable": 800, "asked": 680.0}
        m.update(budget=plan | {"reached": 676}, model="/home/somebody/models/flowers", guidance_scale=3.5)

    html, page = render(make_run(change=change))
    assert "0.6 of the prunable parameters, 0.5950 reached" in page.text and "guidance 3.5" in page.text
    assert "keep 0.6" in page.text and "flowers" in page.text and "somebody" not in html


def test_page_is_complete_in_itself(make_run):
    html, page = render(make_run())
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), attributes
    assert "@import" not in html and "url(" not in html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in html and page.all("html")[0]["lang"] == "en"


def test_only_its_own_script_may_run(make_run):
    html, page = render(make_run())
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_of_foreign_origin_stays_text(make_run, payload):
    def poison(m):
        for key in ("model", "method", "hardware", "date", "scheduler", "command", "latency_of"):
            m[key] = payload
        m["pruned"] |= {"peak_memory_method": payload, "energy_method": payload}
        m["budget"] |= {"metric": payload, "scope": payload}
        m["quality"] |= {"lpips_note": payload, "protocol": {"ssim": payload, "input": payload}}
        m["quality"]["frechet"] |= {"name": payload, "extractor": payload, "note": payload}
        m["groups"][0] |= {"name": payload, "kind": payload}
        m["images"]["prompts"] = [payload] * 3

    clean_html, clean = render(make_run("clean"))
    html, page = render(make_run("poisoned", change=poison))
    assert len(page.all("script")) == 1 and len(page.all("style")) == 1
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert payload in page.text and html.count("<script") == clean_html.count("<script")
    assert any(attributes.get("title") == payload for attributes in page.all("button"))


def test_pictures_are_inlined_with_their_psnr(make_run):
    _, page = render(make_run())
    pictures = [image for image in page.all("img") if "width" in image]
    assert len(pictures) == 6 and all(image["src"].startswith("data:image/png;base64,") for image in pictures)
    assert pictures[0]["alt"] == "sample 1, dense"
    psnr = "28.1\u00a0dB"  # -10 log10((10 / 255)^2)
    assert [b["data-figure"] for b in page.all("button") if "data-row" in b] == [""] * 3 + [psnr] * 3


def test_runs_with_the_same_dense_pictures_share_a_sheet_and_others_do_not(make_run):
    other = make_run("c", 0.5)
    (other / "eval/dense-0.png").write_bytes((other / "eval/dense-1.png").read_bytes())
    html, _ = render(make_run("a", 0.8), make_run("b", 0.6), other)
    assert html.count('class="sheet"') == 2


def test_recovered_pictures_stand_beside_the_unrecovered(make_run):
    def recovered(m):
        m["images"]["recovered"] = m["images"]["dense"]

    _, page = render(make_run(change=recovered))
    labels = list(dict.fromkeys(b["data-label"] for b in page.all("button") if "data-row" in b))
    assert labels == ["dense", "keep 0.7, before recovery", "keep 0.7"]


def test_many_pictures_are_folded_and_large_ones_shrunk(make_run):
    _, page = render(make_run("many", pictures=18))
    assert "2 more pictures" in page.text and len([b for b in page.all("button") if "data-row" in b]) == 36
    html, page = render(make_run("large", pictures=1, size=520))
    assert "Shown smaller than drawn (520 × 520 pixels)" in page.text and html.count("data:image/webp") == 2


def test_absent_parts_are_sentences(make_run):
    def strip(m):
        for key in ("quality", "groups", "curve", "images", "command", "latency_s"):
            m.pop(key, None)
        m["dense"], m["pruned"] = {"params": 10}, {"params": 5}
        m["method"] = "taylor"

    run = make_run(change=strip)
    (run / "manifest.json").unlink()
    html, page = render(run)
    for expected in (
        "saved no pictures", "did not record the groups",
        "first-order Taylor score gives every unit its number in one pass",
        "Quality was not measured", "LPIPS was not measured.", "command that made the run was not recorded",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert "None" not in page.text and "nan" not in page.text and 'class="sheet"' not in html


def test_numbers_of_wrong_type_read_as_absent(make_run):
    def spoil(m):
        m["pruned"] |= {"macs": "many", "bytes": float("nan"), "latency_s": [1], "peak_memory_bytes": True}
        m["quality"]["psnr_db"] = [1, 2]
        m["groups"] += ["x", {"name": "g", "kind": "head", "size": 0, "kept": 3}, {"name": "h", "kind": "ffn"}]
        m["curve"]["loss"][2] = float("nan")

    _, page = render(make_run(change=spoil))
    assert "Parameters" in page.text and "PSNR" not in page.text.split("Pictures")[0] and "nan" not in page.text


def test_runs_of_one_budget_are_named_by_method(make_run):
    _, page = render(make_run("a"), make_run("b", change=lambda m: m.update(method="random")), make_run("c"))
    for label in ("ecodiff, keep 0.7", "random, keep 0.7", "ecodiff, keep 0.7 (2)"):
        assert label in page.text


def test_what_cannot_be_read_is_named(make_run, tmp_path):
    out = tmp_path / "out.html"
    good = make_run("good")
    with pytest.raises(DataError, match="one run directory or more"):
        write_report([], out)
    with pytest.raises(RunError, match=r"metrics\.json: not there"):
        write_report([tmp_path / "absent"], out)
    (good / "eval/metrics.json").write_text("{")
    with pytest.raises(DataError, match="not readable JSON"):
        write_report([good], out)
    with pytest.raises(DataError, match="schema 9, this version reads 1"):
        write_report([make_run("new", change=lambda m: m.update(schema=9))], out)
    with pytest.raises(DataError, match=r"pruned\.params"):
        write_report([make_run("half", change=lambda m: m["pruned"].pop("params"))], out)
    with pytest.raises(DataError, match=r"other model .* and small model"):
        write_report([make_run("x"), make_run("y", change=lambda m: m.update(model="other model"))], out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "eval/absent.png", "eval/metrics.json"])
def test_only_pictures_inside_the_run_are_read(make_run, tmp_path, name):
    (tmp_path / "secret.png").write_bytes((make_run("other") / "eval/dense-0.png").read_bytes())
    run = make_run(change=lambda m: m["images"]["pruned"].__setitem__(1, name))
    with pytest.raises(DataError, match=r"outside the run directory|not there|not a readable PNG"):
        write_report([run], tmp_path / "out.html")


def test_a_link_out_of_the_run_is_not_followed(make_run, tmp_path):
    run = make_run()
    (tmp_path / "secret.png").write_bytes((run / "eval/dense-0.png").read_bytes())
    (run / "eval/dense-0.png").unlink()
    (run / "eval/dense-0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="outside the run directory"):
        write_report([run], tmp_path / "out.html")


def test_report_is_replaced_whole(make_run, tmp_path):
    out = tmp_path / "deep" / "report.html"
    run = make_run()
    write_report([run], out)
    first = out.read_text()
    metrics = json.loads((run / "eval/metrics.json").read_text())
    (run / "eval/metrics.json").write_text(json.dumps(metrics | {"date": "2027-01-01"}))
    write_report([run], out)
    assert "2027-01-01" in out.read_text() and "2027-01-01" not in first
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
