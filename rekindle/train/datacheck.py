"""`rekindle data check`: what a run would find in a data set, as facts, warnings, and what it would be refused for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from rekindle.errors import InputError
from rekindle.tokens.chat import Encode
from rekindle.tokens.encoder import load_encode
from rekindle.tokens.fetching import CONFIGURATION, guarded, quiet
from rekindle.tokens.grading.base import Grade, GradesRows
from rekindle.tokens.grading.programs import OWN, Programs
from rekindle.tokens.loader import context_length
from rekindle.tokens.rewards import Rewards, load_rewards
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.files import PROFILE, Reading, refuse_leak
from rekindle.tokens.tasks.gathered import refuse_constant
from rekindle.tokens.tasks.layouts import Layout, graded_splits, merged_profile
from rekindle.tokens.tasks.lazy import FIRST
from rekindle.tokens.tasks.rows import EXTENSIONS
from rekindle.tokens.tasks.sources import Source, open_rows
from rekindle.tokens.tasks.survey import Read, Survey, overlap, read_each, survey
from rekindle.train.datareport import (
    UNSTATED,
    DataReport,
    describe,
    gold,
    no_room,
    references,
    refuse_unsafe,
    tell_of,
)
from rekindle.train.footprint import place
from rekindle.train.lengths import tokenizer_source
from rekindle.train.measure import model_folder


@dataclass(frozen=True)
class Tokens:
    """The tokenizer of a model and the most positions it has (None: no limit); its weights are not read."""

    tokenizer: Any
    encode: Encode
    context: int | None

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))


@runtime_checkable
class States(Protocol):
    """A task that can write a response which states an answer."""

    def stated(self, answer: str) -> str:
        """The response."""
        ...


def load_tokens(spec: str, task: str | None, system_prompt: str | None) -> Tokens:
    """The tokenizer and the context of a model; InputError where they cannot be loaded."""
    from transformers import AutoConfig

    folder = model_folder(spec)
    encode = load_encode(spec, tokenizer_source(folder, task), task_name=task, system_prompt=system_prompt)
    with quiet():
        config = guarded(
            spec, lambda: AutoConfig.from_pretrained(place(folder, task), trust_remote_code=False), CONFIGURATION
        )
    return Tokens(encode.tokenizer, encode, context_length(_Configured(config)))


@dataclass(frozen=True)
class _Configured:
    config: Any


def check_data(
    spec: str,
    heldout: str | None,
    reading: Reading,
    model: str | None = None,
    max_tokens: int | None = None,
    reward: Sequence[str] = (),
    programs: Programs = OWN,
) -> DataReport:
    """The report on a data set and, where it is named, on the one to evaluate on. Each is read once, row by row.

    reward: the functions that judge instead of a grading; what they are called with is tried, they are not called.
    programs: how a run would run those of the model; none is run here.
    """
    report, most = DataReport(), max_tokens or PROFILE["rollout.max_tokens"]
    judged = _Judged(load_rewards(reward)) if reward else None
    layout, rows = _each(spec, reading)
    others = None if heldout is None else _each(heldout, reading, "heldout")
    tokens = None if model is None else load_tokens(model, None, layout.system_prompt)
    found = _surveyed(rows if judged is None else judged.noted(rows), tokens, layout)
    report.facts |= {"data": spec, "rows": found.rows, "layout": layout.name}
    describe(report, found, None if tokens is None else tokens.context, most, rewarded=judged is not None)
    if found.rewards:
        _told(report, lambda: refuse_constant(spec, found.rewards))
    held = None if others is None else _surveyed(others[1], tokens, others[0])
    labelled = {"train": found.labelled, "heldout": 0 if held is None else held.labelled}
    layouts = {"train": layout} | ({} if others is None else {"heldout": others[0]})
    profile = _merged(report, graded_splits(layouts, lambda split: labelled[split] > 0))
    by, rule = reading.by or profile.get("grading.by", "exact"), profile.get("grading.extract", "boxed")
    report.facts["grading"] = by if judged is None else "rewards"
    if judged is None:
        references(report, found, by, rule)
        _told(report, lambda: refuse_unsafe(by, programs))
    else:
        judged.tell(report)
    if heldout is not None and held is not None:
        sources = {"train": reading.source(spec), "heldout": reading.source(heldout, "heldout")}
        _told(report, lambda: refuse_leak(sources))
        report.facts |= {"heldout": heldout, "heldout rows": held.rows}
        _heldout(report, found, held, rewarded=judged is not None)
        if judged is None:
            references(report, held, by, rule, "held-out ")
        if tokens is not None:
            no_room(report, held, tokens.context, most, "held-out ")
    return report


@dataclass(frozen=True)
class _Judged:
    """Reward functions, and the first rows that they will be called with."""

    rewards: Rewards
    first: list[Example] = field(default_factory=list)

    def noted(self, rows: Iterable[Read]) -> Iterator[Read]:
        """The same rows, of which the columns are noted."""
        for read in rows:
            if isinstance(example := read[2], Example):
                self.rewards.names.see((example,))
                self.first.extend((example,) if len(self.first) < FIRST else ())
            yield read

    def tell(self, report: DataReport) -> None:
        """What a run would be refused for."""
        report.facts["rewards"] = ", ".join(reward.name for reward in self.rewards.rewards)
        _told(report, lambda: self.rewards.fit(self.first))


def _merged(report: DataReport, layouts: Mapping[str, Layout]) -> Mapping[str, Any]:
    """The options that all layouts ask for together; the first one's where they do not go together."""
    try:
        return merged_profile(layouts)
    except InputError as error:
        report.refusals.append(str(error))
        return next(iter(layouts.values())).profile


