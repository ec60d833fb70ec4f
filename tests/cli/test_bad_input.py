"""Every input that cannot work ends with one sentence on stderr and its exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rekindle.train.events import read_events
from rekindle.train.retention import checkpoints
from tests.cli.folders import TINY, llama_folder, rekindle

EVOL = ["train", "evol_rl", "--task", "digit_sum", *TINY]
GRPO = ["train", "grpo", "--task", "digit_sum", "--prompts", "2", "--group", "2", "--steps", "1"]


def refused(
    capsys: pytest.CaptureFixture[str], args: list[str], *words: str, out: Path | None = None, code: int = 2
) -> None:
    """The command ends with `code` and one sentence that holds all `words`; `out` does not come to be."""
    there = out is not None and out.exists()
    ended = rekindle(capsys, *args, *(["--out", out] if out else []))
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert ended.err.startswith("rekindle: ") and ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err, ended.err
    assert out is None or there or not out.exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "evol_lr"], ["unknown method 'evol_lr'", "'evol_rl'"]),
        (["train", "evol_rl", "--task", "digitsum"], ["unknown task 'digitsum'", "'digit_sum'"]),
        ([*EVOL, "--set", "descent.rl=1"], ["unknown option 'descent.rl'", "descent.lr"]),
        ([*EVOL, "--set", "objective.hihg=1"], ["unknown option 'objective.hihg'", "objective.high"]),
        ([*EVOL, "--set", "rollout.promts=1"], ["unknown option 'rollout.promts'", "rollout.prompts"]),
        ([*EVOL, "--set", "steps"], ["PATH=VALUE", "'steps'"]),
        ([*EVOL, "--set", "descent.lr=fast"], ["descent.lr", "number", "'fast'"]),
        ([*EVOL, "--dtype", "float23"], ["dtype", "'float32'"]),
        ([*EVOL, "--device", "gpu"], ["unknown device 'gpu'", "cpu"]),
        ([*EVOL, "--step", "3"], ["--step", "--steps"]),
        (["trian", "evol_rl"], ["trian", "train"]),
        (["train"], ["method"]),
        ([*EVOL, "--steps", "0"], ["steps", "0"]),
        ([*EVOL, "--steps", "many"], ["--steps", "integer"]),
        ([*EVOL, "--json"], ["--json", "--dry-run"]),
        ([*EVOL, "--config", "nowhere.toml"], ["nowhere.toml", "run.toml"]),
        ([*EVOL, "--model", "./nowhere"], ["./nowhere", "model folder"]),
        ([*EVOL, "--data", "nowhere.jsonl"], ["nowhere.jsonl", "no such file"]),
        ([*EVOL, "--set", "track.sinks=['wandbb']"], ["unknown sink 'wandbb'", "'wandb'"]),
        ([*GRPO, "--reward", "nowhere.py:f"], ["nowhere.py", "no such file"]),
        (["train", "nowhere.py:f"], ["nowhere.py", "no such file"]),
        ([*GRPO, "--group", "1"], ["rollout.group is 1", "rollout.group=2"]),
        ([*EVOL, "--group", "8"], ["rollout.votes is 4", "rollout.votes=8"]),
        ([*EVOL, "--set", "rollout.votes=5"], ["'rollout.votes' is given twice"]),
        ([*EVOL, "--set", "rollout.top_p=0.9"], ["truncated sampling", "rollout.top_p=1"]),
        ([*EVOL, "--set", "rollout.top_k=5"], ["truncated sampling", "rollout.top_k=0"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_options(capsys: pytest.CaptureFixture[str], tmp_path: Path, args: list[str], words: list[str]) -> None:
    if args[0] == "train" and len(args) > 1:
        refused(capsys, args, *words, out=tmp_path / "run")
    else:
        refused(capsys, args, *words)


def test_an_unknown_key_of_the_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[rollout]\npromts = 2\n")
    refused(capsys, [*EVOL, "--config", str(config)], "'rollout.promts'", "rollout.prompts", out=tmp_path / "run")
    config.write_text("rollout = [")
    refused(capsys, [*EVOL, "--config", str(config)], str(config), "no valid TOML", out=tmp_path / "run")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("models") / "llama")


def change(path: Path, edit: Callable[[dict], None]) -> None:
    held = json.loads(path.read_text())
    edit(held)
    path.write_text(json.dumps(held))


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def without_eos(folder: Path) -> None:
    change(folder / "config.json", lambda held: held.update(eos_token_id=None))
    change(folder / "generation_config.json", lambda held: held.pop("eos_token_id", None))
    change(folder / "tokenizer_config.json", lambda held: held.pop("eos_token"))


def with_dropout(folder: Path) -> None:
    change(folder / "config.json", lambda held: held.update(attention_dropout=0.1))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_tokenizer, ["no tokenizer in the folder", "save_pretrained"]),
        (without_eos, ["no end-of-text token", "eos_token"]),
        (with_dropout, ["set attention_dropout=0"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["no weights in the folder", "model.safetensors"]),
    ],
    ids=["tokenizer", "eos", "dropout", "weights"],
)
def test_model_folders(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    llama: Path,
    spoil: Callable[[Path], None],
    words: list[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    spoil(folder)
    refused(capsys, [*EVOL, "--model", str(folder)], str(folder), *words, out=tmp_path / "run")
    refused(capsys, ["eval", str(folder), "--task", "digit_sum"], str(folder), *words)
    refused(capsys, ["sample", str(folder), "12="], str(folder), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no rows"]),
        ('{"prompt": "a"}\n{"question": "b"}\n', ["line 2", "no 'prompt'", "'question'"]),
        ('{"prompt": "a"}\n{"prompt": }\n', ["line 2", "invalid JSON"]),
        ('{"prompt": "a", "id": 7}\n{"prompt": "b", "id": 7}\n', ["line 2", "duplicate id '7'", "line 1"]),
        ('{"prompt": "a", "answer": {"x": 1}}\n', ["line 1", "column 'answer'", "cannot be graded"]),
        ('{"prompt": ""}\n', ["line 1", "column 'prompt'", "empty"]),
        (json.dumps({"prompt": "what is " * 40}) + "\n", ["'line-1'", "context of 64", "rollout.max_tokens"]),
    ],
    ids=["empty", "no prompt", "no json", "duplicate id", "ungradable", "empty prompt", "long prompt"],
)
def test_data_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, llama: Path, text: str, words: list[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(text)
    args = ["train", "evol_rl", "--data", str(data), "--model", str(llama), *TINY, "--set", "rollout.max_tokens=8"]
    refused(capsys, args, *words, out=tmp_path / "run")


def test_data_that_a_method_cannot_use(capsys: pytest.CaptureFixture[str], tmp_path: Path, llama: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a"}\n')
    model = ["--model", str(llama), "--data", str(data), "--set", "rollout.max_tokens=8"]
    refused(capsys, ["train", "grpo", *model, "--group", "2"], "needs answers", "evol_rl", out=tmp_path / "run")
    every = ["--set", "evaluate.every=1"]
    refused(capsys, ["train", "ttrl", *model, *TINY, *every], "no answers to evaluate on", out=tmp_path / "run")
    refused(capsys, ["train", "ttrl", *model, "--task", "reduce"], "both given", out=tmp_path / "run")
    refused(capsys, ["eval", str(llama), "--data", str(data)], "no answers", "'answer' column")
    refused(capsys, ["eval", str(llama), "--data", str(data), "--split", "ood"], "unknown split 'ood'", "train")
    refused(capsys, ["eval", str(llama), "--data", str(data), "--task", "reduce"], "both given")


def test_evaluation_comparison_and_warm_start(capsys: pytest.CaptureFixture[str], tmp_path: Path, llama: Path) -> None:
    refused(capsys, ["eval", "embedded", "-n", "8", "-k", "16"], "-k 16", "-n 16")
    refused(capsys, ["eval", "embedded", "--split", "heldut"], "unknown split 'heldut'", "'heldout'")
    refused(capsys, ["eval", str(llama), "--max-tokens", "64"], "--max-tokens", "context of 64")
    refused(capsys, ["sample", str(llama), "a" * 100], "context of 64")
    out = tmp_path / "compare"
    refused(capsys, ["compare", "ttrl", "evol_lr"], "unknown method 'evol_lr'", "'evol_rl'", out=out)
    refused(capsys, ["compare", "evol_rl", "evol-rl"], "'evol_rl' is given twice", out=out)
    refused(capsys, ["compare", "ttrl", "--samples", "8"], "--samples is 8", "16", out=out)
    refused(capsys, ["compare", "ttrl", "--set", "rollout.votes=8"], "rollout.votes is 8", out=out)
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    refused(capsys, ["compare", "ttrl"], "holds other files", "--out", out=out)
    refused(capsys, ["warm", "--task", "redcue"], "unknown task 'redcue'", "'reduce'", out=tmp_path / "warm")
    refused(capsys, ["warm", "--task", "digit_sum"], "not empty", out=out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    for place in (out / "mine.txt", out / "mine.txt" / "inside"):
        refused(capsys, ["warm", "--task", "digit_sum", "--out", str(place)], "mine.txt is a file", "--out")
        refused(capsys, ["compare", "ttrl", "--out", str(place)], "mine.txt is a file", "--out")
    assert (out / "mine.txt").read_text() == "kept"


def test_a_comparison_ends_as_its_worst_member(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rekindle.train.compare.sys.executable", "false")
    ended = rekindle(capsys, "compare", "ttrl", "--task", "digit_sum", "--out", tmp_path / "out")
    assert ended.code == 4
    assert re.fullmatch(r"rekindle: \S+ ended with code 1: no output \(log: .*\)\n", ended.err)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_output_folders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    refused(capsys, EVOL, "holds other files", "--out", out=out)
    refused(capsys, [*EVOL, "--resume"], "holds other files", "--out", out=out)
    assert files(out) == {"mine.txt": b"kept"}
    refused(capsys, EVOL, "is a file", out=out / "mine.txt")


def test_resuming(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = rekindle(capsys, *EVOL, "--out", out, "--resume")
    assert first.code == 0 and "no checkpoint" in first.out and "starting afresh" in first.out
    before = files(out)
    refused(capsys, EVOL, "holds a run", "--resume", "--out", out=out)
    changed = ["--resume", "--steps", "3", "--set", "descent.lr=0.5"]
    refused(capsys, [*EVOL, *changed], "changed options", "steps (2 -> 3)", "descent.lr (0.0005 -> 0.5)", out=out)
    refused(capsys, ["train", "ttrl", "--resume"], "evol_rl", "ttrl", out=out)
    assert files(out) == before
    again = rekindle(capsys, "train", "evol_rl", "--out", out, "--resume")
    assert again.code == 0 and "is finished: nothing to do" in again.out
    assert files(out) == before


BLOWS = """
from dataclasses import dataclass

