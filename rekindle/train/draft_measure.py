"""Speculative decoding by transformers, counted: what a draft spares its target.

Block efficiency is generated tokens over forward passes of the target. A block is at most gamma drafted tokens and one
of the target's own, so that it lies between 1 and gamma + 1.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig

from rekindle.core.draft_losses import acceptance, block_efficiency
from rekindle.errors import InputError
from rekindle.tokens.draft_model import parameter_count
from rekindle.tokens.fetching import quiet
from rekindle.tokens.heads import refuse_dropout
from rekindle.tokens.loader import Loaded, eos_ids
from rekindle.train.teacher import check_same_tokens

RARE = 5
"""Expected counts below this do not follow a chi-squared distribution; such outcomes are counted as one."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A target and its draft, two objects of one vocabulary, set for exact sampling with `gamma` drafts a block."""

    target: Any
    draft: Any
    gamma: int
    temperature: float
    ends: tuple[int, ...]

    def generate(self, prompt: Sequence[int], tokens: int, seed: int, assisted: bool = True) -> tuple[list[int], int]:
        """(at most `tokens` tokens after the prompt, forward passes of the target that they took)."""
        calls: list[int] = []
        hook = self.target.register_forward_hook(lambda *_: calls.append(1))
        ids = torch.tensor([list(prompt)], device=self.target.device)
        helper = {"assistant_model": self.draft} if assisted else {}
        try:
            # transformers warns of how it calls the draft itself
            with quiet(), torch.no_grad(), torch.random.fork_rng(devices=devices_of(self.target)):
                torch.manual_seed(seed)
                out = self.target.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, **helper)
        finally:
            hook.remove()
        return out[0, len(prompt) :].tolist(), len(calls)

    def acceptance(self, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """sum_v min(p, q) at each token of a response."""
        ids = torch.tensor([[*prompt, *response]], device=self.target.device)
        with torch.no_grad():
            said = [
                m(ids).logits[0, len(prompt) - 1 : -1].float() / self.temperature for m in (self.draft, self.target)
            ]
        logp, logq = (torch.log_softmax(logits, dim=-1) for logits in said)
        return acceptance(logp, logq.exp()).tolist()


def devices_of(model: Any) -> list[Any]:
    """The GPU whose random state `model` draws from, if it is on one."""
    return [model.device] if model.device.type == "cuda" else []


def paired(target: Loaded, draft: Loaded, gamma: int, temperature: float, name: str = "draft") -> Pair:
    """The pair, its generation settings replaced; InputError on other tokens or another vocabulary.

    transformers would draft 20 tokens, stop early below a confidence of 0.4 and keep 50 tokens of each distribution;
    and it takes the padding id out of the draft's attention, so that this must be one that nobody says.
    """
    if target.model is draft.model:
        raise ValueError("target and draft are one object, whose passes cannot be told apart: load it twice")
    check_same_tokens(name, draft.tokenizer, target.tokenizer, ("draft", "target"))
    sizes = [loaded.model.get_output_embeddings().weight.shape[0] for loaded in (draft, target)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"draft '{name}' has {sizes[0]} rows of vocabulary and the target {sizes[1]}, padding rows included, and "
            "speculative decoding compares them one by one: choose a draft of the same family"
        )
    ends = eos_ids(target.model, target.tokenizer)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "eos_token_id": list(ends)}
    for model in (target.model, draft.model):
        refuse_dropout(model)
        model.generation_config = GenerationConfig(**how, pad_token_id=sizes[1])
    told = draft.model.generation_config
    told.num_assistant_tokens, told.num_assistant_tokens_schedule = gamma, "constant"
    told.assistant_confidence_threshold = 0.0
    return Pair(target.model, draft.model, gamma, temperature, ends)


def bound_speedup(tau: float, share: float, gamma: int) -> float:
    """Speed-up where reading weights is all that takes time: `share` is the draft's size over the target's."""
    return tau / (share * gamma + 1)


@dataclass(frozen=True)
class Speculation:
    """What was measured. tau: block efficiency; expected: that of independent tokens at the mean `acceptance`.

    share: parameters of the draft over the target's. mbsu: memory-bound speed-up. speedup: tokens a second with the
    draft over those without, on this machine. ended: share of the responses that ended before the limit.
    """

    tau: float
    acceptance: float
    expected: float
    share: float
    mbsu: float
    speedup: float
    tokens: int
    calls: int
    ended: float


