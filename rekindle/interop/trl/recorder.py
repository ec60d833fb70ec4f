"""`RekindleRecorder`: a run of TRL's GRPO trainer written as a run folder of ours, with every token's numbers.

    recorder = RekindleRecorder("runs/mine").attach(trainer)
    trainer.train()

It wraps four methods of the trainer, changes none of their numbers, and draws nothing. A step is the optimiser's.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rekindle.errors import InputError
from rekindle.interop.trl.batch import live_mask, sampled_of, scored
from rekindle.interop.trl.bounds import token_bounds
from rekindle.interop.trl.needed import refuse_stranger
from rekindle.interop.trl.rewards import said
from rekindle.interop.trl.rows import Piece, Row, metrics_of, prompt_name, table_of
from rekindle.interop.trl.write import next_numbers, write_table
from rekindle.train.events import EventLog, raw_events

UID = "recorder_uid"
"""The column of TRL's batches that says which response a row is, for TRL shuffles and cuts them."""


class RekindleRecorder(TrainerCallback):
    """Writes DIR/rollouts/step-NNNNNN.parquet and DIR/events.jsonl. See docs/interop_trl.md for the columns.

    success_above: a response is a success where its weighted reward lies above it. InputError where `folder` has a run
    that this one does not resume, or several processes share the run.
    """

    def __init__(self, folder: str | Path, *, success_above: float = 0.0) -> None:
        self.folder, self.success_above = Path(folder), success_above
        self._rows: dict[int, Row] = {}
        self._pieces: list[Piece] = []
        self._pending: dict[str, Any] | None = None
        self._log: EventLog | None = None
        self._trainer: Any = None
        self._calls: tuple[Any, ...] = ()
        self._scores: tuple[Tensor, Tensor] | None = None
        self._groups = self._uids = 0

    def attach(self, trainer: Any) -> RekindleRecorder:
        """Wrap `trainer`'s methods and listen to its events; gives the recorder. InputError for another trainer."""
        refuse_stranger(type(trainer))
        if trainer.accelerator.num_processes > 1:
            raise InputError(
                f"{trainer.accelerator.num_processes} processes share this run and RekindleRecorder sees the rows of "
                "one: record a run of one process"
            )
        if self._trainer is not None:
            raise InputError(f"the recorder of {self.folder} is attached already: make one recorder a trainer")
        self._trainer = trainer
        self._wrap(trainer)
        trainer.add_callback(self)
        return self

    # --- the trainer's methods ---

    def _wrap(self, trainer: Any) -> None:
        rewards, generate = trainer._calculate_rewards, trainer._generate_and_score_completions
        loss, scores = trainer._compute_loss, trainer._get_per_token_logps_and_entropies

        def calculate(inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Tensor:
            found = rewards(inputs, prompts, completions, completion_ids)
            self._calls = (inputs, prompts, completions, completion_ids, found)
            return found

        def generated(inputs: Any) -> dict[str, Any]:
            output = generate(inputs)
            return {**output, UID: self._note(output)} if trainer.model.training else output

        def handed_on(*args: Any, **kwargs: Any) -> Any:
            found = scores(*args, **kwargs)
            if kwargs.get("compute_entropy"):  # the last of a loss is the one with a gradient
                self._scores = (found[0].detach(), found[1].detach())
            return found

        def computed(model: Any, inputs: Mapping[str, Any]) -> Tensor:
            self._scores = None
            value = loss(model, inputs)
            if trainer.model.training:
                self._pieces.append(self._piece(inputs, value))
            return value

        trainer._calculate_rewards, trainer._generate_and_score_completions = calculate, generated
        trainer._compute_loss, trainer._get_per_token_logps_and_entropies = computed, handed_on

    def _note(self, output: Mapping[str, Any]) -> Tensor:
        """Keep what a generation says of its rows; gives their numbers in the run."""
        inputs, prompts, completions, ids, rewards = self._calls
        trainer, first = self._trainer, self._uids
        score, graded = scored(rewards, trainer.reward_weights.to(rewards.device))
        ends = {*trainer.eos_token_ids, trainer._tokenizer.pad_token_id}
        prompt_ids = output["prompt_ids"].tolist(), output["prompt_mask"].bool().tolist()
        for i in range(len(ids)):
            shown = [n for n, m in zip(prompt_ids[0][i], prompt_ids[1][i], strict=True) if m]
            prompt = prompts[i] if isinstance(prompts[i], str) else trainer._tokenizer.decode(shown)
            self._rows[first + i] = Row(
                id=str(inputs[i]["id"]) if "id" in inputs[i] else prompt_name(prompt),
                prompt=prompt,
                response=said(completions[i]),
                ids=list(ids[i]),
                prompt_ids=shown,
                score=float(score[i]),
                graded=bool(graded[i]),
                success=bool(graded[i]) and float(score[i]) > self.success_above,
                finish="eos" if ids[i] and ids[i][-1] in ends else "length",
                group=self._groups + i // trainer.num_generations,
                rewards=dict(zip(trainer.reward_func_names, rewards[i].tolist(), strict=True)),
            )
        self._uids += len(ids)
        self._groups += len(ids) // trainer.num_generations
        return torch.arange(first, self._uids)

    def _piece(self, inputs: Mapping[str, Any], value: Tensor) -> Piece:
        if self._scores is None:
            raise InputError(
                "the trainer computed a loss without scoring its rows: attach the recorder before training"
            )
        columns = {"logp": self._scores[0], "entropy": self._scores[1], "advantage": inputs["advantages"]}
        for theirs, ours in (("old_per_token_logps", "logp_old"), ("ref_per_token_logps", "logp_ref")):
            if inputs.get(theirs) is not None:
                columns[ours] = inputs[theirs]
        sampled = sampled_of(inputs, columns.get("logp_old", columns["logp"]))
        if sampled is not None:
            columns["logp_sampled"] = sampled
        return Piece(
            uid=inputs[UID].tolist(),
            mask=live_mask(inputs).cpu(),
            columns={name: values.detach().float().cpu() for name, values in columns.items()},
            loss=float(value.detach()),
        )

    # --- the trainer's events ---

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the log, and say what runs."""
        place, step = self.folder / "events.jsonl", int(state.global_step)
        if place.exists() and next(raw_events(place), None) is not None and not step:
            raise InputError(
                f"{self.folder} has a run already: name another folder, or resume that run from a checkpoint"
            )
        self._log = EventLog(place)
        if step:
            self._log.resume(step)
            self._uids, self._groups = next_numbers(self.folder / "rollouts", step)
        told = {"trainer": "trl", **_versions(), "class": type(self._trainer).__name__}
        told |= {"model": str(self._trainer.model.config.name_or_path), "config": args.to_sanitized_dict()}
        self._log.write("start", step, {**told, "rewards": list(self._trainer.reward_func_names)})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the rows of the step."""
        self._flush()
        pieces, self._pieces = self._pieces, []
        rows = {uid: self._rows[uid] for piece in pieces for uid in piece.uid}
        step = int(state.global_step)
        texts, bounds = self._trainer._tokenizer, token_bounds(self._trainer)
        table = table_of(rows, pieces, lambda ids: [texts.decode([i]) for i in ids], bounds)
        write_table(self.folder / "rollouts" / f"step-{step:06d}.parquet", table)
        self._pending = {"step": step, **metrics_of(rows, pieces, bounds)}
        again = self._trainer.num_iterations > 1 or args.steps_per_generation > args.gradient_accumulation_steps
        oldest = self._uids - args.per_device_train_batch_size * args.steps_per_generation if again else self._uids
        self._rows = {uid: row for uid, row in self._rows.items() if uid >= oldest}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add what TRL says of the step: its gradient norm, and all else under `trl/`."""
        if self._pending is None or self._pending["step"] != state.global_step or "loss" not in (logs or {}):
            return
        numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        if "grad_norm" in numbers:
            self._pending["grad_norm"] = numbers["grad_norm"]
        self._pending |= {f"trl/{name}": value for name, value in numbers.items()}
        self._flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the log."""
        self._flush()
        if self._log is not None:
            self._log.write("end", int(state.global_step), {})
            self._log.close()
            self._log = None

    def _flush(self) -> None:
        if self._pending is not None and self._log is not None:
            told = {name: value for name, value in self._pending.items() if name != "step"}
            self._log.write("step", self._pending["step"], told)
        self._pending = None


def _versions() -> dict[str, str]:
    try:
        return {"trl": version("trl"), "transformers": version("transformers")}
    except PackageNotFoundError:
        return {}
