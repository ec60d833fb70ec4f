"""Rules that change how the tokens of a response are drawn: what they see of a step, and what they say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rekindle.core.random import uniforms
from rekindle.errors import InputError
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.draw import Draw

_MORE = 1 << 40  # uniforms of rules lie behind those that draw tokens, of which a row has one a token


@dataclass(frozen=True, eq=False)
class Step:
    """One token of R rows. logits: by pass, at temperature 1. before: the tokens that the rows have drawn so far.

    uniform: the number that draws a token without a rule. more: width -> further uniforms of these rows at this token.
    special: token ids (BOS, EOS, padding). ends: the tokens that end a response.
    """

    logits: Mapping[str, Float[Tensor, "R V"]]
    before: Int[Tensor, "R t"]
    uniform: Float64[Tensor, " R"]
    more: Callable[[int], Float64[Tensor, "R W"]]
    settings: Sampling
    special: tuple[int, ...]
    ends: Bool[Tensor, " V"]

    @property
    def place(self) -> int:
        """The step's number in the response, from 0."""
        return self.before.shape[1]


@dataclass(frozen=True, eq=False)
class Taken:
    """What a rule drew. extra: columns of the rollouts, [R *] at this token; a rule gives the same ones at each step.

    forced: tokens that nobody chose, off the mask. mix: (ids, weights); the next input of a row with weights is the
    mean of these tokens' embeddings, that of a row whose weights are all 0 its token's.
    """

    drawn: Draw
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    forced: Bool[Tensor, " R"] | None = None
    mix: tuple[Int[Tensor, "R K"], Float[Tensor, "R K"]] | None = None


@runtime_checkable
class StepRule(Protocol):
    """Step -> what is drawn. passes: weights that run in lockstep with the policy's; mixes: it gives `Taken.mix`."""

    @property
    def passes(self) -> tuple[str, ...]:
        """Names of the run's frozen copies whose logits it looks at."""
        ...

    @property
    def mixes(self) -> bool:
        """Whether inputs are mixtures of embeddings, which only a language model has."""
        ...

    def __call__(self, step: Step) -> Taken:
        """The tokens of one step; of a row by its own logits and uniforms alone."""
        ...


def more_uniforms(
    key: Int[Tensor, ""], uid: Int[Tensor, " R"], place: int, device: torch.device | str = "cpu"
) -> Callable[[int], Float64[Tensor, "R W"]]:
    """Width -> the uniforms of these rows at the token `place` that draw no token without a rule."""
    return lambda width: uniforms(key, uid, width, _MORE + place * width).to(device)


def special_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids of BOS, EOS and padding, as far as there are any; a world's spelling has none."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return ()
    found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return tuple(sorted({i for i in found if isinstance(i, int)}))


def single_id(tokenizer: Any, text: str, option: str) -> int:
    """The id of `text`; InputError naming the option where it is not one token: its last one would be a common one."""
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    if len(ids) != 1:
        raise InputError(
            f"{option} is '{text}', which is {len(ids)} tokens for this tokenizer: name a text that is one token of "
            "its own, or leave it empty and say after how many steps thinking ends"
        )
    return ids[0]
