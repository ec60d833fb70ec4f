r"""A task from the user's own data: files, folders and hub ids, in the layouts of `rekindle.tokens.tasks.layouts`.

Answers are taken from the last `\boxed{...}` only and compared by value or text (see `rekindle.tokens.grading`), unless
the options `grading.*` say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.grading.boxed import after_think, extract_boxed, find_boxed
from rekindle.tokens.grading.numbers import grade, normalise
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Derivation
from rekindle.tokens.tasks.example import Reader
from rekindle.tokens.tasks.gathered import Placed, gathered, refuse_constant
from rekindle.tokens.tasks.layouts import (
    SYSTEM_PROMPT,
    TRL,
    Layout,
    choose_layout,
    graded_splits,
    has,
    merged_profile,
)
from rekindle.tokens.tasks.lazy import Streamed, looked_at
from rekindle.tokens.tasks.rows import Row
from rekindle.tokens.tasks.sources import Source, held, open_rows

# No optimiser setting: on a user's own model each method keeps its published ones.
PROFILE: Mapping[str, Any] = MappingProxyType(
    {
        "rollout.prompts": 8,  # EVOL-RL official code
        "rollout.group": 32,  # TTRL and EVOL-RL official code
        "rollout.votes": 64,  # TTRL and EVOL-RL official code
        "rollout.max_tokens": 512,  # TRL's max_completion_length is 256 or 512 by version
        "steps": 100,
    }
)
WRITTEN: Mapping[str, tuple[str, ...]] = MappingProxyType({"json": ("schema",), "code": ("tests",)})
"""Ways of grading whose references are no short answers, and the columns that hold them."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How data is read.

    rewarded: reward functions judge the responses, so an answer may be anything (a list, an object). by: the way of
    grading where the user names one; "json" and "code" take any answer too. layout, prompt, answer: the options
    data_layout, data_prompt, data_answer. config, split, streaming: of `Source`; only training data streams.
    """

    rewarded: bool = False
    by: str | None = None
    layout: str = "auto"
    prompt: str | None = None
    answer: str | None = None
    config: str | None = None
    split: str = "train"
    streaming: bool = False

    def source(self, spec: str | Path, name: str = "train") -> Source:
        """The data set `spec` of the split `name` of the task; data_split parts no held-out file."""
        source = Source(str(spec), self.config, self.split, self.streaming and name == "train")
        return replace(source, split="train") if name != "train" and source.whole else source

    def reader(self, spec: str | Path, first: Row, streamed: bool = False, name: str = "train") -> Reader:
        """What makes examples of the rows of `spec`, of which `first` is the first.

        Data to evaluate on may be laid out otherwise: columns that the user names and it lacks are not looked for.
        Responses that the data brings are columns like any other to reward functions, unless data_layout says how.
        """
        train, row = name == "train", first.columns
        prompt, answer = (n if n and (train or has(row, n)) else None for n in (self.prompt, self.answer))
        layout = choose_layout(f"{spec}, {first.place}", row, self.layout, prompt, answer)
        if self.rewarded and self.layout == "auto" and layout.brings and not layout.made:
            layout = replace(TRL, prompt=layout.prompt, answer=answer)  # every column goes to the functions as it is
        written = None if self.rewarded or self.by is None else WRITTEN.get(self.by)
        return Reader(str(spec), layout, not self.rewarded and written is None, written, streamed)


def load_files(
    path: str | Path,
    heldout: str | Path | None = None,
    ood: str | Path | None = None,
    rewarded: bool = False,
    reading: Reading | None = None,
) -> FileTask:
    """The task of a data set, with optional ones to evaluate on; InputError (file, line, column, remedy).

    rewarded: as in `Reading`, which has all that can be said besides.
    """
    return FileTask(path, heldout=heldout, ood=ood, reading=reading or Reading(rewarded=rewarded))


class FileTask:
    """Prompts of a data set; split "train" holds all its rows. Read once, when made, unless it streams.

    Raises InputError naming file, line and column for anything that cannot be used; where answers are compared, also an
    answer that no response can be compared with. The answer as the file holds it is in `Example.meta["answer"]`, every
    other column under its own name. profile: the layouts' options are in it.
    """

    name = "files"
    version = 1
    profile: Mapping[str, Any] = PROFILE
    system_prompt: str | None = SYSTEM_PROMPT
    ways: tuple[str, ...] = ()
    step_delimiters: tuple[str, ...] = ("\n",)

    def __init__(
        self,
        path: str | Path,
        heldout: str | Path | None = None,
        ood: str | Path | None = None,
        reading: Reading | None = None,
    ) -> None:
        given = {"train": path, "heldout": heldout, "ood": ood}
        self.paths = {name: str(file) for name, file in given.items() if file is not None}
        reading = reading or Reading()
        refuse_leak({name: reading.source(file, name) for name, file in self.paths.items()})
        read = {name: read_split(file, reading, name) for name, file in self.paths.items()}
        self.layouts: dict[str, Layout] = {name: layout for name, (layout, _) in read.items()}
        self._splits = {name: examples for name, (_, examples) in read.items()}
        self.profile = {**PROFILE, **merged_profile(graded_splits(self.layouts, self._labelled))}
        self.system_prompt = self.layouts["train"].system_prompt

    def _labelled(self, name: str) -> bool:
        return any(example.answer is not None for example in looked_at(self._splits[name]))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that data was given for."""
        return tuple(self._splits)

    def split(self, name: str) -> Sequence[Example]:
        """The examples of split `name`; InputError naming the splits there are."""
        if name not in self._splits:
            there = ", ".join(self._splits)
            raise InputError(f"{self.paths['train']}: no split '{name}' (there: {there}): give a file for it")
        return self._splits[name]

    def extract(self, text: str) -> str | None:
        """The normalised content of the last complete box after the reasoning, None where there is none."""
        return normalise(extract_boxed(after_think(text)))

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether the answer equals the reference; None only where the reference cannot be graded."""
        return grade(answer, reference)

    def well_formed(self, text: str) -> bool:
        """Whether the response states an answer at all; EVOL-RL's digit rule would refuse multiple choice."""
        return self.extract(text) is not None

    def steps(self, text: str) -> str:
        """The response after the reasoning and before its last box; all of it where it has no box."""
        shown = after_think(text)
        found = find_boxed(shown)
        return shown if found is None else shown[: found[0]]

    def derivation(self, example: Example, text: str) -> Derivation | None:
        """None: free text has no notion of a legal step."""
        return None


