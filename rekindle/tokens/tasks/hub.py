"""Data sets that the library `datasets` reads: hub ids, folders that it wrote, other folders. No remote code is run."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from rekindle.errors import InputError, unknown
from rekindle.tokens.fetching import quiet
from rekindle.tokens.tasks.rows import Row


def library() -> Any:
    """The module `datasets`; InputError naming the extra where it is not installed."""
    try:
        import datasets
    except ImportError:
        remedy = "pip install 'rekindle[train]'"
        raise InputError(f"this data set is read by the library datasets, which is not installed: {remedy}") from None
    return datasets


def load_saved(folder: Path, split: str) -> Any:
    """The data set that `save_to_disk` wrote into `folder`; of a dictionary of them the one named `split`.

    One that is no dictionary is "train"; InputError naming the splits there are.
    """
    datasets = library()
    with _told(str(folder)), _quiet(datasets):
        found = datasets.load_from_disk(str(folder))
    if isinstance(found, datasets.Dataset):
        if split != "train":
            raise InputError(f"{folder}: split '{split}' of it, and it is one data set without splits: drop the split")
        return found
    if split not in found:
        raise unknown(f"split of {folder}", split, found)
    return found[split]


def files_of(folder: Path, config: str | None, splits: Collection[str]) -> set[str]:
    """The files that `datasets.load_dataset(folder)` reads for `splits`; none for a split that is not there."""
    datasets = library()
    with _told(str(folder)), _quiet(datasets):
        found = datasets.load_dataset_builder(str(folder.resolve()), config).config.data_files or {}
    return {str(file) for split in splits for file in found.get(split, ())}


def load_set(name: str, config: str | None, split: str) -> Any:
    """A split of a hub id, or of a folder as `datasets.load_dataset(folder)` reads it. Mapped into memory."""
    datasets = library()
    place = str(Path(name).resolve()) if Path(name).is_dir() else name  # it takes "." for no name at all
    with _told(name), _quiet(datasets):
        return datasets.load_dataset(place, config, split=split)


def window(name: str, config: str | None, split: str) -> list[Row]:
    """The first N rows of a hub id's stream, held in memory; `split` must say N as `train[:N]`.

    A stream has neither a length nor a row by its number, so it cannot be shuffled whole.
    """
    found = re.fullmatch(r"(\w+)\[:(\d+)\]", split)
    if found is None or int(found[2]) < 1:
        raise InputError(
            f"{name}: a stream from the hub cannot be shuffled whole: say how many rows to take, such as "
            f"data_split='{split.partition('[')[0]}[:10000]', or drop streaming=true, which downloads it once"
        )
    datasets = library()
    with _told(name), _quiet(datasets):
        stream = datasets.load_dataset(name, config, split=found[1], streaming=True).with_format("arrow")
        tables = list(stream.take(int(found[2])).iter(batch_size=1_000))
    rows = [row for table in tables for row in table.to_pylist()]
    return [Row(f"row {n}", row) for n, row in enumerate(rows, start=1)]


def identity(name: str, config: str | None, split: str, *, streaming: bool) -> str:
    """What tells a hub data set from another version of it: the commit that it was downloaded from.

    Where `datasets` kept no commit, the sha256 of the Arrow files; of a stream, the commit that is on the hub now.
    """
    if streaming:
        from huggingface_hub import HfApi

        with _told(name):
            return f"commit:{HfApi().dataset_info(name).sha}"
    data = load_set(name, config, split)
    commits = {found[1] for url in data.info.download_checksums or () if (found := re.search(r"@([0-9a-f]{40})/", url))}
    if len(commits) == 1:
        return f"commit:{commits.pop()}"
    whole = hashlib.sha256()
    for file in sorted(file["filename"] for file in data.cache_files):
        with open(file, "rb") as bytes_of:
            whole.update(hashlib.file_digest(bytes_of, "sha256").digest())
    return whole.hexdigest()


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """What `datasets` and the hub raise, as one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: {_reason(error)}") from None


_REASONS: tuple[tuple[Callable[[str, str], bool], str], ...] = (
    (lambda kind, text: kind == "ConnectionError" or "offline" in text.lower(), "cannot be reached on the hub and is "
     "not in the cache: check the network and HF_HUB_OFFLINE, or give a file or folder"),
    (lambda kind, text: "gated" in text.lower(), "is gated on the hub: accept its terms on its page and log in by "
     "`hf auth login`"),
    (lambda kind, text: kind == "DatasetNotFoundError", "no file or folder here and no data set that can be read on "
     "the hub: check the name, and for a private one log in by `hf auth login`"),
    (lambda kind, text: "scripts are no longer supported" in text, "is a program, and none is run: give a data set of "
     "parquet or JSONL files"),
    (lambda kind, text: "Config name is missing" in text, "has several configurations: set data_config"),
    (lambda kind, text: kind == "ValueError" and "BuilderConfig" in text, "has no such configuration: set data_config"),
    (lambda kind, text: "split" in text.lower() and "nknown" in text, "has no such split: set data_split"),
)  # fmt: skip


def _reason(error: Exception) -> str:
    kind, text = type(error).__name__, " ".join(str(error).split())
    said = next((sentence for fits, sentence in _REASONS if fits(kind, text)), None)
    short = text if len(text) <= 160 else text[:157] + "..."
    return f"cannot be read ({kind}: {short}): check its name and files" if said is None else f"{said} ({short})"


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no reports of retries."""
    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        with quiet():
            yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
