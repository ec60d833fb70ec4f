"""Programs in another sandbox than the own: what it is called with, what may come back, and the two examples."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rekindle.errors import InputError
from rekindle.tokens.grading import elsewhere
from rekindle.tokens.grading.asserts import decoded
from rekindle.tokens.grading.elsewhere import Sandbox, load_sandbox, read, run_elsewhere, whole
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.grading.programs import OWN, Programs
from rekindle.tokens.grading.sandbox import OUTPUT, Ran

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
HTTP, DOCKER = EXAMPLES / "05_programs_over_http.py", EXAMPLES / "06_programs_in_docker.py"
DOUBLE = "print('noise')\nclass Solution:\n    def f(self, x):\n        print('more')\n        return (2 * x, {'a'})\n"


def alone(program: str, stdin: str, folder: Path, seconds: float = 20.0) -> dict[str, str]:
    """What a service does: run it by itself, here without any barrier, for the programs of these tests are harmless."""
    line = [sys.executable, "-I", "-S", "-c", program]
    fresh = tempfile.mkdtemp(dir=folder)
    try:
        ran = subprocess.run(line, input=stdin.encode(), capture_output=True, cwd=fresh, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "stdout": ""}
    return {"status": "failed" if ran.returncode else "ok", "stdout": ran.stdout.decode()}


def test_a_whole_program_answers_by_itself(tmp_path: Path) -> None:
    told = alone(whole(DOUBLE, "f(2)", "n"), "", tmp_path)
    assert decoded(read(told["status"], told["stdout"], "f(2)", "n").value) == (4, {"a"}), told
    told = alone(whole("print(int(input()) + 1)", None, "n"), "3\n", tmp_path)
    assert read(told["status"], told["stdout"], None, "n") == Ran("ok", "4\n")
    assert alone(whole("raise ValueError", "f(2)", "n"), "", tmp_path)["status"] == "failed"
    odd = alone(whole("f = lambda: '\\ud800\\'\"'", "f()", "n"), "", tmp_path)
    assert decoded(read("ok", odd["stdout"], "f()", "n").value) == "\ud800'\""


def test_what_comes_back_is_data_and_its_size_is_limited() -> None:
    assert read("ok", '["n", {"int": "0x4"}]', "f()", "n").value == {"int": "0x4"}
    for output in ("", "[]", '["other", 4]', "[" * 60_000, '{"n": 4}', '["n", 4]4'):
        assert read("ok", output, "f()", "n") == Ran("ok"), "a program that forges gives no value"
    assert read("ok", "x" * (OUTPUT + 1), None, "n") == Ran("output")


def write(path: Path, text: str) -> str:
    path.write_text(f"from rekindle.tokens.grading.sandbox import Ran\n{text}")
    return str(path)


def test_a_sandbox_is_named_like_a_reward_and_gives_what_it_should(tmp_path: Path) -> None:
    place = write(
        tmp_path / "mine.py", "def run(s, c, i, t):\n    return Ran('ok', output=i)\ndef bad(*a):\n    return 4\n"
    )
    assert isinstance(load_sandbox(f"{place}:run"), Sandbox)
    assert run_elsewhere(f"{place}:run", "", None, "hello", 1.0) == Ran("ok", "hello")
    with pytest.raises(RuntimeError, match=r"grading.sandbox=.*mine.py:bad gave a int: return a Ran"):
        run_elsewhere(f"{place}:bad", "", None, "", 1.0)
    for spec, why in (
        (f"{place}:rum", "no function 'rum'"),
        ("none.py:run", "no such file"),
        ("run", "not of the form"),
    ):
        with pytest.raises(InputError, match=rf"grading.sandbox={spec}: .*{why}.*names FILE.py:function"):
            load_sandbox(spec)
    assert load_sandbox("rekindle.tokens.grading.sandbox:run") is not None, "a module"


def test_a_grader_uses_it_in_its_workers_and_asks_for_no_barrier_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "def run(source, call, stdin, seconds):\n    assert 0 < seconds <= 5\n"
    text += "    return Ran('ok', value={'int': hex(len(source))}, answered=True)\n"
    place = write(tmp_path / "mine.py", text)
    with contextlib.closing(Grader("code", "boxed", workers=1, programs=Programs(f"{place}:run"))) as grader:
        monkeypatch.setattr(grader, "_map", lambda *more: pytest.fail("nothing is asked of this machine"))
        grader.refuse_unsafe()
        monkeypatch.undo()
        grades = grader.compare([("12345", '["assert f(2) == 5"]'), ("1234", '["assert f(2) == 5"]')])
        assert [grade.success for grade in grades] == [True, False]
    broken = write(tmp_path / "broken.py", "def run(*a):\n    raise OSError('the service is gone')\n")
    with contextlib.closing(Grader("code", "boxed", workers=1, programs=Programs(f"{broken}:run"))) as grader:
        (grade,) = grader.compare([("1", '["assert f(2) == 5"]')])
        assert (grade.success, grade.status) == (None, "infra_error") and "the service is gone" in grade.info["why"]
    with pytest.raises(InputError, match=r"grading.sandbox=none.py:run: none.py: no such file"):
        Grader("code", "boxed", programs=Programs("none.py:run")).refuse_unsafe()
    with pytest.raises(InputError, match="are for programs, not for 'math'"):
        Grader("math", "boxed", programs=Programs("mine.py:run"))
    assert Programs() == OWN


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A service on the loopback: the tokens that it was shown."""
    shown: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            shown.append(self.headers["Authorization"])
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(alone(asked["program"], asked["stdin"], tmp_path, asked["seconds"])).encode()
            self.send_response(200 if shown[-1] == "Bearer secret" else 401)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SANDBOX_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("SANDBOX_TOKEN", "secret")
        yield shown
        server.shutdown()


