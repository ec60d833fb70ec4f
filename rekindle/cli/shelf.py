"""The shelf of methods: `methods` lists the cards, `show` tells every number and its source, `diff` compares two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import card_fields, print_json, print_table

if TYPE_CHECKING:
    from rekindle.core.method import Card
    from rekindle.train.find import Found
    from rekindle.train.options import Change

METHOD_HELP = "a method (evol_rl, evol-rl) or FILE.py:function"
SHORT = 48


def methods(json: Annotated[bool, typer.Option("--json", help="print a list of cards")] = False) -> None:
    """List the methods there are."""
    from rekindle.methods import load, names
    from rekindle.prove.results import effect_of

    cards = {name: load(name).CARD for name in names()}
    if json:
        print_json([card_fields(name, card) for name, card in cards.items()])
        return
    rows = [(name, paper(card), card.status, effect_of(name), card.summary) for name, card in cards.items()]
    print_table(("method", "paper", "status", "effect", "idea"), rows)


def paper(card: Card) -> str:
    """The method's name as printed, and where it is from."""
    return f"{card.title} ({card.arxiv or card.year})"


def show(
    method: Annotated[str, typer.Argument(help=METHOD_HELP)],
    json: Annotated[bool, typer.Option("--json", help="print card, options and sources as JSON")] = False,
) -> None:
    """Show a method's card, its record of parts, and the source of every number."""
    from rekindle.train.find import find_method, make_method
    from rekindle.train.options import flatten, record_hash
    from rekindle.train.options import show as shown

    found = find_method(method)
    record = make_method(found)
    options = flatten(record)
    sources = {path: source(found, path, value) for path, value in options.items()}
    if json:
        card = card_fields(found.name, found.card) if found.card else None
        print_json({"card": card, "options": options, "sources": sources, "hash": record_hash(record)})
        return
    print("\n".join(header(found)))
    rows = [(path, shown(value), sources[path]) for path, value in options.items()]
    print_table(("option", "value", "source"), rows)


def header(found: Found) -> list[str]:
    """The card as lines of text."""
    card = found.card
    if card is None:
        return [found.name, "no card: the file has no CARD", ""]
    lines = [f"{card.title} ({found.name}): {card.summary}", f"{card.authors}, {card.year}"]
    if card.arxiv:
        lines.append(f"arXiv {card.arxiv}")
    if card.code:
        lines.append(f"code: {card.code}")
    lines.append(f"parent: {card.parent or 'none'}; its idea: {', '.join(card.essence) or 'none'}")
    lines.append(f"status: {card.status} (version {card.version})")
    return lines + [f"deviation: {deviation}" for deviation in card.deviations] + [""]


def source(found: Found, path: str, value: Any) -> str:
    """Where the value at `path` comes from: the card, else the parent's card where the parent has the same value.

    A source given for a slot holds for the options inside it, and in every stage of a record of several. "" where no
    card says.
    """
    from rekindle.train.find import find_method, make_method
    from rekindle.train.options import flatten
    from rekindle.train.staged import unstaged

    while found.card is not None:
        said = _own_source(found, path) or _own_source(found, unstaged(path))
        if said:
            return said
        if found.card.parent is None:
            return ""
        found = find_method(found.card.parent)
        options = flatten(make_method(found))
        path = path if path in options else unstaged(path)
        if path not in options or options[path] != value:
            return ""
    return ""


def _own_source(found: Found, path: str) -> str:
    sources = found.card.sources if found.card else {}
    while path:
        if path in sources:
            return sources[path]
        path = path.rpartition(".")[0]
    return ""


def diff(
    a: Annotated[str, typer.Argument(help=METHOD_HELP)],
    b: Annotated[str, typer.Argument(help=METHOD_HELP)],
    json: Annotated[bool, typer.Option("--json", help="print a list of changes")] = False,
) -> None:
    """Print what differs from method A to method B, a line a change."""
    from rekindle.train import options, staged
    from rekindle.train.find import find_method, make_method

    old, new = find_method(a), find_method(b)
    changes = staged.changes(make_method(old), make_method(new))
    if json:
        print_json([{"path": c.path, "old": options.show(c.old), "new": options.show(c.new)} for c in changes])
        return
    if not changes:
        print(f"{old.name} and {new.name} are the same record")
    for change in changes:
        said = _change_source(new, change)
        print(f"{change}  [{said}]" if said and len(said) <= SHORT else str(change))


def _change_source(found: Found, change: Change) -> str:
    """The source of a new value; of a new part, those of its fields."""
    from rekindle.train.options import flatten

    if change.new is None:
        return ""
    said = {path: source(found, path, value) for path, value in flatten(change.new, change.path).items()}
    return said.get(change.path, "") or "; ".join(dict.fromkeys(text for text in said.values() if text))
