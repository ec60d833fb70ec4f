"""The charts of the page as Vega-Lite specifications: a run is a colour, a part of it a dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.report.page.panels import MOST_POINTS, Chart, Point

BASE = "base (start model)"
"""The start model's curve: grey, wherever it is."""
FIT = "fit"
"""What the numbers of a fitted curve stand under."""


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
    whole = {"tickMinStep": 1, "format": "d"} if x == "step" else {}
    encode: dict[str, Any] = {
        "x": {"field": "x", "type": "quantitative", "title": x, "axis": whole},
        "color": colour(list(dict.fromkeys(row["run"] for row in values))),
    }
    y_axis = {"field": "y", "type": "quantitative", "title": y, "scale": {"zero": False, **(scale or {})}}
    layer = [*_bands(values, y), _line(values, x, y_axis), *_dots(values, y_axis)]
    spec: dict[str, Any] = {"data": {"values": values}, "encoding": encode, "layer": layer}
    if rule:
        spec = {"layer": [spec, *ruled(rule)]}
    return Chart(title=title, spec=spec, says=spoken(title, rows, rule), note=remarks(rows, x))


def _line(values: Sequence[Point], x: str, y_axis: Mapping[str, Any]) -> dict[str, Any]:
    """The mark of the curves: a dash a part, and a line anew where other runs go on."""
    parts = list(dict.fromkeys(row["part"] for row in values))
    tip = [
        {"field": "group", "type": "nominal", "title": "run"},
        {"field": "x", "type": "quantitative", "title": x},
        {"field": "y", "type": "quantitative", "title": y_axis["title"], "format": ".4~g"},
    ]
    if any(row.get("n", 1) > 1 for row in values):
        tip.append({"field": "n", "type": "quantitative", "title": "runs"})
    encoding = {"y": y_axis, "tooltip": tip} | ({"strokeDash": dash(parts)} if len(parts) > 1 else {})
    if any("stretch" in row for row in values):
        encoding["detail"] = {"field": "stretch"}
    return {"mark": {"type": "line", "point": _few(values)}, "encoding": encoding}


def _few(values: Sequence[Point]) -> bool:
    """Whether every point of the lines has a dot."""
    return len(values) <= 24 * len(curves_of(values))


def _dots(values: Sequence[Point], y_axis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What goes on for a single step has a line without length: it is a dot."""
    if _few(values) or not any("alone" in row for row in values):
        return []
    only = [{"filter": {"field": "alone", "equal": True}}]
    return [{"transform": only, "mark": {"type": "point", "filled": True, "size": 12}, "encoding": {"y": y_axis}}]


def _bands(values: Sequence[Point], y: str) -> list[dict[str, Any]]:
    if not any("low" in row for row in values):
        return []
    ends = {"y": {"field": "low", "type": "quantitative", "title": y}, "y2": {"field": "high"}}
    apart = {"detail": [{"field": "part"}, {"field": "stretch"}]}
    return [{"mark": {"type": "area", "opacity": 0.16}, "encoding": {**ends, **apart}}]


def named(row: Point) -> Point:
    """A row with its run and its part; a curve that is no part of a run has none."""
    return {"run": row["group"], "part": "", **row}


def curves_of(rows: Sequence[Point]) -> list[list[Point]]:
    """The rows of each curve."""
    found: dict[tuple[str, str], list[Point]] = {}
    for row in map(named, rows):
        found.setdefault((row["run"], row["part"]), []).append(row)
    return list(found.values())


def ruled(rule: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Dashed horizontal lines with their names."""
    where = {"y": {"field": "y", "type": "quantitative"}}
    beside = {"x": {"value": 0}, "text": {"field": "name", "type": "nominal"}}
    text = {"type": "text", "align": "left", "baseline": "bottom", "dx": 4, "dy": -2}
    drawn = [
        {"mark": {"type": "rule", "strokeDash": [5, 4], "opacity": 0.8}, "encoding": where},
        {"mark": text, "encoding": {**where, **beside}},
    ]
    return [{"data": {"values": list(rule)}, "layer": drawn}]


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


def spoken(title: str, rows: Sequence[Point], rule: Sequence[Mapping[str, Any]] = ()) -> str:
    """The first and last value of every curve, in words, and the lines that they are held against."""
    said = []
    for own in curves_of(rows):
        most = max(row.get("n", 1) for row in own)
        first, last = (f"{row['y']:.3g}{fewer(row.get('n', 1), most)}" for row in (own[0], own[-1]))
        said.append(f"{own[0]['group']} from {first} to {last}")
    said += [f"dashed, {line['name']}: {line['y']:.3g}" for line in rule]
    return f"{title}: {'; '.join(said)}."


def fewer(runs: int, most: int) -> str:
    """Of how many runs a value is, where it is not of as many as others."""
    return "" if runs == most else f" ({runs} of {most} runs)"


def remarks(rows: Sequence[Point], x: str) -> str:
    """Notes: the points of a curve that has as many as one may have are means; other runs may go on than before."""
    found = []
    if max(map(len, curves_of(rows)), default=0) >= MOST_POINTS:
        found.append(f"Each point is the mean of a stretch of {x}s: {MOST_POINTS} a curve.")
    if any("stretch" in row for row in rows):
        found.append(f"A curve begins anew where not all of its runs have the {x}: it is the mean of those that do.")
    return " ".join(found)


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
        fit = [{**row, "group": FIT} for row in curve]
        layer.append({"data": {"values": fit}, "mark": {"type": "line"}, "encoding": line})
    return Chart(title=title, spec={"layer": layer}, says=says)
