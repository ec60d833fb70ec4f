"""The collapse watch: which signs a run shows, what is told of them, and when it is called collapsing.

A run's records go in by `noted`, `watched` looks at them after a step. Each sign is told of once an episode. All state
is in `run.watched["watch"]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rekindle.train.evaluate import quick_ks
from rekindle.train.law import Law, fit_law
from rekindle.train.remedies import PAGE, remedy, said
from rekindle.train.retention import BEST
from rekindle.train.sections_watch import Watch
from rekindle.train.settings import RunConfig
from rekindle.train.signals import CLEAR, SIGNALS, Finding
from rekindle.train.traces import PASS, Trace, fresh, remember, seen

if TYPE_CHECKING:
    from rekindle.train.events import Log
    from rekindle.train.run import Run

KIND, VERDICT, MEMORY = "collapse", "collapsing", "watch"
VOTED = (("spent", "slope"), ("lock_in",))
VERIFIED = (("spent",),)
EVALUATED, UNEVALUATED = (("coverage",),), (("reward",),)
"""The rule of `collapsing`: a sign of each of these."""
LAW_EVALS = 5
"""Evaluations from which the entropy law is fitted."""


@dataclass(frozen=True)
class Sight:
    """What a look at a run found: the signs whose episodes begin now, those of all open ones, and the verdict."""

    new: Mapping[str, Finding]
    open: Mapping[str, Finding]
    collapsing: bool
    first: bool


def grounds(trace: Trace) -> tuple[tuple[str, ...], ...]:
    """The rule of the combined verdict: of each tuple one sign has to show.

    Entropy is all but gone; of a label-free run it is enough that it falls fast, but its votes must be locked in. And
    the held-out pass@k lost ground, where it is evaluated, so that there is no verdict before it was; else the score
    did, where that is by the truth.
    """
    own = VOTED if trace.free else VERIFIED
    return own + (EVALUATED if trace.evaluated else () if trace.free else UNEVALUATED)


def collapsing(active: Mapping[str, Any], trace: Trace) -> bool:
    """The combined verdict over the signs whose episodes are open."""
    return all(any(name in active for name in some) for some in grounds(trace))


def look(memory: dict[str, Any], free: bool, watch: Watch) -> Sight:
    """Look at what a watch remembers, and keep in it which episodes are open."""
    trace, active = seen(memory, free), memory["active"]
    found = {name: signal(trace, watch) for name, signal in SIGNALS.items()}
    there = {name: one for name, one in found.items() if one is not None}
    step, new = int(trace.last[-1]["step"]), [n for n, one in there.items() if one.level >= 1 and n not in active]
    active.update(dict.fromkeys(new, step))
    for name in [n for n in SIGNALS if n in active and (n not in there or there[n].level < CLEAR)]:
        del active[name]
    verdict, before = collapsing(active, trace), VERDICT in active
    if verdict and not before:
        active[VERDICT] = step
    elif not verdict and before:
        del active[VERDICT]
    return Sight(
        {n: there[n] for n in new}, {n: there[n] for n in there if n in active}, verdict, verdict and not before
    )


def noted(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """Remember the record of a step, of an evaluation or of the start model's, and give it back."""
    config = run.resolved.config
    if config.watch.every:
        memory = run.watched.setdefault(MEMORY, fresh())
        memory["evaluated"] = bool(config.evaluate.every)
        remember(memory, record, config.watch)
    return record


def watched(run: Run, log: Log, heard: Callable[[dict[str, Any]], None]) -> None:
    """Look at the run after a step, write what is new as one event, and tell it in a sentence a sign."""
    watch = run.resolved.config.watch
    if not watch.every or run.step_index % watch.every:
        return
    memory = run.watched[MEMORY]
    sight = look(memory, label_free(run), watch)
    if not sight.new and not sight.first:
        return
    trace = seen(memory, label_free(run))
    texts = sentences(sight, trace, watch, run.resolved.options)
    heard(log.write(KIND, run.step_index, values(sight, texts, memory)))
    covered = cited(sight, trace) if sight.first else []
    for text in [text for name, text in texts.items() if name not in covered]:
        heard({"kind": "note", "step": run.step_index, "text": text})


def label_free(run: Run) -> bool:
    """Whether the successes of the run's step are not by the truth."""
    return not run.label.needs_truth and not run.resolved.config.reward


