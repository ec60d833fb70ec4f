"""A report: the document of all panels as JSON, and the one HTML file that shows it without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle.errors import InputError
from rekindle.report.page.browser import shelf
from rekindle.report.page.clipping import clipping_panel
from rekindle.report.page.coverage import coverage_panel
from rekindle.report.page.entropy import Looked, entropy_panel
from rekindle.report.page.groups import groups_panel
from rekindle.report.page.law import covariance_panel, law_panel
from rekindle.report.page.panels import MOST_POINTS, Panel, distinct, groups_of
from rekindle.report.page.passk import pass_panel
from rekindle.report.page.setup import options_panel, warnings_panel
from rekindle.report.page.tokens import MOST_STEPS, Measured, measured
from rekindle.report.page.truth import truth_panel
from rekindle.report.page.verdict import verdicts
from rekindle.report.recording import Recording

SCRIPTS = ("base.js", "keep.js", "charts.js", "tokens.js", "browser.js", "main.js")
VEGA_LITE = "6.4"
NEED = "the page needs the charting library of the extra [report]: pip install 'rekindle[report]'"


Cache = dict[tuple[Path, int, str], Measured]


def document(runs: Sequence[Recording], cache: Cache | None = None) -> dict[str, Any]:
    """All that the page shows, as JSON without NaN. cache: of steps that were looked at before, kept up to date."""
    runs = distinct(runs)
    looked = measured(runs, {} if cache is None else cache)
    rollouts = shelf(runs)
    found = {
        "title": ", ".join(dict.fromkeys(run.method for run in runs)),
        "runs": [about(run) for run in runs],
        "groups": list(groups_of(runs)),
        "verdicts": [{"group": v.group, "state": v.state, "text": v.paragraph()} for v in verdicts(runs)],
        "panels": [panel.plain() for panel in panels(runs, looked)],
        "browser": rollouts.plain(),
        "notes": notes(runs, rollouts.left),
    }
    return whole(found)


def panels(runs: Sequence[Recording], looked: Looked) -> list[Panel]:
    """The sections in their order; what several runs differ in comes first."""
    options = options_panel(runs)
    found = [
        pass_panel(runs),
        coverage_panel(runs),
        entropy_panel(runs, looked),
        covariance_panel(runs, looked),
        law_panel(runs),
        clipping_panel(runs, looked),
        groups_panel(runs),
        truth_panel(runs),
        warnings_panel(runs),
    ]
    return [options, *found] if len(runs) > 1 else [*found, options]


def about(run: Recording) -> dict[str, Any]:
    """A run in a line."""
    last = int(run.steps[-1]["step"]) if run.steps else 0
    steps = run.options.get("steps")
    return {
        "name": run.name,
        "method": run.method,
        "origin": run.origin,
        "step": last,
        "steps": steps if isinstance(steps, int) else None,
        "done": run.done,
    }


def notes(runs: Sequence[Recording], left: int) -> list[str]:
    """What the page leaves out, said."""
    told = [f"Curves have at most {MOST_POINTS} points: longer ones are means over stretches."]
    if len(groups_of(runs)) < len(runs):
        told.append("A band around the mean of several seeds is their range, unless it says otherwise.")
    for run in runs:
        told += run.notes()
        if len(run.kept) > MOST_STEPS:
            told.append(f"{run.name}: tokens were looked at in {MOST_STEPS} of {len(run.kept)} steps, evenly spread.")
    if left:
        told.append(
            f"The rollout browser holds the responses that tell most; {left} more of those looked at did not fit. All "
            "are in `rollouts/` of the run."
        )
    return told


def whole(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: whole(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [whole(inner) for inner in value]
    return value.item() if hasattr(value, "item") else value


def page(found: Mapping[str, Any], live: bool = False) -> str:
    """The HTML file. live: it asks the server that it came from for news."""
    library, own = charting(), "\n".join(asset(name) for name in SCRIPTS)
    scripts = [code.replace("</script", "<\\/script") for code in (library, own)]
    hashes = " ".join(f"'sha256-{digest(code)}'" for code in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    policy += "; form-action 'none'" + ("; connect-src 'self'" if live else "")
    # Inside a script element only "<" can end it or open a comment.
    data = json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "policy": policy,
        "title": html.escape(f"Rekindle: {found['title']}"),
        "style": asset("page.css"),
        "live": ' data-live="data.json"' if live else "",
        "data": data,
    }
    parts["scripts"] = "".join(f'<script type="module">{code}</script>\n' for code in scripts)
    # In one pass: what a model wrote may look like a place of the page, too.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place.group(1)], asset("page.html"))


def digest(code: str) -> str:
    """The hash by which the page's policy lets a script run, and no other."""
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def asset(name: str) -> str:
    """A file of the page's own."""
    return (importlib.resources.files("rekindle.report.page") / "assets" / name).read_text(encoding="utf-8")


def charting() -> str:
    """Vega, Vega-Lite and vega-embed as one script. InputError where the extra is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise InputError(NEED) from None
    bundle: Any = vl_convert.javascript_bundle  # its stub asks for a snippet, which it does not need
    return bundle(vl_version=VEGA_LITE)
