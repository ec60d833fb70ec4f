"""Stop strings: a response ends with the token whose text completes one of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def cut(text: str, stop: tuple[str, ...]) -> str | None:
    """`text` up to the end of the stop string that ends first, None where there is none in it."""
    ends = [text.find(one) + len(one) for one in stop if one in text]
    return text[: min(ends)] if ends else None


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
        self.texts: dict[int, str] = {}

    def step(
        self, row: Int[Tensor, " R"], at: Int[Tensor, " R"], token: Int[Tensor, " R"], alive: Bool[Tensor, " R"]
    ) -> Bool[Tensor, " R"]:
        """Rows that these tokens, at their places `at`, stop; their texts, cut after the stop string, go to `texts`."""
        self.tokens[row, at] = token
        stopped = torch.zeros_like(alive)
        places = (alive & self.suspects[token]).nonzero()[:, 0]
        if len(places):
            rows = row[places]
            ends = at[places].tolist()
            drawn = [self.tokens[i, : end + 1].tolist() for i, end in zip(rows.tolist(), ends, strict=True)]
            texts = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
            cuts = [cut(text, self.stop) for text in texts]
            stopped[places] = torch.tensor([one is not None for one in cuts], device=alive.device)
            self.texts.update((i, one) for i, one in zip(rows.tolist(), cuts, strict=True) if one is not None)
        return stopped


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