def sentences(sight: Sight, trace: Trace, watch: Watch, options: Mapping[str, Any]) -> dict[str, str]:
    """Sign -> what is told of it; the verdict first."""
    told = {}
    if sight.first:
        told[VERDICT] = (
            f"the run is collapsing: {evidence(sight, trace, watch)}: {remedy(VERDICT, options)}; see {PAGE}"
        )
    for name, finding in sight.new.items():
        told[name] = f"{said(name, finding, trace, watch)}: {remedy(name, options)}; see {PAGE}"
    law = bought(trace)
    for name in ("entropy", "spent", "floor"):
        if law is not None and name in told:
            told[name] += f"; {law[1]}"
    return told


def evidence(sight: Sight, trace: Trace, watch: Watch) -> str:
    """What the verdict rests on."""
    return ", and ".join(said(name, sight.open[name], trace, watch) for name in cited(sight, trace))


def cited(sight: Sight, trace: Trace) -> list[str]:
    """A sign of each ground of the verdict."""
    shown = [next((name for name in some if name in sight.open), None) for some in grounds(trace)]
    return [name for name in shown if name is not None]


def values(sight: Sight, texts: Mapping[str, str], memory: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the event."""
    signs = {name: {**asdict(finding), "text": texts[name]} for name, finding in sight.new.items()}
    law = bought(seen(memory, False))
    more = {} if law is None else {"law": {**asdict(law[0]), "plateau": law[0].ceiling}}
    verdict = {"text": texts[VERDICT]} if sight.first else {}
    return {"signals": signs, VERDICT: sight.collapsing, **verdict, "open": dict(memory["active"]), **more}


def bought(trace: Trace) -> tuple[Law, str] | None:
    """The law of the evaluations and what it says of the entropy that is left, where it can be fitted and says a thing.

    It annotates and never decides: a correlation of runs without entropy intervention.
    """
    one = f"{PASS}1"
    rows = [row for row in trace.evals if "entropy" in row and one in row]
    entropy, score = (np.array([row[name] for row in rows]) for name in ("entropy", one))
    if len(rows) < LAW_EVALS or float(np.ptp(entropy)) <= 1e-9:
        return None
    law = fit_law(entropy, score)
    if law.a <= 0 or law.ceiling > 1:
        return None
    left = law.ceiling - float(law.score(entropy[-1:])[0])
    plateau = f"a plateau at {law.ceiling:.3f}"
    told = f"by R = -a e^H + b the entropy left can still buy {left:.3f} of held-out pass@1, {plateau}"
    return law, told


def kept_by(config: RunConfig) -> str | None:
    """The metric whose best checkpoint stays: `checkpoint.best`, or the widest pass@k if a collapse stops the run."""
    if config.checkpoint.best is not None or not config.watch.stop:
        return config.checkpoint.best
    return f"{PASS}{max(quick_ks(config.evaluate.samples))}"


def told_to_stop(run: Run, checkpoints: Path | None) -> str | None:
    """Why the run ends here, where `watch.stop` is set and it is collapsing; the first rank decides.

    checkpoints: where they are, None where nothing is kept.
    """
    config = run.resolved.config
    if not config.watch.stop or not config.watch.every or run.step_index >= config.steps:
        return None
    memory = run.watched[MEMORY]
    if not run.ranks.exchange(VERDICT in memory["active"])[0]:
        return None
    trace, found = seen(memory, label_free(run)), {}
    for name in memory["active"]:
        finding = SIGNALS[name](trace, config.watch) if name in SIGNALS else None
        found |= {} if finding is None else {name: finding}
    why = evidence(Sight({}, found, True, False), trace, config.watch)
    kept = "" if checkpoints is None else f"; saved after step {run.step_index} in {checkpoints}{best(checkpoints)}"
    return (
        f"the run is collapsing: {why}{kept}: {remedy(VERDICT, run.resolved.options)}, in a new run; or go on all the "
        f"same with --resume --set watch.stop=false; see {PAGE}"
    )


def best(checkpoints: Path) -> str:
    """The best checkpoint that is kept, in words."""
    file = checkpoints / BEST
    if not file.is_file():
        return ""
    told = json.loads(file.read_text(encoding="utf-8"))
    return f", the best by {told['metric']} ({told['value']:.3f}) after step {told['step']}"
