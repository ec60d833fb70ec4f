"""Inputs that once ended in a traceback, a hang or silence; each now has its sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.folders import rekindle
from tests.faults import malformed_models as models
from tests.faults.malformed import Place, put
from tests.faults.sound import adapter, chat_model

QUICK = ("--dry-run", "--no-probe")
PLAN = ("train", "grpo", "--task", "digit_sum", *QUICK)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def model(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(capsys: Capture, args: tuple[str, ...], *words: str) -> None:
    """Exit code 2 and one line with all words."""
    ended = rekindle(capsys, *args)
    assert ended.code == 2 and ended.err.count("\n") == 1, ended
    for word in words:
        assert word in ended.err, ended.err


def measured(model: Path) -> tuple[str, ...]:
    return tuple(word.replace("DIR/base", str(model)) for word in models.EVAL)


@pytest.mark.parametrize(
    ("method", "column"), [("dpo", "'chosen'"), ("sft", "'demonstration'"), ("a_lol", "'completions'")]
)
def test_a_plan_of_data_without_the_columns_of_the_method(
    capsys: Capture, tmp_path: Path, method: str, column: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    refused(capsys, ("train", method, *QUICK, "--data", str(tmp_path / "rows.jsonl")), column, "'line-1'", "add it")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("descent.minibatches=0", ["'descent.minibatches' is 0", "1 or more"]),
        ("descent.epochs=-1", ["'descent.epochs' is -1", "1 or more"]),
        ("descent.micro_batch=0", ["'descent.micro_batch' is 0", "1 or more"]),
        ("descent.lr=-0.1", ["'descent.lr' is -0.1", "0 or more"]),
        ("descent.lr=inf", ["'descent.lr'", "finite"]),
        ("descent.lr=nan", ["'descent.lr'", "finite"]),
        ("descent.beta1=1.0", ["'descent.beta1' is 1", "below 1"]),
        ("descent.grad_clip=-1.0", ["'descent.grad_clip' is -1", "0 or more"]),
        ("steps=" + "9" * 5_000, ["--set steps", "shorter"]),
        ("rollout.stop=" + "[" * 3_000, ["--set rollout.stop", "shorter"]),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_numbers_that_train_nothing(capsys: Capture, option: str, words: list[str]) -> None:
    refused(capsys, (*PLAN, "--set", option), *words)


@pytest.mark.parametrize("text", ["steps = " + "9" * 5_000, "steps = " + "[" * 3_000], ids=["digits", "depth"])
def test_toml_that_no_parser_reads(capsys: Capture, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    refused(capsys, (*PLAN, "--config", str(tmp_path / "run.toml")), "run.toml", "give a shorter value")


@pytest.mark.parametrize("place", ["FIFO", "DIRECTORY", "LOOP"])
def test_what_is_no_file(capsys: Capture, tmp_path: Path, model: Path, place: Place) -> None:
    for name in ("x.toml", "x.jinja", "x.txt"):
        put(tmp_path / name, place)
    refused(capsys, (*PLAN, "--config", str(tmp_path / "x.toml")), "x.toml", "cannot be read", "give a run.toml")
    refused(capsys, (*PLAN, "--set", f"only={tmp_path / 'x.txt'}"), "x.txt", "cannot be read", "one id a line")
    template = (*PLAN, "--model", str(model), "--set", f"chat_template={tmp_path / 'x.jinja'}")
    refused(capsys, template, "x.jinja", "cannot be read", "name a Jinja file")


def test_a_model_that_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    refused(capsys, ("subnet", "embedded", str(tmp_path / "no")), str(tmp_path / "no"), "is no folder", "run folder")


def test_a_name_that_is_too_long(capsys: Capture) -> None:
    refused(capsys, ("train", "grpo", *QUICK, "--data", "x" * 3_000), "xxx", "name too long", "name another file")


def changed(**values: object) -> Callable[[Path], None]:
    """Changes values of config.json."""
    return lambda folder: edited(folder / "config.json", values)


def edited(file: Path, values: dict) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def tokens(folder: Path) -> None:
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text())
    said["model"]["vocab"]["a"] = 2**31
    file.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (changed(hidden_size="16"), ["config.json: 'hidden_size' is '16'", "whole number"]),
        (changed(num_hidden_layers=2**31), ["config.json: 'num_hidden_layers'", "to 10000"]),
        (changed(vocab_size=2**27), ["config.json: 'vocab_size' (134217728) by 'hidden_size' (16)", "restore"]),
        (changed(vocab_size=-1), ["config.json: 'vocab_size' is -1", "from 1"]),
        (changed(eos_token_id="</s>"), ["config.json: 'eos_token_id' is '</s>'", "write the id"]),
        (changed(intermediate_size=25), ["'model.layers.0.mlp.down_proj.weight'", "config.json asks for"]),
        (changed(attention_bias=True), ["config.json asks for", "self_attn"]),
        (tokens, ["tokenizer.json: the token 'a' has the id 2147483648", "copy the file again"]),
        (lambda f: (f / "config.json").write_text("{"), ["config.json, line 1, column 2", "invalid JSON"]),
        (lambda f: (f / "generation_config.json").write_text("[]"), ["generation_config.json: no JSON object"]),
        (lambda f: edited(f / "generation_config.json", {"eos_token_id": [None]}), ["generation_config.json: 'eos"]),
        (lambda f: edited(f / "tokenizer_config.json", {"model_max_length": "x"}), ["'model_max_length' is 'x'"]),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 99), ["model.safetensors: no readable"]),
    ],
)
def test_models(capsys: Capture, model: Path, spoil: Callable[[Path], object], words: list[str]) -> None:
    spoil(model)
    refused(capsys, measured(model), str(model), *words)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_no_numbers(capsys: Capture, model: Path, value: float, dtype: torch.dtype) -> None:
    file = model / "model.safetensors"
    held = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    held["model.norm.weight"][3] = value
    save_file(held, file, {"format": "pt"})
    refused(capsys, measured(model), "'model.norm.weight' hold 1 NaN or infinite", "earlier checkpoint")


def test_large_numbers_whose_sum_is_infinite_are_taken(capsys: Capture, model: Path) -> None:
    file = model / "model.safetensors"
    held = load_file(file)
    held["lm_head.weight"].fill_(3e38)
    save_file(held, file, {"format": "pt"})
    assert not torch.isfinite(held["lm_head.weight"].sum())
    assert "NaN or infinite" not in rekindle(capsys, *measured(model)).err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index["weight_map"].update({"lm_head.weight": "../x.safetensors"}), ["'../x.safetensors'"]),
        (lambda index: index["weight_map"].update({"lm_head.weight": "x.bin"}), ["'x.bin'"]),
        (lambda index: index["weight_map"].update({"x": "model-00001-of-00002.safetensors"}), ["'x' is not in"]),
        (lambda index: index["weight_map"].update({"x": "y.safetensors"}), ["'y.safetensors'", "no such file"]),
        (lambda index: index.update(weight_map=[]), ["'weight_map'"]),
        (lambda index: index.pop("metadata"), ["'metadata'"]),
    ],
)
def test_an_index_of_parts(capsys: Capture, model: Path, change: Callable[[dict], object], words: list[str]) -> None:
    for name, content in models.parts(model).items():
        (model / name).write_bytes(content)
    (model / "model.safetensors").unlink()
    assert rekindle(capsys, *measured(model)).code == 0
    index = json.loads((model / "model.safetensors.index.json").read_text())
    change(index)
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(capsys, measured(model), "model.safetensors.index.json", "save the model again", *words)


def test_adapters(capsys: Capture, tmp_path: Path, whole: Path) -> None:
    folder = adapter(tmp_path / "adapter", whole)
    edited(folder / "adapter_config.json", {"r": -1})
    refused(capsys, measured(folder), "adapter_config.json: 'r' is -1", "write the rank")
    edited(folder / "adapter_config.json", {"r": 2, "lora_alpha": {}})
    refused(capsys, measured(folder), "adapter_config.json: 'lora_alpha' is {}", "write a number")
    edited(folder / "adapter_config.json", {"lora_alpha": 4})
    held = load_file(folder / "adapter_model.safetensors")
    name = min(held)
    held[name][0, 0] = float("nan")
    save_file(held, folder / "adapter_model.safetensors")
    refused(capsys, measured(folder), "adapter_model.safetensors", name, "NaN")
