"""Programs of `--grade code` on another machine, over HTTP: --set grading.sandbox=examples/05_programs_over_http.py:run

The service gets {"program", "stdin", "seconds"}, runs the program with any Python 3 in a fresh, writable folder that it
throws away, and answers {"status": "ok" | "failed" | "timeout", "stdout"}. Cutting it off is the service's affair.
"""

from __future__ import annotations

import json
import os
import secrets
import urllib.request

from rekindle.tokens.grading.elsewhere import read, whole
from rekindle.tokens.grading.sandbox import Ran


def run(source: str, call: str | None, stdin: str, seconds: float) -> Ran:
    """One program, by the service at $SANDBOX_URL with the token $SANDBOX_TOKEN."""
    nonce = secrets.token_hex(16)
    body = {"program": whole(source, call, nonce), "stdin": stdin, "seconds": seconds}
    headers = {"Authorization": f"Bearer {os.environ['SANDBOX_TOKEN']}", "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["SANDBOX_URL"], json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=seconds + 5) as answer:
        told = json.load(answer)
    return read(told["status"], told["stdout"], call, nonce)
