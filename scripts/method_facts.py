"""The sections of a method's page on the site, as lines of Markdown: all from its card, module, record and results."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle import methods
from rekindle.cli import shelf
from rekindle.core.evolution import Evolution
from rekindle.core.method import Card
from rekindle.prove.results import Row, judge, load
from rekindle.tokens.tasks import load_task
from rekindle.train.options import children, show
from rekindle.train.refusals import ReadsColumns
from rekindle.train.settings import parts
from scripts import effects

ROOT = Path(__file__).resolve().parent.parent
CONFORMANCE = ROOT / "docs" / "conformance.json"
STUDIES = ROOT / "docs" / "results"
RULE = (
    "**The rule**, fixed before any run: *shown* where the difference has the claimed sign on every seed and its mean "
    "exceeds the two-sided 95 % t bound of the paired differences; *opposite* where the same holds the other way; "
    "else *not shown*. A claim that two are equal is shown where |mean difference| + t bound is within what it says. "
    "Numbers are mean ± standard deviation over seeds, on [small beds](../effects.md)."
)


# --- text -----------------------------------------------------------------------------------------------------------


def plain(text: str, *, cell: bool = False) -> str:
    """Text as Markdown that shows it as it stands; what is in backticks stays code. cell: of a table."""
    pieces = re.split(r"(`[^`\n]+`)", text)
    marks = r"([\\*<>\[\]]|(?<![^\W_])_|_(?![^\W_])" + (r"|\|)" if cell else ")")
    return "".join(p if p.startswith("`") else re.sub(marks, r"\\\1", p) for p in pieces)


@functools.cache
def stored() -> dict[str, list[Row]]:
    """The rows of `rekindle prove`."""
    return load()


@functools.cache
def judged() -> dict[str, Any]:
    """What the judge stored."""
    return json.loads(CONFORMANCE.read_text(encoding="utf-8"))


@functools.cache
def shipped_columns() -> frozenset[str]:
    """What every prompt of the shipped task brings besides prompt and answer."""
    rows = [{name for name, value in row.meta.items() if value} for row in load_task("reduce").split("train")]
    return frozenset(set.intersection(*rows))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def block(text: str, kind: str = "text") -> list[str]:
    """A fenced block."""
    return [f"```{kind}", text.rstrip("\n"), "```"]


def printed(command: Any, *names: str) -> str:
    """What a command of the shelf prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        command(*names)
    return out.getvalue()


# --- sections -------------------------------------------------------------------------------------------------------


def card_of(name: str) -> Card:
    """The card of a method of the shelf."""
    return methods.load(name).CARD


def about(name: str) -> list[str]:
    """The card."""
    card = card_of(name)
    parent = f"[{card.parent}]({card.parent}.md)" if card.parent else "none"
    paper = f"[arXiv {card.arxiv}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else "none"
    rows = [
        ("authors", plain(card.authors, cell=True)),
        ("year", str(card.year)),
        ("paper", paper),
        ("code", plain(card.code or "none", cell=True)),
        ("parent", parent),
        ("its idea is in", ", ".join(f"`{slot}`" for slot in card.essence) or "none"),
        ("status", card.status),
        ("version", str(card.version)),
    ]
    differs = [f"- {plain(deviation)}" for deviation in card.deviations] or ["None is known."]
    return [*table(("", plain(card.title)), rows), "", "Deviations from the source:", "", *differs]


def idea(name: str) -> list[str]:
    """The docstring of the method's module."""
    return plain(inspect.getdoc(methods.load(name)) or "").splitlines()


def demands(name: str) -> tuple[dict[str, str], list[str]]:
    """(flags that `rekindle train` must be given, columns that no shipped task has) for a method to run at all."""
    record = methods.load(name).method()
    read = [column for part in parts(record) if isinstance(part, ReadsColumns) for column in part.example_columns]
    lacking = [column for column in dict.fromkeys(read) if column not in shipped_columns()]
    flags = {"data": "DATA.jsonl"} if lacking else {"task": "reduce"}
    flags |= {"teacher": "FOLDER"} if "teacher" in record.passes() else {}
    return flags | ({"lora": "8"} if isinstance(record, Evolution) else {}), lacking


