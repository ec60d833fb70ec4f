"""One layer's keys and values of a block: the prompts', and the responses' in buffers with room to grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

_FIRST_ROOM = 64  # response tokens that a buffer starts with; it doubles from there


@dataclass(eq=False)
class Rows:
    """What the layers share. level: the rows' common length, None where lengths differ. width: the longest plus one."""

    slots: int
    max_tokens: int
    level: int | None
    width: int
    index: Int[Tensor, " R"]
    length: Int[Tensor, " R"]
    latest: GrowingLayer | None = None

    def longer(self) -> None:
        """Makes room for one more token in each row."""
        self.length = self.length + 1
        if self.level is not None:
            self.level += 1
        self.width = 1 + (int(self.length.max()) if self.level is None else self.level)


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` (transformers' extension point) with room to grow.

    Column 0 of the responses is left for what a row takes from its prompt; a row's first token is in column 1.
    """

    prompt_keys: Float[Tensor, "P H L D"]
    prompt_values: Float[Tensor, "P H L E"]
    own_keys: Float[Tensor, "S H M D"]
    own_values: Float[Tensor, "S H M E"]

    def __init__(self, rows: Rows) -> None:
        """Empty; `join` brings prompts."""
        super().__init__()
        self.rows = rows

    def join(self, keys: Float[Tensor, "P H L D"], values: Float[Tensor, "P H L E"], width: int) -> None:
        """Adds prompts, all of them then padded at the left to `width`."""
        keys, values = (_padded(_narrow(states), width) for states in (keys, values))
        if self.is_initialized:
            keys = torch.cat((_padded(self.prompt_keys, width), keys))
            values = torch.cat((_padded(self.prompt_values, width), values))
        else:
            room = 1 + min(self.rows.max_tokens, _FIRST_ROOM)
            self.own_keys, self.own_values = (
                states.new_zeros(self.rows.slots, states.shape[1], room, states.shape[3]) for states in (keys, values)
            )
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.prompt_keys, self.prompt_values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Adds one token to each row; the responses so far (views of the buffers)."""
        shared, count = self.rows, len(key_states)
        if shared.width > self.own_keys.shape[2]:
            self.own_keys, self.own_values = (self._grown(states, count) for states in (self.own_keys, self.own_values))
        for buffer, states in ((self.own_keys, key_states), (self.own_values, value_states)):
            if shared.level is None:
                buffer[shared.index, :, shared.length] = states[:, :, 0].to(buffer.dtype)
            else:
                buffer[:count, :, shared.level] = states[:, :, 0]
        self.keys, self.values = self.own_keys[:count, :, : shared.width], self.own_values[:count, :, : shared.width]
        shared.latest = self
        return self.keys, self.values

    def _grown(self, states: Tensor, rows: int) -> Tensor:
        slots = self.rows.slots if self.rows.level is None else rows
        room = min(2 * states.shape[2], 1 + self.rows.max_tokens)
        buffer = states.new_zeros(slots, states.shape[1], room, states.shape[3])
        buffer[:rows, :, : states.shape[2]] = states[:rows]
        return buffer

    def get_seq_length(self) -> int:
        """Tokens held by the longest row, without its prompt."""
        return self.rows.width - 1

    def move(self, source: Int[Tensor, " M"], target: Int[Tensor, " M"]) -> None:
        """Copies the responses of the rows `source` to the places `target`."""
        width = self.rows.width
        for buffer in (self.own_keys, self.own_values):
            buffer[target, :, :width] = buffer[source, :, :width]

    def keep_prompts(self, kept: Int[Tensor, " Q"], first: int) -> None:
        """Keeps the prompts `kept`, from column `first` on."""
        self.prompt_keys = self.prompt_keys[:, :, first:].index_select(0, kept)
        self.prompt_values = self.prompt_values[:, :, first:].index_select(0, kept)


def _padded(states: Float[Tensor, "P H L D"], width: int) -> Float[Tensor, "P H W D"]:
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0)).contiguous()


def _narrow(states: Tensor) -> Tensor:
    """`states` as autocast's products would cast them, so that they are not cast at every token."""
    kind = states.device.type
    if states.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return states.to(torch.get_autocast_dtype(kind))
    return states