from rekindle.methods import grpo

CALLS = []

@dataclass(frozen=True, kw_only=True)
class Blow:
    at: int = 2

    def __call__(self, advantage, batch):
        CALLS.append(1)
        return advantage + (float("nan") if len(CALLS) == self.at else 0.0)

def method():
    return grpo.method().replace(modulate=(Blow(),))
"""


def test_a_loss_that_is_not_finite_stops_the_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, out = tmp_path / "blows.py", tmp_path / "run"
    file.write_text(BLOWS)
    args = ["train", f"{file}:method", "--task", "digit_sum", "--prompts", "2", "--group", "4", "--steps", "2"]
    ended = rekindle(capsys, *args, "--set", "checkpoint.every=1", "--out", out)
    assert ended.code == 3
    bad = list(out.glob("bad-batch-*.safetensors"))
    assert len(bad) == 1 and str(bad[0]) in ended.err
    assert ended.err.startswith("rekindle: step 1") and ended.err.count("\n") == 1
    assert load_file(bad[0])["extra.advantage"].isnan().any()
    (kept,) = checkpoints(out / "checkpoints")
    assert all(value.isfinite().all() for value in load_file(kept / "model.safetensors").values())
    assert [r["step"] for r in read_events(out / "events.jsonl") if r["kind"] == "step"] == [1]
    assert not (out / "final").exists()
    resumed = rekindle(capsys, *args, "--set", "checkpoint.every=1", "--out", out, "--resume")
    assert resumed.code == 0 and "resumed after step 1" in resumed.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def method():\n    return 3\n", ["returned int", "PolicyGradient"]),
        ("def metod():\n    return 3\n", ["no function 'method'", "'metod'"]),
        ("def method(:\n", ["line 1", "SyntaxError"]),
        ("import nowhere_at_all\n", ["line 1", "nowhere_at_all"]),
        ("def method(low):\n    return low\n", ["'{file}:method' needs arguments (low)", "without any"]),
        ("def method(*, low, high=2):\n    return low\n", ["needs arguments (low)"]),
        ("def method():\n    x = 1\n    raise SystemExit(4)\n", ["line 3", "SystemExit: 4"]),
        (
            "from rekindle.core.objectives import Clip\ndef method():\n    return Clip(low=1.2)\n",
            ["'{file}:method', line 3 raised", "ValueError: ", "1.2", "fix the function"],
        ),
    ],
)
def test_method_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    words = [word.replace("{file}", str(file)) for word in words]
    refused(capsys, ["train", f"{file}:method", "--task", "digit_sum"], str(file), *words, out=tmp_path / "run")
    refused(capsys, ["compare", f"{file}:method", "--task", "digit_sum"], *words, out=tmp_path / "compare")
