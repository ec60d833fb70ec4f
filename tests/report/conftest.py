"""Small real runs that several tests of the page look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.api import train
from tests.report.recorded import OPTIONS


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of EVOL-RL and one of EchoRL, four steps each."""
    folder = tmp_path_factory.mktemp("runs")
    made = {"evol-0": ("evol_rl", 0), "evol-1": ("evol_rl", 1), "echo-0": ("echo_rl", 0)}
    return {
        name: train(method, task="digit_sum", steps=4, out=folder / name, options=OPTIONS | {"seed": seed})
        for name, (method, seed) in made.items()
    }
