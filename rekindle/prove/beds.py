"""The beds by name."""

from __future__ import annotations

import importlib

from rekindle.prove.bed import AnyBed, unknown_name

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
    "words",
    "corpus",
    "taught",
    "markov",
    "corrupted",
)
SEARCHED = ("factors",)
LANGUAGE = ("reduce", "digit_sum", "chains")


def names() -> tuple[str, ...]:
    """All beds: tables first, then those of methods that search, then language tasks."""
    return (*TABLES, *SEARCHED, *LANGUAGE)


def load_bed(name: str) -> AnyBed:
    """The bed `name`; InputError with the known ones."""
    if name not in (*TABLES, *SEARCHED):
        raise unknown_name("bed", name, names())
    return importlib.import_module(f"rekindle.prove.{name}").BED
