from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from gencompress.board import write_board
from gencompress.cli import run_command
from gencompress.errors import ConfigError, RunError
from gencompress.report.escape import printable
from tests.board.payloads import PAYLOADS
from tests.board.runs import make_run, write_journal, write_options
from tests.html_page import Page

OWN_LINK = re.compile(
    r"#table-\d+|board\.(csv|json|md)|model-index\.yaml|runs/[A-Za-z0-9._-]+\.txt|pictures/[0-9a-f]{20}\.webp|data:,"
)


def site(tmp_path: Path, *runs: Path, **more) -> tuple[Path, str, Page]:
    out = tmp_path / "site"
    html = write_board(runs, out, **more).read_text(encoding="utf-8")
    return out, html, Page(html)


def poisoned(folder: Path, text: str, **more) -> Path:
    """A run with `text` in every field that a board reads."""

    def change(m):
        for key in ("method", "hardware", "date", "scheduler", "command", "latency_of"):
            m[key] = text
        m["budget"]["metric"] = text
        m["quality"] |= {"lpips_note": text, "protocol": {"ssim": text, "input": text}}
        m["quality"]["frechet"] = {"name": text, "extractor": text, "value": 3.5}
        m["images"]["prompts"] = [text, text]

    options = {"denoise.prompts": text, "criterion.normalise": text, "model.dtype": text}
    return make_run(folder, text, options=options, change=change, pictures=2, **more)


def failing(folder: Path, text: str) -> Path:
    """A run that failed with `text` in its error and options."""
    write_options(folder, text, 0.5, {"denoise.scheduler": text, "model.path": text})
    write_journal(folder, {"event": "opened"}, {"event": "ended", "error": text, "message": text})
    return folder


def test_the_page_shows_rows_curves_and_failures(tmp_path):
    runs = [
        make_run(tmp_path / f"{m}{k}", m, k, [g + 20 * k] * 2)
        for m, g in (("random", 10), ("taylor", 12))
        for k in (0.5, 0.7, 0.9)
    ]
    _, _, page = site(tmp_path, *runs, failing(tmp_path / "bad", "taylor"), title="Our models")
    text = " ".join(page.text.replace("\u00a0", " ").split())
    for words in (
        "Our models", "2 tasks, 6 measured rows, 1 without a result.", "1 without a result",
        "DDIMScheduler, 10 steps, guidance 1, 2 seeds, first seed 0, fp32, uint8 pictures.",
        "Uncompressed: 1.00 k parameters, 5.00 k MACs, 4.00 kB.", "keep 0.9", "of parameters", "30.00", "± 0.10",
        "SSIM: Gaussian 11x11.", "Latency is of one denoising run.", "+2.00 dB", "failed: taylor: taylor",
    ):  # fmt: skip
        assert words in text, words
    assert re.search(r"taylor \+ compensation\s*3\s*−\d\d %", text), "the BD-rate against random"
    assert [t.get("class") for t in page.all("tr") if t.get("data-i")].count("measured front") == 3


def test_every_row_links_its_command_config_plan_hashes_and_figures(tmp_path):
    run = make_run(tmp_path / "a", pictures=2)
    out, _, page = site(tmp_path, run)
    links = [a["href"] for a in page.all("a") if a["href"].startswith("runs/")]
    assert links == [f"runs/a.{kind}.txt" for kind in ("command", "hashes", "config", "plan", "metrics")]
    read = {link.split(".")[1]: (out / link).read_text() for link in links}
    assert read["command"] == "gencompress run criterion=magnitude budget.keep=0.7\n"
    assert (
        read["config"] == (run / "config.yaml").read_text()
        and read["plan"] == (run / "plan/plan.json").read_text() + "\n"
    )
    for line in read["hashes"].splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((run / name).read_bytes()).hexdigest() == digest
    assert len(read["hashes"].splitlines()) == 6


def test_a_failed_run_links_its_journal(tmp_path):
    out, _, page = site(tmp_path, failing(tmp_path / "a", "taylor"))
    links = [a["href"] for a in page.all("a") if a["href"].startswith("runs/")]
    assert links == ["runs/a.command.txt", "runs/a.config.txt", "runs/a.journal.txt"]
    assert (out / links[2]).read_text() == (tmp_path / "a/journal.jsonl").read_text()


def test_large_plans_are_not_copied_and_their_hash_is(tmp_path):
    run = make_run(tmp_path / "a")
    with (run / "plan/plan.json").open("ab") as file:
        file.truncate(9_000_000)
    out, _, _ = site(tmp_path, run)
    assert sorted(p.name for p in (out / "runs").iterdir()) == [
        f"a.{k}.txt" for k in ("command", "config", "hashes", "metrics")
    ]
    assert "plan/plan.json" in (out / "runs/a.hashes.txt").read_text()


