"""What a run of TRL's GRPO trainer leaves on the disk, in our words: with our recorder, or without.

Without, TRL 1.16 writes `completions/completions_NNNNN.parquet` at every logging step (log_completions=True): step,
prompt, completion, a column a reward function, those that functions logged, and `advantage`. `trainer_state.json`, in
the folder or in its newest checkpoint, has `log_history`: what was logged, each with its step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rekindle.errors import InputError
from rekindle.interop.foreign import ForeignRun, is_number
from rekindle.interop.trl.rewards import said
from rekindle.interop.trl.rows import prompt_name
from rekindle.train.archive import read_table
from rekindle.train.events import read_events

NAMES: Mapping[str, str] = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
    "entropy": "entropy",
    "kl": "kl_ref",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "truncated",
    "frac_reward_zero_std": "groups/dead",
    "reward": "score",
}
"""TRL's name of a quantity -> ours. TRL's clip shares count all tokens, ours those with an advantage. Other names get
`trl/` before them."""
FIXED = ("step", "prompt", "completion", "advantage")
_FILE = re.compile(r"^(?:completions_|step-)(\d+)\.parquet$")
_REWARD = re.compile(r"^rewards/(.+)/mean$")


def read_dump(folder: str | Path) -> ForeignRun:
    """The run in `folder`: one that `RekindleRecorder` wrote, or plain TRL's output_dir.

    Of plain TRL a table has id (of the prompt's text), prompt, response, reward/NAME, score (the functions' rewards
    added up; TRL writes down no weights), success (score above 0), graded, group (neighbours with one prompt), uid,
    advantage. score and success are left out, and config["score"] says why, where the sum is not the reward that TRL
    logged. InputError where there is neither, or a file is damaged.
    """
    root = Path(folder)
    if (root / "events.jsonl").is_file():
        if (root / "run.toml").is_file():
            raise InputError(
                f"{root} is a run of Rekindle's own trainer (it has a run.toml): read it as one, without --from trl"
            )
        return _recorded(root)
    state, tables = _state(root), _files(root / "completions")
    if state is None and not tables:
        raise InputError(
            f"{root} is no run of TRL: it has no events.jsonl (RekindleRecorder), no completions/*.parquet "
            "(log_completions=True) and no trainer_state.json, in it or in a checkpoint-N: name the output_dir of a run"
        )
    history = [] if state is None else state["log_history"]
    config: dict[str, Any] = (
        {} if state is None else {n: v for n, v in state.items() if isinstance(v, int | float | str)}
    )
    rewards = list(dict.fromkeys(m.group(1) for line in history for name in line if (m := _REWARD.match(name))))
    logged = {int(line["step"]): line["reward"] for line in history if "step" in line and is_number(line.get("reward"))}
    read: dict[int, pa.Table] = {}
    uids = groups = 0
    for step, path in sorted(tables.items()):
        read[step], groups = _table(path, rewards, logged.get(step), (uids, groups), config)
        uids += read[step].num_rows
    return ForeignRun(steps=_steps(history), tables=read, config={"trainer": "trl", **config})


def _recorded(root: Path) -> ForeignRun:
    events = read_events(root / "events.jsonl")
    start = next((event for event in events if event["kind"] == "start"), {})
    steps = [
        {name: float(value) for name, value in event.items() if is_number(value)}
        for event in events
        if event["kind"] == "step"
    ]
    there = {int(step["step"]) for step in steps}
    tables = {step: read_table(path) for step, path in sorted(_files(root / "rollouts").items()) if step in there}
    config = {name: value for name, value in start.items() if name not in ("kind", "step", "time")}
    return ForeignRun(steps=steps, tables=tables, config=config)


def _files(folder: Path) -> dict[int, Path]:
    found = {path: _FILE.match(path.name) for path in sorted(folder.glob("*.parquet"))}
    return {int(match.group(1)): path for path, match in found.items() if match}


def _state(root: Path) -> dict[str, Any] | None:
    """The trainer's state: the folder's own, or that of the newest checkpoint; None where there is none."""
    numbered = {int(p.name.split("-")[1]): p for p in root.glob("checkpoint-*") if p.name.split("-")[1].isdigit()}
    places = [root, *(numbered[n] for n in sorted(numbered, reverse=True))]
    place = next((p / "trainer_state.json" for p in places if (p / "trainer_state.json").is_file()), None)
    if place is None:
        return None
    try:
        held = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{place} is no JSON ({error}): restore it, or delete it to read the completions alone"
        ) from error
    if not isinstance(held, dict) or not isinstance(held.get("log_history"), list):
        raise InputError(f"{place} has no list 'log_history': name the output_dir of a run of TRL's trainer")
    for number, line in enumerate(held["log_history"]):
        step = line.get("step", 0) if isinstance(line, dict) else line
        if not isinstance(line, dict) or not is_number(step) or step != int(step):
            raise InputError(
                f"{place}, log_history[{number}]: {step!r:.40} is no step: restore the file, or delete it to read the "
                "completions alone"
            )
    return held


def _steps(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The training lines of the log, one a step, under our names; the last line of a step holds.

    What is no finite number is left out, as of verl's logs.
    """
    found: dict[int, dict[str, float]] = {}
    for line in history:
        if "step" not in line or "loss" not in line:
            continue
        numbers = {name: value for name, value in line.items() if is_number(value) and name != "step"}
        found[int(line["step"])] = {NAMES.get(name, f"trl/{name}"): float(value) for name, value in numbers.items()}
    return [{"step": float(step), **values} for step, values in sorted(found.items())]


