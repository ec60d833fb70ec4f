"""`python -m benchmarks.scaling [page]`: measures, fits, writes the tables of docs/scaling.md (`page`: only those)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scaling.fit import TERMS, fitted, predicted, seconds
from benchmarks.scaling.points import FITTED, HELD_OUT, Point, measure, read
from benchmarks.speed.machine import describe
from benchmarks.speed.models import Size

ROOT = Path(__file__).resolve().parent.parent.parent
DATA, PAGE = ROOT / "docs" / "results" / "scaling.json", ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- cost: begin (python -m benchmarks.scaling) -->", "<!-- cost: end -->"
REPEATED = (FITTED[0], FITTED[7], FITTED[10])
BEYOND = (
    (Point("0.5B", 16, 16, 512, 1), Size(151_936, 896, 24, 14, 2, 64, 4864)),
    (Point("0.5B", 16, 16, 512, 8), Size(151_936, 896, 24, 14, 2, 64, 4864)),
    (Point("4B", 16, 16, 512, 8), Size(151_936, 2560, 36, 32, 8, 128, 9728)),
)
"""Beyond what was measured: shapes of published models, on cores like these."""


def measured() -> dict[str, Any]:
    """Every point, and those of REPEATED once more at the end: how far a point moves by itself."""
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for turn, points in enumerate(((*FITTED, *HELD_OUT), REPEATED)):
            for point in points:
                out = Path(place) / str(turn)
                found.setdefault(point.name, []).append(measure(point, out))
                print(point.name, round(found[point.name][-1]["seconds"], 3), flush=True)
    best = {name: min(rounds, key=lambda one: one["seconds"]) for name, rounds in found.items()}
    twice = [point.name for point in REPEATED]
    spread = {name: max(one["seconds"] for one in found[name]) / best[name]["seconds"] for name in twice}
    return {
        "machine": describe(),
        "fitted": [best[point.name] for point in FITTED],
        "held_out": [best[point.name] for point in HELD_OUT],
        "spread": spread,
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def error_row(coefficients: Mapping[str, Any], point: Mapping[str, Any], kind: str) -> list[str]:
    """A line of the table of measured points."""
    guess, real = predicted(coefficients, point), seconds(point)
    shape = [point["model"], *(str(point[name]) for name in ("prompts", "group", "length", "ranks"))]
    said = [f"{real['sample']:.2f}", f"{real['update']:.2f}", f"{point['seconds']:.2f}", f"{guess['seconds']:.2f}"]
    return [*shape, *said, f"{guess['seconds'] / point['seconds'] - 1:+.0%}", kind]


def page(data: Mapping[str, Any]) -> str:
    """The generated part of docs/scaling.md."""
    coefficients, where = fitted(data["fitted"]), data["machine"]
    rows = [error_row(coefficients, point, "fitted") for point in data["fitted"]]
    rows += [error_row(coefficients, point, "held out") for point in data["held_out"]]
    head = ("model", "prompts", "group", "length", "ranks", "sample s", "update s", "step s", "model s", "error", "")
    numbers = [
        [part, name, f"{coefficients[part][name]:.3g}", meaning]
        for part, names in TERMS.items()
        for name, meaning in names.items()
    ]
    beyond = []
    for point, size in BEYOND:
        guess = predicted(coefficients, vars(point), size)
        shape = [point.model, *(str(v) for v in (point.prompts, point.group, point.length, point.ranks))]
        beyond.append([*shape, *(f"{guess[n] / 3600:.2f} h" for n in ("sample", "update", "seconds"))])
    gaps = [abs(predicted(coefficients, p)["seconds"] / p["seconds"] - 1) for p in data["held_out"]]
    return "\n\n".join(
        (
            f"Machine: {where['processor']}, {where['cores']} cores, torch {where['torch']}; a thread a rank, float32.",
            table(head, rows),
            f"On the {len(gaps)} points that were not fitted the model is off by {sum(gaps) / len(gaps):.0%} in the "
            f"mean and by {max(gaps):.0%} at worst; measured a second time, a point itself moved by up to "
            f"{max(data['spread'].values()) - 1:.0%}.",
            table(("part", "term", "coefficient", "what it is"), numbers),
            "**Extrapolated, not measured** (shapes of published models on cores like these, gradients exchanged as "
            "here; a GPU has other coefficients: measure them there by the same command):",
            table(("model", "prompts", "group", "length", "ranks", "sample", "update", "step"), beyond),
        )
    )


def main(what: str) -> None:
    """Measure (unless `page`), then write the page."""
    if what != "page":
        DATA.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{page(read(DATA))}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "measure")
