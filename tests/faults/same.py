"""What two finished runs differ in: weights, optimiser, events without times, rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file

from rekindle.core.ranks import Alone
from rekindle.train.digests import differing, digests
from rekindle.train.durable import GONE, OLD, PARTIAL
from rekindle.train.events import read_events, timeless
from rekindle.train.manifest import damage
from rekindle.train.retention import checkpoints

MARKS = ("resume", "stop")


def differences(whole: Path, other: Path) -> list[str]:
    """What of two run folders is not the same, in words; resume and stop events aside."""
    found = [f"tensor {name}" for name in differing(tensors(whole), tensors(other))]
    first, second = events(whole), events(other)
    places = first.keys() | second.keys()
    found += [f"event {place}" for place in places if first.get(place) != second.get(place)]
    found += [f"saved {name}" for name in ("memory", "watched") if memory(whole)[name] != memory(other)[name]]
    for kind in ("rollouts", "credits"):
        mine, theirs = (files(one, kind) for one in (whole, other))
        found += sorted(mine ^ theirs)
        found += [name for name in sorted(mine & theirs) if not same_table(whole, other, name)]
    mine, theirs = (files(one, "evaluations") for one in (whole, other))
    found += [
        n for n in sorted(mine | theirs) if n not in mine & theirs or (whole / n).read_text() != (other / n).read_text()
    ]
    found += [f"left over: {path}" for path in other.rglob(".*") if path.name.endswith((PARTIAL, OLD, GONE))]
    return found + [
        f"{place.name}: {wrong}" for place in checkpoints(other / "checkpoints") if (wrong := damage(place))
    ]


def tensors(out: Path) -> dict[str, str]:
    """Digests of the final weights and of the last checkpoint's state."""
    state = checkpoints(out / "checkpoints")[-1] / "state"
    files = [out / "final" / "model.safetensors", *sorted(state.glob("*.safetensors"))]
    return {f"{f.name}:{n}": d for f in files for n, d in digests(list(load_file(f).items()), Alone()).items()}


def memory(out: Path) -> dict[str, Any]:
    """What the last checkpoint says besides tensors."""
    return json.loads((checkpoints(out / "checkpoints")[-1] / "state" / "run.json").read_text(encoding="utf-8"))


def events(out: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """(step, kind) -> the last record of it, without times."""
    records = timeless(read_events(out / "events.jsonl"))
    return {(r["step"], r["kind"]): r for r in records if r["kind"] not in MARKS}


def files(out: Path, kind: str) -> set[str]:
    """KIND/NAME of every whole file of a kind."""
    return {f"{kind}/{path.name}" for path in (out / kind).glob("step-*")}


def same_table(whole: Path, other: Path, name: str) -> bool:
    """Whether a step's table is equal in both."""
    return pq.read_table(whole / name).equals(pq.read_table(other / name))
