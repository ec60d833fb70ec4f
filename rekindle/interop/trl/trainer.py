"""`RekindleTrainer`: TRL's generation, rewards, optimiser and log; advantage and loss of one of our methods.

What is the same as in a run of ours, and what is not:

- TRL's generation is our step: `prepare`, `advantage` and `modulate` see all its rows. TRL's optimiser step is our
  minibatch: weights are made over all its micro-batches, and non-separable losses take the two passes of
  `core.descend`, so that per_device_train_batch_size changes nothing. steps_per_generation has to be a multiple of
  gradient_accumulation_steps. TRL shuffles rows between the minibatches; ours keep a prompt's rows together.
- The record's `collect` and `descent` are not used: sampling, rewards, learning rate and clipping of gradients are
  those of `GRPOConfig`. A label that votes or a shape has to be among the reward functions (`GroupReward`).
- Schedules run over `max_steps`, in steps of the optimiser.
- beta only says whether TRL keeps a reference; the KL's coefficient is the method's.
- Of GRPOTrainer's arguments `environment_factory` is left out.
- One process: a loss over the rows of several is refused. Two passes see two draws of dropout where the model has any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.random import pack_key
from rekindle.core.slots import Reporting
from rekindle.core.types import ENTROPY_OLD, LOGP_OLD, Batch, MissingColumn, Needy, Now, add_metrics, mean_metrics
from rekindle.errors import InputError
from rekindle.interop.trl.batch import as_batch, as_now, live_mask, scored
from rekindle.interop.trl.fitting import record_of, refuse_correction, refuse_parts, refuse_settings
from rekindle.interop.trl.needed import grpo_trainer
from rekindle.interop.trl.window import Window, opened

_Base: Any = grpo_trainer()

UID = "rekindle_uid"
"""The column of TRL's batches that says which response a row is, for TRL shuffles and cuts them."""


