"""The one-file GRPO as an oracle: five updates on stored batches give the weights that Rekindle's update gives."""

from __future__ import annotations

import importlib.util
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch
from rekindle.methods import grpo
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import PromptRows
from tests.tiny_models import VOCABULARY, build

PATH = Path(__file__).parents[2] / "examples" / "00_grpo_in_one_file.py"
GROUP, LR = 4, 0.5


@pytest.fixture(scope="module")
def one_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grpo_in_one_file", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def stored_batches(one_file: ModuleType, model: PreTrainedModel, count: int = 5) -> list:
    """Ragged prompts and responses of random tokens; one group in each batch has equal rewards."""
    rng = torch.Generator().manual_seed(3)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=rng))
        return torch.randint(3, VOCABULARY, (length,), generator=rng).tolist()

    stored = []
    for _ in range(count):
        prompts = [prompt for prompt in (tokens(1, 6) for _ in range(3)) for _ in range(GROUP)]
        responses = [tokens(1, 9) for _ in prompts]
        rewards = [1.0, 0.0, 0.0, 0.0, 0.7, 0.7, 0.7, 0.7, 1.0, 0.5, 0.0, 1.0]
        with torch.no_grad():
            logp_old, _ = one_file.logprobs(model, prompts, responses)
        stored.append(one_file.Stored(prompts, responses, rewards, logp_old, GROUP))
    return stored


def as_batch(stored: object, method: PolicyGradient) -> Batch:
    """The same rows as Rekindle holds them, credited."""
    B, T = stored.logp_old.shape  # type: ignore[attr-defined]
    prompts, responses, rewards = stored.prompts, stored.responses, stored.rewards  # type: ignore[attr-defined]
    lengths = torch.tensor([len(r) for r in responses])
    score = torch.tensor(rewards, dtype=torch.float64)
    batch = Batch(
        action=torch.tensor([r + [0] * (T - len(r)) for r in responses]),
        mask=torch.arange(T) < lengths[:, None],
        uid=torch.arange(B),
        group=torch.arange(B) // GROUP,
        success=score > 0.5,
        graded=torch.ones(B, dtype=torch.bool),
        score=score,
        prompt=PromptRows(tuple(map(tuple, prompts))),
        key=torch.tensor(0),
        extra={"logp_old": stored.logp_old},  # type: ignore[attr-defined]
    )
    return method.credit(batch)


def largest_difference(a: PreTrainedModel, b: PreTrainedModel) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs)


@pytest.mark.parametrize("two_pass", [False, True])
def test_five_updates_give_equal_weights(one_file: ModuleType, two_pass: bool) -> None:
    start = build("llama", torch.float64)
    stored = stored_batches(one_file, start)
    theirs, ours = deepcopy(start), deepcopy(start)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=LR)
    our_optimizer = torch.optim.SGD(ours.parameters(), lr=LR)
    method, policy = grpo.method(), LMPolicy(ours)
    for batch in stored:
        loss = one_file.update(theirs, optimizer, batch, grad_clip=1e9)
        our_optimizer.zero_grad()
        our_loss, _, _ = backward(policy, as_batch(batch, method), method, 5, two_pass=two_pass)
        our_optimizer.step()
        assert our_loss == pytest.approx(loss, abs=1e-11)
    assert largest_difference(theirs, ours) <= 1e-10
    assert largest_difference(theirs, start) > 1e-3, "the weights did not move: the comparison proves nothing"


def test_the_stored_batches_reach_both_clips(one_file: ModuleType) -> None:
    model = build("llama", torch.float64)
    stored = stored_batches(one_file, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    ratios, advantages = [], []
    for batch in stored:
        ratios.append(one_file.grpo_loss(model, batch)[1])
        advantages.append(one_file.advantages(batch.rewards, GROUP)[:, None].expand_as(ratios[-1]))
        one_file.update(model, optimizer, batch, grad_clip=1e9)
    ratio, advantage = torch.cat([r.flatten() for r in ratios]), torch.cat([a.flatten() for a in advantages])

    def any_of(hit: Tensor) -> bool:
        return bool(hit.any())

    assert any_of((ratio > 1.2) & (advantage > 0)) and any_of((ratio < 0.8) & (advantage < 0))
    assert any_of((ratio > 3.0) & (advantage < 0)), "the dual clip never acted"


def test_worked_advantages(one_file: ModuleType) -> None:
    got = one_file.advantages([1.0, 0.0, 0.0, 0.0] + [0.7] * 4, GROUP)
    assert got.tolist() == pytest.approx([1.499997, -0.499999, -0.499999, -0.499999, 0, 0, 0, 0], abs=1e-6)


def test_the_example_learns(one_file: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    success = one_file.train(steps=3, group=4)
    lines = capsys.readouterr().out.splitlines()
    assert 0.0 <= success <= 1.0
    assert [line.split()[:2] for line in lines] == [["step", "1"], ["step", "2"], ["step", "3"]]
    assert one_file.reward([7], [2, 6, 9, one_file.STOP]) == 1.0
    assert (
        one_file.reward([7], [7])
        == one_file.reward([7], [5, one_file.STOP])
        == one_file.reward([0], [one_file.STOP])
        == 0.0
    )
