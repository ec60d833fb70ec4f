"""A reward manager of verl 0.9.1 that sees all responses to a prompt at once, so that they can vote.

verl scores each response as soon as it is there, by `run_single` in one of `reward.num_workers` processes, picked at
random. So there must be one process, and in it a response waits for the others of its prompt.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import torch

from rekindle.errors import InputError
from rekindle.interop.verl.handed import groups_of
from rekindle.interop.verl.reach import setting, verl_module
from rekindle.interop.verl.votes import Votes, told, votes_of

PATIENCE = 600.0
"""Seconds that a response waits for the others of its prompt, unless `reward.reward_kwargs.patience` says otherwise."""
AT_ONCE = 1000
"""Calls that a process of Ray takes at a time where nobody says otherwise: more would wait for one another for ever."""
Told = dict[str, Any]


@dataclass
class Waiting:
    """The responses to one prompt that have come: (place in the prompt's samples, text, what becomes of it)."""

    rows: list[tuple[int, str, asyncio.Future[Told]]]

    def end(self, votes: Votes) -> list[Told]:
        """What verl is told of each, in the order of their places."""
        self.rows.sort(key=lambda row: row[0])
        group = [0] * len(self.rows)
        verdicts = votes([text for _, text, _ in self.rows], group)
        scores = verdicts.score.tolist()
        return [
            {"reward_score": score, "reward_extra_info": more}
            for score, more in zip(scores, told(verdicts, group), strict=True)
        ]


class GroupRewardManager:
    """Scores by the votes of `reward.reward_kwargs.method` (evol_rl, ttrl, srt, ...): see docs/interop_verl.md.

    `reward.reward_kwargs` may also hold `by` and `extract` (how answers are compared and found, as `grading` of
    Rekindle) and `patience` (seconds). compute_score and the last two are verl's to pass and are not used: a vote reads
    no reference. InputError where verl is set so that the responses to a prompt would not come together.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        check(config)
        given = dict(setting(config, "reward.reward_kwargs") or {})
        self.patience = float(given.pop("patience", PATIENCE))
        if "method" not in given:
            raise InputError("reward.reward_kwargs has no method that votes: add +reward.reward_kwargs.method=evol_rl")
        strange = sorted(given.keys() - {"method", "by", "extract"})
        if strange:
            raise InputError(f"reward.reward_kwargs.{strange[0]} is not known here: method, by, extract, patience are")
        options = {name: str(given[name]) for name in ("by", "extract") if name in given}
        self.votes = votes_of(str(given["method"]), **options)
        self.tokenizer, self.size = tokenizer, int(setting(config, "actor_rollout_ref.rollout.n"))
        self.open: dict[str, Waiting] = {}

    async def run_single(self, data: Any) -> Told:
        """What verl wants to know of one response, once all of its prompt are there.

        data: a DataProto of the rows of one response, of which the last counts. InputError where the others do not come
        within `patience`.
        """
        row = data[-1:]
        if "uid" not in row.non_tensor_batch:
            raise InputError("a response came without the uid of its prompt: votes need verl's trainer of 0.9.1")
        uid, future = str(row.non_tensor_batch["uid"][0]), asyncio.get_running_loop().create_future()
        waiting = self.open.setdefault(uid, Waiting([]))
        place = row.non_tensor_batch.get("session_id", [len(waiting.rows)])[0]
        waiting.rows.append((int(place), self.texts(row)[0], future))
        if len(waiting.rows) == self.size:
            await self._end(self.open.pop(uid))
        try:
            return await asyncio.wait_for(future, self.patience)
        except TimeoutError as error:
            self._give_up(uid, waiting)
            came = len(waiting.rows)
            raise InputError(
                f"{came} of the {self.size} responses to a prompt came within {self.patience:g} s, so there is no "
                "vote: raise reward.reward_kwargs.patience, or look in verl's log for the responses that failed"
            ) from error

    def _give_up(self, uid: str, waiting: Waiting) -> None:
        """Forget a prompt whose responses did not all come: its texts would be kept to the end of the run."""
        if self.open.get(uid) is waiting:  # else the last one came, and the vote is being counted
            del self.open[uid]

    async def _end(self, waiting: Waiting) -> None:
        try:
            found = await asyncio.to_thread(waiting.end, self.votes)
        except Exception as error:
            for _, _, future in waiting.rows:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, _, future), one in zip(waiting.rows, found, strict=True):
            if not future.done():  # whoever waited too long is gone
                future.set_result(one)

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: list[float]) -> torch.Tensor:
        """verl's own: each score at the last token of its response [B T]."""
        base = verl_module("verl.experimental.reward_loop.reward_manager.base")
        return base.RewardManagerBase.assemble_rm_scores(data, scores)

    def __call__(self, data: Any, return_dict: bool = False) -> Any:
        """A whole batch at once, groups by its `uid`: the scores [B T], or with `return_dict` what was said besides.

        The form of verl's older managers (`reward_tensor`, `reward_extra_info`), for scripts that hold a batch.
        """
        group = groups_of(list(data.non_tensor_batch["uid"]), torch.device("cpu")).tolist()
        verdicts = self.votes(self.texts(data), group)
        scores = self.assemble_rm_scores(data, verdicts.score.tolist())
        rows = told(verdicts, group)
        extra = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
        return {"reward_tensor": scores, "reward_extra_info": extra} if return_dict else scores

    def texts(self, data: Any) -> list[str]:
        """The responses of a DataProto, special tokens left out as verl's managers do."""
        ids, mask = data.batch["responses"], data.batch["attention_mask"]
        lengths = mask[:, -ids.shape[1] :].sum(dim=1).tolist()
        rows = [row[: int(length)] for row, length in zip(ids, lengths, strict=True)]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def check(config: Any) -> None:
    """InputError naming the option of verl by which the responses to a prompt would not come together."""
    n = setting(config, "actor_rollout_ref.rollout.n")
    if not isinstance(n, int) or n < 2:
        raise InputError(
            f"actor_rollout_ref.rollout.n is {n}, and a vote needs at least 2 responses: set it to 8 or so"
        )
    workers = setting(config, "reward.num_workers")
    if workers != 1:
        raise InputError(f"reward.num_workers is {workers}, and votes need all responses in one process: set it to 1")
    prompts = setting(config, "data.train_batch_size")
    if isinstance(prompts, int) and prompts * n > AT_ONCE:
        raise InputError(
            f"{prompts} prompts x {n} responses are more than the {AT_ONCE} that can wait in verl's reward process: "
            f"set data.train_batch_size to {AT_ONCE // n} or less"
        )
    tested = setting(config, "trainer.val_before_train") or (setting(config, "trainer.test_freq") or 0) > 0
    tries = setting(config, "actor_rollout_ref.rollout.val_kwargs.n")
    if tested and tries != n:
        raise InputError(
            f"verl validates with {tries} responses a prompt by the same votes, which wait for {n}: set "
            f"actor_rollout_ref.rollout.val_kwargs.n={n}, or trainer.test_freq=-1 and trainer.val_before_train=false"
        )
