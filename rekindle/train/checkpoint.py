"""Checkpoints: a plain Hugging Face folder, plus `state/` with the optimiser in safetensors and the rest in JSON.

A checkpoint is written beside its place and renamed, so that a killed run never leaves half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.loader import quiet
from rekindle.train.run import Run

STATE = "state"
PREFIX = "step-"


def save_checkpoint(run: Run, folder: Path, keep: int) -> Path:
    """Write `folder/step-NNNNNN` for the steps done so far; older ones beyond the last `keep` are removed."""
    place = folder / f"{PREFIX}{run.step_index:06d}"
    partial = folder / f".{place.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(run, partial)
    (partial / STATE).mkdir()
    save_file(optimizer_tensors(run), partial / STATE / "optimizer.safetensors")
    if run.policy.heads:
        save_file(run.policy.heads.state_dict(), partial / STATE / "heads.safetensors")
    state = {"step": run.step_index, "memory": run.memory, "record_hash": run.resolved.record_hash}
    (partial / STATE / "run.json").write_text(json.dumps(state, indent=2) + "\n")
    publish(partial, place)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return place


def publish(partial: Path, place: Path) -> None:
    """Flush every file of `partial` to disk and give it its name; an older folder of that name is replaced."""
    for file in (f for f in partial.rglob("*") if f.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if place.exists():
        shutil.rmtree(place)
    partial.rename(place)


def save_model(run: Run, folder: Path) -> None:
    """Weights, configuration and tokenizer as transformers loads them."""
    folder.mkdir(parents=True)
    with quiet():
        run.loaded.model.save_pretrained(folder)
        run.loaded.tokenizer.save_pretrained(folder)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    found = [p for p in folder.glob(f"{PREFIX}*") if (p / STATE / "run.json").is_file()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix(PREFIX)))


def optimizer_tensors(run: Run) -> dict[str, Tensor]:
    """The optimiser's state by parameter name: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`."""
    named: dict[Tensor, str] = {p: name for name, p in run.trainable()}
    state = run.optimizer.state
    return {f"{named[p]}.{key}": value.contiguous() for p in state for key, value in state[p].items()}


def load_checkpoint(run: Run, place: Path) -> None:
    """Bring `run` to where it was: weights, optimiser, memory and step. InputError where the record is another one."""
    state: dict[str, Any] = json.loads((place / STATE / "run.json").read_text())
    if state["record_hash"] != run.resolved.record_hash:
        raise InputError(f"{place} was written by another method record; resume with the method and options of its run")
    load_weights(run.loaded.model, place)
    tensors = load_file(place / STATE / "optimizer.safetensors")
    for name, parameter in run.trainable():
        mine = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        if mine:
            # Fused AdamW reads its step count on the device too.
            run.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in mine.items()}
    run.step_index = int(state["step"])
    run.memory = dict(state["memory"])
    if run.policy.heads:
        run.policy.heads.load_state_dict(load_file(place / STATE / "heads.safetensors"))


def load_weights(model: torch.nn.Module, place: Path) -> None:
    """The weights in `place` into `model`, bit for bit; tied weights follow the tensor that was saved."""
    saved: dict[str, Tensor] = {}
    for file in sorted(place.glob("model*.safetensors")):
        saved |= load_file(file)
    with torch.no_grad():
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        missing = [name for name in own if name not in saved and name in dict(model.named_parameters())]
        if missing:
            raise InputError(f"{place} lacks the weights '{missing[0]}': it is not a checkpoint of this model")
        for name, value in saved.items():
            if name in own:
                own[name].copy_(value)
