"""`report` and `watch` as a user calls them, and where `import-config` writes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest

from rekindle.api import train
from rekindle.cli.main import main

OPTIONS = {"rollout.prompts": 2, "rollout.group": 4, "checkpoint.every": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("grpo", task="digit_sum", steps=2, out=tmp_path_factory.mktemp("r") / "run", options=OPTIONS)


def code(*argv: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in argv])
    return int(str(end.value.code or 0))


def test_a_report_lies_in_its_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("report", run) == 0
    assert re.fullmatch(rf"report: {run}/report\.html \(\d\.\d MB, 1 run\)\n", capsys.readouterr().out)
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_of_several_runs_it_lies_where_it_is_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = train("grpo", task="digit_sum", steps=1, out=tmp_path / "other", options=OPTIONS | {"seed": 1})
    monkeypatch.chdir(tmp_path)
    assert code("report", run, other) == 0 and (tmp_path / "report.html").is_file()
    assert code("report", run, other, "--out", tmp_path / "deep" / "x.html") == 0
    assert (tmp_path / "deep" / "x.html").stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [(["report", "nowhere"], "'nowhere' is no folder"), (["report", "{run}", "{run}"], "is given twice"),
     (["report", "{run}", "--out", "{run}"], "is a folder: give the name of a file in it"),
     (["report", "{run}", "--out", "{run}/run.toml/x.html"], "cannot write"), (["watch", "nowhere"], "is no folder"),
     (["report", "{run}/rollouts"], "holds no run of Rekindle")],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(*(word.format(run=run) for word in words)) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_port_that_is_taken_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert code("watch", run, "--port", port) == 2
    assert f"--port {port} cannot be had" in capsys.readouterr().err


def test_watch_serves_until_it_is_interrupted(run: Path) -> None:
    command = [sys.executable, "-m", "rekindle.cli.main", "watch", str(run), "--port", "0"]
    command[1:3] = ["-c", "from rekindle.cli.main import main; main()"]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Tests that run behind a shell's `&` are told to ignore interrupts, and so would be their children.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own, preexec_fn=heed)
    try:
        assert watching.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", watching.stdout.readline())
        assert found is not None
        with urlopen(f"http://127.0.0.1:{found.group(1)}/data.json", timeout=60) as answer:
            assert b'"panels"' in answer.read()
        watching.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while watching.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert watching.returncode == 0
    finally:
        watching.kill()
        watching.communicate()


def test_an_imported_configuration_is_written_where_it_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("epsilon: 0.2\n")
    asked = ("import-config", tmp_path / "c.yaml", "--from", "trl", "--out")
    assert code(*asked, tmp_path / "new" / "run.toml") == 0 and (tmp_path / "new" / "run.toml").is_file()
    assert code(*asked, tmp_path / "c.yaml" / "run.toml") == 2
    assert "cannot write" in " ".join(capsys.readouterr().err.split())
