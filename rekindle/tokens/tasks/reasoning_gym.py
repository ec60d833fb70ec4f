"""Tasks of the package reasoning-gym by name: `rg:chain_sum`, `rg:chain_sum,size=2000,max_terms=4,ood.min_terms=9`.

Success is a score of at least 1 by the generator's own scorer; partial scores are in the grade's `info`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rekindle.errors import InputError, unknown
from rekindle.tokens.grading.base import Grade
from rekindle.tokens.grading.boxed import after_think, extract_boxed
from rekindle.tokens.grading.numbers import normalise
from rekindle.tokens.grading.pool import Outcome, Pool
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Derivation
from rekindle.tokens.tasks.files import PROFILE
from rekindle.tokens.tasks.reasoning_gym_harder import HARDER

PREFIXES = ("rg:", "reasoning_gym/", "reasoning-gym/")
EXCLUDED: Mapping[str, str] = {
    "composite": "it mixes other generators and has no settings of its own",
    **dict.fromkeys(
        ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"),
        "its items have no gold answer, so that nothing shows that the scorer accepts one",
    ),
}
"""Generator -> why it is no task. A test generates rows of every generator and finds the same names."""
SIZES: Mapping[str, int] = {"train": 1_000, "heldout": 200, "ood": 200}
# Item i of a generator is drawn by seed + i, so that the splits must lie further apart than any size.
SEED_OF: Mapping[str, int] = {"train": 0, "heldout": 1_000_000_000, "ood": 2_000_000_000}
SCORER = "rekindle.tokens.grading.gym:score"
LONGEST = 20_000
"""Characters of an answer; a longer one is none."""
_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


@dataclass(eq=False)
class ReasoningGym:
    """One generator as a task. settings: split -> the generator's settings. rows: split -> its examples.

    The gold answer is `Example.answer`, the item's metadata `Example.meta["metadata"]`.
    """

    generator: str
    settings: Mapping[str, Mapping[str, Any]]
    rows: Mapping[str, tuple[Example, ...]]
    system_prompt: str | None
    name: str
    version: int = 1
    profile: Mapping[str, Any] = field(default_factory=lambda: dict(PROFILE))
    ways: tuple[str, ...] = ()
    step_delimiters: tuple[str, ...] = ("\n",)
    workers: int = 2
    deadline: float = 10.0
    _pool: Pool | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """All but the worker processes, which stay where they were started."""
        return {**self.__dict__, "_pool": None}

    @property
    def splits(self) -> tuple[str, ...]:
        """train, heldout where new prompts were found for it, and ood where a harder setting is known."""
        return tuple(self.rows)

    def split(self, name: str) -> Sequence[Example]:
        """The examples of split `name`; InputError naming the splits there are."""
        if name not in self.rows:
            raise unknown(f"split of {self.name}", name, self.rows)
        return self.rows[name]

    def extract(self, text: str) -> str | None:
        r"""What stands in the last `<answer>` after the reasoning, else in the last `\boxed{}`; None where neither."""
        shown = after_think(text)
        tagged = _TAGGED.findall(shown)
        found = tagged[-1] if tagged else extract_boxed(shown)
        found = None if found is None else found.strip()
        return found if found and len(found) <= LONGEST else None

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether two answers say the same, as text or as numbers: what a vote compares. Success is `grade_rows`'."""
        if reference is None:
            return None
        same = normalise(answer)
        return answer is not None and (answer == reference or (same is not None and same == normalise(reference)))

    def grade_rows(self, texts: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
        """The generator's scores, taken in worker processes under a deadline. Success: a score of at least 1."""
        answers = [self.extract(text) for text in texts]
        calls = [
            (self.generator, self._settings(example), answer, entry_of(example))
            for answer, example in zip(answers, examples, strict=True)
            if answer is not None
        ]
        if calls and self._pool is None:
            self._pool = Pool(self.workers, self.deadline)
        outcomes = iter(self._pool.map(SCORER, calls) if self._pool is not None and calls else [])
        return [Grade(False, "no_answer") if a is None else graded(a, next(outcomes)) for a in answers]

    def well_formed(self, text: str) -> bool:
        """Whether the response states an answer."""
        return self.extract(text) is not None

    def steps(self, text: str) -> str:
        """The response after the reasoning and before its last `<answer>`."""
        shown = after_think(text)
        return shown.rpartition("<answer>")[0] or shown

    def derivation(self, example: Example, text: str) -> Derivation | None:
        """None: the generators check answers, not steps."""
        return None

    def stated(self, answer: str) -> str:
        """A response that states `answer`."""
        return f"<answer>{answer}</answer>"

    def restricted(self, examples: tuple[Example, ...]) -> ReasoningGym:
        """The same task with `examples` as its whole training split."""
        return replace(self, rows={**self.rows, "train": examples})

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _settings(self, example: Example) -> str:
        split = example.id.partition("-")[0]
        return json.dumps(self.settings.get(split, self.settings["train"]))


def graded(answer: str, outcome: Outcome) -> Grade:
    """The grade that a scorer's outcome gives. A scorer that raises cannot read the answer, which is none then."""
    if outcome.status == "ok":
        return Grade(outcome.value >= 1, "ok", answer, {"score": outcome.value})
    if outcome.status == "raised":
        return Grade(False, "no_answer", answer, {"score": 0.0, "why": str(outcome.value)})
    if outcome.status == "timeout":
        return Grade(False, "timeout", answer, {"score": 0.0})
    return Grade(None, "infra_error", answer, {"why": str(outcome.value)})


def entry_of(example: Example) -> dict[str, Any]:
    """The generator's item that an example was made of."""
    return {"question": example.prompt, "answer": example.answer, "metadata": example.meta["metadata"]}


def task(name: str) -> ReasoningGym:
    """The task `rg:GENERATOR[,SETTING=VALUE...]`; InputError for an unknown generator or a setting that it refuses.

    Settings are the generator's own, and `size` (of train), `heldout` and `ood` (their sizes), `seed`;
    `ood.SETTING=VALUE` makes the ood split. Where the user changes a setting, it is the only way to have one.
    """
    bare = next(name[len(prefix) :] for prefix in PREFIXES if name.startswith(prefix))
    generator, _, rest = bare.partition(",")
    known = _generators()
    if generator in EXCLUDED:
        raise InputError(f"rg:{generator} is no task: {EXCLUDED[generator]}: choose another generator")
    if generator not in known:
        raise unknown("generator of reasoning-gym", generator, known.keys() - EXCLUDED.keys())
    said = _assignments(name, rest)
    sizes = {split: said.pop("size" if split == "train" else split, size) for split, size in SIZES.items()}
    seed = said.pop("seed", 0)
    if not all(type(n) is int and 0 <= n < 10**6 for n in (*sizes.values(), seed)) or not sizes["train"]:
        raise InputError(f"{name}: size, heldout, ood and seed are whole numbers below a million: change them")
    harder = {key.removeprefix("ood."): value for key, value in said.items() if key.startswith("ood.")}
    own = {key: value for key, value in said.items() if not key.startswith("ood.")}
    harder = harder or (dict(HARDER.get(generator, {})) if not own else {})
    settings = {"train": own, "heldout": own} | ({"ood": {**own, **harder}} if harder else {})
    for key in {**own, **harder}:
        if key not in known[generator]:
            raise unknown(f"setting of rg:{generator}", key, known[generator])
    rows = _rows(name, generator, settings, sizes, seed)
    return ReasoningGym(generator, settings, rows, _system_prompt(), f"rg:{generator}")


def _rows(
    name: str, generator: str, settings: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int], seed: int
) -> dict[str, tuple[Example, ...]]:
    rows: dict[str, tuple[Example, ...]] = {}
    for split, own in settings.items():
        train = {example.prompt for example in rows.get("train", ())}
        found = generate(name, generator, own, split, seed, sizes[split], train)
        if found:
            rows[split] = found
    return rows


