"""Files that are there whole or not at all, whenever the process or the machine stops.

What is written goes to a hidden name beside its place, is flushed to the disk, and gets its name in one step; a folder
that is removed loses its name first. `swept` takes away what a killed process left under such names.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from rekindle.errors import GuardStop

PARTIAL, OLD, GONE = ".partial", ".old", ".gone"
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_OF_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What no other call than a write gives, and so believed of an error that names no file."""
_OS_ERROR = re.compile(r"os error (\d+)")


def partial_name(place: Path) -> str:
    """The hidden name under which `place` is written."""
    return f".{place.name}{PARTIAL}"


def partial_of(place: Path) -> Path:
    """The hidden name under which the folder `place` is written; what was left there is removed."""
    partial = place.with_name(partial_name(place))
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def publish(partial: Path, place: Path) -> None:
    """Flush all of the folder `partial` to disk and give it its name; a folder of that name is replaced.

    At every instant the old or the new one is there, be it under the name that `swept` gives back.
    """
    for file in partial.rglob("*"):
        flush(file)
    flush(partial)
    old = place.with_name(f".{place.name}{OLD}")
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    partial.rename(place)
    flush(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """Have the file, or the entries of the folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def make(folder: Path) -> None:
    """Make the folder, and those above it that are missing, and have their names on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        with suppress(PermissionError):  # a folder that may be written to, and not be listed
            flush(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside, an error of the system that names no file, as those of an open one do, gets the name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove(place: Path) -> None:
    """Take the folder away; killed in between, it has lost its name and never looks whole."""
    gone = place.with_name(f".{place.name}{GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    place.rename(gone)
    shutil.rmtree(gone)


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_whole(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make `file` under another name: it appears whole or not at all; a failure leaves no part of it."""
    partial = file.with_name(partial_name(file))
    try:
        with named(file):
            write(partial)
        flush(partial)
        partial.rename(file)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk has room again
        raise
    flush(file.parent)


def swept(folder: Path) -> list[str]:
    """Take away what a killed process left unfinished in `folder`; gives their names. A replaced folder that has no
    successor gets its name back."""
    found: list[str] = []
    for path in sorted(folder.glob(".*")) if folder.is_dir() else ():
        place = path.with_name(path.name.removeprefix(".").removesuffix(OLD))
        if path.name.endswith(OLD) and not place.exists():
            path.rename(place)
        elif path.name.endswith((PARTIAL, OLD, GONE)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            found.append(path.name)
    return found


@contextmanager
def storage_told(root: Path) -> Iterator[None]:
    """Turns a write into the run folder `root` that fails inside into a GuardStop with the file and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number(error)
        where = error.filename if isinstance(error, OSError) and error.filename is not None else None
        if number not in _STORAGE or not (_inside(where, root) if where else number in _OF_A_DISK):
            raise
        raise GuardStop(
            f"cannot write {where or f'into {root}'}: {os.strerror(number)}; what was saved before is whole: "
            f"{_remedy(number)}, then --resume"
        ) from error


def _number(error: OSError | SafetensorError) -> int:
    """The number of the system's error; safetensors says it in words only."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _OS_ERROR.search(str(error))
    return int(found.group(1)) if found else 0


def _inside(where: object, root: Path) -> bool:
    return Path(os.path.abspath(os.fsdecode(str(where)))).is_relative_to(os.path.abspath(root))


def _remedy(number: int) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "free space there"
    return "look at the disk" if number == errno.EIO else "make the folder writable"
