"""TRL, where it is installed and is the TRL whose trainer ours stands on."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from rekindle.errors import InputError

HOOKS = (
    "_generate_and_score_completions",
    "_calculate_rewards",
    "_compute_loss",
    "_get_per_token_logps_and_entropies",
    "_prepare_inputs",
)
"""Methods of `trl.GRPOTrainer` that are overridden or wrapped. None is public; 1.16 is what they are tested with."""


def grpo_trainer() -> Any:
    """The class `trl.GRPOTrainer`; InputError where TRL is missing or its trainer is another one."""
    if importlib.util.find_spec("trl") is None:
        raise InputError("TRL is not installed beside Rekindle: pip install 'trl>=1.16,<1.17'")
    found = importlib.import_module("trl").GRPOTrainer
    refuse_stranger(found)
    return found


def refuse_stranger(kind: Any) -> None:
    """InputError where a trainer's class lacks one of the methods that are built on."""
    lacking = [name for name in HOOKS if not hasattr(kind, name)]
    if lacking:
        raise InputError(
            f"{kind.__name__} has no {lacking[0]}, so it is no GRPOTrainer of TRL 1.16: pip install 'trl>=1.16,<1.17'"
        )
