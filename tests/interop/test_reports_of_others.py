"""The page of another trainer's run: from verl's dump, and from TRL's completions and log, as a user asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rekindle.cli.main import main
from rekindle.cli.report import Origin, foreign
from rekindle.report.page.build import document
from tests.interop.test_trl_dumps import completions, history, state
from tests.report.recorded import row, values


def code(*argv: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in argv])
    return int(str(end.value.code or 0))


@pytest.fixture
def verl(tmp_path: Path) -> Path:
    for step in (1, 2):
        rows = [
            {"input": f"p{p}", "output": f"answer {i}", "gts": "1", "score": float(i < step), "step": step}
            for p in range(2)
            for i in range(3)
        ]
        (tmp_path / f"{step}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def panels(folder: Path, origin: Origin) -> dict[str, dict[str, Any]]:
    return {panel["id"]: panel for panel in document([foreign(folder, origin)])["panels"]}


def test_a_dump_of_verl_is_a_page_whose_gaps_say_what_to_record(verl: Path) -> None:
    assert code("report", "--from", "verl", verl) == 0
    assert (verl / "report.html").read_text().count("answer 2") > 0
    found = panels(verl, Origin.verl)
    assert "at least one of a group" in json.dumps(found["passk"]["charts"]) and found["groups"]["charts"]
    for name, told in (("entropy", "RekindleRecorder"), ("clipping", "trainer.logger"), ("covariance", "advantage")):
        assert told in " ".join(found[name]["missing"]), name


def test_the_folder_of_the_recorder_is_a_whole_page(tmp_path: Path) -> None:
    """The recorder's layout, as docs/interop_trl.md has it; real TRL writes it in tests/heavy."""
    (tmp_path / "rollouts").mkdir()
    for step in (1, 2):
        rows = [
            row(uid=4 * step + i, group=step, success=i < 2, advantage=1.0 - i, score=float(i < 2)) for i in range(4)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rollouts" / f"step-{step:06d}.parquet")
    lines = [{"kind": "start", "step": 0, "trainer": "TRL"}]
    lines += [{"kind": "step", "step": s, "entropy": 1.0 / s, "clip_low": 0.1, "clip_high": 0.2} for s in (1, 2)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = panels(tmp_path, Origin.trl)
    for name in ("entropy", "covariance", "clipping", "groups"):
        assert found[name]["charts"], name


@pytest.mark.parametrize("logged", [None, 0.7], ids=["no state", "weights"])
def test_a_dump_of_trl_without_scores_is_a_page_that_says_why(tmp_path: Path, logged: float | None) -> None:
    for step in (1, 2):
        completions(tmp_path, step)
    if logged is not None:
        state(tmp_path, history(*({"step": step, "reward": logged} for step in (1, 2))))
    assert code("report", "--from", "trl", tmp_path) == 0
    found = document([foreign(tmp_path, Origin.trl)])
    assert len(found["browser"]["rows"]) == 8 and not any({"sc", "ok"} & set(r) for r in found["browser"]["rows"])
    panel = next(one for one in found["panels"] if one["id"] == "groups")
    told = "no trainer_state.json says" if logged is None else "TRL logged 0.7"
    assert f"{tmp_path.name}: score and success are left out: " in " ".join(panel["missing"])
    assert told in " ".join(panel["missing"])
    shown = [chart["title"] for chart in panel["charts"]]
    assert not any(title.startswith(("Dead", "Scores")) for title in shown) and "Advantages of responses" in shown
    assert "1 right" not in json.dumps(panel) and "1 wrong" not in json.dumps(panel), "nobody judged them"


def test_steps_without_scores_are_left_out_of_the_curves_of_those_with(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        completions(tmp_path, step)
    state(tmp_path, history({"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.9}, {"step": 3, "reward": 0.5}))
    found = panels(tmp_path, Origin.trl)
    dead = found["groups"]["charts"][0]
    assert dead["title"] == "Dead groups" and [r["x"] for r in values(dead)] == [1, 3]
    assert {r["x"] for chart in found["passk"]["charts"] for r in values(chart)} == {1, 3}
    assert "TRL logged 0.9" in " ".join(found["groups"]["missing"])


@pytest.mark.parametrize("origin", ["trl", "verl"])
def test_a_folder_of_neither_is_refused(tmp_path: Path, origin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("report", "--from", origin, tmp_path) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"rekindle: {tmp_path} ") and (": name the" in said or ": set trainer" in said)
