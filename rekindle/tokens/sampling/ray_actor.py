"""What runs in the process of a Ray actor, and how weights and responses get there and back."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.crew import Block, Told
from rekindle.tokens.sampling.hands import Hand, Plan

Packed = dict[str, tuple[str, np.ndarray]]
"""Tensors as Ray stores them, without a copy a reader: the name of the dtype, and the bits."""
_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}


class Actor:
    """What runs in an actor's process. Its methods run one after another, but for `ping`."""

    def __init__(self, plan: Plan) -> None:
        """The model comes by `start`, whose errors arrive as they are."""
        self.plan = plan
        self.hand: Hand | None = None
        self.version = 0

    def start(self) -> tuple[int, str]:
        """Makes the model; the process and the node that it is on."""
        self.hand = self.plan.build()
        return os.getpid(), node_of(importlib.import_module("ray"))

    def load(self, version: int, weights: Packed) -> Told:
        """See `Hand`."""
        assert self.hand is not None
        told = self.hand.load(version, unpacked(weights))
        self.version = version
        return told

    def draw(self, block: Block) -> Rollouts:
        """See `Hand`. RuntimeError where the block is to be drawn by other weights than those loaded last."""
        assert self.hand is not None
        if block.version != self.version:
            raise RuntimeError(f"a block of version {block.version} reached an actor with version {self.version}")
        return self.hand.draw(block)

    def ping(self) -> int:
        """A sign of life."""
        return os.getpid()


def packed(weights: Mapping[str, Tensor]) -> Packed:
    """Weights as arrays on the CPU."""
    return {name: (str(value.dtype).removeprefix("torch."), _array(value)) for name, value in weights.items()}


def unpacked(weights: Packed) -> dict[str, Tensor]:
    """The tensors; copies, since Ray's arrays are shared between processes and may not be written to."""
    return {name: torch.from_numpy(array.copy()).view(_dtype(kind)) for name, (kind, array) in weights.items()}


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu().contiguous()
    return value.view(_BITS[value.dtype]).numpy() if value.dtype in _BITS else value.numpy()


def _dtype(kind: str) -> torch.dtype:
    found = vars(torch)[kind]
    assert isinstance(found, torch.dtype)
    return found


def node_of(ray: Any) -> str:
    """The machine that this process runs on, as Ray names it."""
    return ray.get_runtime_context().get_node_id()
