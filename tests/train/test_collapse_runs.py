"""Real runs that collapse: they are told of before the end, the same after a kill, and stop where they are asked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.errors import GuardStop, InputError
from rekindle.train.collapse import KIND, VERDICT, best
from rekindle.train.events import read_events, timeless
from rekindle.train.retention import checkpoints

FAST = {
    "rollout.prompts": 4,
    "rollout.group": 16,
    "rollout.votes": 16,
    "descent.lr": 4e-3,
    "evaluate.every": 5,
    "evaluate.prompts": 10,
    "evaluate.samples": 16,
    "evaluate.baseline": False,
    "checkpoint.every": 10,
    "checkpoint.digests": 0,
    "checkpoint.rollouts": 0,
}
"""SRT spends its entropy in about forty steps at this rate, and in none of many at a twentieth of it."""


class Killed(Exception):
    """Stands for whatever ends a process."""


def warnings(folder: Path) -> list[dict]:
    return [r for r in timeless(read_events(folder / "events.jsonl")) if r["kind"] == KIND]


def run(out: Path, steps: int = 40, resume: bool = False, heard: list | None = None, **options: object) -> Path:
    def hear(record: dict) -> None:
        if heard is not None:
            heard.append(record)
            if record["kind"] == "step" and record["step"] == options.get("kill"):
                raise Killed

    told = {**FAST, **{name.replace("__", "."): v for name, v in options.items() if name != "kill"}}
    return train("srt", task="digit_sum", steps=steps, out=out, resume=resume, options=told, heard=hear)


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    heard: list[dict] = []
    return run(tmp_path_factory.mktemp("collapse") / "run", heard=heard), heard


def test_a_run_that_collapses_says_so_with_its_numbers(collapsed: tuple[Path, list[dict]]) -> None:
    folder, heard = collapsed
    records = read_events(folder / "events.jsonl")
    evals = [r for r in records if r["kind"] == "eval"]
    assert evals[-1]["pass@16"] < 0.9 * max(r["pass@16"] for r in evals), "it did collapse"
    verdict = next(r for r in warnings(folder) if r[VERDICT])
    assert verdict["step"] < 40 and "held-out pass@16 fell from" in verdict["text"]
    at = {r["step"]: r for r in records if r["kind"] == "step"}
    sign = next(r["signals"]["slope"] for r in warnings(folder) if "slope" in r["signals"])
    step = next(r["step"] for r in warnings(folder) if "slope" in r["signals"])
    assert sign["now"] == pytest.approx(sum(at[s]["entropy"] for s in range(step - 2, step + 1)) / 3)
    notes = [r["text"] for r in heard if r["kind"] == "note"]
    assert sum("the run is collapsing" in text for text in notes) == 1 and any("entropy fell" in t for t in notes)


def test_a_killed_run_tells_the_same_once_resumed(collapsed: tuple[Path, list[dict]], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", heard=[], kill=27)
    assert warnings(run(tmp_path / "run", resume=True)) == warnings(collapsed[0])


def test_the_watch_changes_nothing_that_is_trained_and_can_be_off(
    collapsed: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    off = run(tmp_path / "off", watch__every=0)
    assert not warnings(off)
    one, two = (timeless(read_events(f / "events.jsonl")) for f in (collapsed[0], off))
    assert [r for r in one if r["kind"] != KIND] == two


def test_a_gentle_run_is_not_called_collapsing(tmp_path: Path) -> None:
    gentle = run(tmp_path / "gentle", steps=20, descent__lr=2e-4)
    assert not any(r[VERDICT] for r in warnings(gentle))


def test_it_stops_where_it_is_asked_to_saves_and_goes_on_where_that_is_asked(
    collapsed: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    step = next(r["step"] for r in warnings(collapsed[0]) if r[VERDICT])
    with pytest.raises(GuardStop, match=r"the run is collapsing: .* held-out pass@16 fell .* --set watch.stop=false"):
        run(tmp_path / "run", watch__stop=True)
    there, evals = checkpoints(tmp_path / "run" / "checkpoints"), read_events(collapsed[0] / "events.jsonl")
    highest = max((r for r in evals if r["kind"] == "eval" and r["step"] <= step), key=lambda r: r["pass@16"])["step"]
    assert there[-1].name == f"step-{step:06d}" and there[0].name == f"step-{highest:06d}", "the best one stays"
    assert f"after step {highest}" in best(tmp_path / "run" / "checkpoints")
    assert not (tmp_path / "run" / "final").exists()
    assert warnings(run(tmp_path / "run", resume=True, watch__stop=False)) == warnings(collapsed[0])


def test_the_first_evaluation_is_compared_with_the_start_model_and_nothing_stops_before_it(tmp_path: Path) -> None:
    told = {"evaluate__every": 26, "evaluate__baseline": True, "watch__stop": True}
    with pytest.raises(Killed):
        run(tmp_path / "run", heard=[], kill=22, **told)
    with pytest.raises(
        GuardStop, match=r"held-out pass@16 fell from [01]\.\d+ to 0\.\d+ since step 0; saved after step 26"
    ):
        run(tmp_path / "run", resume=True, **told)


def test_the_best_checkpoint_is_named(tmp_path: Path) -> None:
    assert best(tmp_path) == ""
    (tmp_path / "best.json").write_text('{"step": 15, "metric": "pass@16", "value": 0.98}')
    assert best(tmp_path) == ", the best by pass@16 (0.980) after step 15"


def test_stopping_without_looking_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"watch\.every=0 looks for none"):
        run(tmp_path / "run", watch__stop=True, watch__every=0)
