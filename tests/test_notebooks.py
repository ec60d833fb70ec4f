"""The notebooks are stored with their outputs, and a line that comes out otherwise than stated is found."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.docs_text import STATED, differences, printed

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def stored(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf-8"))


def stated(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if STATED in cell["metadata"].get("tags", ())]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["evol_rl_end_to_end", "write_your_own_method"]


def test_every_cell_was_run_in_order(stored: dict[str, Any]) -> None:
    counts = [cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_are_of_no_machine_and_of_no_error(stored: dict[str, Any]) -> None:
    outputs = [output for cell in stored["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    said = "".join(printed(cell) for cell in stored["cells"] if cell["cell_type"] == "code")
    assert said and "/tmp" not in said and "/home" not in said


def test_what_a_notebook_states_holds(stored: dict[str, Any]) -> None:
    text = "".join(printed(cell) for cell in stated(stored))
    assert len(stated(stored)) >= 3 and text.count(": True") >= 2 and "False" not in text
    assert list(differences(stored, copy.deepcopy(stored))) == []


def test_another_line_a_missing_line_and_an_empty_cell_are_faults(stored: dict[str, Any]) -> None:
    new = copy.deepcopy(stored)
    cell = stated(new)[0]
    was = printed(cell)
    cell["outputs"][0]["text"] = [was.replace("->", "to", 1)]
    found = list(differences(stored, new))
    assert len(found) == 1 and found[0].startswith(f"{cell['id']}: '") and "in the place of" in found[0]
    cell["outputs"][0]["text"] = [was, "one more\n"]
    assert "lines in the place of" in next(differences(stored, new))
    cell["outputs"] = []
    assert any("nothing is stated" in sentence for sentence in differences(new, new))


def test_a_cell_that_states_nothing_may_differ(stored: dict[str, Any]) -> None:
    new = copy.deepcopy(stored)
    free = [c for c in new["cells"] if c["cell_type"] == "code" and c not in stated(new)]
    for cell in free:
        cell["outputs"] = []
    assert free and list(differences(stored, new)) == []
