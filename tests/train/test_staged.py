"""A method of several stages: its options, its differences, and what it cannot be combined or shortened to."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rekindle.cli.main import app
from rekindle.core.stages import Stages
from rekindle.core.terms import KLToReference
from rekindle.errors import InputError
from rekindle.methods import dapo, grpo
from rekindle.prove.beds import load_bed
from rekindle.prove.setting import Setting
from rekindle.train.combine import combine
from rekindle.train.config import resolve
from rekindle.train.options import flatten
from rekindle.train.staged import changes, places, unstaged

TWO = Stages(methods=(grpo.method(), dapo.method()), until=(0.5, 1.0))
STAGED = """
from rekindle.core.stages import Stages
from rekindle.methods import dapo, grpo

def method():
    return Stages(methods=(grpo.method(), dapo.method()), until=(0.5, 1.0))
"""


def test_an_option_without_its_stage_is_set_wherever_it_is() -> None:
    assert places("descent.lr", TWO) == ["methods.0.descent.lr", "methods.1.descent.lr"]
    assert places("methods.1.descent.lr", TWO) == ["methods.1.descent.lr"]
    assert places("until", TWO) == ["until"] and places("no.such", TWO) == ["no.such"]
    assert places("descent.lr", grpo.method()) == ["descent.lr"]
    assert (unstaged("methods.1.descent.lr"), unstaged("descent.lr")) == ("descent.lr", "descent.lr")


def test_changes_are_told_stage_by_stage() -> None:
    same, other = changes(grpo.method(), TWO), changes(grpo.method(), dapo.method())
    assert {c.path for c in same} == {f"methods.1.{c.path}" for c in other}
    assert [(c.old, c.new) for c in changes(TWO, grpo.method())] == [(c.new, c.old) for c in same]
    assert not changes(TWO, TWO)


def test_shelf_commands_take_it(tmp_path) -> None:
    file = tmp_path / "two.py"
    file.write_text(STAGED)
    shown = CliRunner().invoke(app, ["show", f"{file}:method", "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["options"] == json.loads(json.dumps(flatten(TWO)))
    told = CliRunner().invoke(app, ["diff", "grpo", f"{file}:method"], catch_exceptions=False)
    assert "methods.1.objective.high: 1.2 -> 1.28" in told.stdout and "methods.0" not in told.stdout


def test_a_bed_trains_every_stage_for_its_share(tmp_path) -> None:
    fitted = Setting(lr=0.3, minibatches=2).fitted(TWO)
    assert [m.descent.lr for m in fitted.methods] == [0.3, 0.3] and [m.descent.minibatches for m in fitted.methods] == [
        2,
        2,
    ]
    file = tmp_path / "two.py"
    file.write_text(
        STAGED.replace("dapo.method()", "grpo.method().replace(terms=(EntropyBonus(coef=0.0),))").replace(
            "from rekindle.methods", "from rekindle.core.terms import EntropyBonus\nfrom rekindle.methods"
        )
    )
    bed = load_bed("digits").with_options({"steps": 6, "blocks": 2, "prompts": 4})
    whole, plain = bed.run(f"{file}:method", {}, 0), bed.run("grpo", {}, 0)
    assert whole["accuracy"] == plain["accuracy"], "a bonus of nothing changes nothing"
    strong = bed.run(f"{file}:method", {"methods.1.terms.0.coef": 1.0}, 0)
    assert strong["entropy"] > plain["entropy"]
    slow = bed.run(f"{file}:method", {"descent.grad_clip": 1e-9}, 0)
    assert abs(slow["train/grad_norm"] - plain["train/grad_norm"]) > 1e-6, "set in both stages"


def test_it_is_not_combined() -> None:
    for names in (("grpo", "remix"), ("remix", "dapo")):
        with pytest.raises(InputError, match="'remix' changes its method during a run and is not combined"):
            combine(names)


def test_trl_names_reach_every_stage() -> None:
    record = Stages(methods=tuple(m.replace(terms=(KLToReference(coef=0.5),)) for m in TWO.methods), until=(0.5, 1.0))
    found = resolve("two", record, flags={"beta": 0.1, "learning_rate": 1e-4}).record
    assert [m.terms[0].coef for m in found.methods] == [0.1, 0.1] and found.methods[1].descent.lr == 1e-4
    assert resolve("two", TWO, flags={"beta": 0}).record == TWO
    with pytest.raises(InputError, match="this method has 0"):
        resolve("two", TWO, flags={"beta": 0.1})
