"""Stop strings: a response ends with the token whose text completes one of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class StopWatch:
    """Watches the rows of one block. Decodes a row only after a token that can complete a stop string."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: tuple[str, ...],
        suspects: Bool[Tensor, " V"],
        tokens: Int[Tensor, "B M"],
    ) -> None:
        """`suspects` from `suspect_tokens`; `tokens` is room for what the rows draw."""
        self.tokenizer = tokenizer
        self.stop = stop
        self.suspects = suspects
        self.tokens = tokens
        self.steps = 0
        self.texts: dict[int, str] = {}

    def step(self, row: Int[Tensor, " R"], token: Int[Tensor, " R"], alive: Bool[Tensor, " R"]) -> Bool[Tensor, " R"]:
        """Rows that this step's tokens stop; their texts, cut right after the stop string, go to `texts`."""
        self.tokens[row, self.steps] = token
        self.steps += 1
        stopped = torch.zeros_like(alive)
        places = (alive & self.suspects[token]).nonzero()[:, 0]
        if len(places):
            rows = row[places]
            drawn = self.tokens[rows, : self.steps].tolist()
            texts = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
            cuts = [self._cut(text) for text in texts]
            stopped[places] = torch.tensor([cut is not None for cut in cuts], device=alive.device)
            self.texts.update((i, cut) for i, cut in zip(rows.tolist(), cuts, strict=True) if cut is not None)
        return stopped

    def _cut(self, text: str) -> str | None:
        ends = [text.find(stop) + len(stop) for stop in self.stop if stop in text]
        return text[: min(ends)] if ends else None


def suspect_tokens(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...], vocabulary: int) -> Bool[Tensor, " V"]:
    """Tokens that can complete a stop string: their text holds the last character of one, or a broken character.

    A token is decoded alone and twice in a row, for decoders strip white space from the first token of a text.
    """
    last = {text[-1] for text in stop} | {"\N{REPLACEMENT CHARACTER}"}
    known = min(len(tokenizer), vocabulary)
    suspects = torch.zeros(vocabulary, dtype=torch.bool)
    for repeats in (1, 2):
        pieces = tokenizer.batch_decode([[token] * repeats for token in range(known)], skip_special_tokens=True)
        suspects[:known] |= torch.tensor([not last.isdisjoint(piece) for piece in pieces])
    return suspects
