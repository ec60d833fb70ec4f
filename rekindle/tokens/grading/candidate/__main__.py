"""Shut itself off as far as the system lets it, set the limits, become the program. Run as a folder by `sandbox.py`.

The program runs as a script with the test's input, or to make one call whose value is written to a pipe. Nothing here
tells right from wrong. The modules beside this file are imported by their bare names: there is no `rekindle` here.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

import calls
import landlock
import namespaces
import program
import root


def main(job_fd: int, result_fd: int, parent: int) -> None:
    """Take the job from `job_fd`, become it. Ends here where a barrier that the job needs is not there."""
    with os.fdopen(job_fd, encoding="utf-8", errors="surrogatepass") as file:
        job = json.load(file)
    sys.path[:] = sys.path[1:]  # this folder
    shut = shut_off(parent, job["limits"])
    if job["source"] is None:
        program.write(result_fd, job["nonce"], shut)
        return
    if not all(shut[name] for name in job["needed"]):
        os._exit(1)
    for module in (calls, landlock, namespaces, program, root):
        del sys.modules[module.__name__]
    sys.dont_write_bytecode = True
    become(result_fd, job)


def shut_off(parent: int, limits: dict[str, int]) -> dict[str, bool]:
    """Every barrier that can be had here, by name: whether it is up. `landlock`: it is what keeps files away."""
    shut = namespaces.own(parent)
    folder, nobody = os.getcwd(), not shut["user"]
    owner = namespaces.NOBODY if nobody else os.getuid()
    places = root.needed()
    sealed = shut["pid"] and root.sealed(folder, places, owner)
    os.chdir(root.FOLDER if sealed else folder)
    if shut["pid"]:
        namespaces.give_up(nobody, None if sealed else folder)
    for kind, value in limits.items():
        resource.setrlimit(int(kind), (value, value))
    # Landlock knows no rule for a change of a file's mode, owner or times: the filter has one then.
    ruled = shut["pid"] and not sealed and calls.known() and landlock.ruled(folder, places, root.DEVICES)
    filtered = shut["pid"] and calls.filtered(attributes=ruled)
    own_user = shut["pid"] and (shut["user"] or os.getuid() == namespaces.NOBODY)
    return {
        "net": shut["net"],
        "pid": shut["pid"],
        "files": sealed or ruled,
        "landlock": ruled,
        "calls": filtered,
        "user": own_user,
    }


def become(result_fd: int, job: dict[str, Any]) -> None:
    """Run the job's source as a script, or make its call and write the value."""
    script = job["call"] is None
    module = program.load("__main__" if script else "solution", job["source"], {})
    if not script:
        names = program.methods(vars(module).get("Solution")) | vars(module)
        value = vars(program.load("call", f"result = {job['call']}\n", names))["result"]
        program.write(result_fd, job["nonce"], program.encoded(value, 0))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
