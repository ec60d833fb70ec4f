"""Another method on the stored responses does what it would have done there; what it lacked is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.report.travel.offered import Exhausted, Offered
from rekindle.report.travel.past import open_past
from rekindle.report.travel.side import Compared, cosine, side_by_side
from rekindle.report.travel.stored import Stored
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.train.events import read_events
from tests.cli.folders import rekindle

SMALL: dict[str, Any] = {
    "rollout.prompts": 6,
    "rollout.group": 4,
    "rollout.max_tokens": 6,
    "rollout.votes": None,
    "descent.minibatches": 2,
    "descent.lr": 1e-4,
    "evaluate.baseline": False,
    "checkpoint.every": 2,
}


def recorded(method: str, out: Path, steps: int = 3, **more: Any) -> Path:
    return train(method, task="digit_sum", steps=steps, out=out, options={**SMALL, **more})


@pytest.fixture(scope="module")
def grpo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded("grpo", tmp_path_factory.mktemp("grpo") / "run")


def beside(run: Path, step: int, method: str, *sets: str) -> Compared:
    return side_by_side(open_past(run), step, method, sets)


def event(run: Path, step: int) -> dict[str, Any]:
    return next(e for e in read_events(run / "events.jsonl") if (e["kind"], e["step"]) == ("step", step))


@pytest.mark.parametrize("method", ["dr_grpo", "evol_rl", "ppo_clip"])
def test_it_does_what_a_run_of_its_own_does_on_the_same_responses(grpo: Path, tmp_path: Path, method: str) -> None:
    # The first step of two runs of one seed has the same weights, prompts and responses, whatever their methods.
    own = event(recorded(method, tmp_path / "run", steps=1), 1)
    found = beside(grpo, 1, method)
    assert found.other.loss == own["loss"] and found.other.grad_norm == own["grad_norm"]
    assert found.recorded.loss == event(grpo, 1)["loss"] != own["loss"]
    assert found.replayed.first is None and found.other.updates == found.recorded.updates == 2
    assert found.other.notes[:2] == ["descent.minibatches=2, as the run has it", "descent.lr=0.0001, as the run has it"]
    heads = ["its head 'value' is untrained"] if method == "ppo_clip" else []
    assert found.other.notes[2:] == heads


def test_a_method_beside_itself_is_itself(grpo: Path) -> None:
    found = beside(grpo, 3, "grpo")
    assert {**vars(found.recorded), "notes": 0} == {**vars(found.other), "notes": 0}
    assert found.cosine == pytest.approx(1.0, abs=1e-12) and found.recorded.moved > 0
    assert found.replayed.began == 2 and found.tokens == event(grpo, 3)["responses"] * event(grpo, 3)["length"]
    assert found.entropy == pytest.approx(event(grpo, 3)["entropy"], rel=1e-5), "of the sampler, at the same weights"


def test_an_update_without_a_learning_rate_changes_nothing_that_is_measured(grpo: Path) -> None:
    found = beside(grpo, 2, "grpo", "descent.lr=0.0")
    assert found.other.moved == 0 and found.cosine is None and found.other.entropy == found.entropy
    assert found.other.k1 == found.other.k3 == 0 and found.other.grad_norm is not None
    assert found.recorded.moved > 0 and found.recorded.k3 > 0 and found.recorded.entropy != found.entropy
    assert "descent.lr=0.0001, as the run has it" not in found.other.notes


def test_a_method_that_drops_prompts_trains_on_those_that_it_keeps(grpo: Path) -> None:
    rows = pq.read_table(grpo / "rollouts" / "step-000002.parquet").to_pydict()
    groups = {g: {s for s, h in zip(rows["success"], rows["group"], strict=True) if h == g} for g in rows["group"]}
    mixed = [g for g, seen in groups.items() if len(seen) == 2]
    assert 0 < len(mixed) < 6
    tokens = sum(n for n, g in zip(rows["tokens"], rows["group"], strict=True) if g in mixed)
    found = beside(grpo, 2, "dapo")
    assert found.other.tokens == tokens < found.recorded.tokens and found.other.taught == 1.0
    assert (
        f"it would have sampled on: its step is of the {len(mixed)} stored prompts that it keeps" in found.other.notes
    )


def test_what_a_method_lacks_is_said_of_it(grpo: Path) -> None:
    said = {
        "evol_rl": "it would have sampled 8 responses of a prompt at once, and fewer are stored (4)",
        "remax": "greedy responses are sampled again",
        "spo": "it remembers 'spo' from step to step, and began with none",
        "remix": "it keeps 'replay' from step to step, and began with none",
        "priority": "its own choice of prompts (HalfSolvedFirst) is not followed",
    }
    for method, note in said.items():
        assert note in beside(grpo, 1, method, *(["rollout.votes=8"] if method == "evol_rl" else [])).other.notes


def test_rounds_of_the_recorded_step_are_told_to_a_method_that_samples_once(tmp_path: Path) -> None:
    run = recorded("dapo", tmp_path / "run", **{"collect.select.max_rounds": 60})
    rounds = pq.read_table(run / "rollouts" / "step-000001.parquet")["round"].to_pylist()
    assert max(rounds) >= 1
    notes = beside(run, 1, "grpo").other.notes
    assert f"it samples once: of the {max(rounds) + 1} stored rounds it has the first" in notes


def test_what_cannot_be_compared_is_refused_in_a_sentence(grpo: Path, tmp_path: Path) -> None:
    for method, why in {
        "nlpo": "'nlpo' draws each token by a rule",
        "essa": "'essa' searches and takes no update on responses",
        "reinforce_ada": "'reinforce_ada' cannot take this step .* more responses of a prompt than are stored",
        "nothing": "unknown method 'nothing'",
    }.items():
        with pytest.raises(InputError, match=why):
            beside(grpo, 1, method)
    with pytest.raises(InputError, match="other sampling options than the stored responses were drawn by: drop it"):
        beside(grpo, 1, "grpo", "rollout.temperature=1.5")
    bare = recorded("grpo", tmp_path / "bare", steps=1, **{"checkpoint.tokens": False})
    with pytest.raises(InputError, match=r"step 1 has no stored responses to compare methods on .*without tokens"):
        beside(bare, 1, "dr_grpo")


def test_a_method_of_a_file_is_shown_in_a_table_and_in_json(
    capsys: pytest.CaptureFixture[str], grpo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from rekindle.methods import grpo\n\n\ndef mine():\n    return grpo.method()\n")
    args = ["replay", grpo, "--step", "2", "--method", f"{file}:mine"]
    ended = rekindle(capsys, *args, "--set", "descent.lr=0.001")
    assert ended.code == 0 and "cosine of the two changes of weights: 0." in ended.out
    assert ended.out.endswith("the replay of grpo: equal, bit for bit\n")
    ended = rekindle(capsys, *args, "--json")
    told = json.loads(ended.out)
    assert told["cosine"] == pytest.approx(1.0) and told["replay"]["equal"] and told["other"]["taught"] <= 1
    ended = rekindle(capsys, "replay", grpo, "--step", "2", "--set", "descent.lr=0.001")
    assert ended.code == 2 and "--set is of another method than the run's: add --method NAME" in ended.err


def test_offered_responses_are_given_once_and_by_uid() -> None:
    examples = [Example("p", "p"), Example("q", "q")]
    rows = Rollouts(
        example=[examples[i] for i in (0, 0, 0, 1, 1, 1)],
        prompt=PromptRows(((1,),) * 6),
        ids=torch.arange(6)[:, None],
        mask=torch.ones(6, 1, dtype=torch.bool),
        logp=None,
        logp_sampled=torch.zeros(6, 1),
        entropy=None,
        text=list("abcdef"),
        finish=["eos"] * 6,
        group=torch.tensor([4, 4, 4, 7, 7, 7]),
        uid=torch.tensor([14, 12, 13, 21, 22, 23]),
    )
    settings, key = Sampling(), torch.tensor(0)
    taken = Offered([rows], Stored([], None, settings, None), settings, None)
    assert [e.id for e in taken.prompts()] == ["p", "q"]
    assert taken.sample(examples, 2, settings, key, 99).uid.tolist() == [12, 13, 21, 22]
    assert taken.sample(examples[:1], 2, settings, key, 99).uid.tolist() == [14]
    assert taken.notes == ["it would have sampled 2 responses of a prompt at once, and fewer are stored (1)"]
    with pytest.raises(Exhausted, match="more responses of a prompt than are stored"):
        taken.sample(examples[:1], 1, settings, key, 99)
    with pytest.raises(Exhausted, match="more prompts than the 1 stored rounds"):
        taken.prompts()


def test_the_cosine_is_that_of_all_weights_as_one_vector() -> None:
    a = {"x": torch.tensor([1.0, 0.0]).double(), "y": torch.tensor([1.0]).double()}
    b = {"x": torch.tensor([0.0, 2.0]).double(), "y": torch.tensor([2.0]).double()}
    assert cosine(a, b) == pytest.approx(0.5) and cosine(a, {n: -v for n, v in a.items()}) == pytest.approx(-1)
    assert cosine(a, {n: 0 * v for n, v in a.items()}) is None
