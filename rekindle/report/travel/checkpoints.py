"""Two checkpoints, tensor by tensor: weights, optimiser, heads, kept tensors, snapshots, and the memory as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rekindle.errors import InputError
from rekindle.report.travel.compared import alike, brief
from rekindle.tokens.lora import adapted_layers, adapter_state
from rekindle.train.checkpoint import STATE, has_start, optimizer_tensors
from rekindle.train.run import Run
from rekindle.train.snapshots import tensors_of

WEIGHTS = "weights"


@dataclass(frozen=True)
class State:
    """What a checkpoint holds. parts: "weights", "optimizer", "heads", "kept", "snapshot-NAME", ... -> its tensors."""

    parts: Mapping[str, Mapping[str, Tensor]]
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Apart:
    """One tensor that differs, or a value of the memory (`elements` 0). why: in words, of what has no difference.

    changed: in how many of its elements; largest: difference of two of them; scale: the largest element of the first.
    """

    part: str
    name: str
    changed: int = 0
    elements: int = 0
    largest: float = 0.0
    scale: float = 0.0
    why: str = ""

    @property
    def relative(self) -> float:
        """The largest difference over the largest element; infinite where there is none to take."""
        return float("inf") if self.why else self.largest / max(self.scale, 1e-30)

    def __str__(self) -> str:
        if self.why:
            return f"{self.part} {self.name}: {self.why}"
        return f"{self.part} {self.name}: {self.changed} of {self.elements} elements, by up to {self.largest:.3g}"


def is_checkpoint(place: Path) -> bool:
    """Whether a folder is a checkpoint of a run."""
    return (place / STATE / "run.json").is_file()


def state_of_folder(place: Path) -> State:
    """A checkpoint folder, read; InputError where a file of it is damaged or goes away meanwhile."""
    try:
        files = sorted(place.glob("*.safetensors"))
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
        state = {file.stem: load_file(file) for file in sorted((place / STATE).glob("*.safetensors"))}
        memory = json.loads((place / STATE / "run.json").read_text(encoding="utf-8"))["memory"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"cannot read the checkpoint {place} ({error}): name another, or try again") from error
    return State({WEIGHTS: weights, **state}, memory)


def state_of_run(run: Run) -> State:
    """The same of a run in this process, as a checkpoint of it would hold it; of tied weights every name."""
    model = run.loaded.model
    weights = adapter_state(model) if adapted_layers(model) else dict(model.state_dict())
    parts: dict[str, Mapping[str, Tensor]] = {WEIGHTS: weights, "optimizer": optimizer_tensors(run)}
    parts |= {"heads": run.policy.heads.state_dict()} if run.policy.heads else {}
    parts |= {"start": adapter_state(model, "start")} if has_start(model) else {}
    parts |= {"kept": run.kept} if run.kept else {}
    for name in run.memory.get("snapshots", []):
        parts[f"snapshot-{name}"] = tensors_of(run.references[name])
    return State(parts, json.loads(json.dumps(run.memory)))


def differ_in_state(ours: State, theirs: State, tied: bool = False) -> list[Apart]:
    """What differs, part by part. tied: names that only `theirs` has are other names of tied weights."""
    found: list[Apart] = []
    for part in dict.fromkeys([*ours.parts, *theirs.parts]):
        mine, other = ours.parts.get(part, {}), theirs.parts.get(part, {})
        names = list(mine) + [name for name in other if name not in mine and not (tied and part == WEIGHTS)]
        compared = (_apart(part, name, mine.get(name), other.get(name)) for name in names)
        found += [one for one in compared if one is not None]
    return found + [Apart("memory", path, why=why) for path, why in _differing(ours.memory, theirs.memory, "")]


def _apart(part: str, name: str, mine: Tensor | None, other: Tensor | None) -> Apart | None:
    if mine is None or other is None:
        return Apart(part, name, why=f"only in the {'second' if mine is None else 'first'}")
    other = other.detach().to(mine.device)
    if mine.shape != other.shape or mine.dtype != other.dtype:
        return Apart(part, name, why=f"{_kind(mine)} and {_kind(other)}")
    unlike = bits(mine) != bits(other)
    if not unlike.any():
        return None
    gap = (mine.double() - other.double()).abs()[unlike].nan_to_num(nan=float("inf"))
    scale = mine.double().abs().nan_to_num(posinf=0.0).max()
    return Apart(part, name, int(unlike.sum()), mine.numel(), gap.max().item(), scale.item())


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape))}"


def _differing(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, str]]:
    """(dotted path, what stands there on both sides) of each value of two JSON trees that differs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*ours, *theirs]):
            yield from _differing(ours.get(key), theirs.get(key), f"{path}.{key}" if path else str(key))
    elif not alike(ours, theirs):
        yield path, f"{brief(ours)} and {brief(theirs)}"


def far(found: list[Apart]) -> float:
    """The largest relative difference of weights among these; 0 without any."""
    return max((one.relative for one in found if one.part == WEIGHTS), default=0.0)


def bits(tensor: Tensor) -> Tensor:
    """The bits of the elements as integers: nan is like itself, and -0 is not 0."""
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(kinds[tensor.element_size()])
