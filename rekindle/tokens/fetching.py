"""What transformers and the hub raise while a model is fetched, as one sentence with the remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as hf_logging

from rekindle.errors import InputError
from rekindle.tokens.chat import first_line

MOST = 240
"""Characters of an error that are told whole; of a longer one, its first line."""
CONFIGURATION = "config.json"
"""The part that `guarded` names where a model is built of its configuration alone."""


def guarded(spec: str, load: Callable[[], Any], part: str = "its files") -> Any:
    """What `load` returns; what it raises becomes an InputError about model `spec`.

    part: what of the folder is read, for the sentence. Reading what others wrote may raise anything.
    """
    try:
        return load()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model '{spec}'{_reason(spec, error, part)}") from None


def _reason(spec: str, error: BaseException, part: str) -> str:
    """The end of the sentence: what happened, and what to do."""
    if spec == "embedded" or Path(spec).expanduser().exists():
        text = " ".join(str(error).split())
        said = first_line(error) if len(text) > MOST else text or type(error).__name__
        return f" cannot be loaded ({said}): check {part}, or save the model again"
    causes = tuple(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f" is gated: accept its licence at huggingface.co/{spec}, then log in by `hf auth login`"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return " is no folder here and not on the hub: check the name, or log in by `hf auth login` if it is private"
    if any(isinstance(cause, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError) for cause in causes):
        return (
            " is no folder here and, as a hub id, cannot be loaded without the network, since it is not in the cache: "
            "go online once, or give a model folder"
        )
    if any(isinstance(cause, HfHubHTTPError) for cause in causes):
        return f" cannot be fetched from the hub ({first_line(error)}): try again later, or give a model folder"
    return f" is no folder here and, as a hub id, cannot be loaded ({first_line(error)}): check its name and files"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, reports and retries off the terminal; what they warn of is checked or raised here."""
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hub = hub_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub)
        if bar:
            hf_logging.enable_progress_bar()
