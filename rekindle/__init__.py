"""Rekindle: reinforcement learning of language models that keeps exploring."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rekindle.api import evaluate, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "train"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `rekindle --help` does not wait for torch.
    if name in ("evaluate", "train"):
        return getattr(importlib.import_module("rekindle.api"), name)
    raise AttributeError(f"module 'rekindle' has no attribute '{name}'")
