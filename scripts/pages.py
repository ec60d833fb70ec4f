"""Write what comes from the cards: the table of methods in README.md, and docs/methods.md. `--check` only looks."""

from __future__ import annotations

import sys
from pathlib import Path

from rekindle import methods
from rekindle.core.method import Card
from rekindle.prove.results import effect_of

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- methods: begin (python scripts/pages.py) -->", "<!-- methods: end -->"


def _cards() -> list[tuple[str, Card]]:
    return [(name, methods.load(name).CARD) for name in methods.names()]


def link(card: Card) -> str:
    """The paper, as Markdown."""
    return f"[{card.title}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else card.title


def table() -> str:
    """A row a method."""
    rows = [
        f"| `{name}` | {link(card)} ({card.year}) | {card.summary} | {card.status} | {effect_of(name)} |"
        for name, card in _cards()
    ]
    return "\n".join(["| method | source | idea | status | effect |", "|---|---|---|---|---|", *rows])


def page() -> str:
    """docs/methods.md."""
    lines = [
        "# Methods",
        "",
        "Generated from the cards in `rekindle/methods/` by `python scripts/pages.py`. Status: *exact* is checked "
        "against an independent implementation or the source's full formulas; *close* had to infer something.",
        "",
    ]
    for name, card in _cards():
        lines += [f"## {name}: {card.title}", "", f"{card.summary} {card.authors}, {card.year}."]
        lines += [f"arXiv {card.arxiv}." if card.arxiv else "", f"Code: {card.code}." if card.code else ""]
        parent = f"Parent: `{card.parent}`. " if card.parent else ""
        lines += ["", f"{parent}Essence: {', '.join(f'`{slot}`' for slot in card.essence)}. Status: {card.status}.", ""]
        lines += [f"- Differs: {deviation}" for deviation in card.deviations]
        lines += [f"- `{path}`: {source}" for path, source in card.sources.items()]
        lines += [""]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Path -> what should stand there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head, _, rest = readme.partition(BEGIN)
    tail = rest.partition(END)[2]
    return {
        ROOT / "README.md": f"{head}{BEGIN}\n{table()}\n{END}{tail}",
        ROOT / "docs" / "methods.md": page(),
    }


def main(arguments: list[str]) -> int:
    """Write the pages; with `--check` return 1 if one is not current."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not current: run python scripts/pages.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
