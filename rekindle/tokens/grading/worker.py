"""The process of a worker: takes calls from a socket one by one and answers in JSON.

Calls come pickled from the process that trains, which is trusted. Answers are JSON, for a worker has read what a model
wrote, and who unpickles runs what the other side wants.
"""

from __future__ import annotations

import importlib
import json
import resource
import socket
import struct
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

from rekindle.tokens.grading.processes import adopts_orphans, dies_with_parent, hides_memory, limit

RESULT_LIMIT = 1 << 20
"""Bytes of an answer; a longer one counts as raised."""
_HEAD = struct.Struct("!I")
_REASON = 500


def main(fd: int, parent: int, memory: int, prepare: str) -> None:
    """Serve the socket `fd` until it closes. memory: bytes of address space; prepare: a target called first, or ""."""
    dies_with_parent(parent)
    adopts_orphans()
    hides_memory()
    limit({resource.RLIMIT_AS: memory, resource.RLIMIT_CORE: 0})
    channel = socket.socket(fileno=fd)
    try:
        if prepare:
            found(prepare)()
    except Exception as error:
        reply(channel, {"status": "missing", "value": f"{type(error).__name__}: {error}"[:_REASON]})
        return
    reply(channel, {"status": "ready"})
    while (frame := receive(channel, None)) is not None:
        target, call = cast(Any, ForkingPickler).loads(frame)
        serve(channel, target, call)


def serve(channel: socket.socket, target: str, call: tuple[Any, ...]) -> None:
    """Import the target, say that the call starts, answer it. Whatever it raises becomes an answer."""
    try:
        function = found(target)
    except Exception as error:
        reply(channel, {"status": "missing", "value": f"{type(error).__name__}: {error}"[:_REASON]})
        return
    reply(channel, {"status": "started"})
    try:
        told = json.dumps({"status": "ok", "value": function(*call)}).encode()
    # math-verify's time-outs derive from BaseException, and so does SystemExit.
    except BaseException as error:
        told = json.dumps({"status": "raised", "value": f"{type(error).__name__}: {error}"[:_REASON]}).encode()
    if len(told) > RESULT_LIMIT:
        told = json.dumps({"status": "raised", "value": f"an answer of more than {RESULT_LIMIT} bytes"}).encode()
    transmit(channel, told)


def found(target: str) -> Any:
    """The function "package.module:function"."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def reply(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one small message."""
    transmit(channel, json.dumps(message).encode())


def transmit(channel: socket.socket, data: bytes) -> None:
    """One frame: four bytes of length, then the data. The socket's timeout holds for the whole."""
    channel.sendall(_HEAD.pack(len(data)) + data)


def receive(channel: socket.socket, most: int | None) -> bytes | None:
    """One frame; None where the other side is gone, or says that it sends more than `most` bytes."""
    head = _exactly(channel, _HEAD.size)
    if head is None:
        return None
    size = _HEAD.unpack(head)[0]
    return None if most is not None and size > most else _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        part = channel.recv(min(size, 1 << 16))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def command(fd: int, parent: int, memory: int, prepare: str) -> list[str]:
    """The command line that starts a worker: the same interpreter and import path, and none of the caller's main."""
    code = "import json, sys; sys.path[:] = json.loads(sys.argv[5]); from rekindle.tokens.grading.worker import main; "
    code += "main(*map(int, sys.argv[1:4]), sys.argv[4])"
    return [sys.executable, "-c", code, str(fd), str(parent), str(memory), prepare, json.dumps(sys.path)]
