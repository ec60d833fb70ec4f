"""Steps that a fleet drew, ahead of the updates or within the step, are taken again without it, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.errors import InputError
from rekindle.report.travel.past import open_past
from rekindle.report.travel.replay import replay
from tests.ray.crews import ThreadCrew
from tests.train.test_ahead import crews as fleet
from tests.train.test_ahead import run

crews = fleet


@pytest.mark.parametrize("staleness", [0, 2])
def test_no_fleet_is_started_for_a_replay(crews: list[ThreadCrew], tmp_path: Path, staleness: int) -> None:
    folder = run(tmp_path / "run", **{"ray.staleness": staleness, "checkpoint.every": 2})
    started = len(crews)
    assert started == 1
    past = open_past(folder)
    for step in (2, 4):
        found = replay(past, step)
        assert found.first is None and all(one.source == "stored" for one in found.steps)
        assert found.steps[-1].apart == 0.0 and found.steps[-1].metrics > 20
    names = {name for name in past.events["step", 4] if name.startswith("sampler/")}
    assert ("sampler/gap" in names) == bool(staleness), "the gap of stored numbers is measured again"
    (folder / "rollouts" / "step-000004.parquet").unlink()
    if staleness:
        with pytest.raises(InputError, match=r"step 4 cannot be replayed: no rollouts of it are kept, .*\(ray\)"):
            replay(open_past(folder), 4)
    else:
        found = replay(open_past(folder), 4)
        assert found.first is None and found.steps[-1].source.startswith("sampled again")
    assert len(crews) == started
