"""What the runs are: their options, what these differ in, and what the runs warned of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rekindle.report.page.panels import Panel, Table
from rekindle.report.recording import Recording

MAIN = (
    "task", "data", "model", "method", "steps", "seed", "rollout.prompts", "rollout.group", "rollout.votes",
    "rollout.max_tokens", "rollout.temperature", "descent.lr", "descent.epochs", "descent.minibatches",
)  # fmt: skip
MOST_TOLD = 40


def options_panel(runs: Sequence[Recording]) -> Panel:
    """Options that differ between the runs on top, then the main ones."""
    known = [run for run in runs if run.options]
    if not known:
        return Panel(id="options", title="Options", missing=["The options of these runs are not in their folders."])
    names = sorted({name for run in known for name in run.options})
    differ = [n for n in names if n not in ("out",) and len({repr(run.options.get(n)) for run in known}) > 1]
    tables = []
    if len(known) > 1:
        rows = [[name, *(said(run, name) for run in known)] for name in differ]
        tables.append(Table(title="Options that differ", head=("option", *(run.name for run in known)), rows=rows))
    first = known[0]
    rows = [[name, said(first, name)] for name in MAIN if first.options.get(name) is not None and name not in differ]
    if not any(name in first.options for name in MAIN):
        rows = [[name, said(first, name)] for name in names if name not in differ][:MOST_TOLD]
    if rows:
        tables.append(
            Table(title="Options in common" if len(known) > 1 else "Options", head=("option", "value"), rows=rows)
        )
    lead = f"{len(runs)} runs." if len(runs) > 1 else ""
    return Panel(id="options", title="What ran", lead=lead, tables=tables)


def said(run: Recording, name: str) -> str:
    """An option's value as text; - where the run has no such option."""
    if name not in run.options:
        return "-"
    value: Any = run.options[name]
    return f"{value:g}" if isinstance(value, float) else str(value)


def warnings_panel(runs: Sequence[Recording]) -> Panel:
    """What the guards and the collapse watch told, with their remedies."""
    rows = []
    for run in runs:
        for record in run.other:
            if record["kind"] == "warning":
                rows.append([run.name, record["step"], str(record.get("what", "")), told(record)])
            elif record["kind"] == "collapse":
                rows += [[run.name, record["step"], name, str(text)] for name, text in signs(record).items()]
    more = f" (the last {MOST_TOLD} of {len(rows)})" if len(rows) > MOST_TOLD else ""
    head = ("run", "step", "what", "said")
    tables = [Table(title=f"Warnings{more}", head=head, rows=rows[-MOST_TOLD:])] if rows else []
    lead = "" if rows else "Nothing was warned of."
    return Panel(id="warnings", title="Warnings", lead=lead, tables=tables)


def told(record: dict[str, Any] | Any) -> str:
    """The sentence of a warning."""
    return str(record.get("text", record.get("said", "")))


def signs(record: dict[str, Any] | Any) -> dict[str, Any]:
    """Signal -> sentence of a collapse event."""
    found = record.get("signals", {})
    return dict(found) if isinstance(found, dict) else {str(name): "" for name in found}
