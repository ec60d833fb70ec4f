"""The rows of a JSONL, JSON or parquet file, each with its place in the file, so that an error can name it."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.errors import InputError

EXTENSIONS = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row of a data file. place: "line 3" (JSONL) or "row 3" (parquet, a JSON list), counted from 1."""

    place: str
    columns: dict[str, Any]


def check_file(path: Path) -> str:
    """The extension of a data file that is there; InputError naming it otherwise."""
    extension = path.suffix.lower()
    if extension not in EXTENSIONS and not path.exists():
        raise InputError(f"{path}: no such file or folder (a hub id has the form owner/name): check the path")
    if extension not in EXTENSIONS:
        raise InputError(f"{path}: unknown extension '{path.suffix}': use one of {', '.join(EXTENSIONS)}")
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {what}: check the path")
    return extension


def read_rows(path: Path) -> list[Row]:
    """All rows of `path`, read by its extension; InputError (file, place, remedy) where one cannot be read."""
    extension = check_file(path)
    rows = _parquet(path) if extension == ".parquet" else _json(path)
    if not rows:
        raise InputError(f"{path}: the file holds no rows: write at least one with a 'prompt'")
    return rows


def _json(path: Path) -> list[Row]:
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if path.suffix.lower() == ".json" and data.lstrip()[:1] == b"[":
        return _json_list(path, data)
    return [line_row(path, place, text) for place, text in _lines(path, data)]


def line_row(path: Path, place: str, line: bytes) -> Row:
    """The row that one line of a JSONL file holds; InputError naming file and place."""
    text = _decode(path, place, line.removeprefix(codecs.BOM_UTF8))
    return Row(place, _object(path, place, _parse(path, place, text)))


def is_blank(line: bytes) -> bool:
    """Whether a line holds no row: white space, or the byte order mark that a joined file may have anywhere."""
    return not line.removeprefix(codecs.BOM_UTF8).strip()


def _lines(path: Path, data: bytes) -> Iterator[tuple[str, bytes]]:
    # Split the bytes at line feeds only: str.splitlines would also cut at U+2028 inside a JSON string.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not is_blank(line):
            yield f"line {number}", line


def _json_list(path: Path, data: bytes) -> list[Row]:
    items = _parse(path, None, _decode(path, "the list", data))
    return [Row(f"row {n}", _object(path, f"row {n}", item)) for n, item in enumerate(items, start=1)]


def _decode(path: Path, place: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, {place}: byte {error.start + 1} is not valid UTF-8: save it as UTF-8") from None


def _parse(path: Path, place: str | None, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}"
        raise InputError(f"{path}, {where}: invalid JSON at column {error.colno} ({error.msg}): fix the line") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{path}, {place or 'the list'}: invalid JSON ({reason}): fix the line") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key '{twice}' occurs twice in one object")
    return found


def _object(path: Path, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f'{path}, {place}: not a JSON object: write {{"prompt": ...}}, one object a line')
    return value


def _parquet(path: Path) -> list[Row]:
    # Imported here, since the import takes a noticeable part of a second and most files are JSONL.
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        columns = table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    check_names(path, table.column_names)
    return [Row(f"row {n}", row) for n, row in enumerate(columns, start=1)]


def unreadable(path: Path, error: Exception) -> InputError:
    """The sentence for a parquet file that pyarrow cannot read."""
    return InputError(f"{path}: not a readable parquet file ({' '.join(str(error).split())}): write it again")


def check_names(path: Path, names: Sequence[str]) -> None:
    """InputError where two columns of a parquet file share a name."""
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two columns share a name: rename one of {', '.join(names)}")
