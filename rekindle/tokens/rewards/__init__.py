"""The user's own reward functions, by the signatures of TRL, verl, OpenRLHF, AReaL and verifiers: docs/rewards.md.

They get the answer as the data holds it, a text or an object. Differs from TRL: a reward that is not finite, or a list
of the wrong length, is an error that names function and row. There is no limit of time: a function that hangs, hangs
the run, for what a judge over a network may take is not ours to know.
"""

from __future__ import annotations

from rekindle.tokens.plugins import load_function
from rekindle.tokens.rewards.base import Convention, Progress, TrainerState
from rekindle.tokens.rewards.loading import (
    from_areal,
    from_openrlhf,
    from_trl,
    from_verl,
    load_rewards,
    reward_files,
)
from rekindle.tokens.rewards.taskset import (
    from_verifiers,
    load_taskset,
    taskset_examples,
    taskset_rows,
    write_taskset,
)
from rekindle.tokens.rewards.weighted import Reward, Rewarded, Rewards

__all__ = [
    "Convention",
    "Progress",
    "Reward",
    "Rewarded",
    "Rewards",
    "TrainerState",
    "from_areal",
    "from_openrlhf",
    "from_trl",
    "from_verifiers",
    "from_verl",
    "load_function",
    "load_rewards",
    "load_taskset",
    "reward_files",
    "taskset_examples",
    "taskset_rows",
    "write_taskset",
]
