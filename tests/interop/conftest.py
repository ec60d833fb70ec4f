"""verl, played by two dicts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def algos(monkeypatch: pytest.MonkeyPatch) -> Any:
    """verl's two registries, as `core_algos` has them."""
    played: Any = ModuleType("verl.trainer.ppo.core_algos")

    def into(table: dict[str, Any]) -> Callable[[str], Callable[[Any], Any]]:
        return lambda name: lambda function: table.setdefault(name, function)

    played.POLICY_LOSS_REGISTRY, played.ADV_ESTIMATOR_REGISTRY = {"vanilla": print}, {"grpo": print}
    played.register_policy_loss = into(played.POLICY_LOSS_REGISTRY)
    played.register_adv_est = into(played.ADV_ESTIMATOR_REGISTRY)
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.core_algos", played)
    return played
