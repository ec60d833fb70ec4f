"""Files that an ordinary user may not read: the command says which, and what to do. Root may read them all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import malformed_models as models
from tests.faults.conftest import Fault
from tests.faults.sound import chat_model

NOBODY = 65534
CODE = """
import json, sys
from rekindle.cli.common import run_safely
from rekindle.cli.main import app
for argv in json.loads(sys.argv[1]):
    print(json.dumps(run_safely(app, argv)), file=sys.stderr, flush=True)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that all users may enter, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="unreadable-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(commands: list[list[str]], home: Path) -> list[tuple[int, str]]:
    """(exit code, stderr) of commands, by a user who owns nothing."""
    if os.geteuid() != 0:
        who: list[str] = []
    elif shutil.which("setpriv") is None:
        pytest.skip("SKIPPED LOUDLY: root may read every file, and there is no setpriv to become another user")
    else:
        who = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    env = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*who, sys.executable, "-c", CODE, json.dumps(commands)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if "Permission denied" in ended.stderr and "rekindle: " not in ended.stderr:
        pytest.skip(f"SKIPPED LOUDLY: another user may not run this interpreter ({ended.stderr.strip()[-200:]})")
    assert ended.returncode == 0, ended.stderr[-3_000:]
    said: list[tuple[int, str]] = []
    heard: list[str] = []
    for line in ended.stderr.splitlines():
        if line.isdigit():
            said.append((int(line), "\n".join(heard)))
            heard = []
        else:
            heard.append(line)
    return said


@pytest.mark.heavy
def test_files_that_may_not_be_read(place: Path, fault: Fault) -> None:
    model = chat_model(place / "model")
    for file in model.iterdir():
        file.chmod(0o644)
    quick = ["--dry-run", "--no-probe"]
    (place / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    (place / "run.toml").write_text("steps = 2\n")
    (place / "ids.txt").write_text("a\n")
    (place / "t.jinja").write_text("{{ messages }}")
    (place / "closed").mkdir()
    (place / "closed" / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    (place / "run").mkdir()
    (place / "run" / "events.jsonl").write_text('{"kind": "step", "step": 1}\n')
    hidden = ("rows.jsonl", "run.toml", "ids.txt", "t.jinja", "closed", "run/events.jsonl")
    commands = {
        "rows.jsonl": ["data", "check", str(place / "rows.jsonl")],
        "run.toml": ["train", "grpo", *quick, "--config", str(place / "run.toml")],
        "ids.txt": ["train", "grpo", *quick, "--task", "digit_sum", "--set", f"only={place / 'ids.txt'}"],
        "t.jinja": ["train", "grpo", *quick, "--model", str(model), "--set", f"chat_template={place / 't.jinja'}"],
        "closed/rows.jsonl": ["data", "check", str(place / "closed" / "rows.jsonl")],
        "closed": ["data", "check", str(place / "closed")],
        "events.jsonl": ["forecast", str(place / "run")],
    }
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copytree(model, place / name)
        (place / name / name).chmod(0)
        commands[name] = [word.replace("DIR/base", str(place / name)) for word in models.EVAL]
    for name in hidden:
        (place / name).chmod(0)
    said = as_nobody(list(commands.values()), place)
    assert len(said) == len(commands)
    for (code, err), name in zip(said, commands, strict=True):
        assert code == 2 and err.count("\n") == 0 and Path(name).name in err, (name, code, err)
    fault(
        "input",
        "data, run.toml, ids, a template, a folder, events and files of a model that may not be read (mode 0, as an "
        "ordinary user)",
        "exit code 2 and one sentence that names the file, for each",
        said=said[1][1],
    )
