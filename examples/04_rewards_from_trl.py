"""Reward functions written for TRL, unchanged: `trl.GRPOTrainer(reward_funcs=[right, short])` takes the same two.

    F=examples/04_rewards_from_trl.py; rekindle train grpo --task digit_sum --reward $F:right --reward $F:short=0.2

See docs/rewards.md.
"""


def right(completions, answer, log_extra, **columns):
    """1 where the digits add up to the answer modulo 10; None, which is no verdict, where a row has no answer."""
    sums = [sum(map(int, text)) % 10 if text.isdecimal() else None for text in completions]
    log_extra("sum", sums)
    return [None if a is None else float(s == int(a) % 10) for s, a in zip(sums, answer, strict=True)]


async def short(completion_ids, trainer_state, log_metric, **columns):
    """A bonus for few tokens that fades out over the run. Async functions run at the same time."""
    left = 1 - trainer_state.global_step / max(1, trainer_state.max_steps)
    lengths = [len(ids) for ids in completion_ids]
    log_metric("longest", max(lengths))
    return [left / length for length in lengths]
