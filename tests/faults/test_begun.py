"""A run that ended before its first step, or after its last: --resume goes on, or says that there is nothing to do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.report.travel.past import open_past
from rekindle.report.travel.replay import replay
from rekindle.train.retention import checkpoints
from tests.faults.cuts import copied, marks
from tests.faults.kill import SMALL

BOTH = {**SMALL, "track.sinks": ["tensorboard", "wandb"]}


class Writer:
    """A writer of TensorBoard that leaves a folder, as the real one does."""

    def __init__(self, log_dir: str) -> None:
        Path(log_dir).mkdir(parents=True)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setitem(vars(module), "SummaryWriter", Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


def begun(out: Path, resume: bool = False, **more: object) -> Path:
    """A run of one step."""
    return train("grpo", task="digit_sum", steps=1, out=out, resume=resume, options={**SMALL, **more})


@pytest.mark.parametrize("resume", [False, True], ids=["anew", "resumed"])
def test_a_run_killed_while_it_wrote_its_configuration_goes_on(resume: bool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").write_text("{}")
    (out / ".run.toml.partial").write_text("half")
    assert (begun(out, resume) / "final").is_dir() and not (out / ".run.toml.partial").exists()


def test_nothing_is_swept_out_of_a_folder_of_others(tmp_path: Path) -> None:
    for name in (".download.partial", ".run.toml.partial"):
        (tmp_path / name).write_text("half")
    with pytest.raises(InputError, match="holds other files"):
        begun(tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.name.endswith(".partial")]) == 2


@pytest.mark.usefixtures("board")
def test_a_sink_that_is_missing_leaves_nothing_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="the sink 'wandb' needs a package that is missing"):
        begun(tmp_path / "run", **BOTH)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("board")
def test_a_sink_that_fails_leaves_a_run_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(project: str, name: str) -> None:
        raise ConnectionError("no such key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(ConnectionError):
        begun(tmp_path / "run", **BOTH)
    assert (begun(tmp_path / "run", resume=True) / "final").is_dir()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("ended") / "run")


def test_a_finished_run_is_finished_whatever_became_of_its_checkpoints(ended: Path, tmp_path: Path) -> None:
    out = copied(ended, tmp_path / "run")
    for place in checkpoints(out / "checkpoints"):
        (place / "model.safetensors").write_bytes(b"")
    notes: list[str] = []
    train(
        "grpo", task="digit_sum", steps=1, out=out, resume=True, options=SMALL, heard=lambda r: notes.append(r["text"])
    )
    assert notes == [f"{out} is finished: nothing to do"]


def test_a_record_that_is_gone_is_told(ended: Path, tmp_path: Path) -> None:
    out = copied(ended, tmp_path / "run")
    shutil.rmtree(out / "final")
    (out / "events.jsonl").unlink()
    notes: list[str] = []

    def heard(record: dict[str, Any]) -> None:
        notes.extend([record["text"]] if record["kind"] == "note" else [])

    train("grpo", task="digit_sum", steps=1, out=out, resume=True, options=SMALL, heard=heard)
    assert "events.jsonl was gone or empty: the run's record up to step 1 is lost" in notes
    assert marks(out, "resume")[-1]["lost"]
    with pytest.raises(InputError, match=r"events\.jsonl records no step"):
        replay(open_past(out), 1)
