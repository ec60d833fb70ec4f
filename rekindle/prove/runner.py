"""Runs the effects of a card on paired seeds, several runs at a time, each in a process of its own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rekindle.core.method import Effect
from rekindle.errors import InputError
from rekindle.prove.bed import HALF, unknown_name
from rekindle.prove.beds import LANGUAGE, load_bed, names
from rekindle.prove.chains import CHAINS, run_chains
from rekindle.prove.language import check_metric, run_language
from rekindle.prove.results import DIGITS, Row, experiment
from rekindle.train.find import find_method
from rekindle.train.options import flatten

SEEDS = {"table": 8, "language": 3}
"""Paired seeds where none are asked for."""
THREADS = "OMP_NUM_THREADS"

Measured = dict[tuple[Any, ...], tuple[dict[str, float], float]]
"""The key of an arm -> (metric -> value, processor seconds)."""

Progress = Callable[[int, int], None]
"""Takes (runs done, runs in all)."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run: a method with options on a bed with options and a seed. Equal arms are run once.

    short: nothing is asked of it but what is known after a third of the steps.
    """

    bed: str
    bed_options: Mapping[str, Any]
    method: str
    options: Mapping[str, Any]
    seed: int
    train: bool
    short: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells arms apart."""
        given = tuple(tuple(sorted(flatten(dict(options)).items())) for options in (self.bed_options, self.options))
        return (self.bed, self.method, self.seed, self.train, self.short, *given)


def work(arm: Arm) -> tuple[dict[str, float], float]:
    """(metric -> value, processor seconds) of one arm, on one thread."""
    torch.set_num_threads(1)
    began = time.process_time()
    if arm.bed == CHAINS:
        found = run_chains(arm.bed_options, arm.method, arm.options, arm.seed, arm.train)
    elif arm.bed in LANGUAGE:
        found = run_language(arm.bed, arm.bed_options, arm.method, arm.options, arm.seed, arm.train)
    else:
        bed = load_bed(arm.bed).with_options(arm.bed_options)
        found = bed.run(arm.method, arm.options, arm.seed, arm.train, arm.short)
    return found, time.process_time() - began


def unheard(done: int, total: int) -> None:
    """Progress that nobody listens to."""


def prove(
    method: str,
    seeds: int | None = None,
    jobs: int = 2,
    heard: Progress = unheard,
    known: Measured | None = None,
) -> list[Row]:
    """The rows of every effect on the card of `method`, judged; [] where the card names none.

    seeds: 2 to 10 (None: 8 on tables, 3 on language tasks). jobs: processes; 1 runs in this one. known: arms that were
    run before, which are not run again; the new ones are added. InputError for an unknown bed, metric or option before
    anything is run.
    """
    found = find_method(method)
    if found.card is None:
        raise InputError(f"'{method}' has no CARD, so it claims nothing: put a CARD with effects beside the function")
    effects = found.card.effects
    for effect in effects:
        check(effect)
    plans = [_plan(found.name, found.card.parent, effect, seeds) for effect in effects]
    arms = {arm.key: arm for ours, theirs in plans for arm in (*ours, *theirs)}
    measured: Measured = {} if known is None else known
    _run([arm for key, arm in arms.items() if key not in measured], jobs, heard, measured)
    return [_row(e, found.card.parent, plan, measured) for e, plan in zip(effects, plans, strict=True)]


def check(effect: Effect) -> None:
    """InputError where the bed, one of its options or the metric does not exist."""
    if effect.bed not in names():
        raise unknown_name("bed", effect.bed, names())
    if effect.bed in LANGUAGE:
        check_metric(effect.bed, effect.metric)
    else:
        for options in (effect.bed_options, _against_bed(effect)):
            load_bed(effect.bed).with_options(options).check_metric(effect.metric)


def _plan(method: str, parent: str | None, effect: Effect, seeds: int | None) -> tuple[list[Arm], list[Arm]]:
    opponent = parent if effect.against is None else effect.against
    if opponent is None:
        raise InputError(f"'{method}' has no parent: its effect '{effect.claim}' must name whom it is against")
    count = seeds or SEEDS["language" if effect.bed in LANGUAGE else "table"]
    if not 2 <= count <= 10:
        raise InputError(f"a verdict takes 2 to 10 paired seeds, not {count}: set --seeds")
    arm = functools.partial(Arm, bed=effect.bed, short=effect.metric == HALF)
    mine = functools.partial(arm, bed_options=dict(effect.bed_options), method=method, options=dict(effect.options))
    options = dict(effect.against_options) if opponent else dict(effect.options)
    other = functools.partial(arm, bed_options=_against_bed(effect), method=opponent or method, options=options)
    ours = [mine(seed=seed, train=True) for seed in range(count)]
    return ours, [other(seed=seed, train=bool(opponent)) for seed in range(count)]


def _against_bed(effect: Effect) -> dict[str, Any]:
    own = effect.against_bed_options
    return dict(effect.bed_options if own is None else own)


def _row(
    effect: Effect,
    parent: str | None,
    plan: tuple[list[Arm], list[Arm]],
    measured: Measured,
) -> Row:
    ours, theirs = ([_value(measured[arm.key][0], effect) for arm in arms] for arms in plan)
    seconds = sum(measured[arm.key][1] for arms in plan for arm in arms)
    seeds = [arm.seed for arm in plan[0]]
    said = experiment(effect, parent)
    return Row(**said, seeds=seeds, ours=ours, theirs=theirs, seconds=round(seconds, 1)).judged()


def _value(found: Mapping[str, float], effect: Effect) -> float:
    if effect.metric not in found:
        raise unknown_name(f"metric of the bed '{effect.bed}'", effect.metric, sorted(found))
    value = found[effect.metric]
    if value != value:
        raise InputError(f"'{effect.metric}' on the bed '{effect.bed}' is not a number: choose another metric")
    return round(value, DIGITS) if abs(value) >= 0.01 else float(f"{value:.{DIGITS}g}")


def _run(arms: Sequence[Arm], jobs: int, heard: Progress, measured: Measured) -> None:
    if jobs <= 1 or len(arms) <= 1:
        for done, arm in enumerate(arms, start=1):
            measured[arm.key] = work(arm)
            heard(done, len(arms))
        return
    with _pool(min(jobs, len(arms))) as pool:
        tasks = {pool.submit(work, arm): arm for arm in arms}
        for done, task in enumerate(as_completed(tasks), start=1):
            measured[tasks[task].key] = task.result()
            heard(done, len(arms))


@contextmanager
def _pool(jobs: int) -> Iterator[Executor]:
    """Processes that start with one thread each; what waits is dropped where one of them fails."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"  # read when torch is loaded, so before a process starts
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
