"""More of `escapes.py`: at processes, memory, time and the system."""

from __future__ import annotations

from tests.faults.escapes import FILES, NETWORK, attempt

PROCESSES = {
    "kills a process": attempt("os.kill(W['pid'], signal.SIGKILL)"),
    "stops a process": attempt("os.kill(W['pid'], signal.SIGSTOP)"),
    "kills a group": attempt("os.killpg(W['pid'], signal.SIGKILL)"),
    "kills by a descriptor": attempt("signal.pidfd_send_signal(os.pidfd_open(W['pid']), signal.SIGKILL)"),
    "queues a signal": attempt("libc.sigqueue(W['pid'], signal.SIGKILL, ctypes.c_void_p(0))"),
    "kills its parent": attempt("os.kill(os.getppid(), signal.SIGKILL)\nos.kill(W['worker'], signal.SIGKILL)", ""),
    "stops its parent": attempt("os.kill(os.getppid(), signal.SIGSTOP)\nos.kill(W['worker'], signal.SIGSTOP)", "", 0.5),
    "kills all": attempt("os.kill(-1, signal.SIGKILL)", ""),
    "kills its group": attempt("os.killpg(0, signal.SIGKILL)", ""),
    "slows a process": attempt("os.setpriority(os.PRIO_PROCESS, W['pid'], 19)"),
    "limits a process": attempt("resource.prlimit(W['pid'], resource.RLIMIT_NOFILE, (7, 7))"),
    "moves a process": attempt("os.sched_setaffinity(W['pid'], {min(os.sched_getaffinity(0))})"),
    "traces a process": attempt("won(libc.ptrace(0x4206, W['pid'], 0, 0) == 0)", "admin"),
    "reads a process's environment": attempt("show(f'/proc/{W[\"pid\"]}/environ')"),
    "reads a process's command line": attempt("show(f'/proc/{W[\"pid\"]}/cmdline')"),
    "reads a process's memory": attempt(
        """
start = int(open(f"/proc/{W['pid']}/stat").read().rpartition(")")[2].split()[45])
with open(f"/proc/{W['pid']}/mem", "rb") as file:
    file.seek(start)
    print(file.read(64))
""",
        "admin",
    ),
    "copies a process's memory": attempt(
        """
start = int(open(f"/proc/{W['pid']}/stat").read().rpartition(")")[2].split()[45])
to = ctypes.create_string_buffer(64)
local, remote = (ctypes.c_size_t * 2)(ctypes.addressof(to), 64), (ctypes.c_size_t * 2)(start, 64)
libc.process_vm_readv(W["pid"], local, 1, remote, 1, 0)
print(to.raw)
""",
        "admin",
    ),
    "goes by a process's folder": attempt("show(f'/proc/{W[\"pid\"]}/cwd/canary')"),
    "goes by a process's descriptor": attempt('show(f\'/proc/{W["pid"]}/fd/{W["fd"]}\')'),
    "takes a process's descriptor": attempt(
        "print(os.pread(libc.syscall(438, os.pidfd_open(W['pid']), W['fd'], 0), 1000, 0))", "admin"
    ),
    "leaves a daemon": attempt("""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", W["mark"]])
    os._exit(0)
time.sleep(0.3)
"""),
    "leaves a process that hears no signal": attempt("""
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
libc.prctl(1, 0, 0, 0, 0)
python("import time; time.sleep(60)")
time.sleep(0.3)
"""),
    "leaves a process that speaks later": attempt("""
if os.fork() == 0:
    time.sleep(W["long"])
    won(1)
os._exit(0)
"""),
    "starts sixty processes": attempt(
        """
started = [python("import time; time.sleep(60)") for _ in range(60)]
time.sleep(W["long"])
won(all(p.poll() is None for p in started))
""",
        heavy=True,
    ),
    "forks without end": attempt(
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass", "", 1.0, True
    ),
    "starts a hundred threads": attempt("""
import threading
threading.stack_size(1 << 16)
for _ in range(100):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
time.sleep(W["long"])
won(threading.active_count() > 90)
"""),
}

