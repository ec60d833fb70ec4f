"""Methods of ours inside TRL's GRPO trainer, and its runs written and read in our words.

`RekindleTrainer`, `RekindleRecorder`, `majority_reward`, `novelty_reward`, `GroupReward` are imported when they are
asked for: of these only the trainer needs TRL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rekindle.interop.trl.recorder import RekindleRecorder
    from rekindle.interop.trl.rewards import GroupReward, majority_reward, novelty_reward
    from rekindle.interop.trl.trainer import RekindleTrainer

__all__ = ["GroupReward", "RekindleRecorder", "RekindleTrainer", "majority_reward", "novelty_reward"]

_PLACES = {
    "RekindleTrainer": "trainer",
    "RekindleRecorder": "recorder",
    "GroupReward": "rewards",
    "majority_reward": "rewards",
    "novelty_reward": "rewards",
}


def __getattr__(name: str) -> Any:
    """What stands in a module that is not imported yet (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return vars(importlib.import_module(f"{__name__}.{_PLACES[name]}"))[name]
