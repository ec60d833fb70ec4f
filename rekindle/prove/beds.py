"""The beds by name."""

from __future__ import annotations

import importlib

from rekindle.prove.bed import Bed, unknown_name

TABLES = (
    "digits",
    "ways",
    "strata",
    "echo",
    "spread",
    "first",
    "bandit",
    "frozen",
    "numbers",
    "corpus",
    "taught",
    "markov",
)
LANGUAGE = ("reduce", "digit_sum", "chains")


def names() -> tuple[str, ...]:
    """All beds: tables first, then language tasks."""
    return (*TABLES, *LANGUAGE)


def load_bed(name: str) -> Bed:
    """The bed `name`; InputError with the known ones."""
    if name not in TABLES:
        raise unknown_name("bed", name, names())
    return importlib.import_module(f"rekindle.prove.{name}").BED
