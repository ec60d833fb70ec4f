"""Secrets: options that hold one are refused, and no file of a run shows one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.cli.common import run_safely, say
from rekindle.cli.main import app
from rekindle.errors import InputError
from rekindle.tokens.private import redacted, refuse_private, secrets
from rekindle.train.events import EventLog, read_events

CANARY = "canary-8ba1f2c7d9"
HUB = "hf_" + "A1b2C3d4E5f6G7h8I9j0K1l2"


def test_what_is_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "SANDBOX_TOKEN"):
        monkeypatch.setenv(name, f"{CANARY}-{name}")
        assert secrets()[name] == f"{CANARY}-{name}"
    plain = {
        "TOKENIZERS_PARALLELISM": "something",
        "A_TOKEN": "none",
        "MAX_TOKEN": "123456789",
        "B_TOKEN": str(tmp_path),
    }
    for name, value in plain.items():
        monkeypatch.setenv(name, value)
        assert name not in secrets()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"the key is {CANARY}!", "the key is ***!"),
        (f"longer {CANARY}-more", "longer ***"),
        ("at http://me:hunter2@host:80/x and ssh://git@host", "at http://***@host:80/x and ssh://git@host"),
        (
            "http://me:p@ss@host/x and https://tok@host and redis://:pw@host",
            "http://***@host/x and https://***@host and redis://***@host",
        ),
        ("http://me:hun/ter2@host, postgres://me@corp.com:pw@host", "http://***@host, postgres://***@host"),
        (
            "http://host:8000/x@main and git+ssh://git@github.com:o/r@main",
            "http://host:8000/x@main and git+ssh://git@github.com:o/r@main",
        ),
        (f"loaded with {HUB}.", "loaded with ***."),
        (
            "http://host/a@b, a@b.c, hf://datasets/x@main, hf_short",
            "http://host/a@b, a@b.c, hf://datasets/x@main, hf_short",
        ),
    ],
)
def test_secrets_are_blotted_out_and_nothing_else(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", CANARY)
    monkeypatch.setenv("B_SECRET", f"{CANARY}-more")
    assert redacted(text) == shown


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("vllm.url", "http://me:hunter2hunter2@127.0.0.1:8000", "a name or password in a URL"),
        ("data", f"https://{CANARY}@host/data.jsonl", "what the variable A_SECRET holds"),
        ("model", f"owner/{HUB}", "a token of the hub"),
        ("reward", (f"mine.py:{CANARY}",), "what the variable A_SECRET holds"),
        ("data_heldout", "s3://key:secret@bucket/x.jsonl", "a name or password in a URL"),
        ("vllm.url", "me:hunter2@127.0.0.1:8000", "a name or password in a URL"),
        ("vllm.url", "http://me:hunter2/x@127.0.0.1:8000", "a name or password in a URL"),
    ],
)
def test_an_option_with_a_secret_is_refused_and_not_repeated(
    option: str, value: object, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_SECRET", CANARY)
    table: dict = {}
    *tables, key = option.split(".")
    inner = table
    for name in tables:
        inner = inner.setdefault(name, {})
    inner[key] = value
    for said in ((None, [], {option: value}), (table, [], {}), (None, [f"{option}={value}"], {})):
        with pytest.raises(InputError, match=f"option '{option}' holds {what}.*by the environment") as told:
            refuse_private(*said)
        assert not any(part in str(told.value) for part in ("hunter2", CANARY, HUB, "key:secret"))
    text = value if isinstance(value, str) else value[0]  # type: ignore[index]
    assert run_safely(app, ["train", "grpo", "--set", f"{option}={text}"]) == 2
    assert "hunter2" not in (told_ := capsys.readouterr()).err + told_.out and CANARY not in told_.err


@pytest.mark.parametrize(
    "place", ["git+ssh://git@github.com/o/r", "abfs://box@acct.dfs.core.windows.net/p", "hf://x@main", "s3://b/x:y@z"]
)
def test_a_name_that_says_whose_place_it_is_is_no_secret(place: str) -> None:
    refuse_private({"data": place}, [f"model={place}"], {"reward": (place,)})
    assert redacted(place) == place


def test_events_and_messages_show_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_SECRET", CANARY)
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("note", 1, {"text": f"the hub says 401 for {CANARY} at http://me:{CANARY}x@host", "loss": 0.5})
    (record,) = read_events(tmp_path / "events.jsonl")
    assert record["text"] == "the hub says 401 for *** at http://***@host" and record["loss"] == 0.5
    say(f"no such key {CANARY}")
    assert capsys.readouterr().err == "rekindle: no such key ***\n"


NOISY = """
import os
def judge(completions, **more):
    print(os.environ["HF_TOKEN"])
    return [float(len(c) % 3) for c in completions]
"""


@pytest.mark.parametrize("secret", ["-----BEGIN KEY-----\nabcdefgh\n-----END", '{"type": "service"}', 'pa\\ss"word1'])
def test_secrets_that_json_or_one_line_write_otherwise(
    secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_PRIVATE_KEY", secret)
    monkeypatch.setenv("Z_TOKEN", "grad_norm")
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("note", 1, {"text": f"it was {secret}, once", "grad_norm": 1.0})
    (record,) = read_events(tmp_path / "events.jsonl")
    assert record["text"] == "it was ***, once" and record["grad_norm"] == 1.0, "values are blotted, names are not"
    say(f"it was {secret}, once")
    assert capsys.readouterr().err == "rekindle: it was ***, once\n"


def test_no_file_of_a_run_holds_what_the_environment_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {"HF_TOKEN": f"{CANARY}-hf", "WANDB_API_KEY": f"{CANARY}-wandb", "REKINDLE_TOKEN": f"{CANARY}-rekindle"}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mine.py").write_text(NOISY)
    small = {"rollout.prompts": 2, "rollout.group": 4, "descent.minibatches": 1, "checkpoint.every": 1}
    reward = f"{tmp_path / 'mine.py'}:judge"
    folder = train("grpo", steps=2, out=tmp_path / "run", reward=(reward,), options=small)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert json.loads((folder / "events.jsonl").read_text().splitlines()[0])["kind"]
