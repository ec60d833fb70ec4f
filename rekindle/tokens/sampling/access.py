"""Who may ask a server: whoever shows its token. Without one it listens on this machine alone."""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from rekindle.errors import InputError

VARIABLE = "REKINDLE_TOKEN"
LEAST = 16
"""Characters of a token at least: shorter ones are guessed."""
MAKE = "python -c 'import secrets; print(secrets.token_urlsafe())'"


def read_token(file: str | None) -> str | None:
    """The token in `file`, else in $REKINDLE_TOKEN, else None. InputError for a file that others may read, or no token
    that can be used; no message repeats it."""
    place = f"${VARIABLE}" if file is None else file
    text = os.environ.get(VARIABLE) if file is None else _private(Path(file).expanduser())
    if text is None:
        return None
    token = text.strip()
    if len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"{place} holds no token of {LEAST} letters and digits or more: make one by {MAKE}")
    return token


def _private(path: Path) -> str:
    try:
        # Without waiting: a named pipe that nobody writes to would hold the command up for ever.
        with open(path, encoding="utf-8", opener=lambda name, how: os.open(name, how | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{path} is no regular file: make one by (umask 077; {MAKE} > FILE)")
            if stat.S_IMODE(mode) & 0o077:
                raise InputError(f"{path} may be read by other users: chmod 600 it, and make a new token")
            return file.read(4096)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"no token can be read from {path} ({error}): make one by (umask 077; {MAKE} > FILE)"
        ) from error


def refuse_open(host: str, token: str | None) -> None:
    """InputError where a server would listen to other machines and ask nobody for a token."""
    if token is None and not loopback(host):
        raise InputError(
            f"--host {host} lets other machines in, and there is no token: put one into ${VARIABLE} or a file of mode "
            f"600 (--token-file), or listen on 127.0.0.1"
        )


def loopback(host: str) -> bool:
    """Whether an address is this machine's alone. Any name but "localhost" may lead elsewhere."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def named_here(host: str | None) -> bool:
    """Whether a request's Host header, as "localhost:8000", names this machine. A web page can have a name of its own
    lead here (DNS rebinding), and then asks by that; who sends no such header is no browser."""
    try:
        return host is None or loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def header(token: str | None) -> dict[str, str]:
    """What a client shows."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def admitted(shown: str | None, token: str | None) -> bool:
    """Whether a request's Authorization header shows the token; the time that it takes does not say how near it is."""
    if token is None:
        return True
    return hmac.compare_digest((shown or "").encode("utf-8", "replace"), f"Bearer {token}".encode())
