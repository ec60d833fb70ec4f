"""The site's page of every method has all its sections, and each says what record, diff and stored results say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rekindle import methods
from rekindle.errors import InputError
from rekindle.prove.results import Row, load
from rekindle.train.options import flatten
from rekindle.train.refusals import check_run
from rekindle.train.staged import changes
from rekindle.train.start import Asked, prepare
from scripts import method_facts, method_pages

NAMES = methods.names()
CHILDREN = [name for name in NAMES if methods.load(name).CARD.parent]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "methods"
    folder.mkdir()
    (folder / "left_the_shelf.md").write_text("# An old page\n")
    method_pages.write(folder)
    return folder


@pytest.fixture(scope="module")
def sections(out: Path) -> dict[str, dict[str, str]]:
    """Method -> title of a section -> its text."""
    found = {}
    for name in NAMES:
        parts = re.split(r"^## (.+)$", (out / f"{name}.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
        found[name] = dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


def test_there_is_a_page_a_method_and_nothing_that_has_left(out: Path) -> None:
    assert {path.stem for path in out.glob("*.md")} == {*NAMES, "index"}


def test_every_page_has_every_section_and_none_is_empty(sections: dict[str, dict[str, str]]) -> None:
    for name, found in sections.items():
        assert tuple(found) == method_pages.SECTIONS, name
        assert all(body.strip() for body in found.values()), name


def test_a_page_says_what_differs_from_the_parent(sections: dict[str, dict[str, str]]) -> None:
    assert len(CHILDREN) > 50
    for name in CHILDREN:
        module = methods.load(name)
        expected = changes(methods.load(str(module.CARD.parent)).method(), module.method())
        said = sections[name]["Difference from its parent"]
        assert expected and all(str(change) in said for change in expected), name
        assert len(re.findall(r"^[\w.]+: .* -> ", said, re.MULTILINE)) == len(expected), name


def test_a_page_shows_card_and_record(sections: dict[str, dict[str, str]]) -> None:
    for name in NAMES:
        module, found = methods.load(name), sections[name]
        shown = {line.split()[0] for line in found["Record"].splitlines() if line.strip()}
        assert flatten(module.method()).keys() <= shown, name
        assert f"| status | {module.CARD.status} |" in found["Card"]
        assert found["Card"].count("\n- ") == len(module.CARD.deviations), name


def row(verdict: str) -> Row:
    better = {"shown": 1.0, "not shown": 0.0, "opposite": -1.0}[verdict]
    seeds, noise = (0, 1, 2), (0.01, -0.01, 0.0)
    ours = [better + n for n in noise]
    return Row(
        claim="c", bed="b", metric="m", more=True, against="x", seeds=seeds, ours=ours, theirs=[0.0] * 3
    ).judged()


def test_a_claim_without_a_benefit_is_called_so() -> None:
    said = method_facts.verdicts([row("shown"), row("not shown"), row("opposite")])
    assert [line.split("**")[1] for line in said] == [
        "Shown",
        "No benefit shown",
        "No benefit shown, the opposite was found",
    ]


def test_effects_are_those_of_the_stored_results(sections: dict[str, dict[str, str]]) -> None:
    stored = load()
    silent = [name for name in NAMES if not methods.load(name).CARD.effects]
    assert silent and stored
    for name in NAMES:
        said, rows = sections[name]["Effect"], stored.get(name, [])
        assert ("**No claim.**" in said) == (name in silent and not rows), name
        assert said.count("**No benefit shown") == sum(r.verdict != "shown" for r in rows), name
        assert said.count("- **Shown**") == sum(r.verdict == "shown" for r in rows), name
        assert not rows or ("t bound" in said and f"| {len(rows[0].seeds)} |" in said), name


def test_rows_of_the_judge_touch_a_method_by_name_and_by_equal_parts() -> None:
    rows = {
        "own": {"method": "dapo (whole)", "flags": "Anything()"},
        "part": {"method": "clip", "flags": "Clip(low=0.8, high=1.28, dual=10, level=token); TokenMean()"},
        "cut": {"method": "cut", "flags": "TokenMean(); 4 micro-batches"},
        "other": {"method": "clip", "flags": "Clip(low=0.8, high=1.3, dual=10, level=token); TokenMean()"},
        "prefix": {"method": "dapo_two", "flags": "Anything()"},
    }
    found = method_facts.touching("dapo", rows)
    assert [r["method"] for r in found] == ["dapo (whole)", "clip", "cut"] and rows["part"] in found


@pytest.mark.parametrize("name", ["evol_rl", "dpo", "pro", "kdrl", "essa", "luffy", "remix"])
def test_the_command_has_what_the_method_needs(name: str, tmp_path: Path) -> None:
    flags, columns = method_facts.demands(name)
    if columns:
        assert "data" in flags and "task" not in flags
        with pytest.raises(InputError, match=columns[0]):
            check_run(*prepare(Asked(name, {"task": "reduce"})))
        return
    given = {"task": flags["task"], "steps": 20, "out": str(tmp_path / "run")}
    given |= {"teacher": "FOLDER"} if "teacher" in flags else {}
    given |= {"lora.rank": 8} if "lora" in flags else {}
    check_run(*prepare(Asked(name, given)))


def test_text_is_shown_as_it_stands() -> None:
    assert method_facts.plain("a * b < c_d, _x_ `e * f` [B, T]") == r"a \* b \< c_d, \_x\_ `e * f` \[B, T\]"
    assert method_facts.plain("a | b") == "a | b" and method_facts.plain("a | b", cell=True) == r"a \| b"


def test_the_index_has_every_method_once_in_one_family(out: Path) -> None:
    text = (out / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[.+?\]\((\w+)\.md\)", text, re.MULTILINE)) == list(NAMES)
    listed = [name for names in method_pages.families().values() for name in names]
    assert sorted(listed) == list(NAMES)
    assert all(f"## {family}" in text for family in method_pages.families())
