"""The local server: what it serves, and what nobody can make it serve."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gencompress.errors import ConfigError, DataError, FormatError, RunError
from gencompress.formats import read_scene, write_scene
from gencompress.viewer import write_folder
from gencompress.viewer.page import ASSETS
from gencompress.viewer.serve import HOST, Server
from gencompress.viewer.site import site_of
from tests.formats.synthetic import assert_equal, synthetic

SECRET = b"the content of a file that nobody may read"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two names, beside whose file lies a secret."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.txt").write_bytes(SECRET)
    (folder / "inner").mkdir()
    (folder / "inner/scene.sog").write_bytes(b"\x00scene\xff" * 100)
    server = Server({"index.html": b"<!doctype html>page", "scene.sog": folder / "inner/scene.sog"})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server: Server, target: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of one request, whose target goes out as it is."""
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
    connection.putrequest(method, "/", skip_host=True, skip_accept_encoding=True)
    connection._buffer[0] = f"{method} {target} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
    for name, value in ({"Host": f"{HOST}:{server.server_port}"} | headers).items():
        if value:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, response.read(), dict(response.getheaders())
    connection.close()
    return found


@pytest.mark.parametrize(
    ("target", "body", "kind"),
    [
        ("/", b"<!doctype html>page", "text/html"),
        ("/index.html", b"<!doctype html>page", "text/html"),
        ("/?webgl", b"<!doctype html>page", "text/html"),
        ("/scene.sog", b"\x00scene\xff" * 100, "application/octet-stream"),
    ],
)
def test_names_of_the_site_are_served(server: Server, target: str, body: bytes, kind: str) -> None:
    status, found, headers = ask(server, target)
    assert (status, found) == (200, body)
    assert headers["Content-Type"] == kind and headers["Content-Length"] == str(len(body))
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    status, found, alone = ask(server, target, "HEAD")
    assert (status, found) == (200, b"")
    assert {**alone, "Date": ""} == {**headers, "Date": ""}, "the same but for the second in which it was asked"


UPWARD = ("..", "%2e%2e", "%2E.", ".%2e", "..%00", "%252e%252e", "..;", "%c0%ae%c0%ae", "%uff0e%uff0e", "....")
SLASHES = ("/", "%2f", "\\", "%5c", "//", "/./")
TRAVERSALS = [f"/{up}{slash}secret.txt" for up in UPWARD for slash in SLASHES] + [
    "/inner/../../secret.txt", "/scene.sog/../../secret.txt", "/index.html/../secret.txt", "secret.txt",
    "../secret.txt", "/secret.txt", "//secret.txt", "/./secret.txt", "/inner/scene.sog", "/etc/passwd",
    "//etc/passwd", "/../../../../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2f..%2f..%2fetc%2fpasswd", "/....//....//....//etc/passwd", "/proc/self/environ", "file:///etc/passwd",
    "http://127.0.0.1/secret.txt", "http://evil.example/", "*", "/index.html%00.txt", "/index.html/", "/INDEX.HTML",
    "/scene%2esog", "/scene.sog%20", "/scene.sog;x", "/?/../secret.txt/x", "/.git/config", "/__init__.py", "/~root",
    "/C:/Windows/win.ini", "/\\\\host\\share", "/CON", "/" + "a" * 5000, "/" + "../" * 500 + "secret.txt",
]  # fmt: skip


def test_traversals_are_many() -> None:
    assert len(set(TRAVERSALS)) >= 60


@pytest.mark.parametrize("target", TRAVERSALS)
def test_no_request_becomes_a_path(server: Server, target: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    status, body, _ = ask(server, target)
    if target.startswith("/?"):
        assert (status, body) == (200, b"<!doctype html>page")
    else:
        assert status == 404 and SECRET not in body and b"root:" not in body


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "{host}.evil.example:{port}", "{host}", "{host}:1", "", "0.0.0.0:{port}"],
)
def test_other_host_names_get_nothing(server: Server, host: str) -> None:
    name = host.format(host=HOST, port=server.server_port)
    for target in ("/", "/scene.sog"):
        status, body, _ = ask(server, target, Host=name)
        assert status == 403 and b"scene" not in body


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://{host}:{port}", "null", "http://{host}:1", "file://"]
)
def test_other_origins_get_nothing(server: Server, origin: str) -> None:
    name = origin.format(host=HOST, port=server.server_port)
    assert ask(server, "/scene.sog", Origin=name)[0] == 403
    for own in (HOST, "localhost"):
        assert ask(server, "/", Origin=f"http://{own}:{server.server_port}")[0] == 200
        assert ask(server, "/", Host=f"{own}:{server.server_port}")[0] == 200


