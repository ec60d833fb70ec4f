from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rekindle.errors import InputError
from rekindle.train.events import EventLog, raw_events, read_events, timeless
from rekindle.train.sinks import numbers, open_sinks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "events.jsonl"


def steps(path: Path) -> list[tuple[str, int, float]]:
    return [(r["kind"], r["step"], r["x"]) for r in read_events(path) if "x" in r]


def test_records_are_readable_while_the_run_goes_on(path: Path) -> None:
    log = EventLog(path)
    for step in (1, 2):
        log.write("train", step, {"x": step / 2}, time={"seconds": 0.1})
        assert steps(path) == [("train", s, s / 2) for s in range(1, step + 1)]
    log.close()


def test_two_runs_of_one_seed_differ_in_time_alone(tmp_path: Path) -> None:
    runs = []
    for name, seconds in (("a", 0.1), ("b", 99.0)):
        with EventLog(tmp_path / name) as log:
            log.write(
                "train", 1, {"x": 0.5, "deep": {"y": [1, 2]}}, time={"seconds": seconds, "tokens_per_s": 1 / seconds}
            )
        runs.append(read_events(tmp_path / name))
    assert runs[0] != runs[1]
    assert timeless(runs[0]) == timeless(runs[1]) == [{"kind": "train", "step": 1, "x": 0.5, "deep": {"y": [1, 2]}}]


def test_the_last_record_of_a_step_and_kind_counts(path: Path) -> None:
    with EventLog(path) as log:
        for kind, step, x in [("train", 1, 0.0), ("eval", 1, 1.0), ("train", 2, 2.0), ("train", 1, 3.0)]:
            log.write(kind, step, {"x": x})
    assert steps(path) == [("eval", 1, 1.0), ("train", 2, 2.0), ("train", 1, 3.0)]


def test_a_resume_voids_what_came_after_its_step_before(path: Path) -> None:
    with EventLog(path) as log:
        for step in range(1, 6):
            log.write("train", step, {"x": float(step)})
        log.write("eval", 5, {"x": 5.5})
    with EventLog(path) as log:
        log.resume(3)
        log.write("train", 4, {"x": 40.0})
    assert steps(path) == [("train", 1, 1.0), ("train", 2, 2.0), ("train", 3, 3.0), ("train", 4, 40.0)]
    assert [r["step"] for r in read_events(path) if r["kind"] == "resume"] == [3]
    assert len(list(raw_events(path))) == 8, "the file itself keeps everything"


def test_a_value_that_is_not_finite_is_null_and_named(path: Path) -> None:
    with EventLog(path) as log:
        log.write("train", 1, {"loss": math.nan, "ok": 1.0, "by": {"kl": [0.0, -math.inf]}}, time={"per_s": math.inf})
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    (record,) = read_events(path)
    assert (record["loss"], record["by"]["kl"], record["time"]["per_s"]) == (None, [0.0, None], None)
    assert record["nonfinite"] == ["loss", "by.kl.1"]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_left_out_and_cut_off_on_the_next_write(path: Path, cut: int) -> None:
    with EventLog(path) as log:
        log.write("train", 1, {"x": 1.0})
        log.write("train", 2, {"x": 2.0})
    torn = path.read_bytes()[:-cut]  # 1: only the newline is missing, the record is whole
    path.write_bytes(torn)
    left = [("train", 1, 1.0), ("train", 2, 2.0)][: 2 if cut == 1 else 1]
    assert steps(path) == left
    assert path.read_bytes() == torn, "reading must not change the file"
    with EventLog(path) as log:
        log.write("train", 3, {"x": 3.0})
    assert steps(path) == [*left, ("train", 3, 3.0)]


def test_a_torn_line_in_the_middle_is_an_error_that_names_it(path: Path) -> None:
    with EventLog(path) as log:
        for step in (1, 2, 3):
            log.write("train", step, {"x": 1.0})
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20] + "\n" + lines[2])
    with pytest.raises(InputError, match=r"events\.jsonl line 2"):
        read_events(path)
    path.write_text(lines[0] + json.dumps({"step": 1}) + "\n" + lines[2])
    with pytest.raises(InputError, match="line 2 lacks"):
        read_events(path)


def test_reserved_names_and_foreign_values_are_refused_without_a_trace(path: Path) -> None:
    with EventLog(path) as log:
        with pytest.raises(ValueError, match="rename the value 'time'"):
            log.write("train", 1, {"time": 3.0})
        with pytest.raises(TypeError):
            log.write("train", 1, {"x": object()})
    assert path.read_bytes() == b""


def test_a_missing_file_is_an_input_error(path: Path) -> None:
    with pytest.raises(InputError, match=r"the events of a run at .* cannot be read"):
        read_events(path)


def test_an_unknown_or_missing_sink_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'tensorboard'"):
        open_sinks(["tensorbord"], tmp_path, "r")
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match=r"rekindle\[track\]"):
        open_sinks(["trackio"], tmp_path, "r")


def test_a_tracker_gets_the_numbers_of_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = SimpleNamespace(
        init=lambda project, name: calls.append((project, name)),
        log=lambda values, step: calls.append((values, step)),
        finish=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (sink,) = open_sinks(["wandb"], tmp_path, "run-1")
    sink.write({"kind": "train", "step": 3, "x": 1, "text": "t", "flag": True, "gone": None, "time": {"seconds": 2.0}})
    sink.write({"kind": "resume", "step": 3, "time": {}})
    sink.close()
    assert calls == [("rekindle", "run-1"), ({"train/x": 1.0, "train/time/seconds": 2.0}, 3), "finish"]


def test_tensorboard_gets_a_scalar_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: list[Any] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            scalars.append(log_dir)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, value, step))

        def close(self) -> None:
            scalars.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setitem(vars(module), "SummaryWriter", Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    (sink,) = open_sinks(["tensorboard"], tmp_path, "r")
    sink.write({"kind": "eval", "step": 2, "pass@1": 0.5, "time": {}})
    sink.close()
    assert scalars == [str(tmp_path / "tensorboard"), ("eval/pass@1", 0.5, 2), "closed"]


def test_numbers_leave_out_what_is_none() -> None:
    assert dict(numbers({"kind": "k", "step": 1, "a": None, "b": False, "c": 2, "nonfinite": ["a"]})) == {"k/c": 2.0}
