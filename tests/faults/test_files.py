"""Checkpoints and run folders that were damaged, torn, left behind or taken: what --resume does with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.errors import InputError
from rekindle.train import lock
from rekindle.train.retention import BEST, checkpoints, prune
from rekindle.train.sections import Checkpoint
from tests.faults.conftest import Fault
from tests.faults.cuts import copied, cut, gone_on, marks, newest, whole
from tests.faults.same import differences


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut in step 4: the checkpoints of steps 2 and 3 are there."""
    return cut(tmp_path_factory.mktemp("half") / "run", 4)


def flip(file: Path, bit: int = 3) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(b"\x00\xff not what it was")


HARM = [
    ("model.safetensors", flip, "one bit flipped"),
    ("state/optimizer.safetensors", flip, "one bit flipped"),
    ("model.safetensors", truncate, "cut short by 100 bytes"),
    ("state/optimizer.safetensors", Path.unlink, "deleted"),
    ("state/run.json", garbage, "overwritten"),
    ("state/run.json", empty, "emptied"),
    ("config.json", flip, "one bit flipped"),
    ("manifest.json", Path.unlink, "deleted"),
    ("manifest.json", garbage, "overwritten"),
]


QUICK = 4
CASES = [
    pytest.param(*case, id=f"{case[0]}-{case[1].__name__}", marks=[pytest.mark.heavy] if i >= QUICK else [])
    for i, case in enumerate(HARM)
]


@pytest.mark.parametrize(("name", "harm", "how"), CASES)
def test_a_damaged_checkpoint_is_passed_over(
    name: str, harm: object, how: str, halfway: Path, complete: Path, tmp_path: Path, fault: Fault
) -> None:
    out = copied(halfway, tmp_path / "run")
    broken = newest(out)
    assert callable(harm)
    harm(broken / name)
    notes = gone_on(out)
    said = next(text for text in notes if "is not whole" in text)
    assert broken.name in said and Path(name).name in said and "going on from step-000002" in said
    assert marks(out, "resume")[-1]["skipped"] and marks(out, "resume")[-1]["checkpoint"] == "step-000002"
    assert differences(complete, out) == []
    does = "--resume says so, goes on from the one before and ends bit for bit as the uninterrupted run"
    fault("files", f"the newest checkpoint's {name}: {how}", does, said)


def test_where_no_checkpoint_is_whole_the_run_is_refused(halfway: Path, tmp_path: Path, fault: Fault) -> None:
    out = copied(halfway, tmp_path / "run")
    for place in checkpoints(out / "checkpoints"):
        flip(place / "model.safetensors")
    with pytest.raises(
        InputError, match=r"no checkpoint in .* is whole .*step-000003.*step-000002.*remove that"
    ) as told:
        gone_on(out)
    assert len(checkpoints(out / "checkpoints")) == 2, "nothing was removed"
    fault("files", "every checkpoint has a flipped bit", "refused (exit code 2), nothing is removed", str(told.value))


