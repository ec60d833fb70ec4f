"""The decoding loop: one prefill a prompt, then one token a step for all rows of a block, without the finished ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from rekindle.errors import InputError
from rekindle.tokens.heads import split, unwrapped
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.cache import decoding, empty_cache, growing, is_plain
from rekindle.tokens.sampling.draw import Draw, draw
from rekindle.tokens.sampling.stops import StopWatch

_DROP_SHARE = 0.25  # share of finished rows at which the cache is copied without them

Prompts = Sequence[tuple[int, ...]]


@dataclass(eq=False)
class Live:
    """The rows that are still in the cache. `mask` is None where no prompt of the block is padded."""

    cache: DynamicCache
    mask: Bool[Tensor, "R L"] | None
    row: Int[Tensor, " R"]
    alive: Bool[Tensor, " R"]
    position: Int[Tensor, " R"]
    uniform: Float64[Tensor, "R M"]

    def drop(self, token: Int[Tensor, " R"], left: int) -> Int[Tensor, " K"]:
        """Drops the finished rows once they are a useful share of all; the `token`s of those that stay."""
        if len(self.alive) - left < _DROP_SHARE * len(self.alive):
            return token
        keep = self.alive.nonzero()[:, 0]
        self.cache.batch_select_indices(keep)
        self.mask = None if self.mask is None else self.mask[keep]
        self.row, self.alive, self.position, self.uniform = (
            column[keep] for column in (self.row, self.alive, self.position, self.uniform)
        )
        return token[keep]


@dataclass(frozen=True, eq=False)
class Trace:
    """What a block drew: one entry a step, of the rows that were in the cache then."""

    row: list[Tensor] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)
    draw: list[Draw] = field(default_factory=list)

    def add(self, live: Live, drawn: Draw) -> None:
        """Records one step."""
        self.row.append(live.row)
        self.alive.append(live.alive)
        self.draw.append(drawn)

    def tables(self, rows: int) -> tuple[Draw, Int[Tensor, " B"]]:
        """All steps as a `Draw` of [B T] tensors, 0 behind a row's end, and the rows' lengths."""
        alive, row = torch.cat(self.alive), torch.cat(self.row)
        step = torch.cat([torch.full_like(part, step) for step, part in enumerate(self.row)])
        row, step = row[alive], step[alive]
        tables = []
        for column in zip(*self.draw, strict=True):
            values = torch.cat(column)[alive]
            zeros = torch.zeros(rows, len(self.row), dtype=values.dtype, device=values.device)
            tables.append(zeros.index_put((row, step), values))
        return Draw(*tables), torch.bincount(row, minlength=rows)


class Decoder:
    """Runs `model` token by token, with the weights that it has at the moment."""

    def __init__(self, model: nn.Module) -> None:
        """Raises `InputError` where the logits cannot be reproduced or decoding differs from a whole forward pass."""
        self.model = model
        self.parts = split(model)
        with torch.no_grad(), evaluating(model):
            self.plain = is_plain(model) and self._agrees(plain=True)
            if not self.plain and not self._agrees(plain=False):
                raise InputError(
                    f"architecture '{type(unwrapped(model)).__name__}' does not decode as it scores "
                    "(other results token by token than at once): use another architecture"
                )

    def run(
        self,
        prompts: Prompts,
        settings: Sampling,
        uniform: Float64[Tensor, "B M"],
        ends: Bool[Tensor, " V"],
        watch: StopWatch | None,
    ) -> Trace:
        """Responses of one block, on the model's device, where `uniform` and `ends` lie too.

        `uniform` has len(uniform) / len(prompts) consecutive rows for each prompt. Raises `GuardStop` on logits that
        are not finite.
        """
        live, hidden = self.prefill(prompts, uniform, self.plain)
        trace = Trace()
        with decoding(self.model, self.plain):
            for step in range(settings.max_tokens):
                drawn = draw(self.parts.logits(hidden), live.uniform[:, step], settings, step)
                trace.add(live, drawn)
                live.alive = live.alive & ~ends[drawn.token]
                if watch is not None:
                    live.alive = live.alive & ~watch.step(live.row, drawn.token, live.alive)
                left = int(live.alive.sum())
                if left == 0 or step + 1 == settings.max_tokens:
                    break
                hidden = self.forward(live, live.drop(drawn.token, left), self.plain)
        return trace

    def prefill(
        self, prompts: Prompts, uniform: Float64[Tensor, "B M"], plain: bool
    ) -> tuple[Live, Float[Tensor, "B D"]]:
        """A left-padded block, every prompt run once and its cache then repeated; also the last hidden states."""
        n, width, device = len(uniform) // len(prompts), max(len(ids) for ids in prompts), self.parts.device
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
        cache = empty_cache(self.model)
        out = self.parts.backbone(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        cache.batch_repeat_interleave(n)
        seen = torch.nn.functional.pad(mask.repeat_interleave(n, 0), (0, uniform.shape[1]), value=True)
        live = Live(
            cache=growing(cache, uniform.shape[1]) if plain else cache,
            mask=None if bool(mask.all()) else seen,
            row=torch.arange(len(uniform), device=device),
            alive=torch.ones(len(uniform), dtype=torch.bool, device=device),
            position=mask.sum(1).repeat_interleave(n),
            uniform=uniform,
        )
        return live, out.last_hidden_state[:, -1].repeat_interleave(n, 0)

    def forward(self, live: Live, token: Int[Tensor, " R"], plain: bool) -> Float[Tensor, "R D"]:
        """Appends one token to each row; the last hidden states."""
        seen = None if live.mask is None else live.mask[:, : live.cache.get_seq_length() + 1]
        out = self.parts.backbone(
            input_ids=token[:, None],
            attention_mask=seen[:, None, None, :] if plain and seen is not None else seen,
            position_ids=live.position[:, None],
            past_key_values=live.cache,
            use_cache=True,
            return_dict=True,
        )
        live.position = live.position + 1
        return out.last_hidden_state[:, -1]

    def _agrees(self, plain: bool) -> bool:
        """Whether two prompts of different length, repeated, then cut to some rows, decode as whole sequences do."""
        tokens = [(7 * i + 3) % self.parts.vocabulary for i in range(9)]
        uniform = torch.zeros(4, 3, dtype=torch.float64, device=self.parts.device)
        live, hidden = self.prefill([tuple(tokens[:6]), tuple(tokens[1:4])], uniform, plain)
        ends = [hidden[[0, 2]]]
        live.alive[[1, 3]] = False
        with decoding(self.model, plain):
            for step in range(2):
                token = torch.tensor([tokens[6 + step], tokens[4 + step]], device=hidden.device)
                token = live.drop(token.repeat_interleave(2), left=2) if step == 0 else token
                ends.append(self.forward(live, token, plain))
        for step, end in enumerate(ends):
            for row, sequence in zip(end, (tokens[: 6 + step], tokens[1 : 4 + step]), strict=True):
                whole = self.parts.hidden(torch.tensor([sequence], device=row.device))[0, -1]
                scale = float(whole.abs().max())
                narrow = whole.dtype not in (torch.float32, torch.float64)
                if not float((row - whole).abs().max()) <= (0.1 if narrow else 1e-3) * scale:
                    return False
        return True


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while inside; every module gets back the mode that it had."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
