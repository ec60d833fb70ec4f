from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rekindle import methods
from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.interop.explain.answer import TABLES, Answer, explain
from rekindle.interop.explain.matrix import RIVALS, rows
from rekindle.interop.explain.said import slots
from rekindle.train.config import Resolved
from rekindle.train.options import flatten, override, show
from tests.interop.records import known, record_of, resolved

ROOT = Path(__file__).parents[2]
BOTH = ("trl", "verl")
FEW = ("grpo", "evol_rl", "tis", "ppo_clip", "forking_tokens")
FREE = {
    "collect.select.max_rounds": "Everything takes all in the first round",
    "collect.shape.0.label": "a part in a part",
}


def out(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def words(answer: Answer) -> tuple[Any, ...]:
    """All that an answer says, but the notes."""
    return answer.flags, answer.said.lacking, answer.said.fixed, answer.said.rewards


@pytest.mark.parametrize("rival", BOTH)
@pytest.mark.parametrize("name", methods.names())
def test_every_slot_of_every_method_is_accounted_for(name: str, rival: str) -> None:
    run = resolved(name)
    answer = explain(run, rival)
    first = run.record.methods[0]
    told = {item.path.removeprefix("methods.0."): item.said for item in answer.items}
    for path, part in slots(first):
        said = told[path]
        assert said.flags or said.same or said.lacking or said.rewards or said.fixed, path
        if type(part) not in TABLES[rival] and part not in TABLES[rival]:
            assert any(type(part).__name__ in lack.what or lack.what for lack in said.lacking), path
    assert all(lack.reason and lack.bridge and lack.path for lack in answer.said.lacking)
    assert answer.complete == (not answer.said.lacking)


def other(value: Any) -> Any:
    """Another value of the same kind, a little off."""
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 0.75 + 1e-9


def numbers(run: Resolved, seen: set[Any]) -> list[str]:
    """The paths of the record's numbers; of a part that stood in the same slot of an earlier record, none."""
    parts = {path: show(part) for path, part in slots(run.record.methods[0])}
    found = [path for path, value in flatten(run.record).items() if isinstance(value, bool | int | float)]
    found = [path for path in found if path not in FREE]
    key = {
        path: next(((p, parts[p]) for p in parts if path.startswith(p)), (run.config.method, path)) for path in found
    }
    new = [path for path in found if key[path] not in seen]
    seen |= set(key.values())
    return new


def unread(run: Resolved) -> set[str]:
    """Numbers that no update reads: the epsilon of a deviation that is not divided by, how one minibatch is cut."""
    record = flatten(run.record)
    std = record.get("advantage.std", record.get("advantage.advantage.std"))
    found = {"advantage.eps", "advantage.advantage.eps"} if std == "none" else set()
    return found | ({"descent.cut_groups"} if record.get("descent.minibatches") == 1 else set())


@pytest.mark.parametrize(
    ("names", "least"), [(FEW, 40), pytest.param(methods.names(), 200, marks=pytest.mark.heavy)], ids=["few", "all"]
)
def test_no_number_of_a_record_is_passed_over(names: tuple[str, ...], least: int) -> None:
    seen: set[Any] = set()
    silent, tried = [], 0
    for name in names:
        run = resolved(name)
        plain = {rival: words(explain(run, rival)) for rival in BOTH}
        for path in numbers(run, seen):
            try:
                changed = replace(run, record=override(run.record, path, other(flatten(run.record)[path])))
            except (ValueError, TypeError):  # a part that refuses the value
                continue
            tried += 1
            told = [rival for rival in BOTH if words(explain(changed, rival)) != plain[rival]]
            silent += [(name, path)] if len(told) < len(BOTH) and path not in unread(run) else []
    assert silent == [] and tried > least


@pytest.mark.parametrize(("name", "rival"), [(n, r) for n in ("grpo", "remix", "dpo") for r in BOTH])
def test_a_stray_class_is_named(name: str, rival: str) -> None:
    @dataclasses.dataclass(frozen=True)
    class Stray:
        strength: float = 0.5

        def __call__(self, advantage: Any, batch: Any) -> Any:
            return advantage

    run = resolved(name)
    strayed = replace(run, record=run.record.each(lambda m: m.replace(modulate=(*m.modulate, Stray()))))
    lack = next(one for one in explain(strayed, rival).said.lacking if "Stray" in one.what)
    assert lack.what == "Stray(strength=0.5)" and "modulate" in lack.path


EQUAL = [row for row in rows() if row.equal and known(row)]
OURS = list(dict.fromkeys((row.rival, row.parts, row.besides) for row in EQUAL if not row.cut))


@pytest.mark.parametrize("number", range(len(OURS)))
def test_the_flags_are_those_of_a_row_that_is_equal(number: int) -> None:
    mine = [row for row in EQUAL if (row.rival, row.parts, row.besides) == OURS[number]]
    rival = next(name for name, shown in RIVALS.items() if shown == mine[0].rival)
    said = {name.rpartition(".")[2]: value for name, value in explain(record_of(mine[0]), rival).flags.items()}
    told = [{name: said.get(name) for name in row.given} for row in mine]
    assert any(one == row.given for one, row in zip(told, mine, strict=True)), (told, [row.given for row in mine])


def test_most_rows_that_are_equal_are_tried() -> None:
    left = {row.key for row in rows() if row.equal} - {row.key for row in EQUAL}
    words = ("rloo", "dpo", "ipo", "k1", "k2", "k3", "remax", "value-loss")  # other trainers, and calls without flags
    assert len(EQUAL) >= 45 and len(OURS) >= 35 and all(any(word in key for word in words) for key in left), left


def test_the_rows_that_differ_are_those_of_the_slots_in_use() -> None:
    said = {
        name: {row.key for row in explain(resolved(name), "trl").rows} for name in ("grpo", "dr_grpo", "ttrl", "cispo")
    }
    assert said["grpo"] == {"trl-group-eps", "trl-ungraded"}
    assert said["dr_grpo"] == {"trl-dr-grpo-empty"}, "no deviation, and no token mean"
    assert said["ttrl"] == said["grpo"] | {"trl-kl-extreme"}
    assert said["cispo"] == {"trl-group-eps"}, "the rows about other flags than ours bear on nothing"
    plain = explain(resolved("grpo", "objective.dual=none"), "trl")
    assert "trl-beyond" not in said["grpo"] and "trl-beyond" in {row.key for row in plain.rows}
    assert "trl-group-eps" not in {row.key for row in explain(resolved("grpo", "advantage.eps=1e-4"), "trl").rows}


def test_a_row_about_cutting_bears_on_several_passes_only() -> None:
    one = {row.key for row in explain(resolved("kl_cov"), "verl").rows}
    many = {row.key for row in explain(resolved("kl_cov", "descent.micro_batch=8"), "verl").rows}
    assert many - one == {"verl-kl-cov-micro"}


def test_combinations_options_and_files(tmp_path: Path) -> None:
    both = explain(resolved("grpo+kl_cov", "objective.beta=0.5"), "verl")
    assert both.flags["actor_rollout_ref.actor.policy_loss.ppo_kl_coef"] == 0.5
    assert "kl_cov" in out("explain", "grpo+kl_cov", "--as", "verl")
    (tmp_path / "mine.py").write_text(
        "from rekindle.methods import grpo\n\ndef mine():\n    return grpo.method().replace(terms=())\n"
    )
    assert "GRPOConfig(" in out("explain", f"{tmp_path / 'mine.py'}:mine", "--as", "trl")


def test_the_run_folder_is_read_as_it_was_resolved(tmp_path: Path) -> None:
    from rekindle.train.runfile import to_toml

    run = resolved("dapo", "objective.high=1.5", "rollout.group=4", "rollout.temperature=0.5")
    (tmp_path / "run.toml").write_text(to_toml(run))
    told = json.loads(out("explain", str(tmp_path), "--as", "trl", "--json"))
    assert told["flags"]["epsilon_high"] == 0.5 and told["flags"]["num_generations"] == 4
    assert told["flags"]["temperature"] == 0.5 and told["method"] == "dapo"


def test_a_folder_is_known_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.toml").write_text('method = "dapo"\n')
    for target in ("~/mine", "~/mine/run.toml"):
        assert json.loads(out("explain", target, "--as", "trl", "--json"))["method"] == "dapo"
    for target in ("~/mien", "./mien", "~", "mien/", str(tmp_path / "mien")):
        code = run_safely(app, ["explain", target, "--as", "trl"])
        said = capsys.readouterr().err
        assert code == 2 and said.count("\n") == 1, target
        assert f"'{target}' is no folder: give a run's folder" in said or target == "~", said


def test_json_is_all_of_the_answer() -> None:
    told = json.loads(out("explain", "evol_rl", "--as", "trl", "--json"))
    answer = explain(resolved("evol_rl"), "trl")
    assert told["flags"] == answer.flags and told["complete"] is False
    assert [lack["bridge"].rpartition(".")[2] for lack in told["lacking"]] == ["majority_reward", "novelty_reward"]
    assert {row["row"] for row in told["differs"]} == {row.key for row in answer.rows}
    assert told["from"].keys() == told["flags"].keys()


def test_the_text_has_three_sections_and_the_snippet_is_python() -> None:
    text = out("explain", "evol_rl", "--as", "trl")
    assert text.index("# flags") < text.index("# no equivalent") < text.index("# other numbers")
    code = text.partition("# flags")[2].partition("# without")[0].partition("trainer =")[0]
    compile(code, "snippet", "exec")
    assert "majority_reward" in text and "4.6e-04" in text


def test_what_cannot_be_explained_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_safely(app, ["explain", "grpo", "--as", "openrlhf"]) == 2
    assert run_safely(app, ["explain", "grop", "--as", "trl"]) == 2
    (tmp_path / "run.toml").write_text("steps = 3\n")
    assert run_safely(app, ["explain", str(tmp_path), "--as", "trl"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 3 and "'openrlhf'" in said and "'grpo'" in said and "names no method" in said


def test_the_packages_data_is_current_and_travels() -> None:
    done = subprocess.run([sys.executable, "scripts/explain_data.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0
    from importlib.resources import files

    assert files("rekindle.interop.explain").joinpath("conformance.json").is_file()
    assert {row.rival for row in rows()} == set(RIVALS.values())
