"""Data sets that are read as they are used: rows by their number, and examples made of them when they are asked for.

Any row can be reached, so a run shuffles and resumes exactly as with data that is held whole.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.rows import Row, check_names, is_blank, line_row, unreadable

GROUPS_KEPT = 4
"""Row groups of a parquet file that stay in memory."""
FIRST = 1_000
"""Rows of streamed data that are looked at before a run starts."""


@runtime_checkable
class Rows(Protocol):
    """The rows of a data set by their number; iterable by it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Row: ...


class LineRows:
    """The rows of a JSONL file, found by their offsets: 16 bytes a row, and one line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets, self.numbers = array("Q"), array("Q")
        at = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not is_blank(line):
                    self.offsets.append(at)
                    self.numbers.append(number)
                at += len(line)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Row:
        """Row `index`; InputError where its line holds none."""
        with self.path.open("rb") as lines:
            lines.seek(self.offsets[index])
            return line_row(self.path, f"line {self.numbers[index]}", lines.readline())


class ParquetRows:
    """The rows of a parquet file, read a row group at a time; the last few groups are kept."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.path = path
        self.kept: dict[int, Any] = {}
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                about, names = file.metadata, file.schema_arrow.names
                self.ends = list(accumulate(about.row_group(i).num_rows for i in range(about.num_row_groups)))
        except (pyarrow.ArrowException, OSError) as error:
            raise unreadable(path, error) from None
        check_names(path, names)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Row:
        """Row `index`; IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self.ends, index)
        first = self.ends[group - 1] if group else 0
        return Row(f"row {index + 1}", self._group(group).slice(index - first, 1).to_pylist()[0])

    def _group(self, group: int) -> Any:
        import pyarrow
        import pyarrow.parquet

        if group not in self.kept:
            try:
                with pyarrow.parquet.ParquetFile(self.path) as file:
                    table = file.read_row_group(group)
            except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
                raise unreadable(self.path, error) from None
            while len(self.kept) >= GROUPS_KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[group] = table
        self.kept[group] = self.kept.pop(group)
        return self.kept[group]


class ArrowRows:
    """The rows of a `datasets.Dataset`, which lie in Arrow files that are mapped into memory."""

    def __init__(self, dataset: Any) -> None:
        # The stored values: images and sounds stay bytes, nothing is decoded.
        self.dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Row:
        """Row `index`; IndexError past the end."""
        return Row(f"row {index + 1}", self.dataset[index].to_pylist()[0])


class Chained:
    """The rows of several files one after another; a place names the file."""

    def __init__(self, parts: Sequence[tuple[str, Rows]]) -> None:
        self.parts = tuple(parts)
        self.ends = list(accumulate(len(rows) for _, rows in self.parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Row:
        """Row `index`; IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.ends, index)
        name, rows = self.parts[part]
        row = rows[index - (self.ends[part - 1] if part else 0)]
        return Row(f"{name}, {row.place}", row.columns)


class Streamed(Sequence[Example]):
    """Examples made of rows when they are asked for. An unusable row is found when it is read.

    checks: called with each example that is read; what they raise ends the run.
    """

    def __init__(
        self, rows: Rows, make: Callable[[Row], Example], checks: tuple[Callable[[Example], None], ...] = ()
    ) -> None:
        self.rows, self.make, self.checks = rows, make, checks

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """One example, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        example = self.make(self.rows[range(len(self))[index]])
        for check in self.checks:
            check(example)
        return example

    def checked(self, check: Callable[[Example], None]) -> Streamed:
        """The same examples, each of which must also pass `check` when it is read."""
        return Streamed(self.rows, self.make, (*self.checks, check))


def looked_at(examples: Sequence[Example]) -> Iterable[Example]:
    """What can be checked of `examples` before a run: all of them, of streamed ones the first thousand."""
    return islice(examples, FIRST) if isinstance(examples, Streamed) else examples


def refuse_streamed(examples: Sequence[Example], what: str) -> None:
    """InputError where `what` needs all examples at once and they are streamed."""
    if isinstance(examples, Streamed):
        raise InputError(f"{what} needs all rows at once, and streaming=true reads them as they are used: drop one")
