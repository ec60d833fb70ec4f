"""A disk that is full, folders that cannot be written to: nothing that was saved is lost, and the run goes on after."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle.errors import GuardStop
from rekindle.train.durable import storage_told, write_whole
from tests.faults.conftest import Fault
from tests.faults.cuts import ENVIRONMENT, ORDINARY, command, whole

ROOT = Path(__file__).resolve().parent.parent.parent


def can(*words: str) -> bool:
    """Whether a command works here."""
    return bool(shutil.which(words[0])) and not subprocess.run(words, capture_output=True, check=False).returncode


def as_user() -> tuple[str, ...]:
    """What makes a command that of an ordinary user who can read the interpreter; skips where there is no way."""
    if os.getuid():
        return ()
    if not can(*ORDINARY, sys.executable, "-c", f"open({str(ROOT / 'README.md')!r})"):
        pytest.skip("no way to become an ordinary user who can read the project")
    return tuple(ORDINARY)


@pytest.fixture
def mine() -> Iterator[Path]:
    """A folder of an ordinary user; not below pytest's, which is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="rekindle-faults-"))
    folder.chmod(0o755)
    if not os.getuid():
        os.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "kibibytes", [*(pytest.param(size, marks=pytest.mark.heavy) for size in (16, 300, 1024)), 2048]
)
def test_a_full_disk_stops_the_run_and_loses_nothing(kibibytes: int, tmp_path: Path, fault: Fault) -> None:
    """The configuration, the first checkpoint, the second and the third do not fit, in this order."""
    alone = ("unshare", "--user", "--map-root-user", "--mount")
    if not can(*alone, "true"):
        pytest.skip("no mount namespace for a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [*alone, sys.executable, "-m", "tests.faults.full_disk", str(disk), str(kibibytes)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "No space left on device" in told["said"] and "free space there, then --resume" in told["said"]
    assert told["hidden"] == [], "what did not fit was taken away, so that there is room again"
    reference = whole(tmp_path / "whole")
    assert told["weights"] == (reference / "final" / "model.safetensors").read_bytes().hex()
    does = "GuardStop (exit code 3); what was saved is whole, and with space --resume ends as the uninterrupted run"
    fault("files", f"the disk is full: a tmpfs of {kibibytes} KiB", does, told["said"])


def test_a_folder_that_may_not_be_written_to_is_refused_at_once(mine: Path, fault: Fault) -> None:
    user, folder = as_user(), mine
    folder.chmod(0o555)
    done = command("--out", str(folder / "run"), before=user, cwd=folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "cannot write into" in done.stderr and "give an --out that you can write to" in done.stderr
    does = "refused before anything is loaded (exit code 2)"
    fault("files", "--out lies in a read-only folder, for an ordinary user", does, done.stderr)


@pytest.mark.heavy
def test_a_folder_that_becomes_read_only_stops_the_run(mine: Path, fault: Fault) -> None:
    user, folder = as_user(), mine
    out = folder / "run"
    first = command("--out", str(out), options={"steps": 2}, before=user, cwd=folder)
    assert first.returncode == 0, first.stderr
    shutil.rmtree(out / "final")
    shutil.rmtree(out / "checkpoints" / "step-000002")
    (out / "checkpoints").chmod(0o555)
    done = command("--out", str(out), "--resume", options={"steps": 2}, before=user, cwd=folder)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert "Permission denied" in done.stderr and "make the folder writable, then --resume" in done.stderr
    (out / "checkpoints").chmod(0o755)
    again = command("--out", str(out), "--resume", options={"steps": 2}, before=user, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert (out / "checkpoints" / "step-000002").is_dir() and (out / "final").is_dir()
    does = "GuardStop (exit code 3); once it can be written to, --resume ends the run"
    fault("files", "checkpoints/ becomes read-only while a run goes on, for an ordinary user", does, done.stderr)


@pytest.mark.parametrize("file", ["events.jsonl", "run.toml"])
def test_a_disk_that_does_not_flush_stops_the_run_with_the_name_of_the_file(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def broken(handle: int) -> None:
        if file in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(handle)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(
        GuardStop, match=rf"cannot write {tmp_path}/run/.*{file}.*: Input/output error.*look at the disk"
    ):
        whole(tmp_path / "run", options={"steps": 1})


def test_a_text_that_the_disk_does_not_take_is_named(tmp_path: Path) -> None:
    def failing(partial: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(GuardStop, match=r"cannot write .*/counts\.json: Input/output error"), storage_told(tmp_path):
        write_whole(tmp_path / "counts.json", failing)


def test_the_name_of_every_new_folder_is_flushed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, seen = os.fsync, list[str]()

    def seeing(handle: int) -> None:
        seen.append(os.readlink(f"/proc/self/fd/{handle}"))
        flush(handle)

    monkeypatch.setattr(os, "fsync", seeing)
    root = whole(tmp_path / "new" / "run", options={"steps": 1, "evaluate.every": 1})
    assert seen[:2] == [str(root.parent), str(tmp_path)], "the run's folder, and the one above it"
    for name in ("checkpoints", "rollouts", "credits", "evaluations"):
        first = next(i for i, path in enumerate(seen) if path.startswith(str(root / name)))
        assert seen[first - 1] == str(root), name


def test_other_errors_of_the_system_are_not_taken_for_storage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_told(tmp_path):
        (tmp_path / "not there").read_text()
    with pytest.raises(PermissionError), storage_told(tmp_path):
        raise PermissionError(13, "Permission denied", "/elsewhere/data.jsonl")
    with pytest.raises(GuardStop, match=r"Input/output error.*look at the disk"), storage_told(tmp_path):
        raise OSError(5, "Input/output error", str(tmp_path / "events.jsonl"))