def test_a_torn_last_event_is_cut_off_and_told(halfway: Path, complete: Path, tmp_path: Path, fault: Fault) -> None:
    out = copied(halfway, tmp_path / "run")
    with (out / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "step", "step": 5, "loss"')
    notes = gone_on(out)
    assert marks(out, "resume")[-1]["torn"] == 34 and differences(complete, out) == []
    said = next(text for text in notes if "unfinished last line" in text)
    fault("files", "a kill left half a line in events.jsonl", "cut off and told; the run ends as the whole one", said)


def test_events_that_become_void_are_counted(halfway: Path, complete: Path, tmp_path: Path, fault: Fault) -> None:
    out = copied(halfway, tmp_path / "run")
    before = (out / "events.jsonl").read_bytes()
    notes = gone_on(out)
    assert (out / "events.jsonl").read_bytes().startswith(before), "nothing of the file was taken away"
    assert marks(out, "resume")[-1]["void"] == 1 and differences(complete, out) == []
    said = next(text for text in notes if "void" in text)
    fault("files", "events were written behind the last checkpoint", "kept in the file, void for readers, told", said)


def test_a_damaged_line_of_events_is_refused_by_its_number(halfway: Path, tmp_path: Path, fault: Fault) -> None:
    out = copied(halfway, tmp_path / "run")
    lines = (out / "events.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = b"{broken\n"
    (out / "events.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"line 3 is no event") as told:
        gone_on(out)
    fault("files", "a line inside events.jsonl was damaged", "refused (exit code 2) with its number", str(told.value))


def test_what_a_kill_left_unfinished_is_taken_away(halfway: Path, complete: Path, tmp_path: Path, fault: Fault) -> None:
    out = copied(halfway, tmp_path / "run")
    shutil.copytree(newest(out), out / "checkpoints" / ".step-000004.partial")
    shutil.copytree(newest(out), out / "checkpoints" / ".step-000001.gone")
    (out / ".final.partial").mkdir()
    (out / "rollouts" / ".step-000004.parquet.partial").write_bytes(b"half")
    gone_on(out)
    assert differences(complete, out) == [], "nothing left over, too"
    does = "never taken for whole, taken away by --resume"
    fault("files", "half a checkpoint, half a removed one, half a final model, half a file of rollouts lie there", does)


def test_a_folder_that_was_being_replaced_gets_its_name_back(halfway: Path, complete: Path, tmp_path: Path) -> None:
    out = copied(halfway, tmp_path / "run")
    place = newest(out)
    place.rename(place.with_name(f".{place.name}.old"))
    gone_on(out)
    assert marks(out, "resume")[-1]["checkpoint"] == place.name and differences(complete, out) == []


def test_which_checkpoints_stay(tmp_path: Path) -> None:
    out = whole(tmp_path / "run", options={"checkpoint.keep": 1, "checkpoint.archive": 2})
    best = json.loads((out / "checkpoints" / BEST).read_text())
    there = {int(place.name[5:]) for place in checkpoints(out / "checkpoints")}
    assert best["metric"] == "pass@4" and best["step"] in (2, 4)
    assert there == {2, 4, 5}, "every second, and the last"
    other = whole(tmp_path / "other", options={"checkpoint.keep": 1})
    assert {int(place.name[5:]) for place in checkpoints(other / "checkpoints")} == {best["step"], 5}


def test_the_best_by_a_metric_that_is_not_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint\.best=pass@16.*pass@4"):
        whole(tmp_path / "run", options={"checkpoint.best": "pass@16"})
    with pytest.raises(InputError, match=r"checkpoint\.best=pass@4.*evaluate\.every"):
        whole(tmp_path / "other", options={"evaluate.every": 0})


def test_a_damaged_newer_checkpoint_does_not_push_out_what_is_saved_now(halfway: Path, tmp_path: Path) -> None:
    out = copied(halfway, tmp_path / "run")
    flip(newest(out) / "model.safetensors")
    for name in ("step-000008", "step-000009"):
        shutil.copytree(newest(out), out / "checkpoints" / name)
    saved = out / "checkpoints" / "step-000004"
    shutil.copytree(newest(out), saved)
    prune(saved, Checkpoint(keep=1), None)
    assert {place.name for place in checkpoints(out / "checkpoints")} == {"step-000004", "step-000008", "step-000009"}


HOLD = """
import time
from pathlib import Path
from rekindle.train.lock import locked

with locked(Path({0!r}), print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_refused_process_leaves_the_lock_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = HOLD.format(str(tmp_path / "run"))
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        monkeypatch.setattr(lock, "PATIENCE", 0.1)
        for _ in range(2):
            with (
                pytest.raises(InputError, match=f"in use by process {other.pid}"),
                lock.locked(tmp_path / "run", print),
            ):
                pass
        assert (tmp_path / "run" / ".lock").is_file(), "of the one that holds it"
        other.kill()
    with lock.locked(tmp_path / "run", print):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