def _table(
    path: Path, rewards: Sequence[str], logged: float | None, first: tuple[int, int], config: dict[str, Any]
) -> tuple[pa.Table, int]:
    """(the table of one file, the number of the next group). first: numbers of its first row and group."""
    held = read_table(path)
    lacking = [name for name in FIXED[1:] if name not in held.column_names]
    if lacking:
        raise InputError(f"{path} has no column '{lacking[0]}': it is none of TRL's completions; remove it")
    prompts = [value if isinstance(value, str) else said(value) for value in held["prompt"].to_pylist()]
    groups = _groups(prompts, first[1])
    columns: dict[str, Any] = {
        "id": [prompt_name(prompt) for prompt in prompts],
        "prompt": prompts,
        "response": [said(value) for value in held["completion"].to_pylist()],
        **_scores(held, rewards, logged, config),
        "group": groups,
        "uid": list(range(first[0], first[0] + len(prompts))),
        "advantage": held["advantage"].to_pylist(),
    }
    others = [name for name in held.column_names if name not in FIXED]
    named = {f"reward/{name}": held[name].to_pylist() for name in others}
    return pa.table({**columns, **named}), (groups[-1] + 1 if groups else first[1])


def _scores(
    held: pa.Table, rewards: Sequence[str], logged: float | None, config: dict[str, Any]
) -> dict[str, list[float] | list[bool]]:
    """score, success, graded; {} where nobody says which columns are rewards, or their sum is not what was logged."""
    names = [name for name in rewards if name in held.column_names]
    if not names:
        config["score"] = "left out: no trainer_state.json says which columns are rewards"
        return {}
    rows = list(zip(*(held[name].to_pylist() for name in names), strict=True))
    values = [[v for v in row if v is not None and v == v] for row in rows]
    score, graded = [float(sum(row)) for row in values], [bool(row) for row in values]
    kept = [s for s, ok in zip(score, graded, strict=True) if ok]
    mean = sum(kept) / len(kept) if kept else 0.0
    if logged is not None and kept and abs(mean - logged) > 1e-4 * max(1.0, abs(logged)):
        config["score"] = f"left out: the rewards add up to {mean:.4g} a row, and TRL logged {logged:.4g} (weights?)"
        return {}
    return {"score": score, "success": [s > 0 for s in score], "graded": graded}


def _groups(prompts: Sequence[str], first: int) -> list[int]:
    found: list[int] = []
    for i, prompt in enumerate(prompts):
        found.append(first if not i else found[-1] + (prompt != prompts[i - 1]))
    return found
