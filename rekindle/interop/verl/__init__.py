"""Rekindle inside verl 0.9.1: methods as policy losses and advantage estimators, group rewards, and verl's dumps read.

Nothing here imports verl before a function that needs it is called.
"""

from __future__ import annotations

from rekindle.interop.verl.dumps import read_dump
from rekindle.interop.verl.registering import Registered, register

__all__ = ["Registered", "read_dump", "register"]
