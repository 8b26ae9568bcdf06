"""The page and the folder: complete in themselves, true to the scene, and deaf to what titles say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from gencompress.domains.splats.frame import Frame, axis_of
from gencompress.errors import RunError
from gencompress.viewer import orbit_views, write_folder, write_page
from gencompress.viewer.page import ASSETS, HEAVY, folder_files, heavy, page
from gencompress.viewer.settings import settings
from tests.formats.synthetic import synthetic

STATIC = files("gencompress.viewer") / "static"
VIEWS = orbit_views(Frame(np.zeros(3), 1.0, axis_of("-y")))
SOG = np.random.default_rng(0).integers(0, 256, 70_001, dtype=np.uint8).tobytes()
VOID = {"meta", "link"}

# What hostile file names say to a page: tags, attributes, entities, comments, template and JSON syntax, odd characters
_TAGS = (
    "<script>alert(1)</script>", "</title><script>alert(1)</script>", "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "<iframe src=javascript:alert(1)>",
    "<body onload=alert(1)>", "<details open ontoggle=alert(1)>", "<math><mi xlink:href=javascript:alert(1)>",
    "<base href=//evil.example/>", "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<link rel=stylesheet href=//evil.example/x.css>", "<object data=//evil.example>", "<style>*{display:none}</style>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>", "<textarea><script>alert(1)</script>",
)  # fmt: skip
_BREAKS = ("", '"', "'", "'>", '">', "`", "-->", "]]>", "</p>", "&lt;", "&#60;", "\\u003c", "\n", "\t", "${", "}}")
_WHOLE = (
    "{{ 7 * 7 }}", "{% raw %}", "{# comment", "<!--", "<!-- -->", "<![CDATA[", "</", "<", "&", "&amp;",
    "&#x3c;script&#x3e;", "javascript:alert(1)", "'-alert(1)-'", '";alert(1)//', "\\", "\u2028alert(1)", "\u202e<",
    "é中\U0001f600", "%3Cscript%3E", "]]>",
)  # fmt: skip
PAYLOADS = [*(before + _TAGS[0] for before in _BREAKS), *_TAGS[1:], *("'\">" + tag for tag in _TAGS[1:]), *_WHOLE,
            *(tag.upper() for tag in _TAGS)]  # fmt: skip


class Page(HTMLParser):
    """Tags with attributes, and the text of every tag, scripts and styles included."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.comments: list[str] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        opened, attributes, parts = self._open.pop()
        assert opened == tag
        self.texts.append((tag, attributes, "".join(parts)))

    def handle_data(self, data):
        if self._open:
            self._open[-1][2].append(data)

    def handle_comment(self, data):
        self.comments.append(data)

    def text(self, tag: str, **attributes: str) -> str:
        (found,) = (t for name, a, t in self.texts if name == tag and attributes.items() <= a.items())
        return found

    @property
    def policy(self) -> dict[str, list[str]]:
        (content,) = (a["content"] for _, a in self.tags if a.get("http-equiv") == "Content-Security-Policy")
        return {name: values for name, *values in (rule.split() for rule in content.split(";"))}


@pytest.fixture(scope="module")
def clean() -> Page:
    return Page(page(SOG, title="guitar.sog", views=VIEWS))


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_vendored_viewer_is_the_one_on_record_with_its_licence(clean: Page) -> None:
    record = json.loads((STATIC / "vendored.json").read_text())
    assert record["license"] == "MIT" and set(record["files"]) == {"supersplat-viewer.js", "supersplat-viewer.css"}
    for name, about in record["files"].items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == about["sha256"], name
    (comment,) = clean.comments
    assert "MIT License" in comment and "PlayCanvas" in comment and record["version"] in comment
    assert (STATIC / "supersplat-viewer.LICENSE.txt").read_text().strip() in comment


def test_vendored_code_cannot_end_the_tag_that_holds_it() -> None:
    for name in ASSETS:
        text = (STATIC / name).read_text(encoding="utf-8")
        assert not re.search(r"</(script|style)|<!--|\r", text, re.IGNORECASE), name
    assert "--" not in (STATIC / "supersplat-viewer.LICENSE.txt").read_text()


