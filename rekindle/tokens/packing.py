"""Real tokens only: a micro-batch as one long row in which every prompt stands once, and its responses after it.

Linear layers then compute no padding, and no prompt twice. Attention alone works on padded rows, in buckets of like
length: a prompt attends to itself, a response to its prompt and to itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.errors import InputError

Prompts = Sequence[tuple[int, ...]]
Soft = tuple[Int[Tensor, "B T K"], Float[Tensor, "B T K"]]
"""Token ids and weights of the mixture that stands in place of each action when later ones are predicted."""
SHORT = 256
"""Keys a row up to which attention as plain matrix products beats the fused kernel on a CPU."""
_LIKE, _ROWS = 0.7, 8  # a bucket of at least so many rows ends at a row that is shorter than this share of its longest


@dataclass(frozen=True, eq=False)
class Bucket:
    """R rows that attend together: `query` and `key` are tokens by place, `mask` what sees what (None: causal).

    A pad is token 0; it is seen by nothing that counts, and what it sees is dropped.
    """

    query: Int[Tensor, "R Q"]
    key: Int[Tensor, "R W"]
    mask: Bool[Tensor, "R 1 Q W"] | None = None


@dataclass(frozen=True, eq=False)
class Mix:
    """Tokens at `place` whose input is sum_k weight * embedding of `ids` in place of their own embedding."""

    place: Int[Tensor, " S"]
    ids: Int[Tensor, "S K"]
    weight: Float[Tensor, "S K"]


@dataclass(frozen=True, eq=False)
class Packing:
    """N tokens of a micro-batch. flat: the tokens whose hidden states predict `action`. mix: None where all are plain.

    home: where a token's attention output is among those of all `buckets`, each [R Q] flattened, one after another.
    """

    ids: Int[Tensor, " N"]
    position: Int[Tensor, " N"]
    buckets: tuple[Bucket, ...]
    home: Int[Tensor, " N"]
    flat: Int[Tensor, " M"]
    action: Int[Tensor, " M"]
    mix: Mix | None = None


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Runs of tokens: `length` of them from `start`, after `before` others (their prompt) from `prompt`."""

    start: Int[Tensor, " S"]
    length: Int[Tensor, " S"]
    prompt: Int[Tensor, " S"]
    before: Int[Tensor, " S"]

    def take(self, rows: Tensor) -> _Pieces:
        return _Pieces(self.start[rows], self.length[rows], self.prompt[rows], self.before[rows])


def pack(
    prompts: Prompts,
    action: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    device: torch.device | str = "cpu",
    *,
    whole: bool = False,
    soft: Soft | None = None,
) -> Packing:
    """The tokens that the actions under `mask` are predicted from; no row's last action is among them.

    Prompts are told apart by their tokens. whole: one bucket, in which every row of the batch stands with its prompt.
    soft: of actions whose input is a mixture; one with weights of 0 is none.
    No rows at all give one token that nothing looks at. Raises `InputError` on an empty prompt whose first token is an
    action: nothing predicts it.
    """
    action, mask = action.cpu(), mask.cpu()
    different, which = distinct(prompts)
    size = torch.tensor([len(ids) for ids in different], dtype=torch.int64)
    own, fed = size[which], (_context(mask) - 1).clamp(min=0)
    if bool((mask[:, :1].any(dim=1) & (own == 0)).any()):
        raise InputError("a prompt has no tokens, so nothing predicts its first action: prepend a BOS token")
    start = torch.cumsum(torch.cat((size, fed)), 0) - torch.cat((size, fed))
    asked, answer = _Pieces(start[: len(size)], size, size * 0, size * 0), start[len(size) :]
    answers = _Pieces(answer, fed, start[which], own)
    told = torch.tensor([token for ids in different for token in ids], dtype=torch.int64)
    answered = torch.arange(mask.shape[1]) < fed[:, None]
    ids = torch.cat((told, action[answered]))
    rows, columns = mask.nonzero(as_tuple=True)
    at = own[rows] + columns - 1  # the place in its row that predicts an action
    buckets, home = (
        _whole(answers, which, len(ids))
        if whole or not len(ids)
        else _bucketed(asked, answers, len(ids), SHORT if torch.device(device).type == "cpu" else 0)
    )
    runs = torch.cat((size, fed))
    shift = (torch.cat((size * 0, own)) - start).repeat_interleave(runs)
    found = (
        ids if len(ids) else torch.zeros(1, dtype=torch.int64),
        torch.arange(len(ids)) + shift if len(ids) else torch.zeros(1, dtype=torch.int64),
        home,
        torch.where(at < own[rows], start[which][rows], answer[rows] - own[rows]) + at,
        action[rows, columns],
    )
    ids, position, home, flat, action = (column.to(device) for column in found)
    on = tuple(_on(bucket, device) for bucket in buckets)
    return Packing(ids, position, on, home, flat, action, _mix(soft, answered, len(told), device))


