"""The decoding loop: one prefill a prompt, then one token a step for all live rows, without the finished ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from rekindle.errors import InputError
from rekindle.tokens.heads import SplitLM, split, unwrapped
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.cache import Repeated, decoding, empty_cache, is_plain
from rekindle.tokens.sampling.cascade import Cascade, Unreached
from rekindle.tokens.sampling.draw import Draw, draw
from rekindle.tokens.sampling.stops import StopWatch

_DROP_SHARE = 0.25  # share of finished rows at which the prompt's copies in the cache are copied without them
_CASCADE_DROP_SHARE = 0.02  # the same where a row's own response is all there is to copy

Prompts = Sequence[tuple[int, ...]]


@dataclass(eq=False)
class Live:
    """The rows that are in the cache. `length`: tokens that they have drawn; `row`: their place in the tables."""

    store: Cascade | Repeated
    row: Int[Tensor, " R"]
    alive: Bool[Tensor, " R"]
    position: Int[Tensor, " R"]
    length: Int[Tensor, " R"]

    def drop(self, token: Int[Tensor, " R"], left: int, share: float) -> Int[Tensor, " K"]:
        """Drops the finished rows once they are a useful `share` of all; the `token`s of those that stay."""
        if len(self.alive) - left < share * len(self.alive) or left == len(self.alive):
            return token
        order = torch.arange(left, device=token.device)
        order[(~self.alive[:left]).nonzero()[:, 0]] = self.alive[left:].nonzero()[:, 0] + left  # rows move into holes
        self.store.keep(order)
        self.row, self.alive, self.position, self.length = (
            column[order] for column in (self.row, self.alive, self.position, self.length)
        )
        return token[order]

    def extend(self, first: int, n: int, seen: Bool[Tensor, "P L"]) -> None:
        """Rows from `first` on, `n` for each of the prompts `seen`."""
        size = seen.sum(1).repeat_interleave(n)
        row = torch.arange(first, first + len(size), device=seen.device)
        more = (row, torch.ones_like(row, dtype=torch.bool), size, torch.zeros_like(row))
        self.row, self.alive, self.position, self.length = (
            torch.cat(pair) for pair in zip((self.row, self.alive, self.position, self.length), more, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Trace:
    """What a block drew: one entry a step, of the rows that were in the cache then."""

    row: list[Tensor] = field(default_factory=list)
    place: list[Tensor] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)
    draw: list[Draw] = field(default_factory=list)

    def add(self, live: Live, drawn: Draw) -> None:
        """Records one step."""
        self.row.append(live.row)
        self.place.append(live.length)
        self.alive.append(live.alive)
        self.draw.append(drawn)

    def tables(self, rows: int) -> tuple[Draw, Int[Tensor, " B"]]:
        """All steps as a `Draw` of [B T] tensors, 0 behind a row's end, and the rows' lengths."""
        alive = torch.cat(self.alive)
        row, place = torch.cat(self.row)[alive], torch.cat(self.place)[alive]
        size = torch.bincount(row, minlength=rows)
        tables = []
        for column in zip(*self.draw, strict=True):
            values = torch.cat(column)[alive]
            zeros = torch.zeros(rows, int(size.max()), dtype=values.dtype, device=values.device)
            tables.append(zeros.index_put((row, place), values))
        return Draw(*tables), size


class Decoder:
    """Runs `model` token by token, with the weights that it has at the moment.

    plain: whether its rows share the keys and values of their prompt, which is faster.
    """

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
        """Responses to `prompts`, on the model's device, where `uniform` and `ends` lie too.

        `uniform` has len(uniform) / len(prompts) consecutive rows for each prompt. More prompts than
        settings.block wait until there is room for their rows (only where the decoder is `plain`). Raises `GuardStop`
        on logits that are not finite.
        """
        n, room, trace = len(uniform) // len(prompts), settings.block, Trace()
        live, hidden = self.start(prompts[:room], n, settings.max_tokens, self.plain, ragged=len(prompts) > room)
        share = 0.0 if len(prompts) > room else _CASCADE_DROP_SHARE if self.plain else _DROP_SHARE
        waiting = prompts[room:]
        while True:
            drawn = draw(self.parts.logits(hidden), uniform[live.row, live.length], settings, live.length)
            trace.add(live, drawn)
            live.alive = live.alive & ~ends[drawn.token]
            if watch is not None:
                live.alive = live.alive & ~watch.step(live.row, live.length, drawn.token, live.alive)
            live.alive = live.alive & (live.length < settings.max_tokens - 1)
            left = int(live.alive.sum())
            if left == 0 and not waiting:
                return trace
            token = live.drop(drawn.token, left, share)
            hidden = self.forward(live, token) if left else hidden[:0]
            room = settings.block - -(-len(live.row) // n)
            if waiting and room:
                hidden = torch.cat((hidden, self.admit(live, waiting[:room], len(uniform) - len(waiting) * n, n)))
                waiting = waiting[room:]

    def start(
        self, prompts: Prompts, n: int, max_tokens: int, plain: bool, ragged: bool
    ) -> tuple[Live, Float[Tensor, "B D"]]:
        """`n` rows for each of `prompts`, and their last hidden states. ragged: others are to be admitted later."""
        none = torch.zeros(0, dtype=torch.int64, device=self.parts.device)
        if plain:
            store = Cascade(empty_cache(self.model), len(prompts) * n, max_tokens, ragged)
            live = Live(store, none, none.bool(), none, none)
            return live, self.admit(live, prompts, 0, n)
        cache, seen, hidden = prefill(self.model, self.parts, prompts)
        live = Live(Repeated(cache, seen, n), none, none.bool(), none, none)
        live.extend(0, n, seen)
        return live, hidden.repeat_interleave(n, 0)

    def admit(self, live: Live, prompts: Prompts, first: int, n: int) -> Float[Tensor, "B D"]:
        """Adds `n` rows, from `first` on, for each of `prompts`; their last hidden states."""
        cache, seen, hidden = prefill(self.model, self.parts, prompts)
        assert isinstance(live.store, Cascade)
        live.store.join(cache, seen, n)
        live.extend(first, n, seen)
        return hidden.repeat_interleave(n, 0)

    def forward(self, live: Live, token: Int[Tensor, " R"]) -> Float[Tensor, "R D"]:
        """Appends one token to each row; the last hidden states."""
        with decoding(self.model) if isinstance(live.store, Cascade) else nullcontext():
            out = self.parts.backbone(
                input_ids=token[:, None],
                position_ids=live.position[:, None],
                use_cache=True,
                return_dict=True,
                **live.store.inputs(),
            )
        live.position, live.length = live.position + 1, live.length + 1
        return out.last_hidden_state[:, -1]

    def _agrees(self, plain: bool) -> bool:
        """Whether two prompts of different length, repeated, then cut to some rows, decode as whole sequences do."""
        tokens = [(7 * i + 3) % self.parts.vocabulary for i in range(9)]
        try:
            ends = self._probed(tokens, plain)
        except (Unreached, TypeError, ValueError, RuntimeError):  # of a model that takes another kind of cache
            return False
        for step, end in enumerate(ends):
            for row, sequence in zip(end, (tokens[: 6 + step], tokens[1 : 4 + step]), strict=True):
                whole = self.parts.hidden(torch.tensor([sequence], device=row.device))[0, -1]
                scale = float(whole.abs().max())
                narrow = whole.dtype not in (torch.float32, torch.float64)
                if not float((row - whole).abs().max()) <= (0.1 if narrow else 1e-3) * scale:
                    return False
        return True

    def _probed(self, tokens: Sequence[int], plain: bool) -> list[Float[Tensor, "2 D"]]:
        """Last hidden states of tokens[:6] and tokens[1:4], then with one and two tokens more."""
        live, hidden = self.start([tuple(tokens[:6]), tuple(tokens[1:4])], 2, 3, plain, ragged=False)
        ends = [hidden[[0, 2]]]
        live.alive[[1, 3]] = False
        for step in range(2):
            token = torch.tensor([tokens[6 + step], tokens[4 + step]], device=hidden.device)
            token = live.drop(token.repeat_interleave(2), 2, 0.0) if step == 0 else token
            ends.append(self.forward(live, token))
        return ends


def prefill(
    model: nn.Module, parts: SplitLM, prompts: Prompts
) -> tuple[DynamicCache, Bool[Tensor, "P L"], Float[Tensor, "P D"]]:
    """The left-padded prompts run once each: their cache, where they are, and their last hidden states."""
    width, device = max(len(ids) for ids in prompts), parts.device
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    seen = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    cache = empty_cache(model)
    out = parts.backbone(
        input_ids=ids,
        attention_mask=seen,
        position_ids=(seen.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
    )
    return cache, seen, out.last_hidden_state[:, -1]


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
