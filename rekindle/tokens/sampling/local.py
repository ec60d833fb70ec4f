"""Sampling in this process, from the model that is being trained: no second copy of the weights, nothing to push.

Only the decoding happens on the model's device; the rollouts are on the CPU, where the texts are graded anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rekindle.core.random import uniforms
from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.heads import Precision, precise, unwrapped
from rekindle.tokens.loader import context_length, eos_ids
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.decode import Decoder, Prompts, evaluating
from rekindle.tokens.sampling.draw import Draw
from rekindle.tokens.sampling.laid_out import laid_out
from rekindle.tokens.sampling.stops import StopWatch, suspect_tokens


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

    @torch.no_grad()
    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """`n` responses to each example; see `Sampler`. The train mode is restored.

        Raises `InputError` where there is nothing to sample, on an empty prompt and on one that leaves no room, and
        `GuardStop` on logits that are not finite.
        """
        if not examples or n < 1:
            raise InputError(f"{len(examples)} prompts with {n} responses each: sample at least one of both")
        prompts = [self._encoded(example, settings.max_tokens) for example in examples]
        blocks = []
        size = len(examples) if settings.admit and self.decoder.plain else settings.block
        with precise(self.precision, self.decoder.parts.device), evaluating(self.model), laid_out(self.model):
            for start in range(0, len(examples), size):
                part = slice(start, start + size)
                group = torch.arange(start, min(part.stop, len(examples))) + first_group
                blocks.append(self._block(examples[part], prompts[part], group.repeat_interleave(n), settings, key))
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

    def _block(
        self, examples: Sequence[Example], prompts: Prompts, group: Tensor, settings: Sampling, key: Int[Tensor, ""]
    ) -> Rollouts:
        n, device = len(group) // len(prompts), self.decoder.parts.device
        uid = group * n + torch.arange(n).repeat(len(prompts))
        uniform = uniforms(key, uid, settings.max_tokens).to(device)
        watch = self._watch(settings.stop, torch.zeros(uniform.shape, dtype=torch.int64, device=device))
        tables, length = self.decoder.run(prompts, settings, uniform, self._end_table(), watch).tables(len(uid))
        drawn, size = Draw(*(column.cpu() for column in tables)), length.cpu()
        text, finish = self._texts(drawn.token, size, watch)
        return Rollouts(
            example=[example for example in examples for _ in range(n)],
            prompt=PromptRows(tuple(ids for ids in prompts for _ in range(n))),
            ids=drawn.token,
            mask=torch.arange(drawn.token.shape[1]) < size[:, None],
            logp=drawn.logp,
            logp_sampled=drawn.logp_sampled,
            entropy=drawn.entropy,
            text=text,
            finish=finish,
            group=group,
            uid=uid,
        )

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
