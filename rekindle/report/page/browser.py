"""The rollouts that the page shows: as many as fit, those that tell most first, with what every token was worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rekindle.report.page.tokens import advantages, flat, spread_steps
from rekindle.report.recording import Recording

BYTES = 2_200_000
"""What all rollouts of a page may take, as JSON, with their prompts and words."""
STEPS, PROMPTS, EACH = 24, 400, 4
"""Steps of a run, prompts, and responses of a prompt at a step, at most."""
SCALE = 1000
"""Numbers of tokens are whole thousandths."""
EXACT = 2.0**53
"""From here on a float has no thousandths, and JavaScript no whole numbers: such a number stays a float."""
LISTS = {"e": "token_entropy", "a": "token_advantage", "q": "token_ratio", "l": "token_logp"}


@dataclass
class Shelf:
    """What the page's browser reads. words: the tokens' texts, which rows point into. left: responses not shown.

    bytes: what prompts, words and rows take on the page.
    """

    prompts: list[dict[str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    bytes: int = 0
    known: dict[str, int] = field(default_factory=dict)
    places: dict[tuple[str, str], int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"prompts": self.prompts, "words": self.words, "rows": self.rows, "left": self.left, "scale": SCALE}

    def word(self, text: str) -> int:
        """The number of a token's text."""
        if text not in self.known:
            self.known[text] = len(self.words)
            self.words.append(text)
        return self.known[text]

    def prompt(self, name: str, text: str) -> int:
        """The number of a prompt."""
        if (name, text) not in self.places:
            self.places[name, text] = len(self.prompts)
            self.prompts.append({"id": name, "text": text})
        return self.places[name, text]


def shelf(runs: Sequence[Recording]) -> Shelf:
    """The rollouts of all runs, an equal share of the room for each."""
    found = Shelf()
    for i, run in enumerate(runs):
        room = found.bytes + (BYTES - found.bytes) // (len(runs) - i)
        for row in chosen(run, i):
            found.left += not _put(found, row, room)
    return found


