"""The estimate of an update's memory, and what a run says when it does not get it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rekindle.errors import GuardStop
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import PromptRows
from rekindle.train.memory import estimate, memory_told
from tests.tiny_models import build
from tests.tokens.test_policy import make

SIZES = ((64, 2, 160, 500), (96, 3, 384, 3000))


@pytest.mark.parametrize(("width", "layers", "inner", "vocabulary"), SIZES)
def test_the_estimate_is_near_what_autograd_keeps(width: int, layers: int, inner: int, vocabulary: int) -> None:
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, intermediate_size=inner, tie_word_embeddings=False,
    )  # fmt: skip
    policy = LMPolicy(Qwen3ForCausalLM(config).train())
    size, batch = 64, make()
    long = replace(
        batch,
        action=torch.ones(6, size, dtype=torch.int64),
        mask=torch.ones(6, size, dtype=torch.bool),
        prompt=PromptRows(tuple((3 + i,) for i in range(6))),
    )
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    held: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        policy(long)
    kept = sum(size for place, size in held.items() if place not in weights)
    said = estimate(policy, 6 * size)
    assert 0.5 < (said.activations + said.logits / 2) / kept < 2
    assert said.weights == 16 * sum(p.numel() for p in policy.model.parameters())
    assert estimate(policy, 6 * size, checkpointing=True).activations < said.activations


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
        [sys.executable, "-c", LIMITED, str(tmp_path / "run")], capture_output=True, text=True, timeout=120
    )
    assert "GuardStop: out of memory" in done.stderr, done.stderr[-2000:]
    assert "descent.micro_batch=8000" in done.stderr and "MiB" in done.stderr