def usage(name: str) -> list[str]:
    """One command, one line of Python, and what the method needs besides."""
    flags, columns = demands(name)
    said = " ".join(f"--{flag} {value}" for flag, value in flags.items())
    given = {"teacher": '"teacher": "FOLDER"', "lora": '"lora.rank": 8'}
    options = ", ".join(text for flag, text in given.items() if flag in flags)
    source = next(f'{flag}="{flags[flag]}"' for flag in ("data", "task") if flag in flags)
    more = f", options={{{options}}}" if options else ""
    lines = [*block(f"rekindle train {name} {said} --steps 20", "bash"), ""]
    python = f'from rekindle.api import train\n\nfolder = train("{name}", {source}, steps=20{more})'
    lines += block(python, "python")
    if columns:
        lines += ["", f"Every row of the data has {' and '.join(f'`{c}`' for c in columns)}: [data](../data.md)."]
    return lines


def difference(name: str) -> list[str]:
    """What `rekindle diff PARENT NAME` prints."""
    parent = card_of(name).parent
    if parent is None:
        return ["It has no parent on this shelf."]
    return [f"`rekindle diff {parent} {name}`:", "", *block(printed(shelf.diff, parent, name))]


def measured(name: str) -> list[str]:
    """What paired seeds showed of the card's claims, and the studies that the method was in."""
    rows = stored().get(name, [])
    lines = [f"**No claim.** The card has none that a bed could show; `rekindle prove {name}` says so, too."]
    if rows:
        cells = [[re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in effects.cells(row)] for row in rows]
        lines = [*verdicts(rows), "", *table(effects.COLUMNS, cells), ""]
        lines += [line for line in dict.fromkeys(map(effects.options, rows)) if line]
        lines += ["", RULE, "", f"Again: `rekindle prove {name}`."]
    elif card_of(name).effects:
        lines = [f"**Not measured.** The card has claims and no stored result: `rekindle prove {name} --store`."]
    found = [f"[{title}](../results/{stem}.md)" for stem, title in studies(name).items()]
    return [*lines, *(["", f"Studies with it: {', '.join(found)}."] if found else [])]


def verdicts(rows: Sequence[Row]) -> list[str]:
    """A sentence a claim."""
    words = {"shown": "Shown", "not shown": "No benefit shown", "opposite": "No benefit shown, the opposite was found"}
    return [f"- **{words[judge(row).verdict]}**: {plain(row.claim)} ({row.bed}, {row.metric})." for row in rows]


def studies(name: str) -> dict[str, str]:
    """Stem of a page of docs/results -> its title, where the method took part."""
    found = {}
    for path in sorted(STUDIES.glob("*.json")):
        arms = json.loads(path.read_text(encoding="utf-8")).get("methods", ())
        page = path.with_suffix(".md")
        if page.is_file() and any(name in arm.split("+") for arm in arms):
            found[path.stem] = page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    return found


# --- conformance ----------------------------------------------------------------------------------------------------


def pieces(node: object) -> set[str]:
    """Every part of a record as the rows of the judge print it."""
    found = {show(node)}
    for _, child in children(node):
        found |= pieces(child)
    return found


def touching(name: str, rows: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows about the method itself, then those of parts that its record has as they were compared."""
    own = re.compile(rf"^{re.escape(name)}(\b|$)")
    has = pieces(methods.load(name).method())
    mine = [row for row in rows.values() if own.match(row["method"])]
    whole = re.compile(r"; \d+ micro-batches$")
    shared = [row for row in rows.values() if set(whole.sub("", row["flags"]).split("; ")) <= has]
    return mine + [row for row in shared if row not in mine]


def conformance(name: str) -> list[str]:
    """The rows of the judge that touch the method."""
    data = judged()
    found = touching(name, data["rows"])
    if not found:
        return ["No row: neither the method nor a part of it, as it stands here, has a counterpart among the rivals."]
    head = ("what", "our flags", "rival's", "largest difference", "verdict")
    rivals = {rival.split()[0]: rival for rival in (*data["rivals"], *data["others"])}
    lines = table(head, [compared(row, rivals) for row in found])
    return ["Identical tensors through both sides' functions ([all rows](../conformance.md)):", "", *lines]


def compared(row: Mapping[str, Any], rivals: Mapping[str, str]) -> list[str]:
    """One row of the table."""
    largest = max(row["difference"].values(), default=0.0)
    reason = f": {plain(row['reason'], cell=True)}" if row["reason"] else ""
    theirs = f"{rivals.get(row['rival'], row['rival'])}, `{row['setting']}`"
    return [plain(row["method"], cell=True), f"`{row['flags']}`", theirs, f"{largest:.1e}", row["verdict"] + reason]
