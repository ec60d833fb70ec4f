"""The kinds of malformed input, and what became of each: `python -m tests.faults.kinds [--few]` prints it as JSON.

A process of its own, without the checks of shapes that tests add: what a user runs is tried.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis.strategies import SearchStrategy

from tests.faults import malformed_config as config
from tests.faults import malformed_data as data
from tests.faults import malformed_models as models
from tests.faults import malformed_runs as runs
from tests.faults import sound
from tests.faults.malformed import Case, Tally, tried

FEW, EACH = 9, 8
"""Of the quick tests: examples that hypothesis draws of a kind, and of the cases by hand every so many."""


class Sound(NamedTuple):
    """What malformed folders are made of."""

    model: Path
    adapter: Path
    run: Path
    set: Path


class Kind(NamedTuple):
    """One kind of input. drawn: how hypothesis damages it; by_hand: what it would not find; least: refusals of all."""

    what: str
    drawn: Callable[[Sound], SearchStrategy[Case]]
    by_hand: Callable[[Sound], list[Case]]
    examples: int
    least: int


def none(sound: Sound) -> list[Case]:
    """No cases by hand."""
    return []


def model_file(name: str) -> Callable[[Sound], SearchStrategy[Case]]:
    """Damage of one JSON file of a model."""
    return lambda sound: models.json_file(sound.model, name, (models.EVAL, models.PLAN, models.CHECK))


KINDS = {
    "jsonl": Kind("JSONL files", lambda s: data.jsonl(), lambda s: data.hand_data(), 160, 180),
    "json": Kind("JSON lists", lambda s: data.json_lists(), none, 100, 70),
    "parquet": Kind("parquet files", lambda s: data.parquet(), none, 130, 80),
    "sets": Kind("folders of data sets", lambda s: runs.saved_sets(s.set), lambda s: runs.hand_folders(), 80, 90),
    "options": Kind("options by --set", lambda s: config.sets(), none, 140, 100),
    "flags": Kind("flags", lambda s: config.flags(), none, 120, 90),
    "toml": Kind(
        "run.toml files, method and reward files", lambda s: config.toml(), lambda s: config.hand_config(), 100, 130
    ),
    "config": Kind("config.json files of models", model_file("config.json"), none, 140, 60),
    "tokenizer": Kind("tokenizer.json files", model_file("tokenizer.json"), none, 60, 40),
    "tokenizer config": Kind("tokenizer_config.json files", model_file("tokenizer_config.json"), none, 80, 30),
    "generation": Kind("generation_config.json files", model_file("generation_config.json"), none, 70, 30),
    "weights": Kind(
        "model.safetensors files", lambda s: models.weights(s.model), lambda s: models.hand_models(s.model), 130, 150
    ),
    "parts": Kind("weights in parts and their index", lambda s: models.indexed(s.model), none, 110, 70),
    "adapters": Kind("adapter folders", lambda s: models.adapters(s.adapter), none, 110, 70),
    "events": Kind("events.jsonl files", lambda s: runs.events(s.run), none, 90, 50),
    "runs": Kind(
        "run folders by their run.toml", lambda s: runs.run_toml(s.run), lambda s: runs.hand_runs(s.run), 110, 70
    ),
    "history": Kind("histories in a checkpoint's run.json", lambda s: runs.history(s.run), none, 80, 50),
}


def made(place: Path) -> Sound:
    """Sound folders in `place`."""
    model = sound.chat_model(place / "model")
    return Sound(
        model, sound.adapter(place / "adapter", model), sound.run(place / "run"), sound.saved_set(place / "set")
    )


def undamaged(there: Sound) -> list[Case]:
    """Cases in which nothing is damaged: all of them are valid."""
    whole = {f"base/{name}": content for name, content in models.parts(there.model).items()}
    split = {**whole, f"base/{models.WEIGHTS}": "GONE"}
    return [
        *(Case("model", argv, (), {}, there.model) for argv in (models.EVAL, models.PLAN, models.CHECK)),
        *(Case("parts", models.EVAL, (), files, there.model) for files in (whole, split)),
        Case("adapter", models.EVAL, (), {}, there.adapter),
        *(Case("run", argv, (), {}, there.run) for argv in (runs.FORECAST, runs.PICK, runs.RESUME, runs.SUBNET)),
        Case("set", data.train("grpo", "base"), (), {}, there.set),
        *(Case("rows", data.train(how, "r.jsonl"), (), {"r.jsonl": data.lines(rows)}) for how, rows in data.LAYOUTS),
    ]


def told(tally: Tally) -> dict[str, Any]:
    """A tally as JSON: counts, the defects whole, and one sentence of each kind."""
    return {
        "refused": len(tally.refused),
        "valid": len(tally.valid),
        "defects": tally.defects,
        "sentences": len(tally.kinds),
        "slowest": tally.slowest[0],
    }


def main(few: bool) -> dict[str, Any]:
    """What became of all kinds, and of folders in which nothing is damaged."""
    with tempfile.TemporaryDirectory(prefix="sound-") as place:
        there = made(Path(place))
        whole = Tally(there.model)
        for case in undamaged(there):
            whole.take(case)
        found = {"undamaged": told(whole)}
        for name, kind in KINDS.items():
            by_hand, examples = kind.by_hand(there), FEW if few else kind.examples
            drawn = tried(kind.drawn(there), by_hand[::EACH] if few else by_hand, examples, there.model)
            found[name] = told(drawn)
    return found


if __name__ == "__main__":
    print(json.dumps(main("--few" in sys.argv)))
