"""A comparison: several methods, several paired seeds, one profile, one evaluation. It resumes where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.tokens.reading import object_of
from rekindle.train.config import dotted
from rekindle.train.options import parse_assignment
from rekindle.train.start import Asked, prepare

METRICS = ("pass@1", "pass@16", "maj@16", "entropy", "distinct", "ood_pass@1", "ood_pass@16")
BASE = "base"
POLL = 0.25
"""Seconds between two looks at the running members."""
Heard = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison does. prompts, samples: of the evaluation. jobs: processes side by side, `threads` each."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    flags: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    prompts: int = 300
    samples: int = 32
    ks: tuple[int, ...] = (1, 4, 16)
    eval_seed: int = 0
    jobs: int = 2
    threads: int = 1

    def fixed(self) -> dict[str, Any]:
        """What must be the same for all members, whenever they run."""
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {key: plain[key] for key in ("flags", "sets", "prompts", "samples", "ks", "eval_seed")}


@dataclass(frozen=True)
class Member:
    """One run of a comparison (`method` None: the start model)."""

    method: str | None
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """METHOD-seedN, or "base"."""
        return BASE if self.method is None else f"{slug(self.method)}-seed{self.seed}"


def slug(method: str) -> str:
    """A method's name as a folder name: the function's name for `FILE.py:function`."""
    return method.rpartition(":")[2].replace("-", "_")


def members(plan: Plan, out: Path) -> list[Member]:
    """The start model, then every method with every seed, seed by seed."""
    runs = [Member(m, s, out / "runs" / f"{slug(m)}-seed{s}") for s in plan.seeds for m in plan.methods]
    return [Member(None, plan.seeds[0], out / BASE), *runs]


def compare(plan: Plan, out: Path, heard: Heard) -> dict[str, Any]:
    """Run what is not finished yet and return the results (also in `out/results.json`).

    heard: called with a member's name and each new record of its run, and with records of kind "member" whose `state`
    is "started", "done" or "kept" (finished before). Raises InputError for a plan that cannot work or differs from the
    one that `out` was made with, GuardStop or EngineDead where a member ended so.
    """
    names = [slug(method) for method in plan.methods]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"method '{twice[0]}' is given twice: name each method once")
    for method in plan.methods:
        prepare(Asked(method, dict(plan.flags), equal(plan)))
    _claim(plan, out)
    waiting: list[Member] = []
    for member in members(plan, out):
        kept = (member.folder / "result.json").is_file()
        heard(member.name, {"kind": "member", "state": "kept"}) if kept else waiting.append(member)
    _run(plan, waiting, heard)
    return collect(plan, out)


def _run(plan: Plan, waiting: list[Member], heard: Heard) -> None:
    """Run the members, `jobs` at a time. Whatever ends this ends those that still run; a rerun goes on with them."""
    running: dict[Member, subprocess.Popen[bytes]] = {}
    told: dict[str, int] = {}  # bytes of a member's records that were passed on
    try:
        while waiting or running:
            while waiting and len(running) < plan.jobs:
                member = waiting.pop(0)
                running[member] = _start(plan, member)
                heard(member.name, {"kind": "member", "state": "started"})
            time.sleep(POLL)
            # Asked before the last records are read, so that a member that ends in between loses none of them.
            ended = [member for member, process in running.items() if process.poll() is not None]
            for member in running:
                _tell(member, told, heard)
            for member in ended:
                _finish(member, running.pop(member).returncode)
                heard(member.name, {"kind": "member", "state": "done"})
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def equal(plan: Plan) -> tuple[str, ...]:
    """The plan's options; every method draws the same number of samples, whether it votes or not."""
    named = {parse_assignment(text)[0] for text in plan.sets}
    return plan.sets if "rollout.equal_samples" in named else ("rollout.equal_samples=true", *plan.sets)