def read_split(spec: str | Path, reading: Reading, name: str = "train") -> tuple[Layout, Sequence[Example]]:
    """(layout, examples in the data's order) of one split of a task; InputError naming file, line and column."""
    own = reading if name == "train" else replace(reading, streaming=False)
    rows = open_rows(own.source(spec, name))
    reader = own.reader(spec, rows[0], own.streaming, name)
    if own.streaming:
        if reader.layout.gathers:
            raise InputError(
                f"{spec}: rows of one prompt are gathered, which needs all of them, and streaming=true reads rows as "
                "they are used: write one row a prompt with 'completions' and 'rewards', or drop streaming=true"
            )
        return reader.layout, Streamed(rows, reader)
    placed = ((row.place, reader(row)) for row in (rows[i] for i in range(len(rows))))
    examples = _distinct(str(spec), gathered(str(spec), placed) if reader.layout.gathers else placed)
    if name == "train" and reader.layout.brings:
        refuse_constant(str(spec), [reward for example in examples for reward in example.meta.get("rewards", ())])
    return reader.layout, examples


def _distinct(spec: str, placed: Iterable[Placed]) -> tuple[Example, ...]:
    """The examples; InputError where two have one id."""
    examples: list[Example] = []
    places: dict[str, str] = {}
    for place, example in placed:
        if example.id in places:
            raise InputError(
                f"{spec}, {place}: duplicate id '{example.id}', also at {places[example.id]}: make ids unique"
            )
        places[example.id] = place
        examples.append(example)
    return tuple(examples)


def refuse_leak(sources: Mapping[str, Source]) -> None:
    """InputError where data to evaluate on holds a file or a split that the run trains on, whatever its name."""
    train = sources["train"]
    for name, source in sources.items():
        if name == "train" or not (both := held(source) & held(train)):
            continue
        if source.parted()[0].resolve() != train.parted()[0].resolve() or source.whole:
            what = f"holds {min(both)[0]}, which the run trains on: name data that is kept apart"
        else:
            what = f"is the training split itself: name another one, such as {source.parted()[0]}:test"
        raise InputError(f"data_{name}={source.spec} {what}")
