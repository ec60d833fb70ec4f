"""An engine in another process (`rekindle serve`), over HTTP with JSON; weights go through a folder that both see."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safetensors.torch import save_file
from torch import Tensor

from rekindle.errors import EngineDead, InputError
from rekindle.tokens.sampling.access import header
from rekindle.tokens.sampling.engine import About, Ask, Got, How
from rekindle.tokens.sampling.fingerprints import Prints

START = "start one by `rekindle serve --model DIR` in the environment that has vLLM"
REFUSED, OTHERS, STRANGER = 422, 409, 401
"""Status codes: what was asked cannot be done; the engine holds weights that this client did not push; no token."""


class RemoteEngine:
    """An `Engine` that speaks to a server. It must be this run's own: weights pushed by another are refused."""

    def __init__(self, url: str, timeout: float = 600.0, token: str | None = None) -> None:
        """token: that the server asks for. Raises `InputError` where no such server answers."""
        self._host, self._port = _place(url)
        self.url, self.timeout, self._shown = url, timeout, header(token)
        self._weights = ""
        try:
            told = self._ask("about", None)
            self._exchange = Path(told.pop("exchange"))
            self.about = About(**{**told, "where": f"the server at {url}"})
        except (EngineDead, KeyError, TypeError) as error:
            raise InputError(f"no vLLM server of rekindle answers at {url} ({_reason(error)}): {START}") from error

    def generate(self, asks: Sequence[Ask], how: How) -> list[Got]:
        """See `Engine`. Raises `EngineDead` where the server is gone or was given other weights."""
        body = {"asks": [asdict(ask) for ask in asks], "how": asdict(how), "weights": self._weights}
        told = self._ask("generate", body)
        try:
            return [Got(**one) for one in told["got"]]
        except (KeyError, TypeError) as error:
            raise EngineDead(self._foreign()) from error

    def load(self, weights: Mapping[str, Tensor]) -> Prints:
        """See `Engine`."""
        if not self._exchange.is_dir():
            raise InputError(
                f"the server at {self.url} takes weights from {self._exchange}, which is not here: start it with "
                "--exchange DIR, a folder that both machines see"
            )
        name = f"push-{secrets.token_hex(8)}.safetensors"
        place = self._exchange / name
        save_file({key: value.contiguous().cpu().clone() for key, value in weights.items()}, place)
        try:
            told = self._ask("load", {"file": name})
        finally:
            place.unlink(missing_ok=True)
        if "prints" not in told:
            raise EngineDead(self._foreign())
        self._weights = name
        return told["prints"]

    def sleep(self) -> None:
        """See `Engine`."""
        if self.about.device != "cpu":
            self._ask("sleep", {})

    def close(self) -> None:
        """The server goes on: it belongs to whoever started it."""

    def _ask(self, what: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        line = http.client.HTTPConnection(self._host, self._port, timeout=self.timeout)
        try:
            data = None if body is None else json.dumps(body)
            line.request("GET" if data is None else "POST", f"/{what}", body=data, headers=self._shown)
            answer = line.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineDead(
                f"the vLLM server at {self.url} is gone ({_reason(error)}): start it again and run the same command "
                "with --resume"
            ) from error
        finally:
            line.close()
        return self._checked(answer.status, told)

    def _foreign(self) -> str:
        return f"what answers at {self.url} is no server of rekindle: {START}, and run the same command with --resume"

    def _checked(self, status: int, told: Any) -> dict[str, Any]:
        if not isinstance(told, dict) or (status != 200 and not isinstance(told.get("error"), str)):
            raise EngineDead(self._foreign()) from ValueError("its answer is none of ours")
        if status == OTHERS:
            raise EngineDead(
                f"the vLLM server at {self.url} was restarted or given the weights of another run: give each run a "
                "server of its own and run the same command with --resume"
            )
        if status == STRANGER:
            raise InputError(
                f"the vLLM server at {self.url} asks for another token: give its own by $REKINDLE_TOKEN or "
                "vllm.token_file"
            )
        if status == REFUSED:
            raise InputError(f"the vLLM server at {self.url} refuses: {told['error']}")
        if status != 200:
            raise EngineDead(
                f"the vLLM server at {self.url} failed ({told['error']}): start it again and run with --resume"
            )
        return told


def _place(url: str) -> tuple[str, int]:
    """Host and port. InputError, which does not repeat what may hold a password, where there is none."""
    if "@" in url:
        raise InputError("vllm.url holds a name or password: give the token by $REKINDLE_TOKEN or vllm.token_file")
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:  # a bracket that is not closed, a port that is no number
        host = port = None
    else:
        host = host if parts.scheme == "http" else None
    if not host:
        raise InputError("vllm.url leads to no server: give http://HOST:PORT of a `rekindle serve`")
    return host, port or 80


def _reason(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, EngineDead) and error.__cause__ is not None else error
    return " ".join(str(cause).split())[:200] or type(cause).__name__