def _told(report: DataReport, check: Callable[[], object]) -> None:
    """What a check refuses, as one of the report's refusals."""
    try:
        check()
    except InputError as error:
        report.refusals.append(str(error))


def _heldout(report: DataReport, train: Survey, held: Survey, *, rewarded: bool = False) -> None:
    both = overlap(train, held)
    report.facts["held-out prompts in train"] = report.facts.get("held-out prompts in train", 0) + both.count
    tell_of(report.warnings, both, "held-out prompts that are training prompts too")
    if not rewarded:
        tell_of(report.warnings, held.unstated, f"held-out {UNSTATED}")
    tell_of(report.refusals, held.refused, "held-out rows that cannot be read")
    tell_of(report.refusals, held.same_id, "held-out rows whose id another row has")
    if not held.labelled:
        report.warnings.append("no held-out row has an answer: a run with evaluate.every is refused on it")


def check_task(name: str, task: Task, model: str | None = None, max_tokens: int | None = None) -> DataReport:
    """The report on a shipped task: its training split, and the prompts that its held-out split shares with it."""
    report = DataReport()
    tokens = None if model is None else load_tokens(model, task.name, task.system_prompt)
    found = _surveyed(_examples(task, "train"), tokens)
    report.facts |= {"task": name, "rows": found.rows}
    describe(
        report, found, None if tokens is None else tokens.context, max_tokens or task.profile["rollout.max_tokens"]
    )
    _own_gold(report, task)
    for split in task.splits:
        if split != "train":
            held = _surveyed(_examples(task, split), tokens)
            report.facts[f"{split} rows"] = held.rows
            _heldout(report, found, held)
    return report


def _own_gold(report: DataReport, task: Task) -> None:
    """Whether the task's own grading accepts its gold answers."""
    examples = [example for example in task.split("train") if example.answer is not None]
    if isinstance(task, GradesRows) and isinstance(task, States):
        grades = task.grade_rows([task.stated(str(e.answer)) for e in examples], examples)
    else:
        grades = [Grade.of(task.grade(e.answer, e.answer), e.answer) for e in examples]
    gold(report, [(e.id, str(e.answer), g) for e, g in zip(examples, grades, strict=True)], task.name)


def _each(spec: str, reading: Reading, name: str = "train") -> tuple[Layout, Iterable[Read]]:
    """(layout, rows) of a data set; by their offsets where the files allow it, so that each bad line is named."""
    source = reading.source(spec, name)
    lines = source.kind in ("file", "files") and not str(source.parted()[0]).lower().endswith(".json")
    rows = open_rows(replace(source, streaming=lines and not _listed(source)))
    reader = reading.reader(spec, rows[0], name=name)
    return reader.layout, read_each(rows, reader)


def _listed(source: Source) -> bool:
    path = source.parted()[0]
    return path.is_dir() and any(file.suffix.lower() == EXTENSIONS[1] for file in path.rglob("*"))


def _examples(task: Task, split: str) -> Iterable[Read]:
    return ((e.id, {"prompt": e.prompt, "answer": e.answer, **e.meta}, e) for e in task.split(split))


def _surveyed(rows: Iterable[Read], tokens: Tokens | None, layout: Layout | None = None) -> Survey:
    return survey(rows, *((None, None) if tokens is None else (tokens.encode, tokens.count)), layout)
