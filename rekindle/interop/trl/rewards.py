"""Votes and novelty as reward functions in TRL's signature, made of the label and shape parts of our methods.

    GRPOTrainer(reward_funcs=novelty_reward(), ...)

TRL hands over the rows of this process. The rows of a prompt have to be together there, or each process votes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle.errors import InputError
from rekindle.interop.votes import Desk, boxed, judged
from rekindle.tokens.embed import Embed, HashedNgrams
from rekindle.tokens.labels import Label, MajorityVote
from rekindle.tokens.slots import Shape
from rekindle.tokens.tasks import load_task
from rekindle.tokens.verify import Verifier

Message = dict[str, Any]
Text = str | Sequence[Message]


@dataclass(frozen=True)
class Extracted:
    """Answers found by a function of the user's, text -> answer or None; equal as strings. Novelty compares all."""

    find: Callable[[str], str | None]

    def extract(self, text: str) -> str | None:
        """The answer that votes."""
        return self.find(text)

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether two answers are the same string."""
        return answer == reference

    def well_formed(self, text: str) -> bool:
        """Whether there is an answer."""
        return bool(self.find(text))

    def compared(self, text: str) -> str:
        """The response."""
        return text


@dataclass(frozen=True, kw_only=True)
class GroupReward:
    """The score that a method's `collect.label` and `collect.shape` give the responses to a prompt, as a reward.

    name: what TRL's log calls it.
    verifier: `extract`, `same` or `grade`, `well_formed`, `compared` of texts. embed: texts -> unit rows, for novelty.
    generations: TRL's num_generations: so many rows after one another are a group. None: all rows of one prompt are,
    which is the same unless a prompt comes twice in a batch.
    """

    label: Label
    shape: tuple[Shape, ...] = ()
    verifier: Any = field(default_factory=boxed)
    embed: Embed = field(default_factory=HashedNgrams)
    generations: int | None = None
    name: str = "group_reward"

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", self.name)  # TRL names its metrics and columns by it

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        """One score a completion. The columns of the data are not looked at: no label gets in."""
        desk = Desk(self.verifier, self.embed)
        texts = [said(completion) for completion in completions]
        return judged(self.label, self.shape, desk, texts, self._groups(prompts)).score.tolist()

    def _groups(self, prompts: Sequence[Text]) -> list[int]:
        texts = [repr(prompt) for prompt in prompts]
        if self.generations is None:
            names = list(dict.fromkeys(texts))
            return [names.index(text) for text in texts]
        size = self.generations
        pieces = [texts[i : i + size] for i in range(0, len(texts), size)]
        if any(len(piece) != size or len(set(piece)) > 1 for piece in pieces):
            raise InputError(
                f"{self.name} was called with {len(texts)} rows that are no groups of generations={size}: give "
                "TRL's num_generations, and batch sizes that keep the rows of a prompt in one process"
            )
        return [i // size for i in range(len(texts))]


def majority_reward(
    *,
    task: str | None = None,
    extract: Callable[[str], str | None] | None = None,
    generations: int | None = None,
    margin: float = 0.0,
) -> GroupReward:
    r"""TTRL's reward: 1 for agreement with the most frequent answer of the group, 0 otherwise (arXiv 2504.16084).

    Answers are those of a shipped task, of `extract` (text -> answer or None), or by default in `\boxed{...}`.
    margin: as in `MajorityVote`. InputError where both a task and `extract` are given.
    """
    label = MajorityVote(margin=margin)
    made = _verifier(task, extract)
    return GroupReward(label=label, verifier=made, generations=generations, name="majority_reward")


def novelty_reward(
    *,
    task: str | None = None,
    extract: Callable[[str], str | None] | None = None,
    generations: int | None = None,
    alpha: float = 0.5,
    embed: Embed | None = None,
) -> GroupReward:
    r"""EVOL-RL's reward: the majority in [0.5, 1], others in [-1, -0.5], in order of novelty (arXiv 2509.15194).

    Answers as in `majority_reward`; a response without one gets -1. embed: None takes hashed n-grams; give
    `rekindle.tokens.embed.PolicyStates(model, tokenizer)` for a model's states.
    """
    from rekindle.methods.evol_rl import NoveltyBands

    return GroupReward(
        label=MajorityVote(),
        shape=(NoveltyBands(alpha=alpha),),
        verifier=_verifier(task, extract),
        embed=embed or HashedNgrams(),
        generations=generations,
        name="novelty_reward",
    )


def said(completion: Text) -> str:
    """The text of a completion: itself, or what the last of its messages says."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def _verifier(task: str | None, extract: Callable[[str], str | None] | None) -> Any:
    if task is not None and extract is not None:
        raise InputError(f"task '{task}' and an extract function are both given: drop one")
    if extract is not None:
        return Extracted(extract)
    return boxed() if task is None else Verifier(load_task(task))
