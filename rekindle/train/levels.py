"""The levels that a step is watched for: how its responses ended, how they were graded, whether anything is learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rekindle.core.types import Batch
from rekindle.errors import GuardStop
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.culprit import refuse_overflow
from rekindle.train.drawn import drawn
from rekindle.train.events import Log
from rekindle.train.guards import NAMED, refuse_malformed
from rekindle.train.loud import Level, Listener, raise_level, raised, warn
from rekindle.train.moved import CAUSES, MOVED, REMEDIES
from rekindle.train.rewarded import reward_levels

if TYPE_CHECKING:
    from rekindle.train.run import Run

Seen = Sequence[tuple[Rollouts, Verdicts]]
COMPARED = 4
"""Responses that a group has at least, for equal ones among them to say something."""
NEVER, FAILED, STILL = "ungraded", "unsolved", "still"
"""In `run.watched`: prompt -> visits without any grade; [steps, responses] without a success, None after one; steps in
a row in which no update changed anything, and why."""


def warn_of_step(run: Run, log: Log, heard: Listener) -> None:
    """Warn of what the step that was just taken shows; GuardStop where it broke the weights, or trains nothing."""
    refuse_overflow(run)
    levels = raised(run)
    if levels is None:  # a method without a gradient gathers no batch
        measure(run)
        levels = raised(run) or []
    warn(run, [*levels, *standing(run)], log, heard)
    refuse_still(run)


def look_over(run: Run, batch: Batch) -> None:
    """What a step's batch must be (GuardStop), and the levels of what was sampled for it. Before any update."""
    refuse_malformed(run, batch)
    measure(run)


def measure(run: Run) -> None:
    """Raise the levels of what this step has sampled, once all of it is there."""
    seen = [(r, v) for r, v in run.last_rollouts if r.given is None and len(r)]
    if seen:
        shares = (*sampled(run, seen), *graded(run, seen), *voted(run, seen))
        for level in (*shares, *unsolved(run, seen), *never_graded(run, seen), *reward_levels(run, seen)):
            raise_level(run, level)


def shared(what: str, count: int, of: int, limit: float, remedy: str, **numbers: int) -> Level:
    """The level of a share; a limit of 1 is never passed."""
    share = count / of if of else 0.0
    return Level(what, share, limit, {"share": share, "limit": limit, "count": count, "of": of, **numbers}, remedy)


def sampled(run: Run, seen: Seen) -> Iterator[Level]:
    """Responses that were cut off, that hold no text, and groups whose responses are all the same."""
    limits, most = run.resolved.config.guards, run.max_tokens
    rows = [(f, t) for r, _ in seen for f, t, own in zip(r.finish, r.text, drawn(r).tolist(), strict=True) if own]
    if not rows:
        return
    cut, empty = sum(f == "length" for f, _ in rows), sum(not t.strip() for _, t in rows)
    more = f"raise rollout.max_tokens ({most}), or look at why they do not end"
    yield shared("responses were cut off", cut, len(rows), limits.truncated, more, max_tokens=most)
    remedy = "look at the prompts and the chat template: does the model end at once?"
    yield shared("responses are empty", empty, len(rows), limits.empty, remedy)
    equal = [same for r, _ in seen for same in equal_groups(r)]
    if equal:
        remedy = "raise rollout.temperature, or use harder prompts: equal responses teach nothing"
        yield shared("all responses of a group are the same", sum(equal), len(equal), limits.identical, remedy)


def equal_groups(rollouts: Rollouts) -> list[bool]:
    """Of every group of at least `COMPARED` drawn responses: whether all are the same tokens."""
    groups = rollouts.group[drawn(rollouts)]
    ids = rollouts.ids.masked_fill(~rollouts.mask, -1)[drawn(rollouts)]
    kinds, index, sizes = groups.unique(return_inverse=True, return_counts=True)
    first = torch.stack([(index == i).nonzero()[0, 0] for i in range(len(kinds))]) if len(kinds) else index
    unlike = (ids != ids[first][index]).any(dim=1)
    differs = torch.zeros(len(kinds), dtype=torch.int64).index_add_(0, index, unlike.long())
    return (differs[sizes >= COMPARED] == 0).tolist()


