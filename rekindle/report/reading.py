"""Files of a run's folder that a report reads, and what it says where one is damaged."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from rekindle.errors import InputError
from rekindle.tokens.reading import object_of
from rekindle.train.archive import read_table
from rekindle.train.counts import Counts, counts_of

AGAIN = "delete it to have it measured again"
ROLLOUTS = ("id", "prompt", "response", "group", "uid")
"""The columns of a step's rollouts that no page can do without."""
CREDITS = ("uid",)


def columns_of(path: Path, names: Sequence[str]) -> pa.Table:
    """A step's table; InputError where the file is gone or damaged, or lacks one of the columns `names`."""
    table = read_table(path)
    lacking = [name for name in names if name not in table.column_names]
    if lacking:
        raise InputError(f"{path} has no column '{lacking[0]}': restore the file, or move it away")
    return table


def result_counts(file: Path, step: int) -> list[Counts]:
    """The counts in a result.json, as of `step`; none where the file, or what it says of them, is not there."""
    if not file.is_file():
        return []
    told = object_of(file, AGAIN).get("counts", {})
    try:
        return [counts_of({**own, "step": step, "split": split}) for split, own in told.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} holds no counts of an evaluation ({error}): {AGAIN}") from None


def pieces_of(folder: Path) -> tuple[list[str], list[str]]:
    """(the text of every token of the run's tokenizer, by id; a note of each tokenizer that cannot be read).

    The first that can be is taken, the final model's before those of checkpoints, newest first. No text where the
    folder holds none.
    """
    notes: list[str] = []
    for place in _places(folder):
        try:
            return _pieces(Tokenizer(digest(place), place)), notes
        except (
            Exception
        ) as error:  # a damaged file ends in any of them: KeyError, TypeError, the bare one of tokenizers
            shown = (str(error).splitlines() or [""])[0]
            notes.append(
                f"{folder.name}: {place / 'tokenizer.json'} cannot be read ({type(error).__name__}: {shown:.80}): "
                "restore it from the start model to have the texts of tokens by it."
            )
    return [], notes


def _places(folder: Path) -> Iterator[Path]:
    for place in (folder / "final", *sorted((folder / "checkpoints").glob("step-*"), reverse=True)):
        if (place / "tokenizer.json").is_file():
            yield place


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer in a folder: the same one as another with the same files, wherever those lie."""

    digest: str
    folder: Path = field(compare=False)


DECIDING = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
"""The files by which transformers makes a tokenizer."""


def digest(folder: Path) -> str:
    """What two folders have in common where their tokenizers are the same."""
    found = hashlib.sha256()
    for name in DECIDING:
        file = folder / name
        own = file.read_bytes() if file.is_file() else b""
        found.update(f"{name} {len(own)} ".encode() + own)
    return found.hexdigest()


# A run that is watched is read again at every step, and a large vocabulary takes seconds.
@functools.lru_cache(maxsize=4)
def _pieces(own: Tokenizer) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(own.folder, trust_remote_code=False)
    return [tokenizer.decode([i]) for i in range(len(tokenizer))]


def has_tokenizer(folder: Path) -> bool:
    """Whether a run's folder holds any tokenizer by now: the first comes with the first checkpoint."""
    return any(True for _ in _places(folder))
