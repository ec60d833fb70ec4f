"""A plan refuses what the run refuses, in its words; what it proposes instead is accepted by both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig

from rekindle.cli.plan import Dry, dry_run
from rekindle.errors import InputError
from rekindle.tokens.adapters import AdapterFolder
from rekindle.tokens.lora import adapt, save_adapter
from rekindle.train.fits import refusal, refuse_hopeless, remedies
from rekindle.train.footprint import Unmeasured, adapter_rank, footprint, measured, place
from rekindle.train.hardware import Hardware, assumed
from rekindle.train.plan import Plan, planned
from rekindle.train.refusals import check_run
from rekindle.train.start import Asked, launch, prepare
from tests.train.test_plan import models, plan_of, reduce_once

__all__ = ["models"]


def dry(capsys: pytest.CaptureFixture[str], model: Path | str, *sets: str, gpus: str | None = "8x80GiB") -> str:
    """The sentence of a dry run that is refused; nothing is printed then."""
    resolved, _ = prepare(Asked("evol_rl", {"model": str(model)}, sets))
    with pytest.raises(InputError) as refused:
        dry_run(resolved, reduce_once(), Dry(gpus=gpus, probe=False))
    assert capsys.readouterr().out == "", "what no run does has no plan"
    return str(refused.value)


def adapter_at(folder: Path, base: Path) -> Path:
    """A LoRA adapter of rank 3 at two layers, as PEFT saves it."""
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    wrapped: Any = adapt(model, 3, None, ("q_proj", "v_proj"), 0)
    save_adapter(wrapped, folder)
    file = folder / "adapter_config.json"
    said = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(base)}
    file.write_text(json.dumps(said), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("shard=full", "lora.rank=16"), "shard=full shares all weights, and of this model an adapter trains alone"),
        (("dtype=bfloat16",), "weights in bfloat16 lose every update"),
        (("dtype=bfloat16", "lora.rank=16", "precision=bf16"), "precision=bf16 goes with float32 weights"),
        (("lora.quantize=4bit",), "lora.quantize=4bit freezes the weights, and nothing would train: add --lora RANK"),
        (('lora.targets=["q_prj"]', "lora.rank=4"), "no layer is named q_prj): choose among down_proj, gate_proj"),
        (("chat_template=/no/such.jinja",), "chat_template '/no/such.jinja' cannot be read"),
    ],
)
def test_what_no_run_does_is_refused(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], sets: tuple[str, ...], words: str
) -> None:
    assert words in dry(capsys, models["4B"], *sets)


def test_shares_of_one_rank_and_of_an_adapter(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "and there is one: add --ranks N" in dry(capsys, models["4B"], "shard=full", gpus="1x80GiB")
    adapter = adapter_at(tmp_path / "adapter", models["4B"])
    assert "an adapter trains alone" in dry(capsys, adapter, "shard=full")


def test_few_bits_need_what_this_machine_has_not(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, _ = prepare(Asked("evol_rl", {"model": str(models["4B"]), "lora.rank": 16, "lora.quantize": "8bit"}))
    task = reduce_once()
    check_run(resolved, task, here=False)
    monkeypatch.setattr("rekindle.tokens.quantized.installed", lambda: False)
    with pytest.raises(InputError, match="needs bitsandbytes, which is not installed"):
        check_run(resolved, task)
    monkeypatch.setattr("rekindle.tokens.quantized.installed", lambda: True)
    with pytest.raises(InputError, match="computes on a CUDA device, and the device is 'cpu'"):
        check_run(resolved, task)


@pytest.mark.parametrize(
    ("gpus", "sets"),
    [
        ("1x24GiB", ()),
        ("1x80GiB", ("evaluate.every=1", "evaluate.samples=4096")),
        ("2x40GiB", ("shard=full",)),
        ("8x80GiB", ()),
        ("8x80GiB", ("lora.rank=8", "evaluate.every=1", "evaluate.samples=4096")),
        ("8x155GiB", ("shard=full",)),
    ],
)
@pytest.mark.parametrize("size", ["4B", "32B"])
def test_each_remedy_is_accepted(models: dict[str, Path], size: str, gpus: str, sets: tuple[str, ...]) -> None:
    plan = plan_of(models[size], gpus, *sets)
    for way in [] if plan.fits else remedies(plan):
        told = [text for option in way for text in option.split()]
        assert "shard=full" not in told or not any("lora" in text for text in told), way
        names = {text.partition("=")[0] for text in told}
        kept = [text for text in sets if text.partition("=")[0] not in names]
        other = plan_of(models[size], gpus, *kept, *told)
        check_run(other.resolved, reduce_once(), here=False)
        assert other.fits, way


def evaluated(model: Path, **options: Any) -> Plan:
    given = {"model": str(model), "lora.rank": 16, "rollout.group": 4, "checkpointing": True, **options}
    resolved, _ = prepare(Asked("grpo", given))
    return planned(resolved, reduce_once(), assumed("1x80GiB"))


def test_evaluations_are_planned(models: dict[str, Path]) -> None:
    often = {"evaluate.every": 1, "rollout.max_tokens": 2048}
    few, many = (evaluated(models["4B"], **often, **{"evaluate.samples": n}) for n in (4, 64))
    assert few.memory.evaluate == few.memory.sample, "as many samples as training draws"
    assert few.fits and not many.fits and many.memory.peak == many.memory.peaks["evaluate"]
    rows = 8 * 64
    token = 2 * 36 * 8 * 128 * 4
    assert many.memory.evaluate["key-value cache"] == (8 * many.lengths.longest + rows * 2049) * token
    said = str(refusal(many))
    assert "while it evaluates" in said and "evaluate.samples=" in said and "rollout.block=" in said
    assert not evaluated(models["4B"], **{"evaluate.samples": 256}).memory.evaluate, "grpo has no baseline"
    away = evaluated(models["4B"], **often, **{"rollout.sampler": "vllm", "vllm.memory": 0.1})
    assert not away.memory.evaluate


def test_a_baseline_is_planned_without_an_optimizer(models: dict[str, Path]) -> None:
    memory = plan_of(models["4B"], "1x80GiB").memory
    assert memory.later == memory.held["optimizer"] and "gradients of the last update" not in memory.evaluate
    cache = memory.evaluate["key-value cache"] + memory.evaluate["drawing"]
    assert memory.peaks["evaluate"] == memory.held["weights"] + memory.held["reference"] + cache
    assert not plan_of(models["4B"], "1x80GiB", "evaluate.baseline=false").memory.evaluate
    trained = plan_of(models["4B"], "1x80GiB", "evaluate.every=5").memory
    assert trained.later == 0 and "gradients of the last update" in trained.evaluate


def test_a_model_without_attention_cannot_be_planned_and_may_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(Unmeasured, match="memory of MambaForCausalLM cannot be estimated"):
        footprint(str(tmp_path))
    assert dry(capsys, tmp_path).endswith("train it without --dry-run")
    resolved, _ = prepare(Asked("grpo", {"model": str(tmp_path)}))
    note = refuse_hopeless(resolved, reduce_once())
    assert note is not None and note.startswith("whether this machine has the memory was not checked: the memory of")


def test_the_run_says_what_was_not_checked_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rekindle.train.start.refuse_hopeless", lambda _resolved, _task: "nothing was checked")
    given = {"task": "digit_sum", "steps": 1, "rollout.prompts": 2, "rollout.group": 2, "out": str(tmp_path / "run")}
    heard: list[Any] = []
    launch(*prepare(Asked("grpo", given)), resume=False, heard=heard.append)
    assert {"kind": "note", "step": 0, "text": "nothing was checked"} in heard
    assert any(record["kind"] == "step" for record in heard)


def test_layers_with_widths_of_their_own(tmp_path: Path) -> None:
    config = {
        "model_type": "gemma3n_text", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": [32, 64],
        "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0, 0.0], "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8,
        "laurel_rank": 4, "altup_num_inputs": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert tuple(footprint(str(tmp_path)).mlp) == (64, 3, 4)


def test_an_adapter_is_found_where_the_run_finds_it(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = adapter_at(tmp_path / "adapter", models["4B"])

    def on_the_hub(spec: str) -> AdapterFolder | None:
        return AdapterFolder(spec, folder, str(models["4B"])) if spec == "me/adapter" else None

    monkeypatch.setattr("rekindle.tokens.loader.adapter_folder", on_the_hub)
    assert place("me/adapter", None) == str(models["4B"]) and adapter_rank("me/adapter") == 3
    found = footprint("me/adapter")
    assert found.adapter == 3 and set(found.own) == {"q_proj", "v_proj"}
    plan = plan_of("me/adapter", "1x80GiB")
    assert plan.setup.lora == 3 and plan.memory.held["optimizer"] == 8 * plan.model.adapters(3, ("q_proj", "v_proj"))


def test_a_name_that_is_no_model_is_answered_as_the_run_answers(models: dict[str, Path], tmp_path: Path) -> None:
    for wrong, words in (
        (models["4B"] / "config.json", "a file, not a folder: name the folder that holds config.json"),
        (tmp_path / "nothing", "no such folder: give a model folder, a hub id"),
        (tmp_path, "no config.json in the folder"),
    ):
        with pytest.raises(InputError, match=words):
            footprint(str(wrong))


def test_in_shares_the_cure_of_a_hopeless_run_gives_them_up(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, task = prepare(Asked("grpo", {"model": str(models["32B"]), "shard": "full", "ranks": 2}))
    monkeypatch.setattr("rekindle.train.fits.own", lambda _device: Hardware(gpus=0, memory=64 * 2**30))
    with pytest.raises(InputError, match=r"set lora\.rank=16 and shard=none, or take a smaller model"):
        refuse_hopeless(resolved, task)
    whole = replace(resolved, config=replace(resolved.config, shard="none"))
    with pytest.raises(InputError, match=r"set lora\.rank=16, or take a smaller model"):
        refuse_hopeless(whole, task)


def test_heads_and_words_that_no_adapter_takes(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "all-linear, which stands for" in dry(
        capsys, models["4B"], 'lora.targets=["all-linear","lm_head"]', "lora.rank=4"
    )
    assert "which shares its weights with another layer" in dry(
        capsys, models["4B"], 'lora.targets=["lm_head"]', "lora.rank=4"
    )


def test_no_remedy_is_named_twice(models: dict[str, Path]) -> None:
    resolved, _ = prepare(Asked("evol_rl", {"model": "embedded", "lora.rank": 4}))
    told = [remedies(planned(resolved, reduce_once(), Hardware(gpus=0, memory=n * 2**20))) for n in (600, 640, 700)]
    assert any(len(found) > 1 for found in told) and all(len(found) == len(set(found)) for found in told), told


def test_an_adapter_at_the_head_is_counted() -> None:
    config = LlamaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    bare, wrapped = LlamaForCausalLM(config), adapt(LlamaForCausalLM(config), 3, None, ("lm_head", "q_proj"), 0)
    assert measured(wrapped).linears == measured(bare).linears
    assert {one[1:] for one in measured(wrapped).others} == {one[1:] for one in measured(bare).others}
