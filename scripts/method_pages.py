"""A page a method for the site, and their index: `python -m scripts.method_pages OUT`, from the root of the project.

All of it follows from cards, module docstrings, records and stored results, so the pages are made at each build of the
site and never committed.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from rekindle import methods
from rekindle.cli import shelf
from rekindle.prove.results import effect_of
from scripts.method_facts import (
    about,
    block,
    card_of,
    conformance,
    difference,
    idea,
    measured,
    plain,
    printed,
    table,
    usage,
)

FAMILIES = "families.json"
SECTIONS = ("Card", "Idea", "Use it", "Record", "Difference from its parent", "Effect", "Conformance")
ROOT_FAMILY = "The root"
SLOTS = {
    "advantage": "GRPO with another advantage",
    "objective": "GRPO with another objective",
    "collect": "GRPO with other prompts, responses or verdicts",
}


def page(name: str) -> str:
    """The page of one method."""
    card = card_of(name)
    record = [f"`rekindle show {name}`:", "", *block(printed(shelf.show, name))]
    bodies = (about(name), idea(name), usage(name), record, difference(name), measured(name), conformance(name))
    lines = [f"# {plain(card.title)} ({plain(name)})", "", plain(card.summary), ""]
    for title, body in zip(SECTIONS, bodies, strict=True):
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


@functools.cache
def parents() -> frozenset[str | None]:
    """The methods that others are children of."""
    return frozenset(card_of(name).parent for name in methods.names())


def family(name: str) -> str:
    """What a method is listed under: its line, where a child of the root has children, else what it changes in GRPO."""
    line, card = [name], card_of(name)
    while card.parent:
        line, card = [card.parent, *line], card_of(card.parent)
    if line[0] not in parents():
        return "Without a gradient"
    if len(line) == 1:
        return ROOT_FAMILY
    if line[1] in parents():
        return f"{card_of(line[1]).title} and its line"
    return SLOTS.get(card_of(name).essence[0].split(".")[0], "GRPO with another part")


def families() -> dict[str, list[str]]:
    """Family -> its methods; the root comes first, then the larger families."""
    found: dict[str, list[str]] = {}
    for name in methods.names():
        found.setdefault(family(name), []).append(name)
    return dict(sorted(found.items(), key=lambda item: (item[0] != ROOT_FAMILY, -len(item[1]))))


def index() -> str:
    """The index: a table a family."""
    lines = ["# Every method", "", f"{len(methods.names())} methods, a page each; all are made from the code itself."]
    for title, names in families().items():
        rows = []
        for name in names:
            card = card_of(name)
            paper = f"[{card.arxiv}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else "-"
            cells = (f"{plain(card.title, cell=True)}, {card.year}", paper, plain(card.summary, cell=True))
            rows.append((f"[{plain(name)}]({name}.md)", *cells, card.status, effect_of(name)))
        lines += ["", f"## {plain(title)}", "", *table(("method", "title", "arXiv", "idea", "status", "effect"), rows)]
    return "\n".join(lines) + "\n"


def write(out: Path) -> None:
    """All pages into the folder `out`, in the place of what it held."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.md"):
        old.unlink()
    for name in methods.names():
        (out / f"{name}.md").write_text(page(name), encoding="utf-8")
    (out / "index.md").write_text(index(), encoding="utf-8")
    (out / FAMILIES).write_text(json.dumps(families(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
