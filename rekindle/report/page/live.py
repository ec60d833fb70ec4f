"""The same page, served on this machine alone and kept up to date while its run goes on."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from rekindle.errors import InputError
from rekindle.report.page.build import Cache, document, page
from rekindle.report.recording import Recording

HOST = "127.0.0.1"
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
NAMES = (HOST, "localhost")
"""What a request may call this server: another name is a page elsewhere that had it resolved to this machine."""


class Newest:
    """The page's document as of the newest records; it is built again where these have changed."""

    def __init__(self, read: Callable[[], Sequence[Recording]]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._stamp, self._data, self._cache = "", b"", Cache()

    def data(self) -> tuple[bytes, str]:
        """(the document as JSON, its tag)."""
        with self._lock:
            runs = self._read()
            stamp = "/".join(f"{run.stamp}:{len(run.kept)}" for run in runs)
            if stamp != self._stamp or not self._data:
                self._data = json.dumps(document(runs, self._cache), allow_nan=False).encode()
                self._stamp = stamp
            return self._data, f'"{hashlib.sha256(self._data).hexdigest()[:16]}"'


class Handler(BaseHTTPRequestHandler):
    """`/` is the page, `/data.json` its document; nothing else is there."""

    newest: ClassVar[Newest]

    def do_GET(self) -> None:
        """Answer, where this machine is asked by its own name."""
        if self.headers.get("Host", "").partition(":")[0] not in NAMES:
            self.send_error(HTTPStatus.FORBIDDEN, "this page is for this machine")
            return
        try:
            self._serve()
        except InputError as error:  # a file that is damaged now may be whole at the next look
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", str(error).encode(), None)

    def _serve(self) -> None:
        if self.path == "/data.json":
            data, tag = self.newest.data()
            fresh = self.headers.get("If-None-Match") != tag
            self._answer(HTTPStatus.OK if fresh else HTTPStatus.NOT_MODIFIED, "application/json", data, tag)
        elif self.path == "/":
            data, _ = self.newest.data()
            text = page(json.loads(data), live=True).encode()
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", text, None)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, tag: str | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        body = b"" if status == HTTPStatus.NOT_MODIFIED else body
        more = {"ETag": tag} if tag is not None else {}
        for name, value in {**HEADERS, **more, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: every look of the page would be a line."""


def serve(read: Callable[[], Sequence[Recording]], port: int) -> ThreadingHTTPServer:
    """A server of the page on the loopback address; port 0 takes a free one. The caller lets it serve and closes it.

    OSError where the port is taken.
    """
    return ThreadingHTTPServer((HOST, port), type("Handler", (Handler,), {"newest": Newest(read)}))
