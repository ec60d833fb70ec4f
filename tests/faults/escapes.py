"""Programs that try to get out of the sandbox, or to take more than they are given. tests/faults/test_escapes.py.

Each knows what it needs of the world outside by `W`, which holds no secret: W["won"] is printed where something was
done that must not be, everything else is seen from outside (`escaped.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

START = """
import ctypes, os, resource, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def won(done):
    if done:
        print(W["won"], flush=True)
def show(path, *how):
    with open(path, "rb") as file:
        print(file.read(100_000).decode("latin-1"))
def send(family, kind, *address):
    with socket.socket(family, kind) as s:
        s.settimeout(2)
        s.connect(*address)
        s.send(b"out")
def python(code, *more):
    return subprocess.Popen([sys.executable, "-c", code, W["mark"], *more], start_new_session=True, stdout=-3)
"""


@dataclass(frozen=True)
class Attempt:
    """A program. control: what it does without the sandbox: "yes" it succeeds, "admin" it does as the machine's root,
    "" it is not tried, for it would do harm. seconds: that the sandbox gives it. heavy: not of the fast tests."""

    source: str
    control: str = "yes"
    seconds: float = 3.0
    heavy: bool = False


def attempt(source: str, control: str = "yes", seconds: float = 3.0, heavy: bool = False) -> Attempt:
    """One of them."""
    return Attempt(source, control, seconds, heavy)


FILES = {
    "reads a file of the user": attempt("show(W['canary'])"),
    "reads a file in the home folder": attempt("show(W['home'])"),
    "reads /etc/passwd": attempt("show('/etc/passwd')"),
    "opens /etc/shadow": attempt("open('/etc/shadow').close()\nwon(1)", "admin"),
    "reads the project": attempt("show(W['project'])"),
    "reads the training data": attempt("show(W['data'])"),
    "climbs out by ..": attempt("show('../' * 20 + W['canary'])"),
    "changes to the root by ..": attempt("os.chdir('../' * 20)\nshow(W['canary'].lstrip('/'))"),
    "goes by /proc/self/cwd/..": attempt("show('/proc/self/cwd/' + '../' * 20 + W['canary'])"),
    "goes by /proc/self/root": attempt("show('/proc/self/root' + W['canary'])"),
    "goes by the first process's root": attempt("show('/proc/1/root' + W['canary'])", ""),
    "goes by a process's root": attempt("show(f'/proc/{W[\"pid\"]}/root' + W['canary'])"),
    "goes by /proc/thread-self/root": attempt("show('/proc/thread-self/root' + W['canary'])"),
    "reads every open descriptor": attempt("""
for fd in range(3, 256):
    try:
        print(os.pread(fd, 10_000, 0))
    except OSError:
        pass
"""),
    "opens every descriptor again": attempt("""
for name in os.listdir("/proc/self/fd"):
    try:
        show(f"/proc/self/fd/{name}") if os.path.isfile(f"/proc/self/fd/{name}") else None
    except OSError:
        pass
"""),
    "goes by a folder that is open": attempt("""
for fd in range(3, 256):
    try:
        print(os.read(os.open("../" * 20 + W["canary"].lstrip("/"), os.O_RDONLY, dir_fd=fd), 1000))
    except OSError:
        pass
"""),
    "links to a file outside": attempt("os.symlink(W['canary'], 'link')\nshow('link')"),
    "links to a folder outside": attempt("os.symlink(os.path.dirname(W['canary']), 'link')\nshow('link/canary')"),
    "links hard to a file outside": attempt("os.link(W['canary'], 'link')\nshow('link')"),
    "lists a folder of the user": attempt("won('canary' in os.listdir(os.path.dirname(W['canary'])))"),
    "sees that a file is there": attempt("won(os.path.exists(W['canary']))"),
    "opens by the bare system call": attempt("""
fd = libc.syscall(437, -100, W["canary"].encode(), (ctypes.c_uint64 * 3)(), 24)
print(os.read(fd, 1000))
"""),
    "opens by a handle": attempt(
        """
handle = bytes.fromhex(W["handle"])
place = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
print(os.read(libc.open_by_handle_at(place, handle, os.O_RDONLY), 1000))
""",
        "admin",
    ),
    "writes over a file": attempt("open(W['victim'], 'w').write('mine')"),
    "appends to a file": attempt("open(W['victim'], 'a').write('mine')"),
    "makes a file": attempt("open(W['victim'] + '.new', 'w').write('mine')"),
    "cuts a file": attempt("os.truncate(W['victim'], 0)"),
    "removes a file": attempt("os.unlink(W['victim'])"),
    "renames a file": attempt("os.rename(W['victim'], W['victim'] + '.new')"),
    "changes a file's mode": attempt("os.chmod(W['victim'], 0o777)"),
    "changes a file's times": attempt("os.utime(W['victim'], (1, 1))"),
    "plants a module in the standard library": attempt(
        "path = os.path.dirname(os.__file__) + '/escaped.py'\nopen(path, 'w').close()\nwon(1)\nos.unlink(path)", "admin"
    ),
    "plants bytecode in the standard library": attempt(
        "path = os.path.dirname(os.__file__) + '/__pycache__/os.x'\nopen(path, 'w').close()\nwon(1)\nos.unlink(path)",
        "admin",
    ),
    "imports what is installed": attempt("import numpy\nwon(numpy.__file__)"),
    "imports the project": attempt("import rekindle\nwon(rekindle.__file__)"),
    "imports from a path that it knows": attempt(
        "sys.path[:0] = W['path']\nimport safetensors\nwon(safetensors.__file__)"
    ),
    "runs a program of the system": attempt("won(subprocess.run(['/bin/cat', '/dev/null']).returncode == 0)"),
    "finds a setuid program": attempt(
        "won(any(os.access(f'/usr/bin/{n}', os.X_OK) for n in ('su', 'mount', 'passwd')))"
    ),
}

NETWORK = {
    "connects by TCP": attempt("send(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', W['port']))"),
    "connects by TCP over IPv6": attempt("send(socket.AF_INET6, socket.SOCK_STREAM, ('::1', W['port6']))"),
    "sends a datagram": attempt("send(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', W['udp']))"),
    "asks a name server": attempt("""
question = bytes.fromhex("abcd01000001000000000000076578616d706c6503636f6d0000010001")
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(question, ("127.0.0.1", W["udp"]))
"""),
    "fetches a page": attempt(
        "import urllib.request\nurllib.request.urlopen(f'http://127.0.0.1:{W[\"port\"]}/', timeout=0.2)"
    ),
    "connects to a socket of a service": attempt("send(socket.AF_UNIX, socket.SOCK_STREAM, W['unix'])"),
    "connects to an abstract socket": attempt("send(socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + W['abstract'])"),
    "sends from a pair to a socket of a service": attempt("""
one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendto(b"out", W["unixgram"])
"""),
    "sends from a pair to an abstract socket": attempt("""
one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendmsg([b"out"], [], 0, "\\0" + W["abstractgram"])
"""),
    "binds a pair and connects it": attempt("""
one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.connect(W["unixgram"])
one.send(b"out")
"""),
    "sends a raw packet": attempt(
        """
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
s.sendto(struct.pack("!HHHH", 9, W["udp"], 11, 0) + b"out", ("127.0.0.1", 0))
""",
        "admin",
    ),
    "opens a netlink socket": attempt("won(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno() >= 0)"),
    "opens a packet socket": attempt("won(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).fileno() >= 0)", "admin"),
    "makes a ring that opens sockets": attempt("won(libc.syscall(425, 1, ctypes.create_string_buffer(120)) >= 0)"),
}