AMOUNTS = {
    "holds 700 MiB": attempt("x = bytearray(700 << 20)\nwon(1)", heavy=True),
    "maps 700 MiB": attempt("import mmap\nm = mmap.mmap(-1, 700 << 20)\nwon(1)"),
    "holds 700 MiB in pieces": attempt("x = [bytes(1 << 20) for _ in range(700)]\nwon(1)", heavy=True),
    "raises its limits": attempt(
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\nimport mmap\nx = mmap.mmap(-1, 700 << 20)\nwon(1)"
    ),
    "holds 1.5 GiB in six processes": attempt(
        """
code = "import time; x = bytearray(250 << 20); x[::4096] = bytes([1]) * len(x[::4096])"
code += "; print(1, flush=True); time.sleep(60)"
line = [sys.executable, "-c", code, W["mark"]]
started = [subprocess.Popen(line, stdout=subprocess.PIPE) for _ in range(6)]
held = [p.stdout.readline() for p in started]
time.sleep(W["long"])
won(held == [b"1\\n"] * 6)
""",
        seconds=5.0,
        heavy=True,
    ),
    "writes 20 MiB into one file": attempt("open('x', 'wb').write(bytes(20 << 20))\nwon(1)"),
    "writes 20 MiB into many files": attempt("""
for i in range(20):
    with open(f"x{i}", "wb") as file:
        file.write(bytes(1 << 20))
won(1)
"""),
    "makes five thousand files": attempt("for i in range(5000):\n    open(f'x{i}', 'wb').close()\nwon(1)", heavy=True),
    "keeps a file in memory": attempt("won(os.memfd_create('x') >= 0)"),
    "keeps shared memory": attempt("won(libc.shmget(0, 1 << 20, 0o1600) >= 0)"),
    "keeps a file in /dev/shm": attempt("open(W['shm'], 'w').write('x')\nwon(1)\nos.unlink(W['shm'])"),
    "floods the output": attempt("print('x' * 200_000)\nwon(1)"),
    "works beyond its time": attempt(
        "end = time.monotonic() + W['long']\nwhile time.monotonic() < end:\n    pass\nwon(1)", seconds=0.5
    ),
    "sleeps beyond its time": attempt("time.sleep(W['long'])\nwon(1)", seconds=0.5, heavy=True),
    "sleeps and hears no signal": attempt(
        """
for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGINT, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
signal.alarm(0)
time.sleep(W["long"])
won(1)
""",
        seconds=0.5,
    ),
    "waits for a signal": attempt("signal.pause()", "", 0.5),
    "stops itself": attempt("os.kill(os.getpid(), signal.SIGSTOP)", "", 0.5),
}

SYSTEM = {
    "reads a secret of the environment": attempt("print(os.environ.get(W['variable']))"),
    "reads its first environment": attempt("show('/proc/self/environ')"),
    "writes to sysrq-trigger": attempt("open('/proc/sysrq-trigger', 'w')\nwon(1)", ""),
    "writes to the kernel's settings": attempt("open('/proc/sys/kernel/core_pattern', 'a')\nwon(1)", "admin"),
    "spares itself from the memory's end": attempt("open('/proc/self/oom_score_adj', 'a')\nwon(1)"),
    "reads the kernel's settings of hardware": attempt("won(len(os.listdir('/sys')) > 0)"),
    "opens the kernel's log": attempt("open('/dev/kmsg', 'rb')\nwon(1)", "admin"),
    "opens a terminal": attempt("open('/dev/ptmx', 'rb')\nwon(1)"),
    "makes a device": attempt("os.mknod('disk', 0o060600, os.makedev(254, 0))\nwon(1)", "admin"),
    "mounts": attempt("os.mkdir('d')\nwon(libc.mount(b'x', b'd', b'tmpfs', 0, None) == 0)\nlibc.umount(b'd')", "admin"),
    "unmounts": attempt("won(libc.umount2(b'/proc', 2) == 0)", ""),
    "makes its folder's neighbours writable": attempt(
        "won(libc.syscall(442, -100, b'/', 0x8000, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32) == 0)", ""
    ),
    "makes namespaces": attempt("won(libc.unshare(0x10000000 | 0x20000) == 0)"),
    "makes a process in a new namespace": attempt(
        "pid = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)\nos._exit(0) if pid == 0 else won(pid > 0)"
    ),
    "enters a process's namespace": attempt("won(libc.setns(os.pidfd_open(W['pid']), 0x4000000) == 0)", "admin"),
    "leaves a changed root": attempt(
        """
os.mkdir("d")
os.chroot("d")
for _ in range(20):
    os.chdir("..")
os.chroot(".")
show(W["canary"])
""",
        "admin",
    ),
    "exchanges the root": attempt("won(libc.syscall(155, b'.', b'.') == 0)", ""),
    "keeps a key": attempt("won(libc.syscall(248, b'user', b'mine', b'x', 1, -1) >= 0)"),
    "loads a program of the kernel": attempt(
        "won(libc.syscall(321, 0, struct.pack('IIIIII', 2, 4, 4, 1, 0, 0), 24) >= 0)", "admin"
    ),
    "counts events": attempt(
        "won(libc.syscall(298, struct.pack('IIQ', 1, 112, 0) + bytes(96), 0, -1, -1, 0) >= 0)", "admin"
    ),
    "handles faults of memory": attempt("won(libc.syscall(323, 0) >= 0)", "admin"),
    "takes its capabilities back": attempt(
        "won(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0x3FFFFF] * 6)) == 0)", "admin"
    ),
    "becomes another user": attempt("os.setresuid(1, 1, 1)\nwon(1)", "admin"),
    "renames the machine": attempt(
        "won(libc.sethostname(socket.gethostname().encode(), len(socket.gethostname())) == 0)", "admin"
    ),
}

ATTEMPTS = {"files": FILES, "network": NETWORK, "processes": PROCESSES, "amounts": AMOUNTS, "system": SYSTEM}
