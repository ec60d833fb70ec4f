"""The recorder on real runs of plain and of our trainer, and what plain TRL 1.16 leaves, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rekindle.core.types import entropy_of
from rekindle.errors import InputError
from rekindle.interop.trl import RekindleRecorder
from rekindle.interop.trl.dumps import read_dump
from rekindle.report.page.build import document
from rekindle.report.recording import of_tables, read_run
from rekindle.tokens.rollouts import Example
from rekindle.train.archive import read_rollouts
from rekindle.train.events import read_events
from tests.heavy.interop_trl import GROUP, LIMIT, PROMPTS, by_letters, trainer
from tests.tiny_models import tokenizer

# TRL's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

trl = pytest.importorskip("trl", reason="real TRL is in the environment of `make test-heavy` only")
TEMPERATURE = 0.7


def independent(made: Any, row: dict[str, Any]) -> tuple[list[float], list[float]]:
    """(log-probs, entropies) of a row's tokens by the model as it is now, one row at a time and without padding."""
    ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
    with torch.no_grad():
        logits = made.model(input_ids=ids).logits[0, len(row["prompt_ids"]) - 1 : -1]
    table = (logits / TEMPERATURE).log_softmax(dim=-1)
    return table[range(len(row["token_ids"])), row["token_ids"]].tolist(), entropy_of(table).tolist()


class Watch:
    """Scores the rows of each step by the weights before its update: what the recorder is to have written."""

    def __init__(self, made: Any) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        inner = made._compute_loss

        def computed(model: Any, inputs: Any) -> Any:
            if made._step % made.args.gradient_accumulation_steps == 0:
                self.weights.append({n: v.detach().clone() for n, v in made.model.state_dict().items()})
            return inner(model, inputs)

        made._compute_loss = computed