def chosen(run: Recording, number: int) -> Iterator[dict[str, Any]]:
    """Rows of a run in the order of how much they tell: step by step, from the ends of the run inwards."""
    steps = inwards(spread_steps(run.kept, STEPS))
    often = visits(run, steps)
    tables = {step: run.table(step) for step in steps}
    for prompts in (set(often[: PROMPTS // 8]), set(often[PROMPTS // 8 : PROMPTS])):
        for step in steps:
            yield from of_step(tables[step], step, number, prompts)


def inwards(steps: Sequence[int]) -> list[int]:
    """First, last, then the middle, then the middles of the halves, and so on."""
    order, gaps = [], [(0, len(steps) - 1)]
    if steps:
        order = [0, len(steps) - 1] if len(steps) > 1 else [0]
    while gaps:
        low, high = gaps.pop(0)
        middle = (low + high) // 2
        if low < middle < high:
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return [steps[i] for i in order]


def visits(run: Recording, steps: Sequence[int]) -> list[str]:
    """The prompts' ids, those that come back at most steps first: they show how answers change."""
    tally: dict[str, int] = {}
    for step in steps:
        for name in dict.fromkeys(map(str, run.table(step).column("id").to_pylist())):
            tally[name] = tally.get(name, 0) + 1
    return sorted(tally, key=lambda name: -tally[name])


def of_step(table: pa.Table, step: int, number: int, prompts: set[str]) -> Iterator[dict[str, Any]]:
    """The responses of a step that are shown: of each prompt the best, the worst, a marked one and the first."""
    light = {name: table.column(name).to_pylist() for name in ("id", "score") if name in table.column_names}
    scores = light.get("score", [None] * len(table))
    marked = marks(table)
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(map(str, light["id"])):
        if name in prompts:
            groups.setdefault(name, []).append(i)
    picked = [i for rows in groups.values() for i in telling(rows, scores, marked)]
    table = table.take(pa.array(picked, pa.int64()))
    columns = {name: table.column(name).to_pylist() for name in table.column_names if not name.startswith("token_")}
    lists = token_lists(table)
    for i, name in enumerate(map(str, columns["id"])):
        yield {
            "r": number,
            "s": step,
            "id": name,
            "prompt": columns["prompt"][i],
            "text": columns["response"][i],
            **{short: columns[n][i] for short, n in FACTS.items() if n in columns and columns[n][i] is not None},
            "n": len(groups[name]),
            **{short: values[i] for short, values in lists.items() if values[i] is not None},
        }


def marks(table: pa.Table) -> set[int]:
    """The rows that have a marked token."""
    if "token_mark" not in table.column_names:
        return set()
    return {i for i, row in enumerate(table.column("token_mark").to_pylist()) if row and any(row)}


FACTS = {
    "u": "uid", "ok": "success", "sc": "score", "ad": "advantage", "an": "answer", "lb": "label", "f": "finish",
    "tr": "trained", "g": "group",
}  # fmt: skip
"""Key in the page's data -> column."""


def telling(rows: Sequence[int], scores: Sequence[float | None], marked: set[int]) -> list[int]:
    """Best and worst by score, one with marked tokens, then the first ones, EACH in all."""
    by_score = sorted(rows, key=lambda i: -(scores[i] or 0.0))
    echoed = [i for i in rows if i in marked][:1]
    return list(dict.fromkeys([by_score[0], by_score[-1], *echoed, *rows]))[:EACH]


def token_lists(table: pa.Table) -> dict[str, list[Any]]:
    """Key -> a list of whole thousandths a row; "t": the tokens' texts; "m": the places of marked tokens."""
    found: dict[str, list[Any]] = {}
    if "token_text" in table.column_names:
        found["t"] = table.column("token_text").to_pylist()
        sizes = np.asarray(table.column("token_text").combine_chunks().value_lengths().fill_null(0))
        row = np.repeat(np.arange(len(sizes)), sizes)
        for short, name in LISTS.items():
            values = advantages(table, row, sizes) if short == "a" else flat(table, name, sizes)
            if values is not None and (short != "a" or name in table.column_names):
                found[short] = split(values, sizes)
    if "token_mark" in table.column_names:
        marks = table.column("token_mark").to_pylist()
        found["m"] = [[i for i, on in enumerate(row or ()) if on] for row in marks]
    return found


def split(values: np.ndarray, sizes: np.ndarray) -> list[list[int | float | None] | None]:
    """Flat numbers as one list of whole thousandths a row; None for a row without numbers."""
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return [thousandths(part) if np.isfinite(part).any() else None for part in parts]


def thousandths(values: np.ndarray) -> list[int | float | None]:
    """Numbers times SCALE, rounded; None for one that is not finite, for it must not look measured."""
    with np.errstate(over="ignore"):
        scaled = np.rint(values * SCALE)
    if (np.abs(scaled) < EXACT).all():
        return scaled.astype(int).tolist()
    return [None if not np.isfinite(v) else int(v) if abs(v) < EXACT else v for v in scaled.tolist()]


def _put(shelf: Shelf, row: Mapping[str, Any], room: int) -> bool:
    """Take a row in, texts once, tokens as numbers of words; False where more than `room` would then be taken."""
    name, text = str(row["id"]), str(row["prompt"] or "")
    fresh = [] if (name, text) in shelf.places else [{"id": name, "text": text}]
    words = [word for word in dict.fromkeys(row.get("t", ())) if word not in shelf.known]
    numbers = {word: len(shelf.words) + i for i, word in enumerate(words)}
    kept = {key: value for key, value in row.items() if key not in ("id", "prompt") and (key != "m" or value)}
    for key in ("sc", "ad"):
        if key in kept:
            kept[key] = float(f"{kept[key]:.4g}")
    if "t" in row:
        kept["t"] = [numbers[word] if word in numbers else shelf.known[word] for word in row["t"]]
        del kept["text"]
    kept["p"] = shelf.places.get((name, text), len(shelf.prompts))
    size = sum(map(weight, (*fresh, *words, kept)))
    if shelf.bytes + size > room:
        return False
    shelf.prompt(name, text)
    for word in words:
        shelf.word(word)
    shelf.rows.append(kept)
    shelf.bytes += size
    return True


def weight(value: Any) -> int:
    """The bytes of a value in the page, which writes six for a "<", with the comma after it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return len(text.encode()) + 5 * text.count("<") + 1
