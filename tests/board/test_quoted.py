from __future__ import annotations

from collections import Counter

import pytest

from gencompress.board import read_quoted
from gencompress.errors import FormatError

HEAD = "domain,task,method,psnr_db,bytes,source,url,date\n"
LINE = 'splats,Mip-NeRF 360,"A, B",27.5,16000000,a paper,https://example.org/a,2025-04-29\n'


def write(tmp_path, text):
    path = tmp_path / "q.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_quoted_row_says_where_it_was_read(tmp_path):
    (row,) = read_quoted(write(tmp_path, HEAD + LINE))
    assert (row.state, row.domain, row.task, row.method) == ("quoted", "splats", "Mip-NeRF 360", "A, B")
    assert row.values == {"psnr_db": 27.5, "bytes": 16e6} and not row.folder
    assert row.about == {"source": "a paper", "url": "https://example.org/a", "date": "2025-04-29"}


def test_the_bundled_figures_are_those_of_the_survey():
    rows = read_quoted("3dgs")
    assert Counter(row.task for row in rows) == {"Mip-NeRF 360": 37, "Tanks and Temples": 37, "Deep Blending": 32}
    assert all(row.about["url"].startswith("https://") and row.about["source"] for row in rows)
    known = {
        ("Mip-NeRF 360", "gsplat MCMC + PNG", "1.00 M splats"): (27.29, 0.811, 0.229, 16038022),
        ("Mip-NeRF 360", "HAC++", "low rate"): (27.60, 0.803, 0.253, 8742363),
        ("Tanks and Temples", "3DGS-30k", ""): (23.14, 0.841, 0.183, 411e6),
        ("Deep Blending", "SOG (PLAS)", ""): (29.26, 0.894, 0.268, 17736797),
    }
    found = {(r.task, r.method, r.variant): r.values for r in rows}
    for key, values in known.items():
        assert tuple(found[key][m] for m in ("psnr_db", "ssim", "lpips", "bytes")) == values


def test_optional_columns_and_a_byte_order_mark(tmp_path):
    head, line = HEAD.replace("date", "date,variant,note"), LINE.replace("29\n", "29,low rate,their own split\n")
    (row,) = read_quoted(write(tmp_path, "\ufeff" + head + line))
    assert row.variant == "low rate" and row.about["note"] == "their own split"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"column 'domain' is missing"),
        (HEAD.replace("url", "link"), "unknown column 'link'"),
        (HEAD.replace("psnr_db", "psnr"), "unknown column 'psnr': did you mean 'psnr_db'"),
        (HEAD.replace(",date", ""), "column 'date' is missing"),
        (HEAD.replace("bytes", "psnr_db"), "a column is there twice"),
        ("domain,task,method,source,url,date\n", "no column of figures"),
        (HEAD + LINE.replace("27.5", "27,5"), "line 2: as many cells"),
        (HEAD + LINE.replace(",2025-04-29", ""), "line 2: as many cells"),
        (HEAD + LINE.replace("27.5", "many"), r"line 2, column psnr_db: 'many' is no number"),
        (HEAD + LINE.replace("27.5", "inf"), "column psnr_db: 'inf' is not a number up to 1e"),
        (HEAD + LINE.replace("27.5,16000000", ","), "line 2: no figure"),
        (HEAD + LINE.replace("a paper", " "), "line 2, column source: empty"),
        (
            HEAD + LINE + LINE.replace("https://example.org/a", "javascript:alert(1)"),
            "line 3, column url: .* is no http",
        ),
        (HEAD + LINE.replace("https://example.org/a", "data:text/html"), "is no http or https address"),
        (HEAD + LINE.replace("https://example.org/a", "https:///a"), "is no http or https address"),
        (HEAD + LINE.replace("https://example.org/a", '"java\nscript:x"'), "is no http or https address"),
        (HEAD + LINE.replace("2025-04-29", "April"), "column date: 'April' is no date"),
        (HEAD + LINE.replace("A, B", "A" * 1001), "more than 1000 characters"),
        (HEAD + LINE * 10_001, "more than 10,000 rows"),
        (HEAD + 'splats,"unclosed', "not CSV"),
        (HEAD + LINE.replace("a paper", "x" * 200_000), "not CSV|more than 1000"),
        (b"\xff\xfe\x00", "not readable as UTF-8"),
        (b"a" * 4_000_001, "4,000,001 bytes are too many"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_column(tmp_path, text, words):
    with pytest.raises(FormatError, match=words):
        read_quoted(write(tmp_path, text))


def test_a_file_that_is_not_there_names_the_bundled_ones(tmp_path):
    with pytest.raises(FormatError, match="no such file; bundled are 3dgs"):
        read_quoted(tmp_path / "absent.csv")
