"""A small server over one engine: `about`, `generate`, `load`, `sleep`, one request at a time, JSON both ways.

It loads safetensors from its exchange folder and nothing else; it runs no code that a request brings. With a token it
answers nobody who does not show it; without one it listens on this machine only.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from rekindle.errors import EngineDead, InputError
from rekindle.tokens.sampling.access import admitted, named_here, refuse_open
from rekindle.tokens.sampling.engine import Ask, Engine, How
from rekindle.tokens.sampling.vllm_remote import OTHERS, REFUSED, STRANGER

FAILED, UNKNOWN, ELSEWHERE = 500, 404, 403
MOST = 1 << 30
"""Bytes of a request."""
SILENT = 30
"""Seconds after which a connection that says nothing is closed."""


class Answers:
    """What the server answers, without the wire: (path, body) -> (status, answer)."""

    def __init__(self, engine: Engine, exchange: Path) -> None:
        """exchange: where clients leave their weights."""
        self.engine, self.exchange, self.weights = engine, exchange, ""

    def __call__(self, path: str, body: Any, origin: str | None = None) -> tuple[int, dict[str, Any]]:
        """The answer; errors have a status and a sentence under "error". origin: of a page in a browser, refused."""
        if origin is not None:
            return REFUSED, {"error": "requests from web pages are refused"}
        try:
            return self._answer(path.strip("/"), body)
        except InputError as error:
            return REFUSED, {"error": str(error)}
        except EngineDead as error:
            return FAILED, {"error": str(error)}
        except (TypeError, KeyError, ValueError) as error:
            return REFUSED, {"error": f"a request that cannot be read ({error})"}

    def _answer(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        if path == "about":
            return 200, {**vars(self.engine.about), "exchange": str(self.exchange)}
        if path == "load":
            return 200, {"prints": self._load(body["file"])}
        if path == "sleep":
            self.weights = ""  # asleep, the engine answers nobody before the next load
            self.engine.sleep()
            return 200, {}
        if path != "generate":
            return UNKNOWN, {"error": f"no '{path}' here"}
        if not self.weights or body["weights"] != self.weights:
            return OTHERS, {"error": "other weights"}
        asks = [Ask(tuple(one["prompt"]), one["seed"]) for one in body["asks"]]
        told = {**body["how"], "stop": tuple(body["how"]["stop"]), "ends": tuple(body["how"]["ends"])}
        return 200, {"got": [vars(one) for one in self.engine.generate(asks, How(**told))]}

    def _load(self, name: str) -> dict[str, Any]:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"'{name}' is no safetensors file of the exchange folder")
        place = self.exchange / name
        if place.is_symlink() or not place.is_file():
            raise InputError(f"{place} is not there: start the server with --exchange DIR, a folder that both see")
        self.weights = ""  # whatever happens next, no client may take the engine for its own
        try:
            prints = self.engine.load(load_file(place))
        except SafetensorError as error:
            raise InputError(f"{place} is no safetensors file ({error})") from error
        self.weights = name
        return prints


def _folder(exchange: Path | None) -> Path:
    folder = exchange or Path(tempfile.mkdtemp(prefix="rekindle-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _refused(headers: Message, token: str | None) -> tuple[int, str] | None:
    """Status and sentence for whoever may not ask. Without a token only this machine may, by its own names."""
    if not admitted(headers["Authorization"], token):
        return STRANGER, "no token, or another one"
    if token is None and not named_here(headers["Host"]):
        return ELSEWHERE, "asked by a name that is not this machine's own: ask 127.0.0.1, or use a token"
    return None


def _handler(answers: Answers, token: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One request. Silent connections are dropped, so that one cannot hold up the others."""

        timeout = SILENT

        def do_GET(self) -> None:
            """`about` alone: what changes something is not to be asked by a link or an image of a web page."""
            self._reply(None, known=self.path.strip("/") == "about")

        def do_POST(self) -> None:
            """Everything else. What a stranger sends is not read."""
            body = None
            if admitted(self.headers["Authorization"], token):
                with contextlib.suppress(ValueError, RecursionError):
                    size = int(self.headers["Content-Length"] or 0)
                    body = json.loads(self.rfile.read(min(max(0, size), MOST)))
            self._reply(body)

        def _reply(self, body: Any, known: bool = True) -> None:
            refused = _refused(self.headers, token) or (None if known else (UNKNOWN, "only `about` is told to a GET"))
            if refused is None:
                status, told = answers(self.path, body, self.headers["Origin"])
            else:
                status, told = refused[0], {"error": refused[1]}
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silence: the run's own log says what happens."""

    return Handler


def make_server(engine: Engine, host: str, port: int, exchange: Path | None, token: str | None = None) -> HTTPServer:
    """A server that is ready to `serve_forever`; port 0 takes a free one. token: that a request must show, None: none.

    `InputError` where the port is taken, or where other machines could ask and there is no token.
    """
    refuse_open(host, token)
    answers = Answers(engine, _folder(exchange))
    try:
        return HTTPServer((host, port), _handler(answers, token))
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port} ({error}): give another --port") from error
