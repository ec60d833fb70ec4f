"""What the tests of reward functions share: rollouts of given texts, and rewards from a file of given code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rekindle.errors import InputError
from rekindle.tokens.rewards import Rewards, load_rewards
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts


def rollouts(examples: Sequence[Example], texts: Sequence[str], finish: str = "eos") -> Rollouts:
    """A response of two tokens to each example; the tokens are counted through."""
    count = len(texts)
    zeros = torch.zeros(count, 3)
    return Rollouts(
        example=examples,
        prompt=PromptRows(tuple((7, row) for row in range(count))),
        ids=torch.arange(3 * count).reshape(count, 3),
        mask=torch.tensor([[True, True, False]] * count),
        logp=zeros,
        logp_sampled=zeros,
        entropy=zeros,
        text=texts,
        finish=[finish] * count,
        group=torch.zeros(count, dtype=torch.long),
        uid=torch.arange(count),
    )


PAIR = rollouts([Example("a", "2+3", "5", {"level": 1}), Example("b", "2*3", None, {"level": 2})], ["5", "seven"])


def rewards(folder: Path, code: str, *specs: str) -> Rewards:
    """The functions of a file with `code`; a spec is what follows the file, maybe after `PREFIX|`."""
    (folder / "r.py").write_text(code)
    parted = [spec.rpartition("|") for spec in specs]
    return load_rewards([f"{prefix}{':' if prefix else ''}{folder / 'r.py'}:{spec}" for prefix, _, spec in parted])


def refusal(folder: Path, code: str, spec: str = "f", data: Rollouts = PAIR) -> str:
    """The sentence by which the function is refused."""
    with pytest.raises(InputError) as caught:
        rewards(folder, code, spec)(data)
    return str(caught.value)
