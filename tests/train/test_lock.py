"""A run folder belongs to one run: not to a second process, nor to a second thread of the same one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.train import lock

TAKE = """
import sys
from pathlib import Path
from rekindle.train import lock

lock.PATIENCE = 0.1
with lock.locked(Path(sys.argv[1]), print):
    print("taken")
"""
HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from rekindle.train import lock

with lock.locked(Path(sys.argv[1]), print):
    if not (first := os.fork()):
        raise SystemExit  # through the end of `with`
    os.waitpid(first, 0)
    if not os.fork():
        print("forked", flush=True)
        time.sleep(30)
        os._exit(0)
    time.sleep(60)
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a run, which stays when its lock is let go."""
    root = tmp_path / "run"
    root.mkdir()
    (root / lock.CONFIG).write_text("")
    return root


def taken_by_another(out: Path) -> bool:
    """Whether another process gets the folder."""
    done = subprocess.run([sys.executable, "-c", TAKE, str(out)], capture_output=True, text=True, check=False)
    assert done.stdout == "taken\n" or "is in use by process" in done.stderr, done.stderr
    return not done.returncode


def test_a_second_run_of_the_same_process_is_refused_and_takes_nothing_away(out: Path) -> None:
    link = out.with_name("link")
    link.symlink_to(out)
    with lock.locked(out, print):
        for same in (out, out / ".." / "run", link):
            with pytest.raises(InputError, match="in use by this process"), lock.locked(same, print):
                pass
        with pytest.raises(InputError, match="in use by this process"):
            train("grpo", steps=1, out=str(out))
        assert not taken_by_another(out)
    assert taken_by_another(out)
    with lock.locked(out, print):
        pass


def test_the_folder_stays_held_where_its_lock_is_read(out: Path) -> None:
    with lock.locked(out, print):
        assert str(os.getpid()) in (out / lock.NAME).read_text()
        assert not taken_by_another(out)


def test_a_forked_child_neither_keeps_the_folder_nor_gives_it_away(out: Path) -> None:
    program = [sys.executable, "-c", HOLD_AND_FORK, str(out)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, start_new_session=True) as held:
        try:
            assert held.stdout is not None and held.stdout.readline() == "forked\n"
            assert not taken_by_another(out)
            held.kill()
            held.wait()
            assert taken_by_another(out), "though the child lives on"
        finally:
            os.killpg(held.pid, signal.SIGKILL)


def test_a_full_disk_takes_the_name_of_the_holder_not_the_lock(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes, place: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with lock.locked(out, print):
        monkeypatch.undo()
        done = subprocess.run([sys.executable, "-c", TAKE, str(out)], capture_output=True, text=True, check=False)
        assert "in use by another process" in done.stderr
