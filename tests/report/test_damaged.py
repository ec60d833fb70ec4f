"""Files of a run that are damaged: one sentence with the file, or a page that says what it does without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rekindle.errors import InputError
from rekindle.report.page.build import document
from rekindle.report.reading import result_counts
from rekindle.report.recording import read_run, recordings
from rekindle.train.counts import Counts


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs["evol-0"], tmp_path / "run"))


DAMAGED = ["{", "[]", "null", "{}", '{"model": 3}', ""]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_tokenizer_stops_no_page(run: Path, text: str) -> None:
    (run / "final" / "tokenizer.json").write_text(text)
    found = document([read_run(run)])
    (note,) = (note for note in found["notes"] if "tokenizer.json cannot be read" in note)
    assert note.startswith(f"run: {run / 'final' / 'tokenizer.json'}") and "restore it" in note
    assert found["browser"]["rows"] and not found["browser"]["words"]
    assert all("text" in row for row in found["browser"]["rows"])


def test_the_next_tokenizer_takes_its_place_and_that_is_said(run: Path) -> None:
    whole = document([read_run(run)])["browser"]["words"]
    shutil.copytree(run / "final", run / "checkpoints" / "step-000002")
    (run / "final" / "tokenizer.json").write_text("{")
    found = document([read_run(run)])
    assert found["browser"]["words"] == whole and len(whole) > 5
    assert sum("tokenizer.json cannot be read" in note for note in found["notes"]) == 1
    (run / "final" / "tokenizer.json").unlink()
    assert not any("tokenizer.json" in note for note in document([read_run(run)])["notes"])


@pytest.mark.parametrize(
    ("part", "column"), [("credits", "uid"), *(("rollouts", name) for name in ("id", "uid", "group", "response"))]
)
def test_a_table_without_a_column_is_named(run: Path, part: str, column: str) -> None:
    file = run / part / "step-000002.parquet"
    pq.write_table(pq.read_table(file).drop_columns([column]), file)
    with pytest.raises(InputError, match=rf"{part}/step-000002.parquet has no column '{column}': restore the file"):
        document([read_run(run)])


@pytest.mark.parametrize(
    "counts",
    [
        {"heldout": {"samples": 4}},
        {"heldout": {"right": {"a": 1}}},
        {"heldout": {"samples": 4, "right": [1]}},
        {"heldout": {"samples": 4, "right": {"a": 5}}},
        {"heldout": [4]},
        [],
        None,
    ],
)
def test_a_result_without_counts_is_named(run: Path, tmp_path: Path, counts: object) -> None:
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "evol-0")
    (tmp_path / "compare.json").write_text("{}")
    (tmp_path / "base").mkdir()
    file = tmp_path / "base" / "result.json"
    file.write_text(json.dumps({"counts": counts}))
    with pytest.raises(InputError, match=r"base/result.json holds no counts of an evaluation .*: delete it to have"):
        recordings(tmp_path)


def test_a_result_of_a_worker_is_read(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert result_counts(file, 3) == []
    file.write_text(json.dumps({"counts": {"ood": {"samples": 4, "right": {"a": 2}, "step": 9}}}))
    assert result_counts(file, 3) == [Counts(3, "ood", 4, {"a": 2})]
    file.write_text(json.dumps({"metrics": {}}))
    assert result_counts(file, 3) == []
