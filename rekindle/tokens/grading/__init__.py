"""Verifiers of short answers: where the answer stands in a response, and whether it equals the reference."""

from __future__ import annotations

from rekindle.tokens.grading.boxed import after_think, extract_boxed, find_boxed
from rekindle.tokens.grading.numbers import grade, normalise, reference_text

__all__ = ["after_think", "extract_boxed", "find_boxed", "grade", "normalise", "reference_text"]
