"""Where a data set lies: a file, a folder of files, a folder that `datasets` wrote, or an id on the hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from rekindle.errors import InputError, unknown
from rekindle.tokens.tasks import hub
from rekindle.tokens.tasks.lazy import ArrowRows, Chained, LineRows, ParquetRows, Rows
from rekindle.tokens.tasks.rows import EXTENSIONS, check_file, read_rows

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
# The words and the order of `datasets` (data_files.SPLIT_KEYWORDS): a folder's name goes before a file's.
_WORDS = {"train": "train|training", "validation": "validation|valid|dev|val", "test": "test|testing|eval|evaluation"}


@dataclass(frozen=True)
class Source:
    """A data set as the user names it.

    spec: path or hub id, with `:SPLIT` after it where another split than `split` is meant. config: which configuration
    of a hub data set that has several. streaming: read rows when they are used.
    """

    spec: str
    config: str | None = None
    split: str = "train"
    streaming: bool = False

    @property
    def kind(self) -> str:
        """ "file", "saved" (by `datasets`), "files" (a folder), "mixed" (a folder that `datasets` reads) or "hub"."""
        path, _ = self.parted()
        if path.is_dir() and path.suffix.lower() not in EXTENSIONS:
            if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
                return "saved"
            return "mixed" if self.config is not None or _has_card(path) or not data_files(path) else "files"
        named = path.exists() or path.suffix.lower() in EXTENSIONS or self.spec.startswith((".", "/", "~"))
        return "file" if named or not _HUB_ID.fullmatch(str(path)) else "hub"

    @property
    def whole(self) -> bool:
        """Whether it is one data set without splits: a file, or what `save_to_disk` wrote of one."""
        path, _ = self.parted()
        return self.kind == "file" or (self.kind == "saved" and not (path / "dataset_dict.json").is_file())

    def parted(self) -> tuple[Path, str]:
        """(path or hub id, split): what stands after a colon is a split unless such a path exists."""
        found = re.fullmatch(r"(.+):(\w+(\[:\d+\])?)", self.spec, re.DOTALL)
        if found is not None and not Path(self.spec).exists():
            return Path(found[1]).expanduser(), found[2]
        return Path(self.spec).expanduser(), self.split


def open_rows(source: Source) -> Rows:
    """The rows of a data set: a list, or where it streams rows that are read by their number.

    InputError naming the data set, and where it can the file and line, with the remedy.
    """
    path, split = source.parted()
    rows: Rows
    match source.kind:
        case "file":
            if split != "train":
                raise InputError(
                    f"{source.spec}: split '{split}' of {path}, and a single file has no splits: drop the split, or "
                    "name a folder or hub id"
                )
            rows = _file(path, source.streaming)
        case "files":
            files = split_files(path, split)
            parts = [(str(file.relative_to(path)), _file(file, source.streaming)) for file in files]
            rows = Chained(parts)
        case "saved":
            rows = ArrowRows(hub.load_saved(path, split))
        case "mixed":
            rows = ArrowRows(hub.load_set(str(path), source.config, split))
        case _:
            name = path.as_posix()
            rows = hub.window(name, source.config, split) if source.streaming else _hub(name, source.config, split)
    if not len(rows):
        raise InputError(f"{source.spec}: the file holds no rows: write at least one with a 'prompt'")
    return rows


def held(source: Source) -> set[tuple[str, str]]:
    """The files that a data set holds, or on the hub (data set, split), alike for any two names of the same data.

    A window (`train[:100]`) counts as its split.
    """
    path, split = source.parted()
    splits = {part.strip().partition("[")[0] for part in split.split("+")}
    match source.kind:
        case "hub":
            return {(path.as_posix(), part) for part in splits}
        case "file":
            files = [path]
        case "files":
            files = split_files(path, split)
        case "saved":
            files = (path if source.whole else path / split).glob("*.arrow")
        case _:
            files = hub.files_of(path, source.config, splits)
    return {(str(Path(file).resolve()), "") for file in files}


def _hub(name: str, config: str | None, split: str) -> Rows:
    return ArrowRows(hub.load_set(name, config, split))


def digest(source: Source) -> str:
    """What tells this data from other data of the same name: sha256 of its files' bytes, or the hub's commit."""
    path, split = source.parted()
    if source.kind == "hub":
        return hub.identity(path.as_posix(), source.config, split, streaming=source.streaming)
    if not path.is_dir():
        check_file(path)
        return _hash_file(path)
    whole = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(path, file)):
        whole.update(f"{file.relative_to(path).as_posix()}\0{_hash_file(file)}\n".encode())
    return whole.hexdigest()


def data_files(folder: Path) -> list[Path]:
    """The JSONL, JSON and parquet files below a folder, sorted; none where it holds data of another kind too."""
    found = [file for file in sorted(folder.rglob("*")) if file.is_file() and not _hidden(folder, file)]
    others = {".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".zip", ".xz"}
    if any(file.suffix.lower() in others for file in found):
        return []
    return [file for file in found if file.suffix.lower() in EXTENSIONS and file.name != "dataset_infos.json"]


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of one split, told apart by their folders' and file names as `datasets` does; all are "train" where
    none says; InputError naming the splits there are."""
    files = data_files(folder)
    for named in (lambda file: file.relative_to(folder).parent.parts, lambda file: (file.name,)):
        found: dict[str, list[Path]] = {}
        for file in files:
            for name in _splits_in(named(file)):
                found.setdefault(name, []).append(file)
        if found:
            break
    else:
        found = {"train": files}
    if split not in found:
        raise unknown(f"split of {folder}", split, found)
    return found[split]


def _splits_in(names: tuple[str, ...]) -> list[str]:
    mark = r"[-._ 0-9]"
    return [s for s, w in _WORDS.items() if any(re.search(rf"(^|{mark})({w})({mark}|$)", name) for name in names)]


def _file(path: Path, streaming: bool) -> Rows:
    if not streaming:
        return read_rows(path)
    if check_file(path) == ".parquet":
        return ParquetRows(path)
    with path.open("rb") as head:
        listed = path.suffix.lower() == ".json" and head.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    if listed:
        raise InputError(f"{path}: a JSON list must be read whole: write one object a line, or drop streaming=true")
    return LineRows(path)


def _has_card(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and re.search(r"^configs:", card.read_text("utf-8", "replace"), re.MULTILINE) is not None


def _hidden(folder: Path, file: Path) -> bool:
    return any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