def test_pictures_stand_side_by_side_pixel_for_pixel(tmp_path):
    run = make_run(tmp_path / "a", pictures=3)
    out, _, page = site(tmp_path, run, make_run(tmp_path / "b", "taylor", 0.5, pictures=3))
    facts = [json.loads(t["data-facts"]) for t in page.all("tr") if t.get("data-facts")]
    strips = [f["strip"] for f in facts]
    assert strips[0]["before"] == strips[1]["before"], "one dense model, one file"
    assert len(list((out / "pictures").iterdir())) == 3 and strips[0]["count"] == 3
    with Image.open(out / "pictures" / strips[0]["after"]) as strip:
        assert strip.size == (48, 16)
        for i in range(3):
            with Image.open(run / f"eval/pruned/{i:03d}.png") as picture:
                assert strip.convert("RGB").crop((16 * i, 0, 16 * i + 16, 16)).tobytes() == picture.tobytes()


def test_large_pictures_are_shrunk_and_unreadable_ones_said(tmp_path):
    large = make_run(tmp_path / "large", pictures=1, size=600)
    bad = make_run(tmp_path / "bad", "taylor", pictures=1)
    (bad / "eval/pruned/000.png").write_bytes(b"<script>")
    out, _, page = site(tmp_path, large, bad)
    (strip,) = [json.loads(t["data-facts"])["strip"] for t in page.all("tr") if "strip" in (t.get("data-facts") or "")]
    with Image.open(out / "pictures" / strip["after"]) as picture:
        assert picture.size == (256, 256)
    assert "not a readable PNG" in page.text


def test_the_page_is_complete_in_itself_and_runs_its_own_script_alone(tmp_path):
    out, html, page = site(tmp_path, make_run(tmp_path / "a", pictures=1), make_run(tmp_path / "b", keep=0.5))
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            link = attributes.get(name) or "data:,"
            assert OWN_LINK.fullmatch(link), link
            assert link.startswith(("#", "data:")) or (out / link).is_file()
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert "@import" not in html and "url(" not in html and "prefers-color-scheme: dark" in html
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_foreign_text_stays_text(tmp_path):
    """Eighty payloads in every text of runs, of failed runs and of quoted rows: the page has no tag more for them."""
    clean = site(
        tmp_path, poisoned(tmp_path / "runs/x", "text"), failing(tmp_path / "runs/y", "other"), quoted=["3dgs"]
    )[2]
    for i, payload in enumerate(PAYLOADS):
        poisoned(tmp_path / f"hostile/{i}/run", payload)
        failing(tmp_path / f"hostile/{i}/failed", payload)
    table = tmp_path / "q.csv"
    lines = [["domain", "task", "method", "variant", "psnr_db", "bytes", "source", "url", "date", "note"]]
    lines += [
        [p, p, p, p, "30", "4", p, "https://example.org/?q=1&<x>'\"", "2026-01-01", p] for p in PAYLOADS if p.strip()
    ]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([[cell.replace("\0", "") for cell in line] for line in lines])
    out, html, page = site(tmp_path, tmp_path / "hostile", quoted=[table], title=PAYLOADS[0])
    assert len(PAYLOADS) == 80 and len(page.all("script")) == len(page.all("style")) == 1
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    names = {(tag, name) for tag, attributes in clean.tags for name in attributes}
    assert {(tag, name) for tag, attributes in page.tags for name in attributes} <= names
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            link = attributes.get(name)
            assert link is None or OWN_LINK.fullmatch(link) or (tag == "a" and link.startswith("https://example.org/?"))
    seen = " ".join(page.text.split())
    assert all(" ".join(printable(p).split()) in seen for p in PAYLOADS), "and all of them can be read"
    assert "\u202e" not in html
    _check_exports(out)


