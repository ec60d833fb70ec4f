"""`RekindleTrainer` with the real TRL 1.16: equal losses, exact updates, three steps of EVOL-RL, and its refusals."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import FixedLength, SequenceMean, TokenMean
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.errors import InputError
from rekindle.methods import evol_rl, grpo, kl_cov, rl_zvp
from rekindle.tokens.collect import Answers
from tests.heavy.interop_trl import answer, by_letter_pairs, by_letters, trainer

# TRL's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

trl = pytest.importorskip("trl", reason="real TRL is in the environment of `make test-heavy` only")
LIKE_TRL = grpo.method().replace(advantage=GroupNormalized(eps=1e-4), objective=Clip(low=0.8, high=1.2))
"""Our GRPO with TRL's floor of the standard deviation, and without the dual clip."""


def rekindle_trainer() -> Any:
    from rekindle.interop.trl import RekindleTrainer

    return RekindleTrainer


def ours(folder: Path, method: PolicyGradient | str, rewards: Any = by_letters, **flags: Any) -> Any:
    return trainer(folder, rekindle_trainer(), rewards, more={"method": method}, **flags)


def one_window(made: Any) -> list[dict[str, Any]]:
    """The micro-batches of the first update, generated and scored by the trainer itself."""
    made.model.train()
    made.current_gradient_accumulation_steps = made.args.gradient_accumulation_steps
    made.state.max_steps = 3
    rows = next(iter(made.get_train_dataloader()))
    made._prepare_inputs(rows)
    return made._buffered_inputs


def losses(made: Any, compute: Any, pieces: list[dict[str, Any]]) -> tuple[float, list[Tensor]]:
    """The summed loss of the pieces, and the gradient that they add up to."""
    made.model.zero_grad()
    total = 0.0
    for step, piece in enumerate(pieces):
        made._step = step
        loss = compute(made.model, piece)
        loss.backward()
        total += loss.item()
    made._step = 0
    return total, [deepcopy(p.grad) for p in made.model.parameters() if p.grad is not None]


def apart(one: list[Tensor], two: list[Tensor]) -> float:
    scale = max(g.abs().max().item() for g in one)
    assert scale > 1e-4, "no gradient: the comparison proves nothing"
    return max((a - b).abs().max().item() for a, b in zip(one, two, strict=True)) / scale


CASES: dict[str, tuple[PolicyGradient, dict[str, Any]]] = {
    "dapo": (LIKE_TRL, {"loss_type": "dapo"}),
    "grpo": (LIKE_TRL.replace(aggregate=SequenceMean()), {"loss_type": "grpo"}),
    "dr_grpo": (LIKE_TRL.replace(aggregate=FixedLength()), {"loss_type": "dr_grpo"}),
    "entropy": (LIKE_TRL.replace(terms=(EntropyBonus(coef=0.05),)), {"loss_type": "dapo", "entropy_coef": 0.05}),
}