def measure(pair: Pair, prompts: Sequence[Sequence[int]], tokens: int, seed: int) -> Speculation:
    """Each prompt is answered once with the draft and once without; the first, once more before, to warm up.

    InputError where the limit `tokens` is no multiple of gamma + 1: the last block would be cut.
    """
    block = pair.gamma + 1
    if tokens % block:
        raise InputError(
            f"--max-tokens {tokens} is no multiple of a block of {block} (--gamma {pair.gamma} and one), and a cut "
            f"block lowers the block efficiency: give {max(block, tokens // block * block)}"
        )
    with_draft, calls, fast = answers(pair, prompts, tokens, seed, assisted=True)
    plain, _, slow = answers(pair, prompts, tokens, seed, assisted=False)
    made, alone = (sum(map(len, said)) for said in (with_draft, plain))
    pairs = zip(prompts, plain, strict=True)
    accepted = [share for prompt, said in pairs for share in pair.acceptance(prompt, said)]
    rate = sum(accepted) / len(accepted)
    share = parameter_count(pair.draft) / parameter_count(pair.target)
    return Speculation(
        tau=made / calls,
        acceptance=rate,
        expected=block_efficiency(rate, pair.gamma),
        share=share,
        mbsu=bound_speedup(made / calls, share, pair.gamma),
        speedup=(made / fast) / (alone / slow),
        tokens=made,
        calls=calls,
        ended=sum(said[-1] in pair.ends for said in with_draft) / len(with_draft),
    )


def answers(
    pair: Pair, prompts: Sequence[Sequence[int]], tokens: int, seed: int, assisted: bool
) -> tuple[list[list[int]], int, float]:
    """(responses, passes of the target, seconds)."""
    pair.generate(prompts[0], tokens, seed, assisted)
    began = time.perf_counter()
    said = [pair.generate(prompt, tokens, seed + i, assisted) for i, prompt in enumerate(prompts)]
    return [ids for ids, _ in said], sum(calls for _, calls in said), time.perf_counter() - began


Outcomes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class SameLaw:
    """A chi-squared test that two samples come from one distribution: `p` is small where they do not."""

    statistic: float
    freedom: int
    p: float


def same_law(samples: Sequence[tuple[Outcomes, Outcomes]]) -> SameLaw:
    """Compares how often each outcome is in the two samples of each pair; rare outcomes are one.

    InputError where all outcomes are rare, so that there is nothing to compare.
    """
    tables = [counted(one, other) for one, other in samples]
    freedom = sum(table.shape[1] - 1 for table in tables)
    statistic = sum(deviation(table) for table in tables)
    if freedom == 0 and any(len({*one, *other}) > 1 for one, other in samples):
        raise InputError(
            f"--same-law {len(samples[0][0])} has too few answers a prompt to compare: no first block is said {RARE} "
            "times; give several hundred"
        )
    if freedom == 0:
        return SameLaw(0.0, 0, 1.0)  # one outcome everywhere
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return SameLaw(statistic, freedom, torch.special.gammaincc(half[0], half[1]).item())


def counted(one: Outcomes, other: Outcomes) -> Float[Tensor, "2 K"]:
    """How often each outcome is in two samples, the rare ones together."""
    counts = [Counter(one), Counter(other)]
    least = min(len(one), len(other)) / (len(one) + len(other))
    common = [key for key, count in (counts[0] + counts[1]).items() if count * least >= RARE]
    rows = [[count[key] for key in common] for count in counts]
    rest = [len(sample) - sum(row) for sample, row in zip((one, other), rows, strict=True)]
    table = torch.tensor([[*row, left] for row, left in zip(rows, rest, strict=True)], dtype=torch.float64)
    return table[:, table.sum(dim=0) > 0]


def deviation(table: Float[Tensor, "2 K"]) -> float:
    """The chi-squared statistic of a table of counts."""
    expected = table.sum(dim=1, keepdim=True) * table.sum(dim=0) / table.sum()
    return ((table - expected).square() / expected).sum().item()


def drafted(pair: Pair, prompt: Sequence[int], count: int, tokens: int, seed: int) -> list[tuple[int, ...]]:
    """`count` responses of `tokens` tokens to one prompt, with the draft."""
    return [tuple(pair.generate(prompt, tokens, seed + i)[0]) for i in range(count)]


def undrafted(ids: Int[Tensor, "B T"], mask: Tensor) -> list[tuple[int, ...]]:
    """Responses of the package's own sampler as outcomes."""
    return [tuple(row[here].tolist()) for row, here in zip(ids, mask, strict=True)]
