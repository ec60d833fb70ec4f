"""What the start weights are worth on a prompt: a small head on the prompt's hidden states, fitted once.

Phase 1 of A-LoL (Baheti et al., arXiv 2305.14718): one greedy answer of the start weights to each of some prompts is
scored by the run's verifier, and the head learns to tell the score from the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rekindle.core.random import uniforms
from rekindle.core.types import Batch, Need, Seen
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, PromptRows
from rekindle.tokens.tasks.lazy import looked_at

KEPT = "value."
"""Names of the head's tensors among what a run keeps."""
_CHUNK, _BATCH = 64, 16
"""Prompts of a scoring pass; and of an update of the head (official code: 16)."""
_INIT, _ORDER, _DROP = 0, 1, 2
"""Which draws of the run's key the head's start, the order of its prompts and its dropout take."""


def _states(seen: Seen) -> Tensor:
    return seen.hidden["policy"].double()


STATES = Need("prompt_states", _states)


class ValueHead(nn.Module):
    """[P S D] -> [P]: attention of one learned query over a prompt's states, a linear map, sigmoid times `top`.

    Positions off the mask get no attention. heads: as many as divide D, 8 at the most.
    """

    def __init__(self, width: int, top: float, key: Int[Tensor, ""]) -> None:
        super().__init__()
        self.top, self.heads = top, math.gcd(width, 8)
        shapes = {"query": (width,), "key": (width, width), "value": (width, width), "out": (width, width)}
        self.weights = nn.ParameterDict()
        for i, (name, shape) in enumerate({**shapes, "last": (width,)}.items()):
            draws = uniforms(key, torch.tensor([_INIT]), math.prod(shape), offset=i * width * width)[0]
            start = (2 * draws - 1) * math.sqrt(3 / width)  # variance 1 / width
            self.weights[name] = nn.Parameter(start.double().view(shape))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(
        self, states: Float[Tensor, "P S D"], mask: Bool[Tensor, "P S"], dropped: Float[Tensor, "P 2 D"] | None = None
    ) -> Float[Tensor, " P"]:
        """Values in (0, top). dropped: factors of the features before and after the attention, None for none."""
        rows, size, width = states.shape
        given = states if dropped is None else states * dropped[:, :1]
        parts = (rows, size, self.heads, width // self.heads)
        keys, values = ((given @ self.weights[name]).view(parts) for name in ("key", "value"))
        query = self.weights["query"].view(self.heads, -1)
        score = torch.einsum("hd,pshd->psh", query, keys) / math.sqrt(query.shape[1])
        attention = score.masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        pooled = torch.einsum("psh,pshd->phd", attention, values).reshape(rows, width) @ self.weights["out"]
        pooled = pooled if dropped is None else pooled * dropped[:, 1]
        return self.top * torch.sigmoid(pooled @ self.weights["last"] + self.bias)


@dataclass(frozen=True, kw_only=True)
class ReferenceValue:
    """The value of the start weights, by a `ValueHead` on at most `prompts` prompts: held-out ones, else training's.

    top: the largest score; the least is 0. The epoch with the least mean squared error is kept, in `Run.kept`; the
    values of the training prompts are in `Run.memory`.
    """

    prompts: int = 512
    epochs: int = 10
    lr: float = 1e-3
    dropout: float = 0.1
    top: float = 1.0
    reads_answers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.prompts, self.epochs) < 1 or not self.lr > 0 or not self.top > 0 or not 0 <= self.dropout < 1:
            raise ValueError("the value head takes prompts, epochs, lr and top above 0 and a dropout in [0, 1)")

    def __call__(self, run: Any, examples: Sequence[Example]) -> Mapping[str, float]:
        """Prompt id -> value; InputError where no answer can be scored, or scores lie outside 0 .. top."""
        there = scorable(run)
        some = [there[i * len(there) // min(self.prompts, len(there))] for i in range(min(self.prompts, len(there)))]
        verdicts = run.verifier.verify(run.greedy(some))
        graded = verdicts.graded.nonzero()[:, 0].tolist()
        scores = verdicts.score[verdicts.graded].double()
        if not len(scores) or scores.min() < 0 or scores.max() > self.top:
            told = f"lie in {scores.min():g} .. {scores.max():g}" if len(scores) else "are none"
            raise InputError(
                f"the scores of greedy answers {told} and must lie in 0 .. {self.top:g}: set "
                "collect.prompts.baseline.top to the largest score, or choose collect.prompts.baseline=group_mean"
            )
        head = self.fitted(prompt_states(run, [some[i] for i in graded]), scores, run.key)
        run.kept |= {f"{KEPT}{name}": value.clone() for name, value in head.state_dict().items()}
        values: list[float] = []
        for i in range(0, len(examples), _CHUNK):
            with torch.no_grad():
                values += head(*padded(prompt_states(run, examples[i : i + _CHUNK]))).tolist()
        return dict(zip((example.id for example in examples), values, strict=True))

    def fitted(
        self, states: Sequence[Float[Tensor, "_ D"]], scores: Float[Tensor, " P"], key: Int[Tensor, ""]
    ) -> ValueHead:
        """The head of the best epoch; every draw is a function of `key`."""
        width = states[0].shape[1]
        head = ValueHead(width, self.top, key)
        optimizer = torch.optim.AdamW(head.parameters(), lr=self.lr)
        best, least = head.state_dict(), math.inf
        for epoch in range(self.epochs):
            order = uniforms(key + _ORDER, torch.tensor([epoch]), len(states))[0].argsort()
            for rows in order.split(_BATCH):
                draws = uniforms(key + _DROP, rows, 2 * width, offset=2 * width * epoch).view(-1, 2, width)
                kept = (draws >= self.dropout).double() / (1 - self.dropout)
                said = head(*padded([states[int(i)] for i in rows]), kept)
                optimizer.zero_grad()
                nn.functional.mse_loss(said, scores[rows]).backward()
                optimizer.step()
            error = self._error(head, states, scores)
            if error < least:
                best, least = {name: value.clone() for name, value in head.state_dict().items()}, error
        head.load_state_dict(best)
        return head

    @torch.no_grad()
    def _error(self, head: ValueHead, states: Sequence[Tensor], scores: Tensor) -> float:
        rows = torch.arange(len(states)).split(_CHUNK)
        said = torch.cat([head(*padded([states[int(i)] for i in some])) for some in rows])
        return (said - scores).square().mean().item()


def scorable(run: Any) -> list[Example]:
    """The prompts with an answer, of the held-out split where there is one, else of the training data; InputError."""
    task = run.verifier.task
    examples = task.split("heldout") if "heldout" in task.splits else run.examples
    there = [example for example in looked_at(examples) if example.answer is not None]
    if not there:
        raise InputError(NO_ANSWERS)
    return there


NO_ANSWERS = (
    "the value of the start weights is learned from scored answers, and no prompt has an answer to score by: name rows "
    "of prompt and answer by data_heldout, or set collect.prompts.baseline=group_mean"
)


def prompt_states(run: Any, examples: Sequence[Example]) -> list[Float[Tensor, "_ D"]]:
    """The policy's last hidden states at every token of each prompt."""
    found: list[Tensor] = []
    for i in range(0, len(examples), _CHUNK):
        rows = run.prompt_rows(examples[i : i + _CHUNK]).ids
        column = run.score(as_actions(rows, run.key), also=(STATES,)).column(STATES.name)
        found += [states[: len(ids)].clone() for states, ids in zip(column, rows, strict=True)]
    return found


def as_actions(rows: Sequence[tuple[int, ...]], key: Int[Tensor, ""]) -> Batch:
    """A batch whose actions are seen at every token of `rows`: each is the token after it, that after the last is 0."""
    count = len(rows)
    tokens = [torch.tensor([*ids[1:], 0]) for ids in rows]
    action = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    mask = torch.arange(action.shape[1]) < torch.tensor([len(ids) for ids in rows])[:, None]
    zeros, none = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
    return Batch(
        action=action,
        mask=mask,
        uid=torch.arange(count),
        group=torch.arange(count),
        success=none,
        graded=none,
        score=zeros,
        prompt=PromptRows(tuple((ids[0],) for ids in rows)),
        key=key,
    )


def padded(states: Sequence[Float[Tensor, "_ D"]]) -> tuple[Float[Tensor, "P S D"], Bool[Tensor, "P S"]]:
    """(states filled up with zeros, mask of the real ones)."""
    size = torch.tensor([len(one) for one in states])
    table = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
    return table, torch.arange(table.shape[1]) < size[:, None]
