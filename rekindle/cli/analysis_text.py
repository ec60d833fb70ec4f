"""What `forecast`, `subnet` and `pick-examples` print: tables for people, plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rekindle.cli.common import print_table

if TYPE_CHECKING:
    from rekindle.report.delta import Count
    from rekindle.report.examples import Ranked
    from rekindle.report.forecast import Forecast
    from rekindle.report.origin import Origin
    from rekindle.report.subnet import Lens, Subnet

COLUMNS = {
    "a": "a",
    "b": "b",
    "ceiling": "ceiling b - a",
    "start": "entropy at the first step",
    "floor": "floor of entropy",
    "tau": "time constant, steps",
    "spent": "entropy below 0.05 from step",
}


def forecast_fields(found: Forecast) -> dict[str, Any]:
    """A forecast as JSON; a step that is not reached is null."""
    from rekindle.report.forecast import NUMBERS, outcome, windows

    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    spreads = {name: found.spread(name) for name in NUMBERS}
    numbers = {
        n: {"value": plain(v), "low": plain(low), "high": plain(high)} for n, (v, (low, high)) in spreads.items()
    }
    steps = [int(found.fitted.step[0]), int(found.fitted.step[-1])]
    fields = {"score": found.fitted.score_name, "steps": steps, **numbers, "notes": list(found.notes)}
    if len(found.rest.step):
        rest = [{**vars(w)} for w in windows(found)]
        fields |= {"rest": [int(found.rest.step[0]), int(found.rest.step[-1])]}
        fields |= {"rmse": vars(outcome(found)), "windows": rest}
    return fields


def print_forecast(found: Forecast) -> None:
    """A forecast as tables, then its notes."""
    from rekindle.report.forecast import NUMBERS

    fitted = found.fitted
    print(f"R = -a e^H + b on steps {fitted.step[0]:.0f} to {fitted.step[-1]:.0f}; R: {fitted.score_name}")
    rows = []
    for name in NUMBERS:
        value, (low, high) = found.spread(name)
        show = step_text if name in ("tau", "spent") else number_text
        rows.append((COLUMNS[name], show(value), f"{show(low)} to {show(high)}"))
    print_table(("", "value", "90 % interval"), rows)
    if len(found.rest.step):
        print()
        print_outcome(found)
    for note in found.notes:
        print(f"note: {note}")
    print("A correlation, to be read as a warning: it stops no run and is no stopping rule.")


def print_outcome(found: Forecast) -> None:
    """Predicted against actual on the steps that were not fitted."""
    from rekindle.report.forecast import outcome, windows

    rows = [
        (
            f"{w.first} to {w.last}",
            *(f"{value:.3f}" for value in (*w.entropy, *w.score)),
            f"{w.score_interval[0]:.3f} to {w.score_interval[1]:.3f}",
        )
        for w in windows(found)
    ]
    print_table(("steps", "H predicted", "H actual", "R predicted", "R actual", "90 % interval of the line"), rows)
    print()
    e = outcome(found)
    errors = [
        ("H", f"{e.entropy:.4f}", f"{e.bias_entropy:+.4f}", f"{e.flat_entropy:.4f}"),
        ("R", f"{e.score:.4f}", f"{e.bias_score:+.4f}", f"{e.flat_score:.4f}"),
        ("R of the stretches above", f"{e.score_stretches:.4f}", "", f"{e.flat_stretches:.4f}"),
        ("R from the actual H", f"{e.score_given_entropy:.4f}", "", ""),
    ]
    print_table(("root mean squared error", "forecast", "bias", "flat line"), errors)


def number_text(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"


def step_text(value: float) -> str:
    """A step, or that it is not reached."""
    return f"{value:.0f}" if math.isfinite(value) else "not reached"


SENSITIVE = "sparsity is a function of lr, steps, weight scale and dtype: never compare models of different lr or steps"
FULL = "a sparse update of full rank is no finding: 5 % of random entries have full rank too"
DENSE = "the fp32 update is dense and of low rank, as that of a merged LoRA: its sparsity says nothing about RL"


def subnet_notes(found: Subnet, origins: Sequence[Origin | None]) -> list[str]:
    """What must be known to read a measured update."""
    notes = [SENSITIVE]
    known = [o for o in origins if o is not None]
    if len(known) == 2 and (known[0].lr, known[0].updates) != (known[1].lr, known[1].updates):
        pairs = " and ".join(f"{rate(o)} x {o.updates} updates" for o in known)
        notes.append(f"these two were trained by {pairs}: their numbers cannot be compared")
    if any(o is None for o in origins):
        notes.append("no run.toml beside a model: its lr and steps are unknown")
    if found.low_rank:
        notes.append(DENSE)
    elif found.sparse_and_full:
        notes.append(FULL)
    return notes


def rate(source: Origin) -> str:
    """The learning rate of a run."""
    return "lr by schedule or stage" if source.lr is None else f"lr {source.lr:g}"


def subnet_fields(found: Subnet, origins: Sequence[Origin | None], atol: float) -> dict[str, Any]:
    """A measured update as JSON."""
    return {
        "tolerances": list(found.tolerances),
        "atol": atol,
        "tensors": len(found.lenses["fp32"].tensors),
        "entries": found.lenses["fp32"].total.size,
        "lenses": {name: lens_fields(lens, found.tolerances.index(atol)) for name, lens in found.lenses.items()},
        "skipped": dict(found.skipped),
        "runs": [origin_fields(source) for source in origins],
        "notes": subnet_notes(found, origins),
    }


def lens_fields(lens: Lens, column: int) -> dict[str, Any]:
    """One compare dtype as JSON. column: the tolerance of the mean changed share by layer."""
    from rekindle.report.subnet import kind_of, layer_of

    return {
        "sparsity": list(lens.total.sparsity),
        "largest": lens.total.largest,
        "kinds": {kind: list(count.sparsity) for kind, count in lens.by(kind_of).items()},
        "layers": {str(layer): list(count.sparsity) for layer, count in lens.by(layer_of).items()},
        "mean_changed_share_by_layer": {str(n): share for n, share in lens.nonzero_by_layer(column).items()},
        "rank": None if lens.rank is None else dict(vars(lens.rank)),
        "overlap": {f"{tolerance:g}": dict(vars(found)) for tolerance, found in lens.overlaps.items()},
    }


def origin_fields(source: Origin | None) -> dict[str, Any] | None:
    """A run as JSON, None where there is none."""
    if source is None:
        return None
    return {"lr": source.lr, "steps": source.steps, "updates": source.updates, "lr_times_updates": source.distance}


def print_subnet(found: Subnet, origins: Sequence[Origin | None], atol: float) -> None:
    """A measured update as tables, then its notes."""
    from rekindle.report.subnet import kind_of, layer_of

    total = found.lenses["fp32"].total
    print(f"{len(found.lenses['fp32'].tensors)} tensors, {total.size} entries")
    for source in origins:
        if source is not None:
            distance = "" if source.distance is None else f": lr * updates = {source.distance:g}"
            print(f"{source.run.name}: {rate(source)}, {source.steps} steps, {source.updates} updates{distance}")
    head = ("share unchanged within", *(f"{tolerance:g}" for tolerance in found.tolerances))
    rows = [(name, *shares(lens.total)) for name, lens in found.lenses.items()]
    print_table((*head, "largest change"), [(*r, f"{found.lenses[r[0]].total.largest:.2e}") for r in rows])
    print()
    column = found.tolerances.index(atol)
    print_groups(found, f"unchanged within {atol:g}, by kind", kind_of, column)
    print()
    print_groups(found, f"unchanged within {atol:g}, by layer", layer_of, column)
    print_ranks(found)
    print_overlaps(found)
    for name, reason in found.skipped.items():
        print(f"left out: {name}: {reason}")
    for note in subnet_notes(found, origins):
        print(f"note: {note}")


def shares(count: Count) -> list[str]:
    """The share within each tolerance, in percent."""
    return [percent(share) for share in count.sparsity]


def percent(share: float) -> str:
    """A share in percent, two decimals."""
    return f"{100 * share:.2f} %"


def print_groups(found: Subnet, title: str, key: Any, column: int) -> None:
    """One row a kind or layer."""
    lenses = {name: lens.by(key) for name, lens in found.lenses.items()}
    rows = [
        (str(place), *(percent(groups[place].sparsity[column]) for groups in lenses.values()), str(count.size))
        for place, count in lenses["fp32"].items()
    ]
    print_table((title, *lenses, "entries"), rows)


def print_ranks(found: Subnet) -> None:
    """Ranks of the update, mean over matrices; nothing where they were not asked for."""
    rows = [
        (name, percent(rank.share), f"{rank.stable:.2f}", f"{rank.energy:.1f}")
        for name, lens in found.lenses.items()
        if (rank := lens.rank) is not None
    ]
    if rows:
        print()
        print_table(("mean over matrices", "rank", "stable rank", "singular values with 90 % energy"), rows)


def print_overlaps(found: Subnet) -> None:
    """Overlap of update sets beside chance; nothing where there is one model."""
    rows = []
    for name, lens in found.lenses.items():
        for tolerance, seen in lens.overlaps.items():
            pairs = ((seen.o1, seen.chance_o1, seen.tensor_o1), (seen.o2, seen.chance_o2, seen.tensor_o2))
            cells = [" / ".join("-" if v is None else f"{v:.3f}" for v in pair) for pair in pairs]
            rows.append(
                (f"{name}, change above {tolerance:g}", *cells, "-" if seen.jaccard is None else f"{seen.jaccard:.3f}")
            )
    if rows:
        print()
        print_table(("overlap / chance / chance by tensor", "of TUNED's", "of the other's", "Jaccard"), rows)


def ranked_fields(row: Ranked) -> dict[str, Any]:
    """A ranked prompt as JSON."""
    return {**vars(row), "deviation": row.deviation}


def print_ranked(ranked: Sequence[Ranked], top: int) -> None:
    """The first `top` prompts."""
    rows = [(r.id, f"{r.deviation:.4f}", f"{r.variance:.5f}", f"{r.mean:.3f}", str(r.visits)) for r in ranked[:top]]
    print_table(("prompt", "deviation", "variance", "mean", "visits"), rows)
