"""Columns, bounds and settings of TRL's, on made inputs: no NaN gets in, no bound of another ratio, no idle setting."""

from __future__ import annotations

import math
from dataclasses import field, make_dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rekindle.core.aggregate import SamplerWeighted
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.schedules import Linear
from rekindle.core.types import Batch
from rekindle.errors import InputError
from rekindle.interop.trl.batch import as_batch
from rekindle.interop.trl.bounds import token_bounds
from rekindle.interop.trl.fitting import OWNED, refuse_correction, refuse_settings
from rekindle.methods import grpo

MASK = torch.tensor([[True, True, True], [True, True, False]])
OLD = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, math.nan]])
SAMPLED = torch.tensor([[-1.5, math.nan, -3.0], [-4.0, -4.5, math.nan]])


def batch(**columns: Any) -> Batch:
    inputs = {
        "prompt_ids": torch.ones(2, 1).long(),
        "prompt_mask": torch.ones(2, 1),
        "completion_ids": torch.ones(2, 3).long(),
        "completion_mask": MASK,
        **columns,
    }
    rewards = torch.tensor([1.0, 0.0]), torch.ones(2).bool()
    return as_batch(
        inputs, rewards, group=torch.zeros(2).long(), first_uid=0, key=torch.tensor(0), limit=3, success_above=0.0
    )


def test_what_the_sampler_did_not_tell_is_the_old_policys() -> None:
    made = batch(old_per_token_logps=OLD, sampling_per_token_logps=SAMPLED)
    assert made.column("logp_sampled").tolist() == [[-1.5, -2.0, -3.0], [-4.0, -4.5, 0.0]]
    assert made.logp_old.tolist() == [[-1.0, -2.0, -3.0], [-4.0, -5.0, 0.0]]
    weights = SamplerWeighted(level="token", cap=10.0)(made, MASK)
    assert weights.tolist() == [
        pytest.approx([math.exp(0.5) / 5, 0.2, 0.2]),
        pytest.approx([0.2, math.exp(-0.5) / 5, 0]),
    ]


def test_where_nothing_is_known_there_is_no_column() -> None:
    assert "logp_sampled" not in batch(sampling_per_token_logps=SAMPLED).extra
    told = SAMPLED.nan_to_num(-1.0)
    assert batch(sampling_per_token_logps=told).column("logp_sampled").equal(told.where(MASK, 0.0))
    assert "logp_sampled" not in batch().extra


# --- bounds ---


def plain(**more: Any) -> Any:
    own = {"loss_type": "dapo", "importance_sampling_level": "token", "epsilon_low": 0.25, "epsilon_high": 0.5}
    return SimpleNamespace(**{**own, **more})


def ours(objective: Any) -> Any:
    return SimpleNamespace(method=grpo.method().replace(objective=objective))


def test_bounds_are_of_the_tokens_ratios_or_of_none() -> None:
    assert token_bounds(plain()) == (0.75, 1.5)
    assert token_bounds(plain(importance_sampling_level="sequence")) is None
    assert token_bounds(plain(loss_type="sapo")) is None
    assert token_bounds(ours(Clip(low=0.5, high=2.0))) == (0.5, 2.0)
    assert token_bounds(ours(Clip(level="sequence"))) is None and token_bounds(ours(Clip(level="segment"))) is None
    assert token_bounds(ours(Clip(high=Linear(1.2, 1.4)))) is None


# --- settings ---


def settings(**changed: Any) -> Any:
    """Settings as TRL's are: a dataclass with defaults; those in `changed` are given."""
    others = {"steps_per_generation": 1, "gradient_accumulation_steps": 1, "beta": 0.0}
    fields = [(name, Any, field(default=value)) for name, value in {**dict.fromkeys(OWNED, 0), **others}.items()]
    return make_dataclass("Settings", fields)(**changed)


@pytest.mark.parametrize("name", OWNED)
def test_a_setting_that_a_slot_says_is_refused_where_it_is_changed(name: str) -> None:
    refuse_settings(settings(beta=0.1))
    with pytest.raises(InputError, match=rf"{name}=7 in GRPOConfig has no effect, for the method's {OWNED[name]} "):
        refuse_settings(settings(**{name: 7}))


def test_trls_correction_needs_one_of_ours() -> None:
    args = SimpleNamespace(use_vllm=True, vllm_importance_sampling_correction=True)
    own: PolicyGradient = grpo.method().replace(aggregate=SamplerWeighted())
    refuse_correction(args, own)
    namesake = type("SamplerWeighted", (), {"__call__": lambda self, batch, kept: kept.double()})()
    for record in (grpo.method(), grpo.method().replace(aggregate=namesake)):
        with pytest.raises(InputError, match="vllm_importance_sampling_correction has no effect"):
            refuse_correction(args, record)
    refuse_correction(SimpleNamespace(use_vllm=False, vllm_importance_sampling_correction=True), grpo.method())