def generate(
    name: str, generator: str, settings: Mapping[str, Any], split: str, seed: int, size: int, without: set[str]
) -> tuple[Example, ...]:
    """`size` items of a generator, fewer where it has no more prompts than those in `without` (of four times as many).

    InputError for settings that it refuses.
    """
    from reasoning_gym import create_dataset

    most = size if split == "train" else 4 * size
    try:
        items = create_dataset(generator, **settings, size=max(most, 1), seed=seed + SEED_OF[split])
    except Exception as error:
        why = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{name}: the generator refuses its settings for '{split}' ({why}): change them") from None
    found: list[Example] = []
    for i in range(most):
        item = items[i]
        if item["question"] not in without:
            meta = {"metadata": item["metadata"], "generator": generator}
            found.append(Example(f"{split}-{i}", item["question"], item["answer"], meta))
        if len(found) == size:
            break
    return tuple(found)


def _generators() -> dict[str, list[str]]:
    """Generator -> the names of its settings; InputError where the package is not installed."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise InputError("rg: tasks come from reasoning-gym: pip install 'rekindle[math]'") from None
    return {
        n: [f.name for f in fields(config) if f.name not in ("seed", "size")] for n, (_, config) in DATASETS.items()
    }


def _system_prompt() -> str:
    from reasoning_gym.utils import SYSTEM_PROMPTS

    return SYSTEM_PROMPTS["default"]


def _assignments(name: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in re.split(r",(?=[\w.]+=)", text) if text else []:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise InputError(f"{name}: '{part}' is no SETTING=VALUE: write rg:chain_sum,size=500,max_terms=4")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found
