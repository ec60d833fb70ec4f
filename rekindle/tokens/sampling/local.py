"""Sampling in this process, from the model that is being trained: no second copy of the weights, nothing to push.

Only the decoding happens on the model's device; the rollouts are on the CPU, where the texts are graded anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rekindle.core.random import uniforms
from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.heads import Precision, precise, unwrapped
from rekindle.tokens.loader import context_length, eos_ids
from rekindle.tokens.mixture import refuse_unmixable
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.decode import Decoder, Prompts, evaluating
from rekindle.tokens.sampling.draw import Draw
from rekindle.tokens.sampling.laid_out import laid_out
from rekindle.tokens.sampling.rules import special_ids
from rekindle.tokens.sampling.stepwise import Block, Lane, Ruled, stepwise
from rekindle.tokens.sampling.stops import StopWatch, suspect_tokens


@dataclass(frozen=True, eq=False)
class Rows:
    """The prompts of a block and the group of each of its rows."""

    prompts: Prompts
    group: Int[Tensor, " B"]
    settings: Sampling
    key: Int[Tensor, ""]

    @property
    def n(self) -> int:
        """Rows of a prompt."""
        return len(self.group) // len(self.prompts)

    @property
    def uid(self) -> Int[Tensor, " B"]:
        """The id of each row."""
        return self.group * self.n + torch.arange(self.n).repeat(len(self.prompts))


class LocalSampler:
    """Draws responses from `model` with the weights that it has at the moment of the call.

    `encode` turns an example into prompt tokens; without one the tokenizer encodes the prompt as it is. precision: as
    that of the policy, for log-probs of like numbers.
    """

    apart: float | None = None

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        encode: Callable[[Example], list[int]] | None = None,
        precision: Precision = "full",
    ) -> None:
        """Raises `InputError` on a model whose logits or whose cache the decoding loop cannot handle."""
        self.model = model
        self.tokenizer = tokenizer
        self.encode = encode
        self.precision: Precision = precision
        self.decoder = Decoder(model)
        self.ends = eos_ids(unwrapped(model), tokenizer)
        self.context = context_length(unwrapped(model))
        self._suspects: dict[tuple[str, ...], Tensor] = {}

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """`n` responses to each example; see `Sampler`. The train mode is restored.

        Raises `InputError` where there is nothing to sample, on an empty prompt and on one that leaves no room, and
        `GuardStop` on logits that are not finite.
        """
        size = len(examples) if settings.admit and self.decoder.plain else settings.block
        return self._sampled(examples, n, settings, (key, first_group, size), None)

    def stepwise(
        self,
        examples: Sequence[Example],
        n: int,
        settings: Sampling,
        key: Int[Tensor, ""],
        first_group: int,
        by: Ruled,
    ) -> Rollouts:
        """The same with every token drawn by a rule; block by block, whatever `settings.admit` is."""
        if by.rule.mixes:
            refuse_unmixable(self.model)
        return self._sampled(examples, n, settings, (key, first_group, settings.block), by)

    @torch.no_grad()
    def _sampled(
        self,
        examples: Sequence[Example],
        n: int,
        settings: Sampling,
        how: tuple[Int[Tensor, ""], int, int],
        by: Ruled | None,
    ) -> Rollouts:
        """how: the key, the first group, and the prompts of a block."""
        if not examples or n < 1:
            raise InputError(f"{len(examples)} prompts with {n} responses each: sample at least one of both")
        prompts = [self._encoded(example, settings.max_tokens) for example in examples]
        key, first_group, size = how
        blocks = []
        with precise(self.precision, self.decoder.parts.device), evaluating(self.model), laid_out(self.model):
            for start in range(0, len(examples), size):
                part = slice(start, start + size)
                group = torch.arange(start, min(part.stop, len(examples))) + first_group
                rows = Rows(prompts[part], group.repeat_interleave(n), settings, key)
                blocks.append(self._block(examples[part], rows, by))
        return Rollouts.concat(blocks)

    def push(self) -> Metrics:
        """Nothing to do: there is one copy of the weights."""
        return {}

    def rest(self) -> None:
        """Nothing to do: nothing is held between two calls."""

    def close(self) -> None:
        """Nothing to do."""

    def _encoded(self, example: Example, max_tokens: int) -> tuple[int, ...]:
        ids = self.encode(example) if self.encode else self.tokenizer(example.prompt).input_ids
        if not ids:
            raise InputError(f"the prompt of example '{example.id}' has no tokens: give it text or a BOS token")
        if self.context is not None and len(ids) + max_tokens > self.context:
            raise InputError(
                f"the prompt of example '{example.id}' has {len(ids)} tokens, which with max_tokens={max_tokens} is "
                f"above the model's context of {self.context}: shorten or drop it, or lower sampling.max_tokens"
            )
        return tuple(ids)

    def _block(self, examples: Sequence[Example], rows: Rows, by: Ruled | None) -> Rollouts:
        room = torch.zeros(len(rows.uid), rows.settings.max_tokens, dtype=torch.int64, device=self.decoder.parts.device)
        watch = self._watch(rows.settings.stop, room)
        drawn, size, extra = self._free(rows, watch) if by is None else self._ruled(rows, by, watch)
        text, finish = self._texts(drawn.token, size, watch)
        mask = torch.arange(drawn.token.shape[1]) < size[:, None]
        return Rollouts(
            example=[example for example in examples for _ in range(rows.n)],
            prompt=PromptRows(tuple(ids for ids in rows.prompts for _ in range(rows.n))),
            ids=drawn.token,
            mask=mask & ~extra.pop("forced") if by is not None else mask,
            logp=drawn.logp,
            logp_sampled=drawn.logp_sampled,
            entropy=drawn.entropy,
            text=text,
            finish=finish,
            group=rows.group,
            uid=rows.uid,
            extra=extra,
        )

    def _free(self, rows: Rows, watch: StopWatch | None) -> tuple[Draw, Tensor, dict[str, Tensor]]:
        trace = self.decoder.run(rows.prompts, rows.settings, self._uniform(rows), self._end_table(), watch)
        tables, length = trace.tables(len(rows.uid))
        return Draw(*(column.cpu() for column in tables)), length.cpu(), {}

    def _ruled(self, rows: Rows, by: Ruled, watch: StopWatch | None) -> tuple[Draw, Tensor, dict[str, Tensor]]:
        models = {"policy": self.model, **by.beside}
        lanes = {name: Lane(weights, rows.prompts, rows.n) for name, weights in models.items()}
        length = torch.tensor([len(ids) for ids in rows.prompts], device=self.decoder.parts.device)
        ends, special = self._end_table(), special_ids(self.tokenizer)
        block = Block(rows.settings, rows.key, rows.uid, self._uniform(rows), ends, special)
        tables = stepwise(lanes, length.repeat_interleave(rows.n), block, by.rule, watch)
        drawn, extra = tables.drawn()
        return drawn, tables.size.cpu(), extra

    def _uniform(self, rows: Rows) -> Tensor:
        return uniforms(rows.key, rows.uid, rows.settings.max_tokens).to(self.decoder.parts.device)

    def _watch(self, stop: tuple[str, ...], tokens: Tensor) -> StopWatch | None:
        if not stop:
            return None
        parts = self.decoder.parts
        if stop not in self._suspects:
            self._suspects[stop] = suspect_tokens(self.tokenizer, stop, parts.vocabulary).to(parts.device)
        return StopWatch(self.tokenizer, stop, self._suspects[stop], tokens)

    def _end_table(self) -> Tensor:
        table = torch.zeros(self.decoder.parts.vocabulary, dtype=torch.bool, device=self.decoder.parts.device)
        table[[token for token in self.ends if token < len(table)]] = True
        return table

    def _texts(self, ids: Tensor, size: Tensor, watch: StopWatch | None) -> tuple[list[str], list[str]]:
        rows = [row[:length] for row, length in zip(ids.tolist(), size.tolist(), strict=True)]
        text = list(self.tokenizer.batch_decode(rows, skip_special_tokens=True))
        finish = ["eos" if row[-1] in self.ends else "length" for row in rows]
        for row, cut in watch.texts.items() if watch is not None else ():
            text[row], finish[row] = cut, "stop"
        return text, finish