def graded(run: Run, seen: Seen) -> Iterator[Level]:
    """Rows without a grade, and grades that failed for the grader's own sake."""
    limits = run.resolved.config.guards
    known, rows = sum(int(v.graded.sum()) for _, v in seen), sum(len(r) for r, _ in seen)
    remedy = "look at the references and the reward functions: rows without a grade teach nothing"
    yield shared("responses were not graded", rows - known, rows, limits.ungraded, remedy)
    told = [v.metrics["grading/infra_error"] for _, v in seen if "grading/infra_error" in v.metrics]
    if told:
        failed, of = (int(sum(pair[i] for pair in told)) for i in (0, 1))
        remedy = "look at the machine (memory, processes), grading.workers and grading.deadline"
        yield shared("the grader itself failed", failed, of, limits.infra, remedy)


def voted(run: Run, seen: Seen) -> Iterator[Level]:
    """Votes in which no response stated an answer: such a group has no label, and no response of it is a success."""
    silent, votes = 0, 0
    for rollouts, verdicts in seen:
        heard = Counter(g for g, a in zip(rollouts.group.tolist(), verdicts.answer, strict=True) if a)
        votes += len(verdicts.vote)
        silent += sum(not heard[group] for group in verdicts.vote)
    if votes:
        remedy = "is grading.extract the rule of this prompt, and rollout.max_tokens enough?"
        yield shared("votes had no answer", silent, votes, run.resolved.config.guards.unanswered, remedy)


def unsolved(run: Run, seen: Seen) -> Iterator[Level]:
    """Steps since the start without any success; nothing more is said once there was one."""
    limit, state = run.resolved.config.guards.unsolved, run.watched.get(FAILED, [0, 0])
    if state is None or run.verifier.rewards is not None:  # a success by rewards is all of their weights: few reach it
        return
    steps, rows = state[0] + 1, state[1] + sum(int(v.graded.sum()) for _, v in seen)
    solved = any(bool(v.success.any()) for _, v in seen)
    run.watched[FAILED] = None if solved else [steps, rows]
    if limit and not solved:
        remedy = "use easier data or a stronger model, and look at grading.extract: is a right answer found?"
        yield Level("no response was ever right", steps, limit - 1, {"steps": steps, "responses": rows}, remedy)


def never_graded(run: Run, seen: Seen) -> Iterator[Level]:
    """Prompts that were visited `guards.visits` times and never had a graded response."""
    limit = run.resolved.config.guards.visits
    known: dict[str, int] = run.watched.get(NEVER, {})
    for rollouts, verdicts in seen:
        for prompt, grade in visited(rollouts, verdicts.graded):
            known = (
                {k: n for k, n in known.items() if k != prompt}
                if grade
                else {**known, prompt: known.get(prompt, 0) + 1}
            )
    if known or NEVER in run.watched:
        run.watched[NEVER] = known
    often = [prompt for prompt, visits in known.items() if visits >= limit]
    if limit:
        numbers = {"prompts": len(often), "first": ", ".join(often[:NAMED]), "visits": limit}
        remedy = "repair their references (rekindle data check), or leave them out: they only cost samples"
        yield Level("prompts are never graded", len(often), 0, numbers, remedy)


def visited(rollouts: Rollouts, grade: Tensor) -> list[tuple[str, bool]]:
    """(prompt id, whether any response of it was graded) of every group."""
    found: dict[int, tuple[str, bool]] = {}
    for group, example, one in zip(rollouts.group.tolist(), rollouts.example, grade.tolist(), strict=True):
        found[group] = (example.id, one or found.get(group, ("", False))[1])
    return list(found.values())


def standing(run: Run) -> Iterator[Level]:
    """Steps in a row in which no update changed anything, though there was signal."""
    causes: list[str] | None = run.watched.pop(CAUSES, None)
    if causes is None:
        return
    still = bool(causes) and MOVED not in causes
    steps = run.watched.get(STILL, {"steps": 0})["steps"] + 1 if still else 0
    if steps or STILL in run.watched:
        run.watched[STILL] = {"steps": steps, "cause": causes[-1]}
    limit = run.resolved.config.guards.still
    if limit:
        numbers = {"steps": steps, "why": causes[-1], "stops_after": limit}
        yield Level("updates change nothing", steps, 1, numbers, REMEDIES.get(causes[-1], ""))


def refuse_still(run: Run) -> None:
    """GuardStop after `guards.still` steps in a row in which no update changed anything."""
    limit, state = run.resolved.config.guards.still, run.watched.get(STILL)
    if limit and state is not None and state["steps"] >= limit:
        raise GuardStop(
            f"no update changed anything in the last {state['steps']} steps, though there was signal: "
            f"{state['cause']}; {REMEDIES[state['cause']]}, or set guards.still=0"
        )
