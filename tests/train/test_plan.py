"""The plan of a run: one vocabulary, what does not come out even, lengths, hardware, and what makes a plan fit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rekindle.cli.plan import memory_lines, step_lines
from rekindle.core.method import Descent
from rekindle.errors import InputError
from rekindle.tokens.tasks import load_task
from rekindle.train import hardware
from rekindle.train.chosen import Chosen
from rekindle.train.fits import refusal, refuse_hopeless, remedies
from rekindle.train.footprint import footprint
from rekindle.train.hardware import Hardware, assumed
from rekindle.train.lengths import lengths
from rekindle.train.plan import Plan, planned
from rekindle.train.probe import probe
from rekindle.train.start import Asked, prepare
from rekindle.train.vocabulary import Step
from tests.batches import make_batch

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
    "hidden_act": "silu",
    "eos_token_id": 151645,
}
SHAPES = {
    "4B": {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728},
    "32B": {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 64, "intermediate_size": 25600},
}


def config_only(folder: Path, name: str) -> Path:
    """A folder that holds nothing but the configuration of Qwen3-4B or Qwen3-32B."""
    folder.mkdir(exist_ok=True)
    values = {**QWEN3, **SHAPES[name], "tie_word_embeddings": name == "4B"}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@cache
def reduce_once() -> Chosen:
    """The task with its prompts, which it draws anew each time that it is asked."""
    task = load_task("reduce")
    return Chosen(
        task, tuple(task.split("train")), task.name, task.version, task.profile, task.system_prompt, task.ways,
        task.step_delimiters,
    )  # fmt: skip


@cache
def plan_of(model: Path | str, gpus: str | None = None, *sets: str) -> Plan:
    resolved, _ = prepare(Asked("evol_rl", {"model": str(model)}, sets))
    return planned(resolved, reduce_once(), None if gpus is None else assumed(gpus))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: config_only(tmp_path_factory.mktemp("models") / name, name) for name in SHAPES}


def step(**values: Any) -> Step:
    usual = {"prompts": 8, "samples": 64, "group": 32, "epochs": 1, "minibatches": 4, "micro_batch": 16, "block": 8}
    return Step(**{**usual, **values})


def test_one_vocabulary_by_hand() -> None:
    one = step(epochs=2, ranks=2, block=4)
    assert (one.sampled, one.trained, one.updates) == (512, 256, 8)
    assert one.minibatch_sizes == (64, 64, 64, 64)
    assert (one.rows, one.passes, one.passes_a_rank, one.idle_passes) == (16, 4, 2, 0)
    assert (one.blocks, one.blocks_a_rank) == (2, 1)
    assert one.problems() == ()
    said = one.elsewhere()
    assert said["TRL"].startswith("per_device_train_batch_size 16 x gradient_accumulation_steps 2 x 2 ranks = 64 ")
    assert "rollout.n 64, ppo_mini_batch_size 2 (prompts)" in said["verl"]
    assert step(leader=True, ranks=8, block=1).blocks_a_rank == 8, "one rank samples for all"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"minibatches": 3}, ["8 prompts do not divide into 3 minibatches: they hold 96, 96, 64", "es=2 or", "=9"]),
        ({"minibatches": 16}, ["at least one prompt: there are 8 updates", "descent.minibatches=8", "prompts=16"]),
        ({"micro_batch": 24}, ["64 sequences does not divide into forward passes of 24", "holds 16", "micro_batch=16"]),
        ({"ranks": 3, "block": 1}, ["4 forward passes an update do not divide among 3 ranks: in 2", "set ranks=2"]),
        ({"ranks": 3, "block": 1}, ["8 blocks of 1 prompts do not divide among 3 ranks", "=12 and rollout.block=4"]),
        ({"ranks": 2}, ["1 blocks of 8 prompts do not divide among 2 ranks", "set rollout.block=4"]),
        ({"ranks": 8, "block": 1, "sharded": True}, ["computes along for nothing (shard=full)", "micro_batch=8"]),
    ],
)  # fmt: skip
def test_what_does_not_come_out_even_is_told_with_its_remedy(values: dict[str, Any], words: list[str]) -> None:
    problems = step(**values).problems()
    assert any(all(word in text for word in words) for text in problems), problems


def test_each_remedy_cures_its_problem() -> None:
    assert step(minibatches=3).problems() and not step(minibatches=2).problems()
    assert not step(minibatches=3, prompts=9, block=9).problems()[1:]
    assert not step(micro_batch=16).problems() and not step(ranks=2, block=4).problems()
    assert not step(ranks=8, block=1, micro_batch=8).problems()


def kinds_of(problems: tuple[str, ...]) -> set[str]:
    marks = (
        "minibatches: they hold",
        "a minibatch holds at least",
        "forward passes of",
        "passes an update",
        "blocks of",
    )
    return {mark for text in problems for mark in marks if mark in text}


@pytest.mark.parametrize("cut", [False, True])
def test_no_remedy_is_uneven_itself(cut: bool) -> None:
    tried = 0
    for prompts, minibatches, micro, block, ranks in product((6, 7, 8), (1, 3, 4, 16), (5, 16), (1, 3), (1, 3, 4)):
        one = step(
            prompts=prompts, group=6, minibatches=minibatches, micro_batch=micro, block=block, ranks=ranks, cut=cut
        )
        for text in one.problems():
            told = re.findall(
                r"(prompts|minibatches|micro_batch|block|ranks)=(\d+)( and )?", text.rpartition("set ")[2]
            )
            assert told, text
            together = [dict((n, int(v)) for n, v, _ in told)] if any(a for *_, a in told) else []
            for values in together or [{n: int(v)} for n, v, _ in told]:
                tried += 1
                left = replace(one, **values).problems()
                assert not kinds_of((text,)) & kinds_of(left), (one, text, values, left)
                if "prompts" in values:
                    assert "minibatches: they hold" not in kinds_of(left), (one, text, values)
    assert tried > 100


def test_minibatches_are_those_that_the_update_cuts() -> None:
    whole = make_batch()
    batch = replace(whole, group=torch.arange(len(whole)) // 2)
    for count in (1, 2, 3, 50):
        for cut in (False, True):
            parts = Descent(minibatches=count, cut_groups=cut).split(batch)
            mine = step(prompts=len(batch) // 2, group=2, minibatches=count, cut=cut).minibatch_sizes
            assert tuple(len(part) for part in parts) == mine


def test_parameters_come_from_the_configuration_alone(models: dict[str, Path]) -> None:
    small, large = (footprint(str(models[name])) for name in SHAPES)
    assert (small.parameters, large.parameters) == (4_022_468_096, 32_762_123_264)
    assert small.tied and not large.tied and small.head_norms
    assert small.linear == 36 * (2560 * (4096 + 2 * 1024 + 4096) + 3 * 2560 * 9728)
    assert small.adapters(16) == 16 * 36 * (3 * 2560 + 4096 + 2 * 1024 + 4096 + 2560 + 3 * (2560 + 9728))
    assert small.adapters(16, ("q_proj",)) == 16 * 36 * (2560 + 4096)
    assert small.layers * small.layer + small.root == small.parameters


def test_another_architecture(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 50, "n_positions": 64}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = footprint(str(tmp_path))
    assert (found.layers, found.hidden, found.query, *found.mlp) == (3, 32, 32, 128, 2, 5)
    assert found.context == 64


def test_no_random_number_is_drawn(models: dict[str, Path]) -> None:
    before = torch.random.get_rng_state()
    plan_of(models["4B"], "1x80GiB")
    assert torch.equal(before, torch.random.get_rng_state())


def test_lengths_are_counted_or_said_to_be_assumed(models: dict[str, Path]) -> None:
    counted, guessed = plan_of("embedded").lengths, plan_of(models["4B"], "1x80GiB").lengths
    assert counted.known and counted.prompts == counted.looked_at == 512 and "counted on all prompts" in str(counted)
    assert not guessed.known and "assumed: no tokenizer, 4 characters a token" in str(guessed)
    assert counted.longest > guessed.longest, "a token is a character to the embedded models"
    assert counted.mean <= counted.longest


def test_four_billion_parameters_on_one_gpu(models: dict[str, Path]) -> None:
    plan = plan_of(models["4B"], "1x80GiB")
    held = plan.memory.held
    assert held["weights"] == 4 * 4_022_468_096 and held["optimizer"] == 2 * held["weights"]
    assert held["reference"] == held["weights"], "EVOL-RL's KL term compares with the start"
    assert plan.memory.sample["gradients of the last update"] == held["weights"]
    assert not plan.fits and "add --set" in str(refusal(plan))
    for way in remedies(plan):
        assert plan_of(models["4B"], "1x80GiB", *(text for some in way for text in some.split())).fits, way
    whole = [way for way in remedies(plan) if not any("lora" in option for option in way)]
    assert whole and whole[0] == remedies(plan)[0], "what trains all weights comes first"
    adapted = plan_of(models["4B"], "1x80GiB", "lora.rank=16")
    assert adapted.fits and "reference" not in adapted.memory.held
    assert adapted.memory.held["optimizer"] == 2 * 4 * adapted.model.adapters(16)


def test_thirty_two_billion_on_eight(models: dict[str, Path]) -> None:
    folder = models["32B"]
    plan = plan_of(folder, "8x80GiB")
    assert plan.step.ranks == 8 and not plan.fits
    assert plan.memory.held["weights"] == 4 * plan.model.parameters
    shares = plan_of(folder, "8x80GiB", "shard=full")
    assert shares.memory.held["weights"] == round(4 * plan.model.parameters / 8)
    assert shares.memory.held["sampler's copy"] == 4 * plan.model.parameters, "each rank decodes from a whole copy"
    assert not shares.fits
    for some in (plan, shares):
        assert remedies(some)
        for way in remedies(some):
            told = [text for option in way for text in option.split()]
            sets = [*told] if any("shard" in t for t in told) or some is plan else ["shard=full", *told]
            assert plan_of(folder, "8x80GiB", *sets).fits, way
    assert plan_of(folder, "8x80GiB", "ranks=4").step.ranks == 4, "unless the user says how many"


def test_where_nothing_helps_the_sentence_says_so(models: dict[str, Path]) -> None:
    plan = plan_of(models["32B"], "1x8GiB")
    assert remedies(plan) == [] and "take a smaller model, or more memory" in str(refusal(plan))


def test_what_saves_memory_saves_memory(models: dict[str, Path]) -> None:
    folder = models["4B"]
    usual = plan_of(folder, "1x80GiB").memory.peaks
    for option in ("descent.micro_batch=8", "checkpointing=true", "lora.rank=16", "precision=bf16"):
        assert plan_of(folder, "1x80GiB", option).memory.peaks["update"] < usual["update"], option
    for option in ("rollout.block=2", "rollout.votes=32", "rollout.max_tokens=40", "lora.rank=16"):
        assert plan_of(folder, "1x80GiB", option).memory.peaks["sample"] < usual["sample"], option


def test_vllm_takes_its_share(models: dict[str, Path]) -> None:
    folder = models["4B"]
    sleeping = plan_of(folder, "1x80GiB", "rollout.sampler=vllm", "vllm.memory=0.5").memory
    assert sleeping.sample["sampling engine"] == 40 * 2**30 and "key-value cache" not in sleeping.sample
    assert "sampling engine" not in sleeping.held
    awake = plan_of(folder, "1x80GiB", "rollout.sampler=vllm", "vllm.memory=0.5", "vllm.sleep=false").memory
    assert awake.held["sampling engine"] == 40 * 2**30
    assert "weights on their way" not in awake.sample, "its own tensors are handed over"
    pushed = plan_of(folder, "1x80GiB", "rollout.sampler=vllm", "vllm.dtype=bfloat16", "lora.rank=16").memory
    model = footprint(str(folder))
    assert pushed.sample["weights on their way"] == 4 * model.linear + 2 * model.parameters
    served = plan_of(folder, "1x80GiB", "rollout.sampler=vllm", "vllm.url=http://127.0.0.1:1").memory
    assert "sampling engine" not in {**served.held, **served.sample}


def test_a_vllm_without_room_for_its_weights_is_refused(models: dict[str, Path]) -> None:
    sets = ("rollout.sampler=vllm", "lora.rank=16", "checkpointing=true", "vllm.dtype=bfloat16")
    plan = plan_of(models["32B"], "1x640GiB", *sets, "vllm.memory=0.05")
    assert plan.memory.peak <= plan.room and plan.engine_lacks and not plan.fits
    said = str(refusal(plan))
    assert (
        "vLLM needs 62." in said and "vllm.memory=0.05 of 1 GPU of 640 GiB is 32.0 GiB: set vllm.memory=0.1, " in said
    )
    assert "smaller model, or sample elsewhere (--sampler ray, or vllm.url)" in said
    assert plan_of(models["32B"], "1x640GiB", *sets, "vllm.memory=0.1").fits, "the remedy helps"
    assert not plan_of(models["32B"], "1x640GiB", *sets, "vllm.url=http://127.0.0.1:1").engine_lacks
    small = str(refusal(plan_of(models["32B"], "1x40GiB", *sets, "lora.quantize=4bit")))
    assert "set vllm.memory" not in small and "take a smaller model" in small


def test_responses_that_exceed_the_models_context_are_refused(models: dict[str, Path]) -> None:
    plan = plan_of("embedded", None, "rollout.max_tokens=250")
    assert plan.model.context == 256 and plan.lengths.known and not plan.fits
    most = 256 - plan.lengths.longest
    assert str(refusal(plan)).endswith(f"the model's context of 256 tokens: set rollout.max_tokens to {most} or less")
    assert plan_of("embedded", None, f"rollout.max_tokens={most}").fits
    guessed = plan_of(models["4B"], "1x800GiB", "rollout.max_tokens=40960")
    assert "rollout.max_tokens=40960 exceeds the model's context of 40960 tokens" in str(refusal(guessed))
    edge = plan_of(models["4B"], "1x800GiB", "rollout.max_tokens=40958")
    assert edge.responses_fit, "3 tokens a prompt are assumed, not known"
    assert any(name == "context" and "40,961" in text for name, text in step_lines(edge))


def test_adapters_come_with_whole_weights_again(models: dict[str, Path]) -> None:
    plan = plan_of(models["32B"], "8x155GiB", "shard=full")
    assert not plan.fits
    ways = [way for way in remedies(plan) if any("shard=none" in option for option in way)]
    assert ways and "lora.rank=16 shard=none" in ways[0], remedies(plan)
    told = [text for option in ways[0] for text in option.split()]
    assert plan_of(models["32B"], "8x155GiB", *told).fits


def test_little_room_is_said_to_be_little(models: dict[str, Path]) -> None:
    tight, roomy = (plan_of(models["4B"], gpus, "lora.rank=16") for gpus in ("1x100GiB", "1x800GiB"))
    least = tight.memory.peak
    nearly = replace(tight, hardware=Hardware(gpus=1, memory=round(1.05 * least) + 2**30, assumed=True))
    lines = dict(memory_lines(nearly))
    assert lines["fits"].endswith("5% are left") and "fragmentation is not counted" in lines["tight"]
    assert "tight" not in dict(memory_lines(roomy))


def test_a_system_prompt_is_counted_by_its_characters(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "12345678"}\n')
    resolved, task = prepare(Asked("ttrl", {"model": str(models["4B"]), "data": str(path), "system_prompt": "s" * 40}))
    found = lengths(resolved, task)
    assert found.longest == 12 and "system prompt included, chat template not" in str(found)


def test_assumed_gpus() -> None:
    assert assumed("8x80GiB") == Hardware(gpus=8, memory=80 * 2**30, assumed=True)
    assert assumed("24GB") == Hardware(gpus=1, memory=24 * 10**9, assumed=True)
    assert assumed("2x1.5gib").memory == 3 * 2**29
    for text in ("eight", "0x80GiB", "8x", "8x80", "x80GiB", "1x0GiB", "1x1GiB"):
        with pytest.raises(InputError, match="COUNTxMEMORY"):
            assumed(text)
    two = assumed("2x80GiB")
    assert two.room(2) == 79 * 2**30 and two.room(4) == 39 * 2**30, "ranks share a GPU where there are fewer"
    assert str(two) == "2 GPUs of 80 GiB"


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = hardware.own("cpu")
    assert mine.gpus == 0 and 2**28 < mine.memory < 2**50 and mine.room(2) < mine.memory / 2
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    monkeypatch.setattr(hardware, "_LIMITS", (str(limit),))
    assert hardware.own("cpu").memory == 2**30, "a container's limit counts"
    limit.write_text("max\n")
    assert hardware.own("cpu").memory == mine.memory


def test_a_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _i: SimpleNamespace(total_memory=2**34))
    assert hardware.own("cuda") == Hardware(gpus=2, memory=2**34)
    assert hardware.own("cuda:1") == Hardware(gpus=1, memory=2**34)


def test_a_run_that_cannot_work_is_refused_before_it_loads(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resolved, task = prepare(Asked("grpo", {"model": str(models["32B"])}))
    monkeypatch.setattr("rekindle.train.fits.own", lambda _device: Hardware(gpus=0, memory=64 * 2**30))
    with pytest.raises(InputError, match=r"488\.2 GiB a rank for weights.*lora\.rank=16"):
        refuse_hopeless(resolved, task)
    monkeypatch.setattr("rekindle.train.fits.own", lambda _device: Hardware(gpus=0, memory=600 * 2**30))
    refuse_hopeless(resolved, task)
    wrong = replace(resolved, config=replace(resolved.config, model=str(tmp_path / "none")))
    refuse_hopeless(wrong, task)


def test_numbers_are_plain_and_whole(models: dict[str, Path]) -> None:
    plan = plan_of(models["4B"], "1x80GiB")
    found = json.loads(json.dumps(plan.numbers()))
    assert found["step"]["sampled"] == 512 and found["run"]["samples"] == 512 * 120
    assert found["memory"]["peak"] == plan.memory.peak == max(found["memory"]["peaks"].values())
    assert found["run"]["epochs"] == 8 * 120 / 512


@pytest.mark.parametrize(("method", "models"), [("grpo", 0), ("soft_grpo", 1), ("nlpo", 2)])
def test_models_that_decode_side_by_side_under_a_rule_are_counted_with_every_rows_prompt(
    method: str, models: int
) -> None:
    plan = planned(*prepare(Asked(method, {"task": "digit_sum"})))
    work, token = plan.work, 2 * plan.model.key * plan.model.layers * plan.setup.element
    rows = work.block * work.samples
    prompts = rows if models else work.block
    assert work.lockstep == models and work.samples > 1
    cache = (prompts * work.prompt + rows * (1 + work.response)) * token * max(1, models)
    assert plan.memory.sample["key-value cache"] == cache
    free = planned(*prepare(Asked("grpo", {"task": "digit_sum"}))).memory.sample["drawing"] / rows
    assert (plan.memory.sample["drawing"] / rows > free) == bool(models)


def test_a_plan_of_written_responses_counts_the_rows_of_the_data(tmp_path: Path) -> None:
    many = [2 + i % 2 for i in range(4)]
    rows = [{"prompt": f"{i}", "completions": list("123")[:n], "rewards": [1, 0, 0.5][:n]} for i, n in enumerate(many)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    resolved, task = prepare(Asked("copg", {"data": str(data), "rollout.max_tokens": 24, "rollout.prompts": 2}))
    found = planned(resolved, task)
    assert (found.step.samples, found.step.group, found.step.sampled, found.step.trained) == (0, 3, 0, 6)
    assert found.step.minibatch_sizes == (6,) and found.step.elsewhere() == {} and found.step.problems() == ()
    assert found.work.block == 0 and found.numbers()["run"]["samples"] == 0
    assert isinstance(probe(found, task), str)
