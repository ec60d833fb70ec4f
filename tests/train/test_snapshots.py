"""Snapshots and teachers of a run: frozen passes, brought up to date, saved, and refused where they cannot serve."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rekindle.errors import InputError
from rekindle.tokens.lora import StartWeights, adapt, adapter_state
from rekindle.train import snapshots
from rekindle.train.teacher import check_same_tokens
from tests.tiny_models import build, tokenizer


def moved(model: torch.nn.Module) -> None:
    """Another set of weights, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1


def test_a_copy_of_a_whole_model_keeps_what_it_was_until_it_is_renewed(tmp_path: Path) -> None:
    model = build("llama", torch.float32)
    copy = snapshots.made(model, "previous")
    assert isinstance(copy, torch.nn.Module) and not any(p.requires_grad for p in copy.parameters())
    before = {name: p.clone() for name, p in model.named_parameters()}
    moved(model)
    assert all(torch.equal(p, before[name]) for name, p in copy.named_parameters())
    assert snapshots.renewed(copy, model, "previous") is copy
    assert all(torch.equal(p, dict(model.named_parameters())[name]) for name, p in copy.named_parameters())
    snapshots.save(tmp_path, {"previous": copy}, ["previous"])
    moved(model)
    references = {"previous": snapshots.made(model, "previous")}
    snapshots.load(tmp_path, references, ["previous"], model)
    again = references["previous"]
    assert isinstance(again, torch.nn.Module)
    assert all(torch.equal(p, dict(copy.named_parameters())[name]) for name, p in again.named_parameters())


def test_names_tell_snapshots_from_what_others_make() -> None:
    assert snapshots.own_passes({"policy", "teacher", "previous", "reference", "mask"}) == ["mask", "previous"]


def test_a_copy_of_an_adapter_lies_in_the_same_model(tmp_path: Path) -> None:
    model = adapt(build("llama", torch.float32), 2, None, ("all-linear",), 0)
    moved(model)
    copy = snapshots.made(model, "previous")
    assert isinstance(copy, StartWeights) and copy.adapter == "previous"
    before = {name: value.clone() for name, value in adapter_state(model).items()}
    moved(model)
    held = adapter_state(model, "previous")
    assert all(torch.equal(held[name], before[name]) for name in before)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if ".default." in n
    }
    snapshots.save(tmp_path, {"previous": copy}, ["previous"])
    snapshots.renewed(copy, model, "previous")
    assert not torch.equal(next(iter(adapter_state(model, "previous").values())), next(iter(before.values())))
    snapshots.load(tmp_path, {"previous": copy}, ["previous"], model)
    held = adapter_state(model, "previous")
    assert all(torch.equal(held[name], before[name]) for name in before)


def test_the_reference_of_an_adapter_can_be_born_again() -> None:
    model = adapt(build("llama", torch.float32), 2, None, ("all-linear",), 0)
    moved(model)
    again = snapshots.renewed(StartWeights(model), model, "reference")
    assert isinstance(again, StartWeights) and again.adapter == "reference"
    here, there = adapter_state(model), adapter_state(model, "reference")
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    model, other = build("llama", torch.float32), build("gpt2", torch.float32)
    snapshots.save(tmp_path, {"previous": snapshots.made(other, "previous")}, ["previous"])
    with pytest.raises(InputError, match="is not its"):
        snapshots.load(tmp_path, {"previous": snapshots.made(model, "previous")}, ["previous"], model)


def test_a_teacher_of_other_tokens_is_refused_with_the_first_that_differs() -> None:
    check_same_tokens("t", tokenizer(), tokenizer())
    with pytest.raises(InputError, match=r"teacher 't' has another tokenizer than the model .* is 4 and None"):
        check_same_tokens("t", tokenizer(4), tokenizer(5))
