"""Servers: who gets in, who does not, and that no message shows a token."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path

import pytest

from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.errors import EngineDead, InputError
from rekindle.tokens.loader import load_model
from rekindle.tokens.sampling import access
from rekindle.tokens.sampling.access import VARIABLE, admitted, loopback, read_token, refuse_open
from rekindle.tokens.sampling.engine import How
from rekindle.tokens.sampling.vllm_remote import RemoteEngine
from rekindle.tokens.sampling.vllm_server import make_server
from tests.tokens.engines import CopyEngine

TOKEN = "a-token-of-the-tests-4711"


@pytest.fixture(scope="module")
def engine() -> CopyEngine:
    return CopyEngine(load_model("embedded").model)


@pytest.fixture(scope="module")
def served(engine: CopyEngine) -> Iterator[tuple[CopyEngine, str]]:
    server = make_server(engine, "127.0.0.1", 0, None, TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield engine, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_whoever_shows_the_token_is_served(served: tuple[CopyEngine, str]) -> None:
    engine, url = served
    remote = RemoteEngine(url, token=TOKEN)
    weights = dict(engine.model.state_dict())
    assert remote.load(weights) == engine.load(weights)


@pytest.mark.parametrize(
    "shown", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", TOKEN, "é"]
)
@pytest.mark.parametrize("path", ["about", "generate", "load", "sleep", "else"])
def test_all_others_are_not(served: tuple[CopyEngine, str], shown: str | None, path: str) -> None:
    link = http.client.HTTPConnection(served[1].partition("//")[2], timeout=20)
    headers = {} if shown is None else {"Authorization": shown.encode("latin-1")}
    link.request("GET" if path == "about" else "POST", f"/{path}", None if path == "about" else "{}", headers)  # type: ignore[arg-type]
    answer = link.getresponse()
    said = answer.read()
    link.close()
    assert answer.status == 401 and b"exchange" not in said and served[0].slept == 0


def test_a_client_without_the_token_is_told_so_and_the_token_is_in_no_message(served: tuple[CopyEngine, str]) -> None:
    for token in (None, "another-token-4711-4711"):
        with pytest.raises(InputError, match=r"asks for another token.*REKINDLE_TOKEN or vllm.token_file") as told:
            RemoteEngine(served[1], token=token)
        assert "4711" not in str(told.value)
    remote = RemoteEngine(served[1], token=TOKEN)
    remote._port = 9
    with pytest.raises(EngineDead) as gone:
        remote.generate([], How(temperature=1.0, top_p=1.0, top_k=0, max_tokens=4, stop=(), ends=(1,)))
    assert TOKEN not in str(gone.value) and TOKEN not in repr(remote)
    for url in ("http://user:hunter2@127.0.0.1:9", "user:hunter2@127.0.0.1:9", "https://user:hunter2/x@127.0.0.1"):
        with pytest.raises(InputError, match="give the token by") as told:
            RemoteEngine(url)
        assert "hunter2" not in str(told.value)


def test_the_token_is_compared_in_a_time_that_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: asked.append((a, b)) or real(a, b))
    assert admitted(f"Bearer {TOKEN}", TOKEN) and not admitted(None, TOKEN) and not admitted("Bearer \ud800", TOKEN)
    assert len(asked) == 3 and admitted(None, None)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "::", "192.168.0.7", "example.com", "127.0.0.1.example.com", "localhost."]
)
def test_other_machines_are_not_let_in_without_a_token(
    host: str, engine: CopyEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not loopback(host)
    with pytest.raises(InputError, match=r"lets other machines in, and there is no token"):
        refuse_open(host, None)
    with pytest.raises(InputError, match="there is no token"):
        make_server(engine, host, 0, None)
    refuse_open(host, TOKEN)
    assert run_safely(app, ["serve", "--host", host, "--model", "/nowhere"]) == 2
    assert "there is no token: put one into $REKINDLE_TOKEN" in capsys.readouterr().err


def test_this_machine_is_let_in() -> None:
    assert all(loopback(host) for host in ("127.0.0.1", "127.8.9.1", "localhost", "::1"))


def asked(server: HTTPServer, how: str, path: str, **headers: str) -> int:
    """The status of a request to a server that answers this one."""
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    link.request(how, path, "{}" if how == "POST" else None, headers)
    status = link.getresponse().status
    link.close()
    thread.join()
    return status


def test_a_web_page_can_make_a_server_without_a_token_do_nothing(engine: CopyEngine) -> None:
    """An image of a page asks without saying whose it is; a page whose name leads here asks by that name."""
    before = engine.slept
    with make_server(engine, "127.0.0.1", 0, None) as server:
        assert [asked(server, "GET", f"/{path}") for path in ("about", "sleep", "load", "about/x")] == [
            200,
            404,
            404,
            404,
        ]
        for name in ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.8.9.1", "[::1]:8000"):
            assert asked(server, "GET", "/about", Host=name) == 200, name
        for name in ("evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "[::1", ""):
            assert [asked(server, how, "/sleep", Host=name) for how in ("GET", "POST")] == [403, 403], name
        assert engine.slept == before
        assert asked(server, "POST", "/sleep") == 200 and engine.slept == before + 1
    with make_server(engine, "127.0.0.1", 0, None, TOKEN) as server:
        assert asked(server, "GET", "/about", Host="a.name.of.it", Authorization=f"Bearer {TOKEN}") == 200


def test_a_token_comes_from_a_private_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    for mode in (0o644, 0o640, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(InputError, match=r"may be read by other users: chmod 600 it") as told:
            read_token(str(file))
        assert TOKEN not in str(told.value)
    file.chmod(0o600)
    assert read_token(str(file)) == TOKEN and read_token(None) is None
    monkeypatch.setenv(VARIABLE, "an-other-token-of-the-tests")
    assert read_token(None) == "an-other-token-of-the-tests" and read_token(str(file)) == TOKEN
    for bad in ("short", "", "with a blank in it, and long", "ééééééééééééééééééé"):
        monkeypatch.setenv(VARIABLE, bad)
        with pytest.raises(InputError, match=r"\$REKINDLE_TOKEN holds no token of 16") as told:
            read_token(None)
        assert not bad or bad not in str(told.value)
    with pytest.raises(InputError, match=r"no token can be read from .*none"):
        read_token(str(tmp_path / "none"))
    made = access.MAKE.replace("python", sys.executable, 1)
    subprocess.run(["sh", "-c", f"umask 022; (umask 077; {made} > made)"], cwd=tmp_path, check=True)
    assert len(read_token(str(tmp_path / "made")) or "") > 40, "what the sentence advises is taken"
    os.mkfifo(tmp_path / "pipe", 0o600)
    for odd in ("pipe", "."):
        with pytest.raises(InputError, match=r"make one by \(umask 077; python .* > FILE\)"):
            read_token(str(tmp_path / odd))
    os.symlink(file, tmp_path / "link")
    assert read_token(str(tmp_path / "link")) == TOKEN, "what counts is who may read it"
