"""The server of the page: news only where there is news, for this machine alone."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from rekindle.report.page.live import serve
from rekindle.report.recording import read_run


@pytest.fixture
def served(runs: dict[str, Path], tmp_path: Path) -> Iterator[tuple[int, Path]]:
    folder = shutil.copytree(runs["evol-0"], tmp_path / "run")
    server = serve(lambda: [read_run(folder)], 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield int(server.server_address[1]), folder
    server.shutdown()
    server.server_close()
    thread.join(10)


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_is_served_with_its_data_and_a_tag(served: tuple[int, Path]) -> None:
    port, _ = served
    status, headers, body = get(port, "/")
    assert status == 200 and b'data-live="data.json"' in body and headers["Cache-Control"] == "no-store"
    status, headers, body = get(port, "/data.json")
    assert status == 200 and json.loads(body)["runs"][0]["step"] == 4
    assert get(port, "/data.json", **{"If-None-Match": headers["ETag"]})[::2] == (304, b"")


def test_a_new_step_gives_new_data(served: tuple[int, Path]) -> None:
    port, folder = served
    tag = get(port, "/data.json")[1]["ETag"]
    events = folder / "events.jsonl"
    line = next(text for text in events.read_text().splitlines()[::-1] if '"kind": "step"' in text)
    with events.open("a") as file:
        file.write(json.dumps(json.loads(line) | {"step": 5}) + "\n")
    status, headers, body = get(port, "/data.json", **{"If-None-Match": tag})
    assert status == 200 and headers["ETag"] != tag and json.loads(body)["runs"][0]["step"] == 5


def test_only_this_machine_and_these_two_paths_are_answered(served: tuple[int, Path]) -> None:
    port, _ = served
    assert get(port, "/", Host="evil.example")[0] == 403
    assert get(port, "/../run.toml")[0] == 404 and get(port, "/events.jsonl")[0] == 404
    assert get(port, "/data.json", Host=f"localhost:{port}")[0] == 200
