"""Numbers, tables and verdicts of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

AIM = 0.5  # of the computed bound

Spread = Mapping[str, float]


def number(value: float) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 123, 12,345."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def ranged(found: Spread, unit: str = "") -> str:
    """ "3.1 (2.9 to 3.4)", the unit after the median."""
    return f"{number(found['median'])}{unit} ({number(found['min'])} to {number(found['max'])})"


def times(found: Spread) -> str:
    """ "3.1 x (2.9 to 3.4, 7 pairs)"."""
    return f"{number(found['median'])} x ({number(found['min'])} to {number(found['max'])}, {counted(found)})"


def counted(found: Spread) -> str:
    """ "7 pairs"."""
    return "1 pair" if found["n"] == 1 else f"{found['n']:.0f} pairs"


def percent(value: float) -> str:
    """A share as "62 %"."""
    return f"{100 * value:.0f} %"


def mib(bytes_: float) -> str:
    """Bytes as "1,234 MiB"."""
    return f"{bytes_ / 2**20:,.0f} MiB"


def at_least(value: float, target: float) -> str:
    """ "met" or "missed"."""
    return "met" if value >= target else "**missed**"


def at_most(value: float, target: float) -> str:
    """ "met" or "missed"."""
    return "met" if value <= target else "**missed**"


def aim(share: Spread) -> str:
    """A share of the bound with its range and whether it is at least the aim."""
    return f"{ranged(share)}, {at_least(share['median'], AIM)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table and an empty line; nothing where it has no rows."""
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body, ""] if body else []


def profile(title: str, found: Mapping[str, float]) -> str:
    """One line: where the time of a piece of work goes, operator by operator."""
    listed = ", ".join(f"`{name}` {percent(share)}" for name, share in found.items() if name != "other")
    rest = f", all others {percent(found['other'])}" if "other" in found else ""
    return f"- {title}: {listed}{rest}."


def good(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows that were measured."""
    return {key: row for key, row in rows.items() if "failed" not in row}


def failed(rows: Mapping[str, Any]) -> list[str]:
    """A sentence for each row that could not be measured."""
    found = [f"Not measured: {key}, because it failed: {row['failed']}" for key, row in rows.items() if "failed" in row]
    return [line for sentence in found for line in (sentence, "")]
