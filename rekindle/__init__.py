"""Rekindle: reinforcement learning of language models that keeps exploring. The Python interface is `rekindle.api`."""

from __future__ import annotations

__version__ = "0.7.0"
