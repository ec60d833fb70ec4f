"""A policy as a method asks it: with what its parts want of every pass."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rekindle.core.method import PolicyGradient
from rekindle.core.types import Policy


def asked(policy: Any, method: PolicyGradient, references: Mapping[str, Any]) -> Policy:
    """`policy` with the method's joint needs; the policy itself where there are none."""
    joint = method.joint()
    return functools.partial(policy, joint=joint, references=references) if joint else policy