def _check_exports(out: Path) -> None:
    """No cell of the CSV is a formula, the YAML and JSON hold what they should, the Markdown has no cell too many."""
    cells = [c for line in csv.reader(io.StringIO((out / "board.csv").read_text())) for c in line]
    texts = [c for c in cells if not re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", c)]
    assert len(texts) > 1000 and not [c for c in texts if c.lstrip().startswith(("=", "+", "-", "@", "＝"))]
    value = json.loads((out / "board.json").read_text())
    assert sum(len(t["rows"]) for t in value["tables"]) >= 240
    models = yaml.safe_load((out / "model-index.yaml").read_text())["model-index"]
    assert len(models) == 80 and all(m["results"][0]["metrics"][0]["value"] == 31.0 for m in models)
    markdown = (out / "board.md").read_text()
    assert "<script" not in markdown and not re.search(r"(?<!\\)\]\(", markdown)
    for block in markdown.split("\n## "):
        widths = {line.count("|") - line.count("\\|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) == 1


def test_exports_hold_the_figures(tmp_path):
    runs = [
        make_run(tmp_path / f"{m}{k}", m, k, [g + 20 * k] * 2)
        for m, g in (("random", 10), ("taylor", 12))
        for k in (0.5, 0.9)
    ]
    out, _, _ = site(tmp_path, *runs, failing(tmp_path / "bad", "taylor"), quoted=["3dgs"])
    lines = list(csv.DictReader(io.StringIO((out / "board.csv").read_text())))
    assert len(lines) == 4 + 1 + 106 and {line["state"] for line in lines} == {"measured", "failed", "quoted"}
    best = lines[next(i for i, line in enumerate(lines) if line["id"] == "taylor0.9")]
    assert float(best["psnr_db"]) == 30.0 and float(best["params"]) == 900 and best["pareto"] == "1"
    assert best["protocol.steps"] == "10" and best["command"] == "gencompress run criterion=taylor budget.keep=0.9"
    tables = json.loads((out / "board.json").read_text())["tables"]
    emoji = next(t for t in tables if t["task"] == "emoji")
    assert emoji["baseline"] == "random + compensation" and emoji["rate"] == "params" and emoji["quality"] == "psnr_db"
    taylor = next(c for c in emoji["curves"] if c["label"] == "taylor + compensation")
    assert taylor["points"] == [[500, 22], [900, 30]] and taylor["bd_quality"] == pytest.approx(2.0)
    index = yaml.safe_load((out / "model-index.yaml").read_text())["model-index"]
    assert len(index) == 4 and index[0]["name"] == "emoji, taylor + compensation, keep 0.9 of parameters"
    assert index[0]["results"][0]["metrics"][0] == {"type": "psnr", "name": "PSNR, dB", "value": 30.0}
    assert "| taylor + compensation | keep 0.9 of parameters | 900 |" in (out / "board.md").read_text().replace(
        "\u00a0", " "
    )


def test_a_board_replaces_an_earlier_one_and_nothing_else(tmp_path):
    run = make_run(tmp_path / "a")
    out, first, _ = site(tmp_path, run)
    assert site(tmp_path, run, make_run(tmp_path / "b"))[1] != first
    assert not list((out / "runs").glob("c*")) and [p.name for p in tmp_path.iterdir() if ".tmp-" in p.name] == []
    (out / "CNAME").write_text("example.org")
    with pytest.raises(RunError, match=r"holds 'CNAME' beside a board"):
        write_board([run], out)
    other = tmp_path / "other"
    (other / "runs").mkdir(parents=True)
    with pytest.raises(RunError, match="already exists"):
        write_board([run], other)
    for place in (tmp_path, run / "site"):
        with pytest.raises(RunError, match="write the board to a folder apart from all runs"):
            write_board([run], place)


def test_what_cannot_be_built_leaves_the_old_board(tmp_path):
    run = make_run(tmp_path / "a")
    _, first, _ = site(tmp_path, run)
    with pytest.raises(ConfigError, match="--baseline taylr"):
        site(tmp_path, run, baseline="taylr")
    with pytest.raises(RunError, match="a board needs run directories"):
        site(tmp_path)
    assert (tmp_path / "site/index.html").read_text() == first


def test_equal_runs_give_the_same_page(tmp_path):
    runs = [make_run(tmp_path / name, name, pictures=1) for name in ("taylor", "fisher")]
    assert site(tmp_path, *runs)[1] == site(tmp_path, *runs)[1]


@pytest.mark.parametrize("value", [0, -1, 1e-320, 1e17, 1e18, 1e300, -1e300, 10**400])
def test_figures_of_any_size_make_a_page(tmp_path, value):
    def change(m):
        m["pruned"] |= {"params": value, "bytes": value, "latency_s": {"median": value}}
        m["quality"]["psnr_db"] |= {"mean": value, "se": value}
        m["dense"] |= {"params": value, "bytes": value}

    _, html, _ = site(tmp_path, make_run(tmp_path / "a", change=change), make_run(tmp_path / "b", "taylor", 0.5))
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<script>.*</script>", "", html, flags=re.DOTALL))


def test_names_that_clash_as_files_get_files_of_their_own(tmp_path):
    names = ["a b", "a:b", "a-b", "A-B", "<b>", "é", "...", "x" * 200]
    out, _, page = site(tmp_path, *(make_run(tmp_path / "runs" / name) for name in names))
    stems = {a["href"].removesuffix(".config.txt") for a in page.all("a") if a["href"].endswith(".config.txt")}
    assert len({stem.lower() for stem in stems}) == len(names)
    assert len(list((out / "runs").glob("*.config.txt"))) == len(names)


def test_the_command_line(tmp_path, capsys):
    runs = tmp_path / "runs"
    make_run(runs / "a", "random")
    make_run(runs / "b", "taylor")
    assert (
        run_command(["board", str(runs), "-o", str(tmp_path / "site"), "--baseline", "taylor", "--quoted", "3dgs"]) == 0
    )
    assert capsys.readouterr().out == f"{tmp_path / 'site' / 'index.html'}\n"
    assert run_command(["board", str(tmp_path / "absent"), "-o", str(tmp_path / "site")]) == 2
    assert "no such folder" in capsys.readouterr().err
