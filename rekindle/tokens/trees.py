"""Macro actions by phrases: small nodes of the trees of sentences (the parsing rule of MA-RLHF, arXiv 2410.02743).

A tree is a leaf (text) or a tuple of trees; its leaves, put together, spell the sentence, spaces included. Walks use
lists in place of recursion: a response of a thousand brackets is no error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Rollouts

Tree = str | tuple[Any, ...]
"""A leaf, or a tuple of trees."""

_SENTENCE = re.compile(r"(?<=[.!?])(?= )|(?<=\n)(?!\n)")
_LEAF = re.compile(r"\s*(?:\\\w+\{?|\w+|[^\w\s])|\s+")  # a space belongs to what it is before, as in byte-pair tokens
_CLOSES = {"(": ")", "[": "]", "{": "}"}
_CLAUSE_ENDS = (",", ";", ":", "=")


def sentences(text: str) -> list[str]:
    """The text, cut after . ! ? where a space follows, and after line breaks; nothing of it is lost."""
    return [sentence for sentence in _SENTENCE.split(text) if sentence]


def phrases(sentence: str) -> Tree:
    """The tree of a sentence without a grammar: clauses (up to , ; : =), halved down to words; brackets are subtrees.

    Brackets that are never closed are words like any other.
    """
    levels: list[list[Tree]] = [[]]
    closing: list[str] = []
    for leaf in _LEAF.findall(sentence):
        mark = leaf.strip()
        if mark[-1:] in _CLOSES:
            closing.append(_CLOSES[mark[-1:]])
            levels.append([leaf])
        elif closing and mark == closing[-1]:
            closing.pop()
            first, *inside = levels.pop()
            levels[-1].append((first, halves(inside), leaf) if inside else (first, leaf))
        else:
            levels[-1].append(leaf)
    return tuple(halves(clause) for clause in _clauses([tree for level in levels for tree in level]))


def _clauses(trees: Sequence[Tree]) -> list[list[Tree]]:
    found: list[list[Tree]] = [[]]
    for tree in trees:
        found[-1].append(tree)
        if isinstance(tree, str) and tree.strip() in _CLAUSE_ENDS:
            found.append([])
    return [clause for clause in found if clause]


def halves(trees: Sequence[Tree]) -> Tree:
    """One or more trees as a binary tree over them, the first half no smaller than the second."""
    if len(trees) == 1:
        return trees[0]
    middle = (len(trees) + 1) // 2
    return halves(trees[:middle]), halves(trees[middle:])


def leaves(tree: Tree) -> Iterator[str]:
    """The leaves in order."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, str):
            yield node
        else:
            left.extend(reversed(node))


def cut(tree: Tree, below: int) -> list[list[str]]:
    """The macro actions of a sentence, as lists of leaves: depth first, a node of fewer than `below` leaves is one.

    A node of one leaf goes to the macro action before it; the first of the sentence stands alone. Others are opened.
    """
    found: list[list[str]] = []
    left = [tree]
    while left:
        node = left.pop()
        inside = list(islice(leaves(node), max(below, 2)))  # whether there are few, not how many
        if len(inside) == 1 and found:
            found[-1].extend(inside)
        elif len(inside) == 1 or 1 < len(inside) < below:
            found.append(inside)
        elif not isinstance(node, str):
            left.extend(reversed(node))
    return found


@dataclass(frozen=True, kw_only=True)
class ParsedMacros:
    """`macro` [B T]: the number of the macro action of each token by the tree of its sentence, -1 off the mask.

    parser: a sentence -> its tree; below: nodes of fewer leaves are macro actions. The leaves are tokenized one by one;
    a row whose tokens these are not, an end token apart, has macro actions of one token each (`macro/by_token` counts
    them). The end token goes to the last macro action.
    """

    parser: Callable[[str], Tree] = phrases
    below: int = 5
    name: ClassVar[str] = "macro"

    def __post_init__(self) -> None:
        if self.below < 1:
            raise ValueError(
                f"macro actions have fewer leaves than a whole number from 1 up, not {self.below}: 5 is usual"
            )

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """Int [B T]; each distinct leaf is tokenized once."""
        known: dict[str, list[int]] = {}
        macro = rollouts.mask.long().cumsum(dim=1) - 1
        for row, text in enumerate(rollouts.text):
            parts = [[_spelled(leaf, run.tokenizer, known) for leaf in part] for part in self._parts(text)]
            tokens = [[token for leaf in part for token in leaf] for part in parts]
            found = _numbers(tokens, rollouts.ids[row], rollouts.mask[row], run.tokenizer.eos_token_id)
            macro[row] = macro[row] if found is None else found
        return macro.where(rollouts.mask, -1)

    def _parts(self, text: str) -> list[list[str]]:
        found = []
        for sentence in sentences(text):
            tree = self.parser(sentence)
            if "".join(leaves(tree)) != sentence:
                raise InputError(
                    f"the parser of macro actions lost a part of '{sentence[:40]}': its leaves must spell the "
                    "sentence, spaces included"
                )
            found += cut(tree, self.below)
        return found


def _spelled(leaf: str, tokenizer: Any, known: dict[str, list[int]]) -> list[int]:
    """The token ids of a leaf; [-1], which is no token, where the tokenizer cannot write it."""
    if leaf not in known:
        try:
            known[leaf] = list(tokenizer(leaf, add_special_tokens=False).input_ids)
        except ValueError:
            known[leaf] = [-1]
    return known[leaf]


def _numbers(parts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor, end: int | None) -> Tensor | None:
    """The number of each position's part [T]; None where the parts are not the row's tokens, an end token apart."""
    said = [token for part in parts for token in part]
    rest = ids[len(said) :][mask[len(said) :]].tolist()
    if ids[: len(said)].tolist() != said or rest not in ([], [end]):
        return None
    number = [i for i, part in enumerate(parts) for _ in part]
    number += [max(len(parts) - 1, 0)] * (len(ids) - len(number))
    return torch.tensor(number)
