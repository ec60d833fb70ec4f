"""Responses that the data brings along (column `demonstration`), as rollouts beside those that were sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, Rollouts

FINISH = "demonstration"
"""What `Rollouts.finish` says of a demonstration."""


def first_rows(rollouts: Rollouts) -> Int[Tensor, " P"]:
    """The row with the smallest uid of each group: one that is trained on."""
    order = torch.argsort(rollouts.uid, stable=True).tolist()
    first: dict[int, int] = {}
    for row in order:
        first.setdefault(int(rollouts.group[row]), row)
    return torch.tensor(list(first.values()))


def demonstrated(rollouts: Rollouts, run: Any) -> Rollouts:
    """`rollouts` with the first response of each group replaced by its example's demonstration.

    Log-probs and entropies of a demonstration are 0: whoever wrote it is taken to have been certain. InputError where
    it is missing or longer than a response may be.
    """
    replaced = first_rows(rollouts)
    base = rollouts.take(replaced)
    tokens = [encoded(example, run) for example in base.example]
    size = torch.tensor([len(ids) for ids in tokens])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(t) for t in tokens], batch_first=True)
    nothing = torch.zeros(ids.shape, dtype=base.logp_sampled.dtype)
    entropy, logp = (None if said is None else nothing for said in (base.entropy, base.logp))  # unknown stays so
    changes = {"ids": ids, "mask": torch.arange(ids.shape[1]) < size[:, None], "entropy": entropy, "logp": logp}
    changes |= {"logp_sampled": nothing, "finish": [FINISH] * len(base)}
    shown = replace(base, **changes, text=[example.meta[FINISH] for example in base.example])
    others = torch.ones(len(rollouts), dtype=torch.bool).index_fill(0, replaced, False).nonzero()[:, 0]
    return Rollouts.concat([shown, rollouts.take(others)])


def encoded(example: Example, run: Any) -> list[int]:
    """The tokens of an example's demonstration, the end token included where the tokenizer has one."""
    text = example.meta.get(FINISH)
    if not isinstance(text, str) or not text:
        raise InputError(f"prompt '{example.id}' has no demonstration: fill the column 'demonstration' in every row")
    return text_ids(example, FINISH, text, tokenizer=run.tokenizer, max_tokens=run.max_tokens)


def text_ids(example: Example, column: str, text: str, *, tokenizer: Any, max_tokens: int) -> list[int]:
    """The tokens of a response that the data brings, the end token included once where the tokenizer has one.

    InputError naming the prompt and its column where they are more than a response may have.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        ids = tokenizer.encode(text, add_special_tokens=False)
        ids = ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]
    else:
        ids = tokenizer.encode(text)
    if len(ids) > max_tokens:
        raise InputError(
            f"the {column} of prompt '{example.id}' has {len(ids)} tokens, more than rollout.max_tokens "
            f"({max_tokens}): shorten it or raise that option"
        )
    return ids


@dataclass(frozen=True)
class Shown:
    """`demonstration` [B]: which rows are demonstrations."""

    name: ClassVar[str] = "demonstration"

    def __call__(self, rollouts: Rollouts, run: Any) -> Bool[Tensor, " B"]:
        """One truth a row."""
        return torch.tensor([finish == FINISH for finish in rollouts.finish])