def _mix(soft: Soft | None, answered: Bool[Tensor, "B T"], before: int, device: torch.device | str) -> Mix | None:
    if soft is None:
        return None
    ids, weight = (column.cpu()[answered] for column in soft)
    here = (weight != 0).any(dim=1).nonzero()[:, 0]
    return Mix((before + here).to(device), ids[here].to(device), weight[here].to(device)) if len(here) else None


def distinct(prompts: Prompts) -> tuple[list[tuple[int, ...]], Int[Tensor, " B"]]:
    """The different prompts in the order of their first row, and which of them each row has."""
    index: dict[tuple[int, ...], int] = {}
    which = [index.setdefault(ids, len(index)) for ids in prompts]
    return list(index), torch.tensor(which, dtype=torch.int64)


def _context(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Columns up to and including each row's last action; 0 for a row without one."""
    column = torch.arange(1, mask.shape[1] + 1)
    return (mask * column).amax(dim=1) if mask.shape[1] else mask.sum(dim=1)


def _whole(answers: _Pieces, which: Int[Tensor, " B"], tokens: int) -> tuple[list[Bucket], Int[Tensor, " N"]]:
    rows, place = _causal(answers)
    if not tokens:
        return [Bucket(rows[:1], rows[:1])], torch.zeros(1, dtype=torch.int64)
    first = torch.tensor([i == 0 or bool((which[:i] != which[i]).all()) for i in range(len(which))], dtype=torch.bool)
    mine = (place < (answers.before + answers.length)[:, None]) & (first[:, None] | (place >= answers.before[:, None]))
    home = torch.zeros(max(tokens, 1), dtype=torch.int64)
    home[rows[mine]] = torch.arange(rows.numel()).view_as(rows)[mine]
    return [Bucket(rows, rows)], home


def _bucketed(asked: _Pieces, answers: _Pieces, tokens: int, short: int) -> tuple[list[Bucket], Int[Tensor, " N"]]:
    buckets, offset = [], 0
    home = torch.zeros(max(tokens, 1), dtype=torch.int64)
    for pieces in (*_alike(asked), *_alike(answers)):
        widest, before = int(pieces.length.max()), int(pieces.before.max())
        skipped = pieces.before * 0
        if before == 0 or short - before < widest >= before:  # the fused kernel is fastest on plain causal rows
            bucket = Bucket(*[_causal(pieces)[0]] * 2)
            skipped = pieces.before
        else:
            bucket = _split(pieces, widest, before)
        place = torch.arange(widest)
        inside = place < pieces.length[:, None]
        width = bucket.query.shape[1]
        seat = offset + torch.arange(len(bucket.query))[:, None] * width + skipped[:, None] + place
        home[(pieces.start[:, None] + place)[inside]] = seat[inside]
        buckets.append(bucket)
        offset += bucket.query.numel()
    return buckets, home


def _alike(pieces: _Pieces) -> Iterator[_Pieces]:
    """The pieces that hold tokens, the longest first, in buckets of like length."""
    order = torch.argsort(pieces.length, descending=True, stable=True)
    lengths = pieces.length[order].tolist()
    start = 0
    for i, length in enumerate(lengths):
        if length == 0:
            lengths = lengths[:i]
            break
    for i, length in enumerate(lengths):
        if i - start >= _ROWS and length < _LIKE * lengths[start]:
            yield pieces.take(order[start:i])
            start = i
    if start < len(lengths):
        yield pieces.take(order[start : len(lengths)])


def _causal(pieces: _Pieces) -> tuple[Int[Tensor, "R W"], Int[Tensor, " W"]]:
    """Each piece after its prompt, as rows; and the places of a row."""
    total = pieces.before + pieces.length
    place = torch.arange(max(int(total.max()), 1) if len(total) else 1)
    shift = torch.where(place < pieces.before[:, None], pieces.prompt[:, None], (pieces.start - pieces.before)[:, None])
    rows = torch.where(place < total[:, None], shift + place, 0)
    return (rows if len(rows) else torch.zeros(1, 1, dtype=torch.int64)), place


def _split(pieces: _Pieces, widest: int, before: int) -> Bucket:
    """Queries are the pieces alone; keys their prompts, padded to `before`, and then the pieces."""
    place, ahead = torch.arange(widest), torch.arange(before)
    query = torch.where(place < pieces.length[:, None], pieces.start[:, None] + place, 0)
    there = ahead < pieces.before[:, None]
    prompt = torch.where(there, pieces.prompt[:, None] + ahead, 0)
    seen = there[:, None, None, :].expand(-1, 1, widest, -1)
    causal = torch.ones(widest, widest, dtype=torch.bool).tril().expand(len(query), 1, -1, -1)
    return Bucket(query, torch.cat((prompt, query), 1), torch.cat((seen, causal), 3))


def _on(bucket: Bucket, device: torch.device | str) -> Bucket:
    mask = None if bucket.mask is None else bucket.mask.to(device)
    return Bucket(bucket.query.to(device), bucket.key.to(device), mask)