@pytest.fixture(scope="module", params=[1, 2], ids=["one piece", "two pieces"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Watch, Path]:
    folder, pieces = tmp_path_factory.mktemp("recorded"), request.param
    flags = {"per_device_train_batch_size": 8 // pieces, "gradient_accumulation_steps": pieces}
    made = trainer(folder / "trl", trl.GRPOTrainer, temperature=TEMPERATURE, **flags)
    watch = Watch(made)
    recorder = RekindleRecorder(folder / "run")
    assert recorder.attach(made) is recorder
    made.train()
    return made, watch, folder / "run"


def rows_of(folder: Path, step: int) -> list[dict[str, Any]]:
    return pq.read_table(folder / "rollouts" / f"step-{step:06d}.parquet").to_pylist()


def test_log_probs_and_entropies_are_those_of_an_independent_pass(run: tuple[Any, Watch, Path]) -> None:
    made, watch, folder = run
    last = {n: v.clone() for n, v in made.model.state_dict().items()}
    assert len(watch.weights) == 3
    for step, weights in enumerate(watch.weights, start=1):
        made.model.load_state_dict(weights)
        for row in rows_of(folder, step):
            logp, entropy = independent(made, row)
            assert row["token_logp"] == pytest.approx(logp, abs=2e-5)
            assert row["token_entropy"] == pytest.approx(entropy, abs=2e-5)
            assert row["logp"] == pytest.approx(sum(logp), abs=1e-4)
            assert row["entropy"] == pytest.approx(sum(entropy) / len(entropy), abs=1e-4)
            assert row["token_ratio"] == [1.0] * len(logp)
    made.model.load_state_dict(last)
    assert rows_of(folder, 1)[0]["token_logp"] != pytest.approx(independent(made, rows_of(folder, 1)[0])[0], abs=1e-3)


def test_rows_hold_what_was_sampled_and_rewarded(run: tuple[Any, Watch, Path]) -> None:
    folder = run[2]
    seen: list[int] = []
    for step in (1, 2, 3):
        rows = rows_of(folder, step)
        assert len(rows) == 2 * GROUP
        seen += [row["uid"] for row in rows]
        for row in rows:
            assert row["prompt"] in PROMPTS and tokenizer().decode(row["prompt_ids"]) == row["prompt"]
            assert row["response"] == tokenizer().decode(row["token_ids"], skip_special_tokens=True)
            assert "".join(text for text in row["token_text"] if "<" not in text) == row["response"]
            assert row["score"] == by_letters([row["response"]])[0] == row["reward/by_letters"]
            assert row["success"] == (row["score"] > 0) and row["graded"] and row["trained"]
            assert row["tokens"] == len(row["token_ids"]) == len(row["token_text"])
            assert row["finish"] == ("eos" if row["token_ids"][-1] == 2 else "length")
            assert row["finish"] == "eos" or row["tokens"] == LIMIT
        for group in {row["group"] for row in rows}:
            own = [row for row in rows if row["group"] == group]
            assert len(own) == GROUP and len({row["id"] for row in own}) == 1
            scores = torch.tensor([row["score"] for row in own])
            want = (scores - scores.mean()) / (scores.std() + 1e-4)
            assert [row["advantage"] for row in own] == pytest.approx(want.tolist(), abs=1e-5)
    assert sorted(seen) == list(range(3 * 2 * GROUP))


def test_events_have_our_names_and_trls_numbers(run: tuple[Any, Watch, Path]) -> None:
    made, _, folder = run
    events = read_events(folder / "events.jsonl")
    assert [event["kind"] for event in events] == ["start", "step", "step", "step", "end"]
    assert events[0]["trainer"] == "trl" and events[0]["config"]["max_completion_length"] == LIMIT
    logged = [line for line in made.state.log_history if "loss" in line]
    for event, line in zip(events[1:4], logged, strict=True):
        assert event["step"] == line["step"]
        assert event["loss"] == pytest.approx(line["loss"], abs=1e-6)
        assert event["grad_norm"] == pytest.approx(line["grad_norm"])
        assert event["length"] == pytest.approx(line["completions/mean_length"])
        assert event["truncated"] == pytest.approx(line["completions/clipped_ratio"])
        assert event["score"] == pytest.approx(line["reward"])
        assert event["groups/dead"] == pytest.approx(line["frac_reward_zero_std"])
        assert event["entropy"] == pytest.approx(line["entropy"], abs=0.05)  # TRL: a mean of the micro-batches' means
        assert event["clip_low"] == event["clip_high"] == 0
    assert 0 < sum(event["success"] for event in events[1:4]) < 3


def test_a_recorded_folder_is_read(run: tuple[Any, Watch, Path]) -> None:
    found = read_dump(run[2])
    assert sorted(found.tables) == [1, 2, 3] and [step["step"] for step in found.steps] == [1, 2, 3]
    assert {"token_entropy", "token_ratio", "token_text", "advantage"} <= set(found.tables[2].column_names)
    assert found.steps[0]["grad_norm"] > 0 and found.config["trainer"] == "trl"


def test_our_page_shows_a_recorded_run_as_one_of_ours(run: tuple[Any, Watch, Path]) -> None:
    found = read_dump(run[2])
    for recording in (read_run(run[2]), of_tables(run[2], "trl", found.steps, found.tables, found.config)):
        shown = {panel["id"]: panel for panel in document([recording])["panels"]}
        for name in ("entropy", "covariance", "clipping", "groups"):
            assert shown[name]["charts"], name
        assert not shown["covariance"]["missing"] and not shown["entropy"]["missing"]


def test_the_rows_are_read_back_as_rollouts(run: tuple[Any, Watch, Path]) -> None:
    place = run[2] / "rollouts" / "step-000002.parquet"
    rows = pq.read_table(place).to_pylist()
    ((rollouts, verdicts),) = read_rollouts(place, {row["id"]: Example(row["id"], row["prompt"]) for row in rows})
    assert rollouts.logp is not None and rollouts.mask.sum(1).tolist() == [row["tokens"] for row in rows]
    assert rollouts.logp.where(rollouts.mask, 0).sum(1).tolist() == pytest.approx(
        [row["logp"] for row in rows], abs=1e-5
    )
    assert verdicts.score.tolist() == [row["score"] for row in rows]


def test_ratios_and_clips_of_later_updates_of_a_generation(tmp_path: Path) -> None:
    flags = {"per_device_train_batch_size": 8, "steps_per_generation": 1, "num_iterations": 3, "max_steps": 3}
    made = trainer(tmp_path / "trl", trl.GRPOTrainer, **{**flags, "learning_rate": 0.03})
    RekindleRecorder(tmp_path / "run").attach(made)
    made.train()
    uids = [[row["uid"] for row in rows_of(tmp_path / "run", step)] for step in (1, 2, 3)]
    assert uids[0] == uids[1] == uids[2], "three updates on the same rows"
    first, last = ({row["uid"]: row for row in rows_of(tmp_path / "run", step)} for step in (1, 3))
    for uid, row in last.items():
        want = (torch.tensor(row["token_logp"]) - torch.tensor(first[uid]["token_logp"])).exp()
        assert row["token_ratio"] == pytest.approx(want.tolist(), rel=1e-4)
    assert max(abs(r - 1) for row in last.values() for r in row["token_ratio"]) > 0.2
    clipped = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["kind"] == "step"]
    bounds = pq.read_table(tmp_path / "run" / "rollouts" / "step-000003.parquet").schema.metadata[b"rekindle.clip"]
    assert bounds == b"0.8 1.2"
    assert clipped[0]["clip_low"] == 0 and clipped[2]["clip_low"] + clipped[2]["clip_high"] > 0


def test_our_trainer_is_recorded_too_and_nothing_changes(tmp_path: Path) -> None:
    from rekindle.interop.trl import RekindleTrainer

    logs = []
    for name in ("with", "without"):
        made = trainer(tmp_path / name, RekindleTrainer, more={"method": "grpo"}, per_device_train_batch_size=8)
        if name == "with":
            RekindleRecorder(tmp_path / "run").attach(made)
        made.train()
        logs.append([(line["loss"], line["grad_norm"]) for line in made.state.log_history if "loss" in line])
    assert logs[0] == logs[1], "recording changes no number"
    rows = rows_of(tmp_path / "run", 2)
    assert any(row["advantage"] for row in rows) and "token_advantage" not in rows[0]


def test_a_folder_with_a_run_is_not_written_over(run: tuple[Any, Watch, Path], tmp_path: Path) -> None:
    made = trainer(tmp_path, trl.GRPOTrainer, per_device_train_batch_size=8)
    RekindleRecorder(run[2]).attach(made)
    with pytest.raises(InputError, match="has a run already: name another folder"):
        made.train()


def test_plain_trl_is_read(tmp_path: Path) -> None:
    flags = {"log_completions": True, "num_completions_to_print": 0, "save_strategy": "steps", "save_steps": 3}
    made = trainer(tmp_path, trl.GRPOTrainer, per_device_train_batch_size=8, **flags)
    made.train()
    found = read_dump(tmp_path)
    assert sorted(found.tables) == [1, 2, 3] and [step["step"] for step in found.steps] == [1, 2, 3]
    logged = [line for line in made.state.log_history if "loss" in line]
    assert [step["entropy"] for step in found.steps] == [line["entropy"] for line in logged]
    assert [step["trl/reward_std"] for step in found.steps] == [line["reward_std"] for line in logged]
    for step, line in zip((1, 2, 3), logged, strict=True):
        rows = found.tables[step].to_pylist()
        assert len(rows) == 2 * GROUP and len({row["group"] for row in rows}) == 2
        assert [row["score"] for row in rows] == by_letters([row["response"] for row in rows])
        assert sum(row["score"] for row in rows) / len(rows) == pytest.approx(line["reward"])
        assert all(row["success"] == (row["score"] > 0) for row in rows)
    assert any(row["advantage"] for table in found.tables.values() for row in table.to_pylist())
    shown = document([of_tables(tmp_path, "trl", found.steps, found.tables, found.config)])
    panels = {panel["id"]: panel for panel in shown["panels"]}
    assert panels["groups"]["charts"] and panels["passk"]["charts"] and shown["browser"]["rows"]
    for name in ("entropy", "covariance", "clipping"):
        assert "RekindleRecorder" in " ".join(panels[name]["missing"]), name


def test_a_resumed_run_goes_on_in_its_folder(tmp_path: Path) -> None:
    for steps in (2, 3):
        flags = {"save_strategy": "steps", "save_steps": 1, "max_steps": steps}
        made = trainer(tmp_path / "trl", trl.GRPOTrainer, per_device_train_batch_size=8, **flags)
        RekindleRecorder(tmp_path / "run").attach(made)
        made.train(resume_from_checkpoint=str(tmp_path / "trl" / "checkpoint-1") if steps == 3 else None)
    kinds = [(event["kind"], event["step"]) for event in read_events(tmp_path / "run" / "events.jsonl")]
    assert kinds == [("start", 0), ("step", 1), ("resume", 1), ("start", 1), ("step", 2), ("step", 3), ("end", 3)]
    uids = [row["uid"] for step in (1, 2, 3) for row in rows_of(tmp_path / "run", step)]
    assert sorted(uids) == list(range(24)), "numbers go on behind the step that was kept"
