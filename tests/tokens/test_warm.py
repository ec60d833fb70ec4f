"""The warm start: the tokenizer is exact, training is deterministic, the shipped models load and answer."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rekindle
from rekindle.errors import InputError
from rekindle.tokens.charset import BOX, CHARACTERS, build_tokenizer
from rekindle.tokens.tasks import load_task
from rekindle.tokens.warm import RECIPES, Recipe, _encode, _tensors, build_model, response_loss, warm

ASSETS = Path(rekindle.__file__).parent / "assets"
TINY = Recipe(3, 8, 1e-3, 0, hidden=32, layers=1, heads=1, kv_heads=1, threads=1)
SAMPLE = "5*9 + 3*5-2=\n[(45);{:>,}]" + BOX + "-58}"


def test_tokenizer_round_trip(tmp_path: Path) -> None:
    built = build_tokenizer()
    built.save_pretrained(tmp_path)
    for tokenizer in (built, AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer(SAMPLE)["input_ids"]
        assert len(ids) == len(SAMPLE) - len(BOX) + 1
        assert tokenizer.decode(ids) == SAMPLE
        assert (
            tokenizer.decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id], skip_special_tokens=True) == SAMPLE
        )
        assert tokenizer.convert_tokens_to_ids(BOX) in ids
        assert tokenizer.bos_token_id is None
        assert tokenizer.eos_token_id != tokenizer.pad_token_id
        assert tokenizer("é")["input_ids"] == [tokenizer.unk_token_id]
    assert len(built) == len(CHARACTERS) + 4


def test_loss_is_the_cross_entropy_of_the_response_alone() -> None:
    tokenizer = build_tokenizer()
    model = build_model(TINY, tokenizer)
    rows = _encode(tokenizer, [("1+2=", r"3\boxed{3}"), ("1+2*3=", r"1+6=7\boxed{7}")])
    logps = []
    for row in rows:
        logp = torch.log_softmax(model(torch.tensor([row.ids])).logits[0], dim=-1)
        logps += [logp[i - 1, row.ids[i]] for i in range(row.start, len(row.ids))]
    assert len(logps) == 5 + 9
    torch.testing.assert_close(response_loss(model, rows, 0), -torch.stack(logps).mean())


def test_targets_are_the_response_and_the_end() -> None:
    tokenizer = build_tokenizer()
    ids, targets = _tensors(_encode(tokenizer, [("1+2=", "3"), ("1=", "1")]), pad=0)
    assert tokenizer.decode(ids[0]) == "1+2=3<eos>"
    assert tokenizer.decode(targets[0][targets[0] >= 0]) == "3<eos>"
    assert tokenizer.decode(targets[1][targets[1] >= 0]) == "1<eos>"
    assert targets[1].tolist()[-2:] == [-100, -100]


def test_three_steps_are_deterministic(tmp_path: Path) -> None:
    task = load_task("reduce")
    seen: list[int] = []
    reports = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = asdict(replace(TINY, seed=seed))
        reports.append(warm(task, tmp_path / name, **options, progress=lambda step, _: seen.append(step), prompts=2))
    first, second, other = ((tmp_path / n / "model.safetensors").read_bytes() for n in "abc")
    assert first == second != other
    assert seen == [0, 1, 2] * 3
    assert reports[0]["loss"] == reports[1]["loss"]
    assert reports[0]["accuracy"] == reports[1]["accuracy"]
    assert json.loads((tmp_path / "a" / "warm.json").read_text()) == reports[0]
    assert set(reports[0]["accuracy"]) == {"heldout/5", "ood/6", "ood/7"}


def test_a_full_folder_and_a_task_without_examples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        warm(load_task("reduce"), tmp_path, **asdict(TINY))
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", ["reduce", "digit_sum"])
def test_shipped_model(name: str) -> None:
    folder = ASSETS / name
    assert sum(p.stat().st_size for p in folder.iterdir()) < 4e6
    report = json.loads((folder / "warm.json").read_text())
    assert report["recipe"] == asdict(RECIPES[name])
    assert 0.3 < next(v["pass@1"] for k, v in report["accuracy"].items() if k.startswith("heldout")) < 0.55
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == report["parameters"] <= 1_500_000
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert {p.suffix for p in folder.iterdir()} <= {".json", ".safetensors"}
