"""The task `reduce`: work out an arithmetic expression in written steps, in any of four ways.

Every expression belongs to one split by a hash of its text, so that no prompt is ever in two.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from types import MappingProxyType
from typing import Any

from rekindle.tokens.grading.boxed import boxed_digit
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Derivation
from rekindle.tokens.tasks.expressions import Terms, read_terms, rearranged, slipping, total, write_terms
from rekindle.tokens.tasks.ways import WAYS, way_of

BOX = "\\boxed{"
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,18})\s*")
_SHARES = (("warm", 0.7), ("train", 0.1), ("heldout", 0.1), ("ood", 0.1))
_WARM_LENGTHS = MappingProxyType({3: 0.20, 4: 0.25, 5: 0.37, 6: 0.11, 7: 0.07})
_WARM_WAYS = MappingProxyType({"A": 0.34, "B": 0.18, "C": 0.22, "D": 0.26})
_WARM_SLIPS = MappingProxyType({"A": 0.02, "B": 0.13, "C": 0.09, "D": 0.07})
"""How often an operation is written wrong in the warm data: the easier a way is to learn, the more often."""
_TRIED = 48
"""Paraphrases of an expression that are looked at."""
_OPERATIONS = MappingProxyType({"+": 0.36, "-": 0.36, "*": 0.28})

PROFILE: Mapping[str, Any] = MappingProxyType(
    {
        "rollout.prompts": 8,
        "rollout.group": 32,
        "rollout.votes": 64,
        "rollout.max_tokens": 80,
        "descent.lr": 1e-4,
        "descent.minibatches": 4,
        "steps": 120,
    }
)


def split_of(expression: str) -> str:
    """The split that `expression` belongs to: a function of its text alone."""
    digest = hashlib.blake2b(expression.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    for name, share in _SHARES:
        place -= share
        if place < 0:
            return name
    return _SHARES[-1][0]


def draw_expression(rng: Random, operands: int) -> str:
    """A random expression of `operands` digits 1-9 joined by + - *, no product of more than two factors."""
    text = str(rng.randint(1, 9))
    last = ""
    for _ in range(operands - 1):
        allowed = [op for op in _OPERATIONS if op != "*" or last != "*"]
        last = rng.choices(allowed, [_OPERATIONS[op] for op in allowed])[0]
        text += last + str(rng.randint(1, 9))
    return text


def paraphrase(expression: str) -> str:
    """The same sum with its terms in another order, from the same split; else from no split, else `expression` itself.

    So that a run which trains on paraphrases never trains on a prompt that it is evaluated on.
    """
    spare = expression
    for terms in islice(rearranged(_terms(expression)), _TRIED):
        other = write_terms(terms)
        found = split_of(other)
        if found == split_of(expression):
            return other
        if found == "warm" and spare == expression:
            spare = other
    return spare


def canonical_integer(text: str) -> str | None:
    """`text` as an integer without plus sign or leading zeros; None where it is not an integer of at most 18 digits."""
    match = _INTEGER.fullmatch(text)
    return str(int(match[1])) if match else None


def _terms(expression: str) -> Terms:
    terms = read_terms(expression)
    if terms is None:
        raise ValueError(f"'{expression}' is not an expression of this task, such as 5*9+3*5-2")
    return terms


def solve(expression: str, way: str, rng: Random, slip: float = 0.0) -> str:
    """A response to `expression` in way `way` ("A" to "D"), the boxed answer included.

    slip: probability that an operation's result is written wrong, and what follows goes on from it; 0 is always right.
    """
    steps, answer = WAYS[way].write(_terms(expression), rng, slipping(rng, slip))
    return f"{steps}{BOX}{answer}}}"


def demonstration(expression: str) -> str:
    """A right response, always the same one, in any of the ways."""
    rng = Random(f"reduce/demonstration/{expression}")
    return solve(expression, rng.choice(list(WAYS)), rng)


@dataclass(frozen=True)
class Reduce:
    """Expressions such as `5*9+3*5-2=`. Training length 5; `ood` holds 6 and 7 operands, half each.

    train, heldout, ood: the number of prompts of each split.
    """

    train: int = 512
    heldout: int = 300
    ood: int = 300
    name: str = "reduce"
    version: int = 1
    profile: Mapping[str, Any] = field(default_factory=lambda: dict(PROFILE))
    system_prompt: str | None = None
    splits: tuple[str, ...] = ("train", "heldout", "ood")
    ways: tuple[str, ...] = tuple(WAYS)
    step_delimiters: tuple[str, ...] = ("=", ",", ")", "]")

    def split(self, name: str) -> Sequence[Example]:
        """The examples of "train", "heldout" or "ood", always the same ones; ValueError for another name."""
        plans = {
            "train": [(5, self.train)],
            "heldout": [(5, self.heldout)],
            "ood": [(6, (self.ood + 1) // 2), (7, self.ood // 2)],
        }
        if name not in plans:
            raise ValueError(f"task 'reduce' has no split '{name}': there are {', '.join(plans)}")
        rng = Random(f"reduce/{self.version}/{name}")
        return [e for operands, count in plans[name] for e in _draw_split(rng, name, operands, count)]

    def warm_examples(self, seed: int) -> Iterator[tuple[str, str]]:
        """Endless (prompt, response) pairs for the supervised warm start, from expressions of no other split.

        Some responses slip, and the easier a way is to learn, the more: a warm model then errs at random where it could
        do better, and no way is far ahead of the others.
        """
        rng = Random(f"reduce/{self.version}/warm/{seed}")
        lengths, weights = list(_WARM_LENGTHS), list(_WARM_LENGTHS.values())
        while True:
            expression = draw_expression(rng, rng.choices(lengths, weights)[0])
            way = rng.choices(list(_WARM_WAYS), list(_WARM_WAYS.values()))[0]
            if split_of(expression) == "warm":
                yield f"{expression}=", solve(expression, way, rng, _WARM_SLIPS[way])

    def extract(self, text: str) -> str | None:
        """The integer in the last complete box, in canonical form."""
        boxes = _BOXED.findall(text)
        return canonical_integer(boxes[-1]) if boxes else None

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether the two are the same integer; None where the reference is not an integer."""
        truth = canonical_integer(reference) if reference is not None else None
        if truth is None:
            return None
        return answer is not None and canonical_integer(answer) == truth

    def well_formed(self, text: str) -> bool:
        """Whether a box holds a digit (EVOL-RL's official rule)."""
        return boxed_digit(text)

    def steps(self, text: str) -> str:
        """What is written before the first box."""
        return text.partition(BOX)[0]

    def derivation(self, example: Example, text: str) -> Derivation:
        """The way and the order of operations; valid if each step is legal and true and the box fits."""
        body = "".join(text.split())
        written, _, end = body.partition(BOX)
        way = way_of(written)
        terms = read_terms(example.prompt.strip().removesuffix("="))
        order = WAYS[way].read(terms, written) if way is not None and terms is not None else None
        valid = terms is not None and order is not None and end == f"{total(terms)}}}"
        return Derivation(valid, f"{way}:{order}" if valid else written, way)


def _draw_split(rng: Random, name: str, operands: int, count: int) -> list[Example]:
    seen: dict[str, Example] = {}
    while len(seen) < count:
        expression = draw_expression(rng, operands)
        if split_of(expression) == name and expression not in seen:
            meta = {"operands": operands, "paraphrase": f"{paraphrase(expression)}="}
            meta["demonstration"] = demonstration(expression)
            answer = str(total(_terms(expression)))
            seen[expression] = Example(f"{name}-{operands}-{len(seen):04d}", f"{expression}=", answer, meta)
    return list(seen.values())


def task() -> Reduce:
    """The task with its standard splits."""
    return Reduce()