def test_the_example_over_http(service: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"{HTTP}:run"
    assert decoded(run_elsewhere(spec, DOUBLE, "f(3)", "", 10.0).value) == (6, {"a"})
    assert run_elsewhere(spec, "while True: pass", None, "", 2.0).status == "timeout"
    with contextlib.closing(Grader("code", "boxed", workers=1, programs=Programs(spec))) as grader:
        grades = grader.compare([(source, '[{"input": "2", "output": "4"}]') for source in ("print(4)", "print(5)")])
        assert [grade.success for grade in grades] == [True, False]
        monkeypatch.setenv("SANDBOX_TOKEN", "wrong")
        elsewhere.load_sandbox.cache_clear()
    with contextlib.closing(Grader("code", "boxed", workers=1, programs=Programs(spec))) as grader:
        (grade,) = grader.compare([("print(4)", '[{"input": "2", "output": "4"}]')])
        assert grade.status == "infra_error" and "401" in grade.info["why"]
    assert set(service) == {"Bearer secret", "Bearer wrong"}


FAKE = """#!{python}
import os, sys
here = sys.argv.index("python:3.12-slim")
open({log!r}, "a").write(repr(sys.argv[1:here]) + chr(10))
os.chdir({folder!r})
os.execvp(sys.argv[here + 1], sys.argv[here + 1 :])
"""


def test_the_example_of_docker_by_its_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No container is started: a stand-in for `docker` notes its options and runs what the container would."""
    spec = importlib.util.spec_from_file_location("docker_example", DOCKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line = module.command("a-name", 2.5)
    options = " ".join(line[: line.index(module.IMAGE)])
    for wanted in ("--network none", "--read-only", "--user 65534:65534", "--cap-drop ALL", "no-new-privileges"):
        assert wanted in options
    for wanted in ("--memory 512m", "--memory-swap 512m", "--pids-limit 32", "--rm", "--pull never", "--name a-name"):
        assert wanted in options
    assert not {"--volume", "-v", "--mount", "--privileged", "--device", "--env", "-e"} & set(line)
    assert line[line.index(module.IMAGE) + 1 :][:7] == [
        "sh",
        "-c",
        module.INSIDE,
        "sh",
        "timeout",
        "--signal=KILL",
        "3",
    ]
    fake, log = tmp_path / "docker", tmp_path / "log"
    fake.write_text(FAKE.format(python=sys.executable, log=str(log), folder=str(tmp_path)))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert decoded(module.run(DOUBLE, "f(3)", "", 20.0).value) == (6, {"a"})
    assert module.run("print(input())", None, "hello\n", 20.0) == Ran("ok", "hello\n")
    for code in (3, 124, 125, 126, 127):
        assert module.run(f"raise SystemExit({code})", None, "", 20.0).status == "failed", "it does not go ungraded"
    assert len(log.read_text().splitlines()) == 7, "a container each"
    assert module.run("while True: pass", None, "", 0.5).status == "timeout"
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "sh").symlink_to("/bin/sh")
    with pytest.raises(RuntimeError, match="docker: "):  # an image without python3 is no fault of the program
        module.run(DOUBLE, "f(3)", "", 20.0)
    fake.write_text("#!/bin/sh\necho no daemon >&2\nexit 125\n")
    with pytest.raises(RuntimeError, match="docker: no daemon"):
        module.run(DOUBLE, "f(3)", "", 20.0)
