"""The counts of an evaluation: what was right of each prompt, from the start model on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.cli.main import main
from rekindle.errors import InputError
from rekindle.report.page.build import document
from rekindle.report.recording import read_run
from rekindle.train.counts import read_counts
from rekindle.train.estimators import pass_at_k
from rekindle.train.events import read_events

OPTIONS = {"rollout.prompts": 2, "rollout.group": 4, "evaluate.every": 1, "evaluate.prompts": 6, "evaluate.samples": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("counts") / "run"
    return train("grpo", task="digit_sum", steps=2, out=out, options=OPTIONS)


def test_counts_of_the_start_and_of_every_evaluation_are_kept(run: Path) -> None:
    found = read_counts(run / "evaluations")
    assert [(c.step, c.split, c.samples, len(c.right)) for c in found] == [(s, "heldout", 8, 6) for s in (0, 1, 2)]
    assert len({tuple(c.right) for c in found}) == 1


def test_pass_at_k_of_the_events_is_that_of_the_counts(run: Path) -> None:
    events = read_events(run / "events.jsonl")
    told = {e["step"]: {k: e[f"pass@{k}"] for k in (1, 4)} for e in events if e["kind"] == "eval"}
    start = next(e for e in events if e["kind"] == "baseline")
    told[0] = {k: start[f"heldout/pass@{k}"] for k in (1, 4)}
    for counts in read_counts(run / "evaluations"):
        for k in (1, 4):
            mean = sum(pass_at_k(8, right, k) for right in counts.right.values()) / len(counts.right)
            assert told[counts.step][k] == pytest.approx(mean, abs=1e-12)


def test_the_start_is_not_measured_where_it_is_not_wanted(tmp_path: Path) -> None:
    out = train(
        "grpo", task="digit_sum", steps=1, out=tmp_path / "run", options={**OPTIONS, "evaluate.baseline": False}
    )
    assert [c.step for c in read_counts(out / "evaluations")] == [1]
    assert not [e for e in read_events(out / "events.jsonl") if e["kind"] == "baseline"]


WHOLE = {"step": 1, "split": "heldout", "samples": 4, "right": {"a": 4}}


WRONG = [{"right": None}, {"right": {"a": 5}}, {"samples": "4"}, {"step": "x"}, {"samples": 0, "right": {"a": 0}}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, wrong: dict[str, object]) -> None:
    file = tmp_path / "step-000001-heldout.json"
    file.write_text(json.dumps(WHOLE | wrong))
    with pytest.raises(InputError, match=r"step-000001-heldout\.json holds no counts .* delete it"):
        read_counts(tmp_path)


def test_a_folder_without_evaluations_has_none(tmp_path: Path) -> None:
    assert read_counts(tmp_path / "none") == []


def measured(run: Path, model: object, *more: str) -> int:
    words = [
        "eval",
        str(model),
        "--task",
        "digit_sum",
        "--prompts",
        "3",
        "-n",
        "4",
        "-k",
        "1",
        "--keep",
        str(run),
        *more,
    ]
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(str(end.value.code or 0))


def test_an_evaluation_by_hand_joins_the_report_of_its_run(run: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    assert measured(own, own, "--split", "ood") == 0 and measured(own, "embedded", "--split", "ood") == 0
    found = [(c.step, len(c.right), c.samples) for c in read_counts(own / "evaluations") if c.split == "ood"]
    assert found == [(0, 3, 4), (2, 3, 4)]
    panels = {panel["id"]: panel for panel in document([read_run(own)])["panels"]}
    assert "pass@k, out of distribution" in [chart["title"] for chart in panels["passk"]["charts"]]
    assert not panels["passk"]["missing"]


def test_an_evaluation_of_other_prompts_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(run, "embedded", "--task", "reduce") == 2
    assert "is of other prompts: measure the model with --task digit_sum" in " ".join(capsys.readouterr().err.split())
    assert measured(tmp_path, "embedded") == 2
    assert "is no run folder" in capsys.readouterr().err


def test_only_the_run_and_its_start_model_can_be_kept_and_its_prompts_are_taken(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    other = Path(shutil.copytree(run / "final", tmp_path / "other"))
    assert measured(own, other) == 2
    assert "neither the run in --keep" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit) as end:
        main(["eval", str(own), "--split", "ood", "--prompts", "2", "-n", "2", "-k", "1", "--keep", str(own)])
    assert not end.value.code and (own / "evaluations" / "step-000002-ood.json").is_file()