def test_nothing_is_fetched(clean: Page) -> None:
    for _, attributes in clean.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), attributes
    styles = [text for tag, _, text in clean.texts if tag == "style"]
    assert len(styles) == 2 and not any("@import" in text or "url(" in text for text in styles)
    policy = clean.policy
    assert policy["default-src"] == policy["connect-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    allowed = {source for values in policy.values() for source in values}
    assert not any("//" in source or source in ("*", "https:", "http:", "'unsafe-eval'") for source in allowed)
    assert set(policy["img-src"]) == {"data:", "blob:"} and policy["worker-src"] == ["blob:"]


def test_addresses_in_the_viewer_are_names_links_and_one_that_the_policy_blocks() -> None:
    code = (STATIC / "supersplat-viewer.js").read_text()
    hosts = {re.split(r"[/\\]", address)[2] for address in re.findall(r"https?://[^\"'\s`]+", code)}
    # namespaces, sources named in shaders, links to its repository, and the models of headset controllers
    assert hosts <= {"www.w3.org", "github.com", "registry.khronos.org", "cdn.jsdelivr.net", "floyd.lbl.gov",
                     "www.graphics.cornell.edu"}  # fmt: skip


def test_only_its_own_scripts_may_run(clean: Page) -> None:
    scripts = [text for tag, attributes, text in clean.texts if tag == "script" and "type" not in attributes]
    assert scripts == [(STATIC / name).read_text() for name in ("supersplat-viewer.js", "page.js")]
    handler = digest("event.stopPropagation()")
    assert clean.policy["script-src"] == [*map(digest, scripts), "'unsafe-hashes'", handler]
    inline = re.findall(r"[\s\"]on[a-z]+=\\?[\"']([^\"'\\]*)", (STATIC / "supersplat-viewer.js").read_text())
    assert set(inline) == {"event.stopPropagation()"}, "all handlers that the viewer writes into its panels"


def test_the_scene_in_the_page_is_the_file_byte_for_byte(clean: Page) -> None:
    assert base64.b64decode(clean.text("script", id="scene"), validate=True) == SOG
    assert json.loads(clean.text("script", id="settings")) == settings(VIEWS, "scene.sog")
    assert clean.text("title") == "guitar.sog"


def test_payloads_are_many() -> None:
    assert len(set(PAYLOADS)) >= 80


@pytest.mark.parametrize("payload", PAYLOADS)
def test_titles_stay_text(payload: str, clean: Page) -> None:
    hostile = Page(folder_files("scene.sog", title=payload, views=VIEWS)["index.html"].decode())
    plain = Page(folder_files("scene.sog", title="plain", views=VIEWS)["index.html"].decode())
    assert hostile.tags == plain.tags and hostile.comments == plain.comments
    assert hostile.text("title") == payload
    assert hostile.text("p", id="message").startswith(f"Reading {payload}")


def test_hostile_names_in_the_page_with_everything_within(clean: Page) -> None:
    payload = "</script></title><script>alert(1)</script><!--"
    hostile = Page(page(SOG, title=payload, views=VIEWS))
    assert hostile.tags == clean.tags and hostile.text("title") == payload
    assert base64.b64decode(hostile.text("script", id="scene")) == SOG


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "scene.html"
    write_page(target, synthetic(50), title="first", sog=SOG)
    before = target.read_bytes()
    assert Page(before.decode()).text("title") == "first"

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gencompress.run.atomic.rename", fail)
    with pytest.raises(RunError, match="disk is full"):
        write_page(target, synthetic(50), title="second", sog=SOG)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_a_folder_holds_the_viewer_the_settings_and_the_scene(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_folder(folder, synthetic(50), title="x", sog=SOG)
    assert {p.name for p in folder.iterdir()} == {"index.html", "settings.json", "scene.sog", *ASSETS}
    assert (folder / "scene.sog").read_bytes() == SOG
    assert json.loads((folder / "settings.json").read_text())["scene"]["name"] == "scene.sog"
    index = Page((folder / "index.html").read_text())
    named = [attributes.get("src") or attributes.get("href") for _, attributes in index.tags]
    local = {name for name in named if name and not name.startswith("data:")}
    assert local == {"supersplat-viewer.css", "page.css", "supersplat-viewer.js", "page.js"}
    assert index.policy["script-src"][0] == index.policy["connect-src"][0] == "'self'"
    with pytest.raises(RunError, match="already exists"):
        write_folder(folder, synthetic(50), title="x", sog=SOG)


def test_large_pages_come_with_a_warning() -> None:
    assert heavy(HEAVY) is None
    assert "60 MB" in str(heavy(60_000_000))
