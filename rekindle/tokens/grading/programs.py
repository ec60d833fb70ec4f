"""Whether programs of a model may be run here: refused, with the remedy, where nothing would cut them off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rekindle.errors import InputError
from rekindle.tokens.grading.barriers import lacking, sentence


@dataclass(frozen=True)
class Programs:
    """How programs of the model are run. sandbox: FILE.py:function of another than the own, "" of the own; unsafe: in
    the own one even where it does not cut off files or the network."""

    sandbox: str = ""
    unsafe: bool = False


OWN = Programs()


def allowed(how: Programs, by: str, shut: Mapping[str, bool]) -> str:
    """What whoever starts the run should know, "" where nothing is missing. InputError where `shut` is too little.

    by: the option's value, for the sentence. shut: what `barriers.isolation` gives.
    """
    missing = lacking(shut, how.unsafe)
    if missing:
        raise InputError(f"grading.by={by} is refused: {sentence(missing)}")
    gone = lacking(shut)
    return f"PROGRAMS OF THE MODEL RUN UNSAFELY (grading.unsafe_sandbox): {sentence(gone)}" if gone else ""