class RekindleTrainer(_Base):
    """`trl.GRPOTrainer` with the advantage and the loss of `method`: a record, or a name ("evol_rl", "grpo+kl_cov").

    success_above: a response is a success where its weighted reward lies above it. All else is TRL's own argument.
    InputError, naming the part, where the method needs what TRL does not have; naming the setting, where one of
    `GRPOConfig` says what a slot of the method does (`fitting.OWNED`).
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Any = None,
        optimizers: Any = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: Any = None,
        rollout_func: Any = None,
        *,
        method: PolicyGradient | str,
        success_above: float = 0.0,
    ) -> None:
        record, given = record_of(method), reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        if args is not None:
            refuse_settings(args)
            refuse_correction(args, record)
        refuse_parts(record, given, reference=args is not None and args.beta != 0)
        super().__init__(
            model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            reward_processing_classes,
            callbacks,
            optimizers,
            quantization_config,
            peft_config,
            tools,
            rollout_func,
        )
        self._refuse_machinery()
        self.method, self.success_above = record, success_above
        self._batches: dict[str, Batch] = {}
        self._records: dict[str, PolicyGradient] = {}
        self._rewards, self._uids = torch.zeros(0, 0), 0
        self._window: Any = None
        self._entropies: Tensor | None = None

    def _refuse_machinery(self) -> None:
        if self.accelerator.num_processes > 1:
            raise InputError(
                f"{self.accelerator.num_processes} processes share this run, and RekindleTrainer makes the weights of "
                "an update in one: use one process, or `rekindle train --ranks N`"
            )
        if self.aux_loss_enabled:
            raise InputError(
                "router_aux_loss_coef adds a loss that is not the method's: set it to 0 in GRPOConfig to train this "
                "mixture of experts"
            )

    # --- a generation: our step ---

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mode, rows = self._mode(), len(output["completion_ids"])
        record = self._records[mode] = self.method.at(self._progress())
        size = self.num_generations if self.model.training else self.num_generations_eval
        batch = as_batch(
            self._with_scores(output, record),
            scored(self._rewards, self.reward_weights.to(self._rewards.device)),
            group=self._uids + torch.arange(rows) // size,
            first_uid=self._uids,
            key=pack_key(self.args.seed, self.state.global_step, 0),
            limit=self.max_completion_length,
            success_above=self.success_above,
        )
        batch = (
            batch if self._entropies is None else batch.with_columns(entropy_old=self._entropies.where(batch.mask, 0.0))
        )
        self._uids += rows
        batch = _told(lambda: record.credit(batch))
        self._batches[mode] = batch
        self._tell(mode, _reports(record, batch))
        self._log_advantages(batch)
        return {**output, "advantages": batch.advantage.to(output["advantages"]), UID: batch.uid}

    def _with_scores(self, output: Mapping[str, Any], record: PolicyGradient) -> dict[str, Any]:
        """The output with the log-probs, and in `_entropies` the entropies, that the parts want at rollout weights."""
        parts = [part for part in record.parts() if isinstance(part, Needy)]
        wanted, self._entropies = {need for part in parts for need in part.needs}, None
        lacking = LOGP_OLD in wanted and output.get("old_per_token_logps") is None
        if not (lacking or ENTROPY_OLD in wanted):
            return dict(output)
        with torch.no_grad():
            logp, entropy = self._scores(self.model, output, self.args.per_device_train_batch_size)
        self._entropies = entropy.cpu() if ENTROPY_OLD in wanted else None
        return {**output, "old_per_token_logps": logp} if lacking else dict(output)

    def _log_advantages(self, batch: Batch) -> None:
        """Put our advantages, the mean of each row, where TRL's log has its own."""
        live = batch.live
        means = (batch.advantage.where(live, 0.0).sum(dim=1) / live.sum(dim=1).clamp(min=1)).tolist()
        logged = self._logs["advantages"]
        for _ in range(min(len(means), len(logged))):
            logged.pop()
        logged.extend(means)

    # --- an update: our minibatch ---

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        mode, count = self._mode(), self.args.gradient_accumulation_steps
        place = self._step % count if mode == "train" else 0
        if place == 0:
            self._window = self._open(model, inputs)
        window = self._window
        now = self._said(model, inputs)
        loss = _told(lambda: window.piece(now, inputs[UID].cpu()))
        if place + 1 == count or mode == "eval":
            self._tell(mode, mean_metrics(window.metrics))
        return loss.to(self.accelerator.device, torch.float32)

    def _open(self, model: Any, inputs: Mapping[str, Any]) -> Window:
        """The window that begins with `inputs`: in training all micro-batches of the optimiser step."""
        pieces, batch, record = [inputs], self._batches[self._mode()], self._records[self._mode()]
        if self.model.training:
            count, first = self.args.gradient_accumulation_steps, self._step % self.args.steps_per_generation
            if self.current_gradient_accumulation_steps != count:
                raise InputError(
                    f"an update holds {self.current_gradient_accumulation_steps} micro-batches in the place of "
                    f"gradient_accumulation_steps={count}: use a data set of known length"
                )
            pieces = self._buffered_inputs[first : first + count]
        rows = torch.cat([piece[UID].cpu() for piece in pieces]) - batch.uid[0]
        fresh = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        part = replace(batch.take(rows), key=pack_key(self.args.seed, self.state.global_step, 1))
        return _told(lambda: opened(record, part, fresh, lambda: [self._said(model, piece) for piece in pieces]))

    def _said(self, model: Any, inputs: Mapping[str, Any]) -> Now:
        logp, entropy = self._scores(model, inputs, None)
        return as_now(logp, entropy, live_mask(inputs).cpu())

    def _scores(self, model: Any, inputs: Mapping[str, Any], size: int | None) -> tuple[Tensor, Tensor]:
        """(log-probs, entropies) [B T] of the completions by TRL's own pass, at the sampling temperature."""
        if "pixel_values" in inputs:
            raise InputError("the prompts hold images, which RekindleTrainer does not score: leave them out")
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        logp, entropy, _ = self._get_per_token_logps_and_entropies(
            model, ids, attention, inputs["completion_ids"].shape[1], batch_size=size, compute_entropy=True
        )
        return logp, entropy

    # --- both ---

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _progress(self) -> float:
        return min(1.0, self.state.global_step / max(1, self.state.max_steps - 1))

    def _tell(self, mode: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._metrics[mode][name].append(value)


def _reports(record: PolicyGradient, batch: Batch) -> dict[str, float]:
    metrics = {"signal": record.signal(batch)}
    for part in record.parts():
        metrics = add_metrics(metrics, part.report(batch) if isinstance(part, Reporting) else {})
    return mean_metrics(metrics)


def _told(do: Callable[[], Any]) -> Any:
    """What `do` gives; a column that a part reads and nobody has is told as the user's."""
    try:
        return do()
    except MissingColumn as error:
        raise InputError(
            f"a part of the method reads what TRL does not have ({error}): train it by `rekindle train`"
        ) from error
