"""The value of the start weights: what the head sees, that it learns, and that every draw is a function of the key."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.errors import InputError
from rekindle.methods import a_lol
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.reference_value import KEPT, ReferenceValue, ValueHead, as_actions, padded, prompt_states, scorable
from rekindle.tokens.rollouts import Example
from tests.methods.stage import Stage, table_stage
from tests.tiny_models import build

KEY = torch.tensor(11)


def made(count: int, width: int = 16, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Prompts of 2 to 7 states, and whether the first number of their sum is above 0."""
    rng = torch.Generator().manual_seed(seed)
    states = [torch.randn(2 + i % 6, width, generator=rng, dtype=torch.float64) for i in range(count)]
    return states, torch.tensor([float(one[:, 0].sum() > 0) for one in states], dtype=torch.float64)


def test_a_head_does_not_see_padding() -> None:
    head, (states, _) = ValueHead(16, 1.0, KEY), made(5)
    table, mask = padded(states)
    dirty = table.masked_fill(~mask[..., None], 1e6)
    alone = torch.cat([head(*padded([one])) for one in states])
    torch.testing.assert_close(head(dirty, mask), alone)
    torch.testing.assert_close(head(table, mask), alone)
    assert alone.shape == (5,) and head(*padded(states[:1])).shape == (1,), "a batch of one keeps its dimension"


def test_values_lie_between_nothing_and_the_top() -> None:
    states, _ = made(20)
    for top in (1.0, 4.0):
        said = ValueHead(16, top, KEY)(*padded([100 * one for one in states]))
        assert ((said >= 0) & (said <= top)).all()
    assert (
        ValueHead(16, 1.0, KEY).heads == 8 and ValueHead(12, 1.0, KEY).heads == 4 and ValueHead(5, 1.0, KEY).heads == 1
    )


def test_the_head_learns_what_prompts_tell() -> None:
    states, scores = made(192)
    head = ReferenceValue(epochs=40, lr=3e-3).fitted(states, scores, KEY)
    fresh, truth = made(192, seed=1)
    said = head(*padded(fresh))
    assert ((said > 0.5).double() == truth).double().mean() > 0.75
    constant = ReferenceValue(epochs=40, lr=1e-2).fitted(states, torch.full((192,), 0.3), KEY)
    assert constant(*padded(fresh)).mean().item() == pytest.approx(0.3, abs=0.05)


def test_the_best_epoch_is_kept() -> None:
    states, scores = made(48)
    errors = []
    for epochs in range(1, 8):
        head = ReferenceValue(epochs=epochs, lr=0.05).fitted(states, scores, KEY)
        errors.append((head(*padded(states)) - scores).square().mean().item())
    assert all(later <= earlier + 1e-7 for earlier, later in itertools.pairwise(errors))


def test_the_same_key_is_the_same_head() -> None:
    states, scores = made(20)
    torch.manual_seed(1)
    first = ReferenceValue(epochs=2).fitted(states, scores, KEY).state_dict()
    torch.manual_seed(2)
    again = ReferenceValue(epochs=2).fitted(states, scores, KEY).state_dict()
    other = ReferenceValue(epochs=2).fitted(states, scores, KEY + 1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["weights.key"], other["weights.key"])


def test_every_token_of_a_prompt_is_an_action_that_is_seen() -> None:
    batch = as_actions([(1, 5, 7), (2,)], KEY)
    assert batch.action.tolist() == [[5, 7, 0], [0, 0, 0]]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]


def test_states_are_the_models_own_at_every_token_of_the_prompt() -> None:
    model = build("llama", torch.float64)
    method = a_lol.method()
    stage = Stage(method, LMPolicy(model), build("llama", torch.float64, seed=1), list(model.parameters()))
    found = prompt_states(stage, stage.examples)
    for ids, states in zip(stage.prompt_rows(stage.examples).ids, found, strict=True):
        with torch.no_grad():
            want = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(states, want.double(), rtol=1e-5, atol=1e-6)


def test_a_run_remembers_values_and_head() -> None:
    stage = table_stage(a_lol.method())
    said = ReferenceValue(prompts=3)(stage, stage.examples)
    assert said.keys() == {e.id for e in stage.examples} and all(0 < value < 1 for value in said.values())
    head = ValueHead(len(stage.kept[f"{KEPT}weights.query"]), 1.0, KEY)
    head.load_state_dict({n.removeprefix(KEPT): v for n, v in stage.kept.items() if n.startswith(KEPT)})
    with torch.no_grad():
        again = head(*padded(prompt_states(stage, stage.examples))).tolist()
    assert again == pytest.approx(list(said.values()))


def test_what_cannot_be_scored_is_told() -> None:
    stage: Any = table_stage(a_lol.method())
    with pytest.raises(
        InputError, match=r"lie in 0 \.\. 1 and must lie in 0 \.\. 0\.5: set collect\.prompts\.baseline"
    ):
        ReferenceValue(top=0.5)(stage, stage.examples)

    class Unanswered(Stage):
        @property
        def examples(self) -> list[Example]:
            return [replace(e, answer=None) for e in super().examples]

    bare = Unanswered(stage.method, stage.policy, stage.reference, stage.parameters)
    with pytest.raises(
        InputError, match="no prompt has an answer to score by: name rows of prompt and answer by data_"
    ):
        scorable(bare)
    with pytest.raises(ValueError, match="the value head takes"):
        ReferenceValue(epochs=0)
