"""Calling a user's function: with the arguments that it names, sync or async, and every failure by its name."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.rewards.base import Call
from rekindle.tokens.rewards.patience import Patience

_PATIENCE = 5.0
"""Seconds that work which does not heed its cancellation may hold up the end of a run."""
_THROUGH = (KeyboardInterrupt, GeneratorExit, InputError)


class Loop:
    """An event loop in a thread of its own, started when it is first needed and kept, as TRL keeps one.

    A client that an async function opens once stays usable for the whole run, and a notebook's own loop is left alone.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`, waited for without a limit of time; Ctrl-C cancels it."""
        loop, followed = self._started(), _Followed(work)
        try:
            return asyncio.run_coroutine_threadsafe(followed.run(), loop).result()
        except KeyboardInterrupt:  # it may come before there is a future to cancel, while the work is under way
            followed.dropped = True
            loop.call_soon_threadsafe(followed.cancel)
            raise

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="rewards", daemon=True)
            thread.start()
            weakref.finalize(self, _stop, loop, thread)
            self._loop = loop
        return self._loop


@dataclass(eq=False)
class _Followed:
    """Work that can be cancelled from the moment that it is handed to a loop."""

    work: Coroutine[Any, Any, Any]
    task: asyncio.Task[Any] | None = None
    dropped: bool = False

    async def run(self) -> Any:
        self.task = asyncio.current_task()
        if self.dropped:
            self.work.close()
            raise asyncio.CancelledError
        return await self.work

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if threading.current_thread() is thread:  # the garbage collector runs anywhere; a thread cannot wait for itself
        loop.call_soon(loop.stop)
        return
    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(_cancelled(), loop).result(timeout=_PATIENCE)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=_PATIENCE)
    if not thread.is_alive():
        loop.close()


async def _cancelled() -> None:
    """Whatever is still under way ends."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Work:
    """All calls of one function that judge a batch. prompts: the id of each row's, for sentences that name it."""

    name: str
    function: Callable[..., Any]
    calls: Sequence[Call]
    prompts: Sequence[str] = ()

    @property
    def rows(self) -> int:
        """The rows that are judged."""
        return sum(len(call.rows) for call in self.calls)

    def arguments(self, call: Call) -> dict[str, Any]:
        """What the function takes of what a call has for it; InputError naming a parameter that nothing fills."""
        return accepted(self.name, self.function, call.offered, call.spare)

    def failed(self, call: Call, size: int, error: BaseException) -> InputError:
        """The sentence for a function that raised."""
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        one = call.rows[0] if len(call.rows) == 1 and size > 1 else None
        where = "" if one is None else f", row {one}"
        prompt = f" for prompt '{self.prompts[one]}'" if one is not None and one < len(self.prompts) else ""
        return InputError(f"reward '{self.name}'{where} raised {what}{prompt}: fix the function")

    def now(self, loop: Loop) -> list[Any]:
        """The answers of a function that is not async, one call after the other."""
        return [self._one(call, loop) for call in self.calls]

    def _one(self, call: Call, loop: Loop) -> Any:
        given = self.arguments(call)
        try:
            answer = self.function(**given)
            return loop.run(_awaited(answer)) if inspect.isawaitable(answer) else answer
        except _THROUGH:
            raise
        except BaseException as error:  # math_verify's time-out is no Exception
            raise self.failed(call, len(self.calls), error) from error

    async def later(self, call: Call, given: Mapping[str, Any]) -> Any:
        """One answer of an async function. It may be cancelled from outside; a cancellation of its own is a failure."""
        task = asyncio.current_task()
        try:
            return await self.function(**given)
        except _THROUGH:
            raise
        except BaseException as error:  # a SystemExit would end the loop's thread
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            raise self.failed(call, len(self.calls), error) from error


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def ask(works: Sequence[Work], loop: Loop, patience: Patience) -> list[list[Any]]:
    """The answers of every work, call by call: first the plain functions in order, then all async ones at once."""
    answers: list[list[Any]] = []
    for work in works:
        with patience.waiting(work.name, work.rows):
            answers.append([] if is_async(work.function) else work.now(loop))
    waiting = [index for index, work in enumerate(works) if is_async(work.function)]
    if waiting:
        pending = [[(call, works[i].arguments(call)) for call in works[i].calls] for i in waiting]
        with patience.waiting("', '".join(works[i].name for i in waiting), works[waiting[0]].rows):
            found = loop.run(_together([works[i] for i in waiting], pending))
        for index, said in zip(waiting, found, strict=True):
            answers[index] = said
    return answers


async def _together(works: Sequence[Work], pending: Sequence[Sequence[tuple[Call, dict[str, Any]]]]) -> list[list[Any]]:
    tasks = [
        [asyncio.ensure_future(work.later(call, given)) for call, given in calls]
        for work, calls in zip(works, pending, strict=True)
    ]
    flat = [task for group in tasks for task in group]
    try:
        await asyncio.gather(*flat)
    except BaseException:
        for task in flat:
            task.cancel()
        await asyncio.gather(*flat, return_exceptions=True)
        raise
    return [[task.result() for task in group] for group in tasks]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call gives a coroutine: an async function, a partial of one, or an object with an async `__call__`."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)


def parameters(name: str, function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function by name; InputError where Python cannot tell them."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise InputError(f"reward '{name}': its parameters cannot be read: wrap it in a Python function") from None


def accepted(
    name: str, function: Callable[..., Any], offered: Mapping[str, Any], spare: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that a function takes; InputError naming a parameter without a default that nothing fills."""
    taken = parameters(name, function).values()
    everything = any(p.kind is p.VAR_KEYWORD for p in taken)
    there = {**offered, **{key: value for key, value in spare.items() if key not in offered}}
    named = [p for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    lacking = [p.name for p in named if p.default is p.empty and p.name not in there]
    if lacking:
        raise InputError(
            f"reward '{name}': its parameter '{lacking[0]}' is no column of the data "
            f"(there: {', '.join(there)}): rename it or give it a default"
        )
    chosen = {p.name: there[p.name] for p in named if p.name in there}
    return {**offered, **chosen} if everything else chosen
