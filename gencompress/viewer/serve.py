"""`gencompress view`: the viewer's folder on this machine's own address, for the browser of the one who asked.

What can be fetched is a table of names made beforehand, so no request ever becomes a path. The server listens on
127.0.0.1 alone; requests whose Host or Origin is another name, as those of a hostile page by way of DNS rebinding are,
get nothing.
"""

from __future__ import annotations

import io
import mimetypes
import shutil
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

from gencompress.errors import RunError
from gencompress.viewer.page import policy

HOST = "127.0.0.1"
_IDLE_S = 30.0
_KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".json": "application/json"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{policy(bundled=False)}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Site = Mapping[str, bytes | Path]  # name -> what it serves, from memory or from a file


class Server(ThreadingHTTPServer):
    """Serves a site on a free port of 127.0.0.1, or on the one given. RunError if that port cannot be had."""

    daemon_threads = True

    def __init__(self, site: Site, port: int = 0) -> None:
        self.site = site
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it must be 0 to 65535"
            raise RunError(f"--port {port}: {reason}; leave it out to take a free one") from error
        self.names = {f"{host}:{self.server_port}" for host in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of browsers that hang up."""


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of the names of the site."""

    server: Server
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Send what is asked for, if it may be had."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send the headers alone."""
        self._answer(with_body=False)

    def version_string(self) -> str:
        """No versions: nobody needs them."""
        return "gencompress"

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the terminal belongs to whoever called."""

    def _answer(self, with_body: bool) -> None:
        if not self._from_here():
            self.send_error(403)
            return
        name = self.path.partition("?")[0].removeprefix("/") or "index.html"
        content = self.server.site.get(name)
        if content is None:
            self.send_error(404)
            return
        try:
            body = _opened(content)
        except OSError:
            self.send_error(404)
            return
        with body:
            self._send(name, body, with_body)

    def _send(self, name: str, body: BinaryIO, with_body: bool) -> None:
        size = body.seek(0, io.SEEK_END)
        body.seek(0)
        self.send_response(200)
        kind = _KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        for header, value in _HEADERS.items():
            self.send_header(header, value)
        self.end_headers()
        if with_body:
            shutil.copyfileobj(body, self.wfile)

    def _from_here(self) -> bool:
        """Whether the request names this server, and comes from its own page if it says where it comes from."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        named = len(hosts) == 1 and hosts[0].lower() in self.server.names
        return named and all(origin.lower() in {f"http://{name}" for name in self.server.names} for origin in origins)


def serve(server: Server) -> None:
    """Answer until Ctrl-C."""
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def _opened(content: bytes | Path) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")
