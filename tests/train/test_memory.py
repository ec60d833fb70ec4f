"""The account of a step's memory, term by term, and what a run says when an update does not get its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rekindle.core.types import Batch
from rekindle.errors import GuardStop
from rekindle.tokens.heads import Precision
from rekindle.tokens.lora import adapt
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import PromptRows
from rekindle.tokens.scores import chunk_of
from rekindle.train.account import estimate, gib
from rekindle.train.footprint import Unmeasured, measured
from rekindle.train.memory import memory_told, of_update
from rekindle.train.workload import Setup, Work
from tests.tiny_models import build
from tests.tokens.test_policy import make

SHAPES = ((64, 2, 160, 500), (96, 3, 384, 3000))


def held_by_autograd(policy: LMPolicy, batch: Batch) -> int:
    """Bytes that a forward pass keeps for its backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    held: dict[int, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        held[x.untyped_storage().data_ptr()] = x  # kept alive, or its place would be used again
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        policy(batch)
    return sum(x.untyped_storage().nbytes() for place, x in held.items() if place not in weights)


def rows_of(prompts: int, group: int, prompt: int, response: int) -> Batch:
    """Rows of full length."""
    rows = prompts * group
    return replace(
        make(),
        action=torch.ones(rows, response, dtype=torch.int64),
        mask=torch.ones(rows, response, dtype=torch.bool),
        uid=torch.arange(rows),
        group=torch.arange(rows) // group,
        success=torch.ones(rows, dtype=torch.bool),
        graded=torch.ones(rows, dtype=torch.bool),
        score=torch.ones(rows, dtype=torch.float64),
        prompt=PromptRows(tuple((3 + i // group, *([5] * (prompt - 1))) for i in range(rows))),
        extra={},
    )


def small(width: int, layers: int, inner: int, vocabulary: int, kind: str = "qwen3") -> PreTrainedModel:
    sizes = {
        "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 24, "intermediate_size": inner, "tie_word_embeddings": False,
    }  # fmt: skip
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes)).train()
    return Qwen3ForCausalLM(Qwen3Config(**sizes)).train()


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("precision", ["full", "bf16"])
@pytest.mark.parametrize("lengths", [(2, 4, 16, 32), (2, 2, 16, 300), (1, 4, 300, 60), (6, 1, 1, 64)])
def test_activations_are_what_autograd_keeps(lengths: tuple[int, ...], precision: Precision, kind: str) -> None:
    prompts, group, prompt, response = lengths
    for width, layers, inner, vocabulary in SHAPES:
        policy = LMPolicy(small(width, layers, inner, vocabulary, kind), precision=precision)
        kept = held_by_autograd(policy, rows_of(*lengths))
        work = Work(rows=prompts * group, group=group, prompt=prompt, response=response)
        said = estimate(measured(policy.model), Setup(narrow=precision == "bf16"), work).update
        rows = prompts * group * response
        told = said["activations"] + said.get("bf16 copies", 0) + 4 * min(rows, chunk_of(vocabulary, rows)) * vocabulary
        assert told == pytest.approx(kept, rel=0.03)


EVERY = ("all-linear",)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [EVERY, ("q_proj", "v_proj"), ("q_proj", "up_proj", "down_proj")])
def test_activations_of_adapters_are_what_autograd_keeps(
    targets: tuple[str, ...], dtype: torch.dtype, kind: str
) -> None:
    work = Work(rows=8, group=4, prompt=16, response=300)
    for width, layers, inner, vocabulary in SHAPES:
        base = small(width, layers, inner, vocabulary, kind).to(dtype)
        policy = LMPolicy(adapt(base, 8, None, targets, 0))
        kept = held_by_autograd(policy, rows_of(2, 4, 16, 300))
        setup = Setup(element=dtype.itemsize, base=float(dtype.itemsize), lora=8, targets=targets)
        model, rows = measured(policy.model), 8 * 300
        said = estimate(model, setup, work)
        told = said.update["activations"] + 4 * min(rows, chunk_of(vocabulary, rows)) * vocabulary
        assert told == pytest.approx(kept, rel=0.06)
        trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
        assert said.held["optimizer"] == 8 * trained and said.update["gradients"] == 4 * trained, "never narrow"
        there, _ = of_update(policy, rows_of(2, 4, 16, 300), 8, False)
        assert there.held["weights"] == said.held["weights"] == dtype.itemsize * model.parameters + 4 * trained
        assert there.update["activations"] == said.update["activations"]


# Both keep what the account of Llama's and Qwen's layers knows, with MLPs of another kind.
@pytest.mark.parametrize(
    ("kind", "more", "mlp", "near"),
    [
        ("starcoder2", {}, (384, 2, 2), 0.1),
        ("phi3", {}, (384, 3, 4), 0.03),
        ("gemma", {}, (384, 3, 4), 0.03),
        ("mixtral", {"num_local_experts": 4}, (768, 3, 4), 0.1),
        ("qwen3_moe", {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96}, (192, 3, 4), 0.13),
        ("gpt2", {"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}, (384, 2, 5), 0.08),
    ],
)
def test_the_mlp_of_other_models_is_read_from_their_modules(
    kind: str, more: dict[str, float], mlp: tuple[int, ...], near: float
) -> None:
    sizes = {
        "vocab_size": 3000, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    llama = {"num_key_value_heads": 2, "head_dim": 24, "intermediate_size": 384}
    config = AutoConfig.for_model(kind, **sizes, **(llama if kind != "gpt2" else {}), **more)
    policy = LMPolicy(AutoModelForCausalLM.from_config(config).train())
    kept = held_by_autograd(policy, rows_of(2, 4, 16, 300))
    model = measured(policy.model)
    assert tuple(model.mlp) == mlp
    said = estimate(model, Setup(), Work(rows=8, group=4, prompt=16, response=300)).update["activations"]
    assert said + 4 * min(2400, chunk_of(3000, 2400)) * 3000 == pytest.approx(kept, rel=near)


def test_an_update_of_a_policy_that_is_there() -> None:
    policy = LMPolicy(small(*SHAPES[0]))
    said, tokens = of_update(policy, rows_of(2, 3, 5, 64), 4, False)
    count = sum(p.numel() for p in policy.model.parameters())
    assert said.held["weights"] == 4 * count and said.held["optimizer"] == 8 * count
    assert said.update["gradients"] == 4 * count, "two forward passes: the first one's gradients are there"
    assert tokens == 2 * 5 + 4 * 63
    again, _ = of_update(policy, rows_of(2, 3, 5, 64), 4, True)
    assert again.update["activations"] < said.update["activations"]
    assert again.peaks["update"] < said.peaks["update"]
    assert str(said).startswith("about ") and "activations" in str(said) and "MiB" in str(said)


def test_gradients_take_the_place_of_activations_in_a_single_pass() -> None:
    model = measured(small(*SHAPES[1]))
    work = Work(rows=64, group=8, prompt=4, response=64, pieces=2)
    two, one = (estimate(model, Setup(), replace(work, pieces=n)) for n in (2, 1))
    assert two.peaks["update"] - one.peaks["update"] == two.update["gradients"]
    little = estimate(model, Setup(checkpointing=True), replace(work, rows=1, response=2, pieces=1))
    assert sum(little.update.values()) == 4 * model.parameters, "then the gradients are all there is"


def test_ranks_that_share_the_weights() -> None:
    model, work = measured(small(*SHAPES[1])), Work(rows=4, group=4, prompt=4, response=8)
    alone, shared = estimate(model, Setup(), work), estimate(model, Setup(ranks=4, copy=4), work)
    for name in ("weights", "optimizer"):
        assert shared.held[name] == pytest.approx(alone.held[name] / 4, abs=1)
    assert shared.held["sampler's copy"] == alone.held["weights"]
    assert shared.update["gathered layers"] == 4 * (3 * model.layer + 2 * model.root)


def test_sizes_in_words() -> None:
    assert [gib(size) for size in (10, 2**20, 3 * 2**29)] == ["under 1 MiB", "1 MiB", "1.5 GiB"]


def fail(message: str) -> None:
    raise RuntimeError(message)


NO_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.mark.parametrize(
    ("micro_batch", "checkpointing", "remedy"),
    [
        (64, False, "set descent.micro_batch=32 or checkpointing=true"),
        (1, False, "set checkpointing=true"),
        (5, True, "set descent.micro_batch=2"),
        (1, True, "set rollout.max_tokens to less than it is"),
    ],
)
def test_what_to_lower(micro_batch: int, checkpointing: bool, remedy: str) -> None:
    policy = LMPolicy(build("llama"))
    with pytest.raises(GuardStop) as stopped, memory_told(policy, make(), micro_batch, checkpointing):
        fail(NO_MEMORY)
    text = str(stopped.value)
    assert remedy in text and f"descent.micro_batch={micro_batch}" in text and "about" in text and "MiB" in text


def test_a_model_whose_memory_is_not_known_gets_the_setting_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_model: object) -> None:
        raise Unmeasured("of no known kind")

    monkeypatch.setattr("rekindle.train.memory.measured", unknown)
    policy = LMPolicy(build("llama"))
    said = r"descent\.micro_batch=8: set descent\.micro_batch=4 or"
    with pytest.raises(GuardStop, match=said), memory_told(policy, make(), 8, False):
        fail(NO_MEMORY)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="something else"), memory_told(LMPolicy(build("llama")), make(), 4, False):
        fail("something else")


LIMITED = """
import resource, sys
import torch
from rekindle.api import train
from rekindle.train.run import Run
whole = Run.descend
def limited(run, part, method, index):
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held, resource.RLIM_INFINITY))
    return whole(run, part.take(torch.arange(len(part)).repeat(60)), method, index)
Run.descend = limited
train("grpo", task="digit_sum", steps=2, out=sys.argv[1],
      options={"rollout.prompts": 4, "rollout.group": 64, "rollout.max_tokens": 32,
               "descent.micro_batch": 16000, "descent.minibatches": 1})
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limits on memory")
def test_an_allocation_that_really_fails_names_the_setting(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "run")], capture_output=True, text=True, timeout=600
    )
    assert "GuardStop: out of memory" in done.stderr, done.stderr[-2000:]
    assert "descent.micro_batch=8000" in done.stderr and "MiB" in done.stderr
