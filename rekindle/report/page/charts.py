"""The charts of the page as Vega-Lite specifications: a run is a colour, a part of it a dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.report.page.panels import MOST_POINTS, SEP, Chart, Point

BASE = "base"
"""The start model's curve: grey, wherever it is."""


def lines(
    title: str,
    rows: Sequence[Point],
    *,
    x: str = "step",
    y: str,
    rule: Sequence[Mapping[str, Any]] = (),
    scale: Mapping[str, Any] | None = None,
) -> Chart:
    """Lines with bands. rule: {"y": value, "name": text} horizontal lines. scale: of the y axis."""
    values = [named(row) for row in rows]
    runs, parts = (list(dict.fromkeys(row[key] for row in values)) for key in ("run", "part"))
    whole = {"tickMinStep": 1, "format": "d"} if x == "step" else {}
    encode: dict[str, Any] = {
        "x": {"field": "x", "type": "quantitative", "title": x, "axis": whole},
        "color": colour(runs),
    }
    y_axis = {"field": "y", "type": "quantitative", "title": y, "scale": {"zero": False, **(scale or {})}}
    tip = [
        {"field": "group", "type": "nominal", "title": "run"},
        {"field": "x", "type": "quantitative", "title": x},
        {"field": "y", "type": "quantitative", "title": y, "format": ".4~g"},
    ]
    layer: list[dict[str, Any]] = []
    if any("low" in row for row in rows):
        band = {"y": {"field": "low", "type": "quantitative", "title": y}, "y2": {"field": "high"}}
        layer.append({"mark": {"type": "area", "opacity": 0.16}, "encoding": {**band, "detail": {"field": "group"}}})
    dotted = len(rows) <= 24 * len(runs) * len(parts)
    encoding = {"y": y_axis, "tooltip": tip} | ({"strokeDash": dash(parts)} if len(parts) > 1 else {})
    layer.append({"mark": {"type": "line", "point": dotted}, "encoding": encoding})
    spec: dict[str, Any] = {"data": {"values": values}, "encoding": encode, "layer": layer}
    if rule:
        spec = {"layer": [spec, *ruled(rule)]}
    return Chart(title=title, spec=spec, says=spoken(title, rows), note=thinned(rows, x))


def named(row: Point) -> Point:
    """A row with its group told apart as run and part (RUN · PART)."""
    run, _, part = str(row["group"]).rpartition(SEP)
    return {**row, "run": run, "part": part} if run else {**row, "run": part, "part": ""}


def ruled(rule: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Dashed horizontal lines with their names."""
    values = {"data": {"values": list(rule)}}
    where = {"y": {"field": "y", "type": "quantitative"}}
    return [
        {**values, "mark": {"type": "rule", "strokeDash": [5, 4], "opacity": 0.8}, "encoding": where},
        {
            **values,
            "mark": {"type": "text", "align": "left", "baseline": "bottom", "dx": 4, "dy": -2},
            "encoding": {**where, "x": {"value": 0}, "text": {"field": "name", "type": "nominal"}},
        },
    ]


def colour(groups: Sequence[str], field: str = "run") -> dict[str, Any]:
    """One colour a run, the same in every chart of the page, and a legend where there are several."""
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(groups)},
        "legend": legend() if len(groups) > 1 else None,
    }


def dash(parts: Sequence[str]) -> dict[str, Any]:
    """One dash a part of a run."""
    return {"field": "part", "type": "nominal", "scale": {"domain": list(parts)}, "legend": legend()}


def legend() -> dict[str, Any]:
    """Above the chart, in full colour whatever the marks' opacity."""
    return {"orient": "top", "title": None, "labelLimit": 260, "columns": 4, "symbolOpacity": 1}


def spoken(title: str, rows: Sequence[Point]) -> str:
    """The first and last value of every curve, in words."""
    said = []
    for group in dict.fromkeys(row["group"] for row in rows):
        own = [row for row in rows if row["group"] == group]
        said.append(f"{group} from {own[0]['y']:.3g} to {own[-1]['y']:.3g}")
    return f"{title}: {'; '.join(said)}."


def thinned(rows: Sequence[Point], x: str) -> str:
    """A note where the curve has as many points as one may have: its points are means."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["group"]] = counts.get(row["group"], 0) + 1
    most = max(counts.values(), default=0)
    return f"Each point is the mean of a stretch of {x}s: {MOST_POINTS} a curve." if most >= MOST_POINTS else ""


def bars(title: str, rows: Sequence[Point], *, x: str, y: str, says: str) -> Chart:
    """Bars side by side; rows of x, y, group."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    axis = {"labelAngle": 0, "labelOverlap": "parity"}
    kinds = (("group", "nominal", "what"), ("x", "nominal", x), ("y", "quantitative", y))
    encoding: dict[str, Any] = {
        "x": {"field": "x", "type": "ordinal", "title": x, "sort": None, "axis": axis},
        "y": {"field": "y", "type": "quantitative", "title": y, "stack": None},
        "color": colour(groups, "group"),
        "tooltip": [{"field": field, "type": kind, "title": told} for field, kind, told in kinds],
    }
    if len(groups) > 1:
        encoding["xOffset"] = {"field": "group"}
    spec = {"data": {"values": list(rows)}, "mark": {"type": "bar"}, "encoding": encoding}
    return Chart(title=title, spec=spec, says=says)


def points(title: str, rows: Sequence[Point], *, x: str, y: str, curve: Sequence[Point] = (), says: str) -> Chart:
    """Points of x, y, group, and a curve through them."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": x, "scale": {"zero": False}},
        "y": {"field": "y", "type": "quantitative", "title": y, "scale": {"zero": False}},
        "color": colour(groups, "group"),
    }
    dots = {"data": {"values": list(rows)}, "mark": {"type": "point", "filled": True, "opacity": 0.7}}
    layer: list[dict[str, Any]] = [{**dots, "encoding": encoding}]
    if curve:
        line = {name: encoding[name] for name in ("x", "y")}
        layer.append({"data": {"values": list(curve)}, "mark": {"type": "line"}, "encoding": line})
    return Chart(title=title, spec={"layer": layer}, says=says)