def _claim(plan: Plan, out: Path) -> None:
    file = next((place for place in (out, *out.parents) if place.is_file()), None)
    if file is not None:
        raise InputError(f"{file} is a file: give an --out that is a new or empty folder")
    path = out / "compare.json"
    wanted = json.loads(json.dumps(plan.fixed()))
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise InputError(f"the folder {out} holds other files: give an --out that is new or empty")
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        return
    have = object_of(path, "restore it, or give another --out")
    old, new = dotted(have), dotted(wanted)
    changed = sorted(key for key in old.keys() | new.keys() if key not in old or key not in new or old[key] != new[key])
    if changed:
        said = ", ".join(name.removeprefix("flags.") for name in changed)
        raise InputError(f"{out} holds a comparison with other {said}: give the old ones, or another --out")


def _start(plan: Plan, member: Member) -> subprocess.Popen[bytes]:
    member.folder.parent.mkdir(parents=True, exist_ok=True)
    job = {
        **plan.fixed(),
        "sets": list(equal(plan)),
        "flags": {**plan.flags, "seed": member.seed},
        "method": member.method,
        "base": plan.methods[0],
        "seed": member.seed,
        "out": str(member.folder),
        "threads": plan.threads,
    }
    path = member.folder.parent / f"{member.name}.job.json"
    path.write_text(json.dumps(job, indent=1) + "\n", encoding="utf-8")
    threads = {name: str(plan.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with (member.folder.parent / f"{member.name}.log").open("ab") as log:
        command = [sys.executable, "-m", "rekindle.train.worker", str(path)]
        return subprocess.Popen(command, env={**os.environ, **threads}, stdout=log, stderr=log, start_new_session=True)


def _tell(member: Member, told: dict[str, int], heard: Heard) -> None:
    events = member.folder / "events.jsonl"
    if not events.exists():
        return
    seen = told.get(member.name, 0)
    with events.open("rb") as file:
        file.seek(seen)
        # A last line without its end is still being written, or was torn by a kill and is cut off on resuming.
        whole, end, _ = file.read().rpartition(b"\n")
    for text in whole.splitlines():
        try:
            record = json.loads(text)
        except ValueError:
            raise InputError(f"{events} holds a line that is no event: restore or delete the line") from None
        heard(member.name, record)
    told[member.name] = seen + len(whole) + len(end)


def _finish(member: Member, code: int) -> None:
    if code == 0:
        return
    path = member.folder.parent / f"{member.name}.log"
    said = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    own = [line.removeprefix("rekindle: ") for line in said if line.startswith("rekindle: ")]
    last = (own or said or ["no output"])[-1]
    kind = {2: InputError, 3: GuardStop}.get(code, EngineDead)
    raise kind(f"{member.name} ended with code {code}: {last} (log: {path})")


def collect(plan: Plan, out: Path) -> dict[str, Any]:
    """The finished results as `{"base": {METRIC: number}, "methods": {NAME: {METRIC: [one value a seed]}}}`, and more.

    A metric that does not exist (`invalid_right` of a model without a right answer) is absent, null for one seed.
    Added: `seeds`, `settings`, `base_error` (standard errors over prompts), and `seconds` (method -> one value a seed,
    training and evaluation); all metrics of the evaluation are in.
    """
    remedy = "delete it to run this member again"
    found = {m: object_of(m.folder / "result.json", remedy) for m in members(plan, out)}
    base = next(result for member, result in found.items() if member.method is None)
    methods: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, list[float]] = {BASE: [base["seconds"]]}
    for member, result in found.items():
        if member.method is not None:
            seconds.setdefault(slug(member.method), []).append(result["seconds"])
            methods.setdefault(slug(member.method), []).append(result["metrics"])
    results = {
        "base": base["metrics"],
        "methods": {name: by_metric(base["metrics"], runs) for name, runs in methods.items()},
        "base_error": base["error"],
        "seconds": seconds,
        "seeds": list(plan.seeds),
        "prompts": base["prompts"],
        "settings": plan.fixed(),
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def by_metric(base: Mapping[str, float], runs: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Metric -> one value a run (None where the run has none), in the order of the base's metrics."""
    names = dict.fromkeys(name for metrics in (base, *runs) for name in metrics)
    return {name: [run.get(name) for run in runs] for name in names if any(name in run for run in runs)}
