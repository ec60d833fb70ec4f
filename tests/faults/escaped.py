"""The world outside a program: what it must not read, reach, change or harm, and whether it did. Workers import it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rekindle.tokens.grading import sandbox

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "ESCAPE_TOKEN"


def ran(source: str, seconds: float, canary: str) -> dict[str, Any]:
    """A program in the sandbox, of a worker that itself holds the file and its folder open for all its children."""
    held = [os.open(path, os.O_RDONLY) for path in (canary, os.path.dirname(canary))]
    try:
        for fd in held:
            os.set_inheritable(fd, True)
        return asdict(sandbox.run(source, None, "", seconds))
    finally:
        for fd in held:
            os.close(fd)


def who() -> int:
    """The worker."""
    return os.getpid()


@dataclass
class World:
    """Files, listeners and a process outside. Everything is made anew where a program (the control) got at it."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="escapes-")))
    token: str = field(default_factory=lambda: "token-" + secrets.token_hex(8))
    won: str = field(default_factory=lambda: "won-" + secrets.token_hex(8))
    mark: str = field(default_factory=lambda: "mark-" + secrets.token_hex(8))
    victim: subprocess.Popen[bytes] | None = None
    worker: int = 0

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        self.out, self.home = self.folder / "out", Path.home() / f".{self.mark}"
        self.listeners = self.listen()
        self.home.write_text(self.token)
        os.environ[VARIABLE] = self.token
        self.mend()

    def listen(self) -> dict[str, socket.socket]:
        """One socket of each kind, each known by the name under which programs know its address."""
        tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
        kinds: dict[str, tuple[int, int, Any]] = {
            "port": (socket.AF_INET, tcp, ("127.0.0.1", 0)),
            "port6": (socket.AF_INET6, tcp, ("::1", 0)),
            "udp": (socket.AF_INET, udp, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, tcp, str(self.folder / "s")),
            "unixgram": (socket.AF_UNIX, udp, str(self.folder / "d")),
            "abstract": (socket.AF_UNIX, tcp, f"\0{self.mark}s"),
            "abstractgram": (socket.AF_UNIX, udp, f"\0{self.mark}d"),
        }
        made = {}
        for name, (family, kind, address) in kinds.items():
            made[name] = socket.socket(family, kind)
            with contextlib.suppress(OSError):  # no IPv6 here
                made[name].bind(address)
            if kind == tcp:
                made[name].listen(5)
            made[name].setblocking(False)
        for path in ("s", "d"):
            os.chmod(self.folder / path, 0o777)
        return made

    def mend(self) -> None:
        """As it was before the last program: files, and the process."""
        for path in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(path, signal.SIGKILL)
        self.out.mkdir(exist_ok=True)
        for path in self.out.iterdir():
            path.unlink()
        for name in ("canary", "data.jsonl", "victim"):
            (self.out / name).write_text(self.token)
            (self.out / name).chmod(0o666)
        self.files = self.seen()
        if self.victim is None or self.state() != self.health:
            self.end_victim()
            self.canary = os.open(self.out / "canary", os.O_RDONLY)
            held = {"env": {VARIABLE: self.token}, "cwd": self.out, "pass_fds": (self.canary,)}
            line = [self.token, "-"]
            self.victim = subprocess.Popen(line, executable="/bin/cat", stdin=subprocess.PIPE, process_group=0, **held)
            while self.token not in Path(f"/proc/{self.victim.pid}/cmdline").read_text():
                time.sleep(0.001)
            self.health = self.state()

    def end_victim(self) -> None:
        """Nothing of it stays."""
        if self.victim is not None:
            self.victim.kill()
            self.victim.communicate()
            os.close(self.canary)

    def seen(self) -> dict[str, tuple[str, int, float]]:
        """File -> what is in it, its mode, its time."""
        found = [(path, path.stat()) for path in sorted(self.out.iterdir())]
        return {path.name: (path.read_text(), s.st_mode, s.st_mtime) for path, s in found}

    def state(self) -> tuple[Any, ...]:
        """What others could do to the process."""
        assert self.victim is not None
        try:
            one = psutil.Process(self.victim.pid)
            stopped = one.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)
            return (stopped, one.nice(), one.rlimit(psutil.RLIMIT_NOFILE), tuple(one.cpu_affinity() or ()))
        except psutil.NoSuchProcess:
            return (True,)

    def left(self) -> list[int]:
        """Processes that programs have left."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def known(self, long: float = 30.0) -> dict[str, Any]:
        """What a program is told: places, and no secret but the word that says that it did what it tried.

        long: seconds that what is to be stopped goes on before it says so: long enough inside, where a busy machine
        may be late to stop it, and short without barriers, where nothing does.
        """
        places = {name: one.getsockname() for name, one in self.listeners.items()}
        ports = {name: places[name][1] for name in ("port", "port6", "udp")}
        assert self.victim is not None
        return ports | {
            "canary": str(self.out / "canary"),
            "data": str(self.out / "data.jsonl"),
            "victim": str(self.out / "victim"),
            "home": str(self.home),
            "project": str(ROOT / "AGENTS.md"),
            "unix": places["unix"],
            "unixgram": places["unixgram"],
            "abstract": f"{self.mark}s",
            "abstractgram": f"{self.mark}d",
            "handle": handle(self.out / "canary"),
            "shm": f"/dev/shm/{self.mark}",
            "path": sys.path,
            "pid": self.victim.pid,
            "fd": self.canary,
            "worker": self.worker,
            "won": self.won,
            "mark": self.mark,
            "long": long,
            "variable": VARIABLE,
        }

    def escaped(self, output: str) -> list[str]:
        """What a program that gave this output has got at; empty where it stayed inside."""
        secret = (self.token, self.won, Path("/etc/passwd").read_text().split("\n")[0], "# For agents")
        found = ["it told what it must not know"] if any(text in output for text in secret) else []
        for name, one in self.listeners.items():
            with contextlib.suppress(OSError):
                taken = one.accept()[0].close() if one.type & socket.SOCK_STREAM else one.recv(9)
                found.append(f"it reached {name} {taken or ''}")
        found += ["it changed a file"] if self.seen() != self.files else []
        found += ["it changed a process"] if self.state() != self.health else []
        found += ["it left a process"] if self.left() else []
        return found

    def close(self) -> None:
        """Nothing of it stays."""
        for path in self.left():
            os.kill(path, signal.SIGKILL)
        self.end_victim()
        for one in self.listeners.values():
            one.close()
        self.home.unlink()
        del os.environ[VARIABLE]
        shutil.rmtree(self.folder)

    def without(self, source: str) -> str:
        """The output of a program with no barrier at all."""
        fresh = Path(tempfile.mkdtemp(dir=self.folder))
        (fresh / "main.py").write_text(source)
        held = [os.open(path, os.O_RDONLY) for path in (self.out / "canary", self.out)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        bare = [] if "import numpy" in source or "import rekindle" in source else ["-I", "-S"]  # which starts sooner
        line = [sys.executable, *bare, str(fresh / "main.py")]
        kept = {"pass_fds": held, "cwd": fresh, "env": env, "start_new_session": True}
        try:
            silent = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
            return subprocess.run(line, timeout=120, **kept, **silent).stdout.decode("utf-8", "replace")  # type: ignore[call-overload]
        finally:
            for fd in held:
                os.close(fd)


def handle(path: Path) -> str:
    """The file's handle (struct file_handle) as hex digits, which names it on its file system without any path."""
    libc = ctypes.CDLL(None, use_errno=True)
    made, mount = ctypes.create_string_buffer(136), ctypes.c_int()
    made[:4] = (128).to_bytes(4, "little")
    done = libc.name_to_handle_at(-100, os.fsencode(path), made, ctypes.byref(mount), 0)
    return bytes(made).hex() if done == 0 else ""
