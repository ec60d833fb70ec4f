"""The document and the one file that holds it: whole, valid, escaped, small, and bound to run no other script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from rekindle.errors import InputError
from rekindle.report.page import browser, build
from rekindle.report.page.browser import inwards, shelf
from rekindle.report.page.build import document, page, whole
from rekindle.report.recording import Recording, read_run, recordings
from tests.report.recorded import recording, row, steps, table

NASTY = "{{scripts}}{{data}}</script><script>window.pwned=1</script><!-- <img src=x onerror=alert(1)> \u2028 & \"'"


@pytest.fixture(scope="module")
def made(runs: dict[str, Path]) -> list[Recording]:
    return [read_run(folder) for folder in runs.values()]


def data_of(text: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_real_runs_fill_every_panel_but_those_that_they_cannot(made: list[Recording]) -> None:
    panels = {p["id"]: p for p in document(made)["panels"]}
    for name in ("passk", "coverage", "entropy", "covariance", "clipping", "groups", "truth", "options"):
        assert panels[name]["charts"] or panels[name]["tables"], name
    assert next(iter(panels)) == "options"
    assert len(panels["passk"]["missing"]) == 1 and "out of distribution" in panels["passk"]["missing"][0]
    titles = [chart["title"] for panel in panels.values() for chart in panel["charts"]]
    assert len(titles) == len(set(titles)) and len(titles) > 15


def test_the_document_is_json_without_nan_and_the_page_holds_it_whole(made: list[Recording]) -> None:
    found = document(made)
    json.dumps(found, allow_nan=False)
    assert data_of(page(found)) == json.loads(json.dumps(found))
    assert whole({"a": float("nan"), "b": (float("inf"), 1.0)}) == {"a": None, "b": [None, 1.0]}


def test_what_a_model_wrote_cannot_leave_its_place(made: list[Recording]) -> None:
    bad = recording(
        NASTY, steps=steps(entropy=[1.0, 1.0]), tables={1: table(row(response=NASTY, token_text=[NASTY, "x"]))}
    )
    text = page(document([bad]))
    assert NASTY not in text and "<script>window.pwned" not in text and "<img src=x" not in text
    assert data_of(text)["browser"]["words"][0] == NASTY  # type: ignore[index]
    assert text.count("</script>") == 3


def test_the_policy_names_exactly_the_scripts_of_the_page(made: list[Recording]) -> None:
    text = page(document(made[:1]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    scripts = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy.group(1)) == hashes and len(hashes) == 2
    assert "default-src 'none'" in policy.group(1) and "connect-src" not in policy.group(1)
    assert "connect-src 'self'" in page(document(made[:1]), live=True)
    assert not re.search(r'(?:src|href)="(?!#|data:)', text.split("<script", 1)[0])


def test_a_run_of_500_steps_fits_and_says_what_it_leaves_out() -> None:
    columns = {"entropy": [1.0] * 500, "success": [0.5] * 500, "clip_low": [0.0] * 500}
    long_text = {"response": "x" * 400, "token_text": list("x" * 400), "token_ids": [1] * 400}
    numbers = {"token_logp": [-0.5] * 400, "token_ratio": [1.0] * 400}
    rows = [
        row(uid=i, group=i // 8, id=f"p{i // 8}", token_entropy=[0.3 + i / 99] * 400, **long_text, **numbers)
        for i in range(64)
    ]
    long = recording(steps=steps(**columns), tables=dict.fromkeys(range(1, 501), table(*rows)))
    found = document([long])
    text = page(found)
    assert len(text.encode()) < 5_000_000
    assert any("48 of 500 steps" in note for note in found["notes"]) and any("did not fit" in n for n in found["notes"])
    assert {
        len(panel["charts"][0]["spec"]["data"]["values"]) for panel in found["panels"] if panel["id"] == "entropy"
    } == {160}


def test_the_browser_has_both_ends_of_the_run_first_and_keeps_to_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inwards([1, 2, 3, 4, 5]) == [1, 5, 3, 2, 4] and inwards([7]) == [7] and inwards([]) == []
    tables = {s: table(*(row(uid=10 * s + i, id=f"p{i}", group=i) for i in range(3))) for s in (1, 2, 3)}
    monkeypatch.setattr(browser, "BYTES", 900)
    found = shelf([recording(tables=tables)])
    assert found.left > 0 and {r["s"] for r in found.rows} >= {1, 3} and found.bytes <= 900


def test_prompts_and_words_take_of_the_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    long = [
        row(uid=i, id=f"p{i}", group=i, prompt=f"{i}" + "é<" * 400, token_text=["x" * 900, f"{i}"]) for i in range(9)
    ]
    monkeypatch.setattr(browser, "BYTES", 20_000)
    found = shelf([recording(tables={1: table(*long)})])
    text = page(document([recording(tables={1: table(*long)})]))
    assert found.left + len(found.rows) == 9 and found.left > 0 and len(found.prompts) == len(found.rows)
    inside = text[text.index('"browser":') :]
    size = len(inside[: inside.index(',"left":')].encode())
    assert 13_000 < size <= 20_000 and abs(size - found.bytes) < 100, "what is counted is what the page has"


def test_a_row_that_is_too_large_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "BYTES", 5000)
    rows = [row(uid=i, id=f"p{i}", group=i, prompt="x" * (9000 if i == 0 else 9)) for i in range(3)]
    found = shelf([recording(tables={1: table(*rows)})])
    assert [r["u"] for r in found.rows] == [1, 2] and found.left == 1 and len(found.prompts) == 2


def test_a_token_is_stored_in_thousandths_and_its_text_once() -> None:
    found = shelf([recording(tables={1: table(row(token_mark=[True, False]), row(uid=1, token_entropy=None))})])
    assert found.words == ["2", "!"]
    first, second = found.rows
    assert first["e"] == [500, 100] and first["q"] == [1000, 1300] and first["m"] == [0] and first["t"] == [0, 1]
    assert "e" not in second and second["q"] == [1000, 1300]


def test_a_number_that_is_none_is_not_shown_as_one() -> None:
    inf, nan = float("inf"), float("nan")
    three = {"token_text": ["2", "!", "?"], "token_ids": [1, 2, 3]}
    odd = row(**three, token_ratio=[inf, 1.3, 1e308], token_entropy=[0.25, nan, 0.0], token_logp=[-1e30, -0.2, 0.0])
    found = shelf([recording(tables={1: table(odd)})]).rows[0]
    assert found["q"] == [None, 1300, None] and found["e"] == [250, None, 0]
    assert found["l"] == pytest.approx([-1e33, -200, 0])


def test_without_the_charting_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(InputError, match=r"pip install 'rekindle\[report\]'"):
        build.charting()


def test_folders_that_hold_no_run_are_told_apart(tmp_path: Path, runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="is no folder"):
        recordings(tmp_path / "none")
    with pytest.raises(InputError, match="holds no run of Rekindle"):
        recordings(tmp_path)
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(InputError, match="has begun"):
        recordings(tmp_path)
    assert [r.name for r in recordings(runs["echo-0"])] == ["echo-0"]


def test_echoed_clips_reach_the_browser(made: list[Recording]) -> None:
    rows = document(made[2:])["browser"]["rows"]
    assert any(r.get("m") for r in rows) and all(r["ok"] for r in rows if r.get("m"))


def test_what_a_run_left_behind_before_it_went_back_is_not_shown(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["evol-0"], tmp_path / "run"))
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "resume", "step": 2}) + "\n")
    run = read_run(folder)
    assert [step["step"] for step in run.steps] == [1, 2] and run.kept == [1, 2]
    assert {c.step for c in run.counts} == {0, 2}