def test_two_host_names_are_none(server: Server) -> None:
    with socket.create_connection((HOST, server.server_port), timeout=10) as connection:
        own = f"{HOST}:{server.server_port}"
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"403"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND"])
def test_nothing_but_reading(server: Server, method: str) -> None:
    assert ask(server, "/", method)[0] == 501


def test_it_listens_on_the_loopback_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1" and server.url == f"http://127.0.0.1:{server.server_port}/"
    with pytest.raises(RunError, match=f"--port {server.server_port}: Address already in use"):
        Server({}, server.server_port)
    with pytest.raises(RunError, match="0 to 65535"):
        Server({}, 65536)


def test_a_scene_is_served_as_what_the_reader_read(tmp_path: Path) -> None:
    scene = synthetic(200, degree=1, logits=np.full(200, 2, dtype=np.float32))
    path = tmp_path / "cat.ply"
    write_scene(path, scene)
    with site_of(path) as site:
        assert set(site) == {"index.html", "settings.json", "scene.ply", *ASSETS}
        assert_equal(read_scene(Path(str(site["scene.ply"]))), scene)
        assert json.loads(bytes(site["settings.json"]))["scene"]["name"] == "scene.ply"  # type: ignore[arg-type]
        assert b"<title>cat.ply</title>" in bytes(site["index.html"])  # type: ignore[arg-type]
        copy = Path(str(site["scene.ply"]))
    assert not copy.exists(), "the copy goes with the server"


def test_a_run_shows_what_it_exported(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    with pytest.raises(FormatError, match="holds no scene file"), site_of(tmp_path):
        pass
    write_scene(tmp_path / "export/cat.ply", synthetic(60, degree=0))
    with site_of(tmp_path) as site:
        assert len(read_scene(Path(str(site["scene.ply"])))) <= 60


def test_a_folder_of_the_viewer_keeps_its_settings_but_not_its_scripts(tmp_path: Path, small_sog: bytes) -> None:
    folder = tmp_path / "site"
    write_folder(folder, synthetic(50), title="x", sog=small_sog)
    edited = json.loads((folder / "settings.json").read_text()) | {"tonemapping": "aces"}
    (folder / "settings.json").write_text(json.dumps(edited))
    (folder / "page.js").write_text("alert(1)")
    with site_of(folder) as site:
        assert json.loads(bytes(site["settings.json"])) == edited  # type: ignore[arg-type]
        assert site["scene.sog"] == folder / "scene.sog" and b"alert" not in bytes(site["page.js"])  # type: ignore[arg-type]


@pytest.fixture
def small_sog(tmp_path: Path) -> bytes:
    """The content of a small .sog file."""
    write_scene(tmp_path / "small.sog", synthetic(50, degree=0))
    return (tmp_path / "small.sog").read_bytes()


def test_what_is_no_scene_is_said_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("")
    (tmp_path / "bad.ply").write_bytes(b"ply\nnonsense")
    for name, words in (("page.html", "open it in a browser"), ("bad.ply", "bad.ply"), ("none.ply", "none.ply")):
        with pytest.raises(FormatError, match=words), site_of(tmp_path / name):
            pass
    scene = synthetic(20)
    write_scene(tmp_path / "nan.ply", synthetic(20, logits=np.full(20, -30, dtype=np.float32)))
    with pytest.raises(DataError, match="no usable splat"), site_of(tmp_path / "nan.ply"):
        pass
    write_scene(tmp_path / "good.ply", scene)
    with pytest.raises(ConfigError, match="up"), site_of(tmp_path / "good.ply", "sideways"):  # type: ignore[arg-type]
        pass


def test_ctrl_c_ends_the_command_cleanly(tmp_path: Path) -> None:
    write_scene(tmp_path / "cat.ply", synthetic(50, degree=0))
    command = [sys.executable, "-m", "gencompress", "view", str(tmp_path / "cat.ply")]
    # a shell starts what it runs in the background deaf to Ctrl-C, and this process may be one of these
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().split()[0]
    port = int(url.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", "/scene.ply")
    assert connection.getresponse().read(3) == b"ply"
    connection.close()
    os.kill(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 0