# TRL's entropy bonus is a mean of the micro-batches' means, ours is over the update: the two are one at one piece.
@pytest.mark.parametrize(("name", "pieces"), [*((name, 1) for name in CASES), ("dapo", 2), ("grpo", 2), ("dr_grpo", 2)])
def test_the_loss_is_trls_own_where_the_flags_match(tmp_path: Path, name: str, pieces: int) -> None:
    method, flags = CASES[name]
    made = ours(tmp_path, method, per_device_train_batch_size=8 // pieces, gradient_accumulation_steps=pieces)
    window = one_window(made)
    loss, gradient = losses(made, made._compute_loss, window)
    for flag, value in flags.items():
        setattr(made, flag, value)
    made._entropy_bonus_enabled = name == "entropy"
    means = [{**piece, "advantages": piece["advantages"][:, 0]} for piece in window]
    theirs, their_gradient = losses(made, lambda model, piece: trl.GRPOTrainer._compute_loss(made, model, piece), means)
    assert loss == pytest.approx(theirs, abs=1e-6)
    assert apart(gradient, their_gradient) < 1e-5


def test_the_advantages_are_trls_own_where_the_method_says_the_same(tmp_path: Path) -> None:
    made = trainer(tmp_path, trl.GRPOTrainer, per_device_train_batch_size=8)
    mine = ours(tmp_path, LIKE_TRL, per_device_train_batch_size=8)
    found = []
    for each in (made, mine):
        torch.manual_seed(3)
        found.append(one_window(each)[0])
    theirs, got = (piece["advantages"] for piece in found)
    assert found[0]["completion_ids"].equal(found[1]["completion_ids"]), "the two generated other texts"
    assert theirs.abs().max() > 0.5
    assert got.where(found[1]["completion_mask"].bool(), 0.0).sum(1).tolist() == pytest.approx(
        (theirs * found[0]["completion_mask"].sum(1)).tolist(), abs=1e-4
    )
    assert list(mine._logs["advantages"]) == pytest.approx(list(made._logs["advantages"]), abs=1e-5)


TWO_PASS = kl_cov.method().replace(objective=kl_cov.KLCov(share=0.3, beta=1.0), aggregate=TokenMean())


@pytest.mark.parametrize("method", [TWO_PASS, LIKE_TRL], ids=["two passes", "one pass"])
def test_micro_batches_change_nothing(tmp_path: Path, method: PolicyGradient) -> None:
    found = []
    for size in (8, 2):
        made = ours(tmp_path, method, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size)
        torch.manual_seed(3)
        window = one_window(made)
        noise = torch.randn(made._batches["train"].mask.shape, generator=torch.Generator().manual_seed(1)) * 0.3
        # An older policy's log-probs, so that ratios are not 1; the window is not the first of its generation.
        logp = torch.cat([made._said(made.model, piece).logp.detach() for piece in window])
        order = torch.cat([piece["rekindle_uid"] for piece in window])
        old = (logp[order.argsort()] + noise).where(made._batches["train"].mask, 0.0)
        made._batches["train"] = made._batches["train"].with_columns(logp_old=old)
        made.num_iterations = 2
        found.append(stale(made, window))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert apart(found[0][1], found[1][1]) < 1e-5


def stale(made: Any, pieces: list[dict[str, Any]]) -> tuple[float, list[Tensor]]:
    """`losses` of the second pass over a generation."""
    made.model.zero_grad()
    total, spg = 0.0, made.args.steps_per_generation
    for step, piece in enumerate(pieces):
        made._step = spg + step
        loss = made._compute_loss(made.model, piece)
        loss.backward()
        total += loss.item()
    return total, [deepcopy(p.grad) for p in made.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_three_steps_of_evol_rl(tmp_path: Path, accumulated: int) -> None:
    from rekindle.interop.trl import novelty_reward

    record = evol_rl.method()
    method = record.replace(terms=tuple(term for term in record.terms if not isinstance(term, KLToReference)))
    reward = novelty_reward(extract=answer, embed=by_letter_pairs)
    size = 8 // accumulated
    made = ours(tmp_path, method, reward, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated)
    before = [p.detach().clone() for p in made.model.parameters()]
    made.train()
    logged = [line for line in made.state.log_history if "loss" in line]
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert all(torch.isfinite(torch.tensor([line["loss"], line["grad_norm"]])).all() for line in logged)
    assert all(line["grad_norm"] > 1e-4 and line["signal"] > 0 for line in logged)
    assert all(line["entropy"] > 0.1 and "clip_high" in line for line in logged)
    assert "rewards/novelty_reward/mean" in logged[0]
    moved = max((a - b).abs().max().item() for a, b in zip(before, made.model.parameters(), strict=True))
    assert moved > 1e-3


def test_a_combination_by_name_and_several_updates_a_generation(tmp_path: Path) -> None:
    made = ours(
        tmp_path, "grpo+kl_cov", per_device_train_batch_size=4, steps_per_generation=2, num_iterations=2, max_steps=4
    )
    made.train()
    logged = [line for line in made.state.log_history if "loss" in line]
    assert logged[0]["kl_cov"] == pytest.approx(0, abs=1e-6), "the first update is on-policy"
    assert logged[2]["kl_cov"] > 1e-4, "the third sees rows of the generation that two updates came after"


@pytest.mark.parametrize(
    ("method", "flags", "names"),
    [
        ("ttrl", {"beta": 0.1}, ["MajorityVote", "majority_reward"]),
        ("evol_rl", {}, ["KLToReference", "logp_ref", "beta"]),
        ("ppo_clip", {}, ["head", "value"]),
        ("g2rl", {}, ["GradientNovelty", "gradient_old"]),
        ("dapo", {}, ["MixedGroups", "collect.select"]),
        ("stratified_grpo", {}, ["Stratum", "collect.columns"]),
        ("entropy_adaptive", {}, ["source", "memory"]),
        ("remix", {}, ["Stages"]),
        ("grpo", {"epsilon": 0.3}, ["epsilon=0.3", "objective"]),
        ("grpo", {"loss_type": "grpo"}, ["loss_type", "aggregate"]),
        ("grpo", {"gradient_accumulation_steps": 2, "steps_per_generation": 1}, ["steps_per_generation=1"]),
        ("grpoo", {}, ["unknown method"]),
    ],
)
def test_what_trl_does_not_have_is_refused_by_name(
    tmp_path: Path, method: str, flags: dict[str, Any], names: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        ours(tmp_path, method, **flags)
    assert all(name in str(caught.value) for name in names), caught.value


def test_a_column_that_nobody_has_is_told(tmp_path: Path) -> None:
    method = grpo.method().replace(objective=Clip(level="segment"), collect=Answers())
    made = ours(tmp_path, method)
    with pytest.raises(InputError, match="segment"):
        losses(made, made._compute_loss, one_window(made))


def test_an_evaluation_is_a_batch_of_its_own(tmp_path: Path) -> None:
    from datasets import Dataset  # type: ignore[import-not-found]

    more = {"method": TWO_PASS, "eval_dataset": Dataset.from_dict({"prompt": ["abc"]})}
    flags = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
    made = trainer(tmp_path, rekindle_trainer(), more=more, per_device_train_batch_size=8, **flags)
    made.train()
    told = [line for line in made.state.log_history if "eval_loss" in line]
    assert len(told) == 3 and all(torch.isfinite(torch.tensor(line["eval_loss"])) for line in told)
    assert all("eval_kl_cov" in line for line in told)
    own = [made._batches[mode].advantage[:, 0].tolist() for mode in ("train", "eval")]
    assert list(made._logs["advantages"]) == pytest.approx([*own[0][4:], *own[1]], abs=1e-6)


def test_entropies_at_rollout_weights_are_scored_by_trls_own_pass(tmp_path: Path) -> None:
    record = rl_zvp.method()
    made = ours(tmp_path, record, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    window = one_window(made)
    batch = made._batches["train"]
    for piece in window:
        rows = piece["rekindle_uid"] - batch.uid[0]
        want = made._said(made.model, piece).entropy.detach()
        assert batch.column("entropy_old")[rows].sub(want).abs().max() < 1e-5
    assert want.max() > 0.1
