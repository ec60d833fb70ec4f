"""The server of the page: news only where there is news, for this machine alone."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rekindle.report import recording
from rekindle.report.page.live import serve
from rekindle.report.recording import read_run, recordings
from rekindle.train.counts import write_counts
from rekindle.train.evaluate import Evaluation


@pytest.fixture
def served(runs: dict[str, Path], tmp_path: Path) -> Iterator[tuple[int, Path]]:
    folder = Path(shutil.copytree(runs["evol-0"], tmp_path / "run"))
    with serving(lambda: [read_run(folder)]) as port:
        yield port, folder


@contextmanager
def serving(read: Callable[[], Sequence[recording.Recording]]) -> Iterator[int]:
    server = serve(read, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield int(server.server_address[1])
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


def test_what_is_written_while_the_folder_is_read_is_news_at_the_next_look(
    served: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, folder = served
    shutil.rmtree(folder / "rollouts")  # whose number would be news, too
    events = folder / "events.jsonl"
    late = [text for text in events.read_text().splitlines(True) if '"step": 4' in text or '"kind": "end"' in text]
    events.write_text("".join(text for text in events.read_text().splitlines(True) if text not in late))
    read = recording.read_events

    def slowly(path: Path) -> list[dict[str, object]]:
        found = read(path)
        with path.open("a") as file:
            file.writelines(late)
        late.clear()
        return found

    monkeypatch.setattr(recording, "read_events", slowly)
    assert (run := json.loads(get(port, "/data.json")[2])["runs"][0])["step"] == 3 and not run["done"]
    assert (run := json.loads(get(port, "/data.json")[2])["runs"][0])["step"] == 4 and run["done"]


def test_the_results_of_a_comparison_are_news_when_they_come(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "compare"
    shutil.copytree(runs["echo-0"], folder / "runs" / "echo_rl-0")
    (folder / "compare.json").write_text("{}")
    with serving(lambda: recordings(folder)) as port:
        tags = [get(port, "/data.json")[1]["ETag"]]
        for place, right in ((folder / "base", 3), (folder / "runs" / "echo_rl-0", 7)):
            place.mkdir(exist_ok=True)
            counts = {"ood": {"samples": 8, "right": {"a": right}}}
            (place / "result.json").write_text(json.dumps({"counts": counts}))
            _, headers, body = get(port, "/data.json")
            tags.append(headers["ETag"])
    assert len(set(tags)) == 3 and b" from 0.375 to 1" in body and b"echo_rl-0 from 0.875" in body


def test_only_this_machine_and_these_two_paths_are_answered(served: tuple[int, Path]) -> None:
    port, _ = served
    assert get(port, "/", Host="evil.example")[0] == 403
    assert get(port, "/../run.toml")[0] == 404 and get(port, "/events.jsonl")[0] == 404
    assert get(port, "/data.json", Host=f"localhost:{port}")[0] == 200


def test_credits_that_come_later_and_evaluations_by_hand_are_news(served: tuple[int, Path]) -> None:
    port, folder = served
    late = folder / "credits" / "step-000004.parquet"
    whole = late.read_bytes()
    late.unlink()

    def covariances() -> list[float]:
        panels = {panel["id"]: panel for panel in json.loads(get(port, "/data.json")[2])["panels"]}
        return [row["x"] for row in panels["covariance"]["charts"][0]["spec"]["data"]["values"]]

    assert covariances() == [1, 2, 3]
    late.write_bytes(whole)
    assert covariances() == [1, 2, 3, 4]
    write_counts(folder / "evaluations", 4, "ood", Evaluation({}, {}, 1, 4, {"a": 2}))
    assert b"pass@k, out of distribution" in get(port, "/data.json")[2]


def test_the_texts_of_tokens_are_news_when_a_tokenizer_comes(served: tuple[int, Path]) -> None:
    port, folder = served
    (folder / "final").rename(folder / "away")

    def look() -> tuple[list[str], list[str]]:
        found = json.loads(get(port, "/data.json")[2])
        entropy = next(panel for panel in found["panels"] if panel["id"] == "entropy")
        return found["browser"]["words"], [table["title"] for table in entropy["tables"]]

    assert look() == ([], [])
    (folder / "away").rename(folder / "final")
    words, tables = look()
    assert words and tables, "and the words of steps that were measured before"


def test_a_vocabulary_is_decoded_once_however_often_a_run_is_read(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(runs["evol-0"], tmp_path / "run"))
    config = folder / "final" / "tokenizer_config.json"
    loads, load = [], AutoTokenizer.from_pretrained

    def counted(place: Path, **options: bool) -> object:
        loads.append(place)
        return load(place, **options)

    def texts() -> list[list[str]]:
        return read_run(folder).table(1).column("token_text").to_pylist()

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    config.write_text(config.read_text() + " ")
    first = texts()
    shutil.copytree(folder / "final", folder / "checkpoints" / "step-000002")
    assert texts() == first and len(loads) == 1
    shutil.rmtree(folder / "final")
    assert texts() == first and len(loads) == 1, "the same files at another place"
    config = folder / "checkpoints" / "step-000002" / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    assert texts() == first and len(loads) == 2, "other files"


def test_a_damaged_file_is_told_and_served_again_once_it_is_whole(served: tuple[int, Path]) -> None:
    port, folder = served
    get(port, "/data.json")
    broken = folder / "evaluations" / "step-000002-heldout.json"
    whole = broken.read_text()
    broken.write_text(whole[:10])
    (folder / "evaluations" / "step-000001-ood.json").write_text(whole)
    status, _, body = get(port, "/data.json")
    assert status == 503 and b"step-000002-heldout.json" in body
    broken.write_text(whole)
    assert get(port, "/data.json")[0] == 200
