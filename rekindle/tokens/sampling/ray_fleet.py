"""A crew of Ray actors: each a process, on this machine or another, with a model that samples.

Ray is imported when a run asks for it. Weights go into its object store once, whoever takes them. The store of a Ray
that is started here is made large enough that nothing is spilled to disk, and refused where memory is too small for it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import math
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rekindle.errors import EngineDead, InputError
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.crew import Block, Told, WorkerGone
from rekindle.tokens.sampling.hands import Plan
from rekindle.tokens.sampling.ray_actor import Actor, node_of, packed

SPARE = 128 * 2**20
"""Bytes of the object store besides weights: responses on their way."""
FULL = 0.75
"""The share of the store that is planned for: Ray writes objects to disk from 0.8 on."""

SHARED = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where actors run. address: of a cluster, None for one of this process's own. cpus, gpus: of each actor.

    versions: of the weights that the store holds at once.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    versions: int = 2


def import_ray() -> Any:
    """The module; `InputError` naming the extra where it is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("--sampler ray needs Ray, which is not installed: pip install 'rekindle[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    module = importlib.import_module("ray")
    logging.getLogger("ray").setLevel(logging.ERROR)  # the import has set another
    return module


class RayCrew:
    """A `Crew` of `size` actors made by `plan`."""

    def __init__(self, plan: Plan, size: int, place: Place, weights_bytes: int = 0) -> None:
        """weights_bytes: of one version. Raises `InputError` where Ray or the cluster cannot serve."""
        self.plan, self.size, self.place = plan, size, place
        self.ray = import_ray()
        self._own = not self.ray.is_initialized()
        if self._own:
            self._connect(size, weights_bytes)
        elif place.address is not None:
            raise InputError(
                "Ray runs in this process already, and ray.address asks for a cluster: leave ray.address out, or call "
                "ray.shutdown() first"
            )
        try:
            self._check(size)
        except InputError:
            self._disconnect()
            raise
        actor = self.ray.remote(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"health": 1},
        )
        self._class = actor(Actor)
        self._actors: dict[int, Any] = {}
        self._alive: dict[int, tuple[int, str]] = {}
        self._refs: dict[int, Any] = {}

    def start(self, worker: int) -> Future[Any]:
        """See `Crew`."""
        self._actors[worker] = self._class.remote(self.plan)
        self._alive.pop(worker, None)

        def born(told: tuple[int, str]) -> tuple[int, str]:
            self._alive[worker] = told
            return told

        return self._answer(self._actors[worker].start.remote(), born)

    def load(self, worker: int, version: int) -> Future[Told]:
        """See `Crew`."""
        return self._answer(self._actors[worker].load.remote(version, self._refs[version]))

    def draw(self, worker: int, block: Block) -> Future[Rollouts]:
        """See `Crew`."""
        return self._answer(self._actors[worker].draw.remote(block))

    def ping(self, worker: int) -> Future[Any]:
        """See `Crew`."""
        return self._answer(self._actors[worker].ping.options(concurrency_group="health").remote())

    def kill(self, worker: int) -> None:
        """See `Crew`. A process that is stopped hears no message, so one on this machine gets a signal too."""
        with contextlib.suppress(Exception):  # of an actor that is dead already
            self.ray.kill(self._actors[worker], no_restart=True)
        pid, node = self._alive.pop(worker, (0, ""))
        if pid and node == node_of(self.ray):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def publish(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """See `Crew`."""
        try:
            self._refs[version] = self.ray.put(packed(weights))
        except self.ray.exceptions.RayError as error:
            raise EngineDead(f"Ray does not take the weights ({_line(error)}): run again with --resume") from error

    def drop(self, version: int) -> None:
        """See `Crew`."""
        self._refs.pop(version, None)

    def pids(self) -> dict[int, int]:
        """Worker -> its process, of those that have come up."""
        return {worker: pid for worker, (pid, _) in self._alive.items()}

    def close(self) -> None:
        """See `Crew`. A cluster of others goes on."""
        for worker in self._actors:
            with contextlib.suppress(Exception):  # of an actor that is dead already
                self.ray.kill(self._actors[worker], no_restart=True)
        self._actors.clear()
        self._refs.clear()
        self._disconnect()

    def _connect(self, size: int, weights_bytes: int) -> None:
        place = self.place
        quiet = {"log_to_driver": False, "configure_logging": False}
        if place.address is not None and place.address.startswith("ray://"):
            raise InputError("ray.address is of Ray's client: run on a machine of the cluster and give 'auto'")
        store = store_of(weights_bytes, place.versions)
        if place.address is None:
            refuse_small_memory(store, SHARED)
        try:
            if place.address is not None:
                _knock(place.address)
                self.ray.init(address=place.address, **quiet)
                return
            cpus = max(os.cpu_count() or 1, math.ceil(place.cpus * size))
            alone = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            self.ray.init(address="local", num_cpus=cpus, object_store_memory=store, **alone, **quiet)
        except Exception as error:  # a start that takes too long is an Exception of no class of its own
            where = "on this machine" if place.address is None else f"at '{place.address}'"
            raise InputError(
                f"Ray cannot be reached {where} ({_line(error)}): start a cluster by `ray start --head`, give its "
                "ray.address, or leave that out"
            ) from error

    def _check(self, size: int) -> None:
        there = self.ray.cluster_resources()
        for name, each in (("CPU", self.place.cpus), ("GPU", self.place.gpus)):
            if each * size > there.get(name, 0.0):
                raise InputError(
                    f"{size} samplers of {each:g} {name} each need more than the {there.get(name, 0.0):g} of Ray: "
                    f"lower ray.samplers or ray.{name.lower()}s"
                )

    def _disconnect(self) -> None:
        if self._own:
            self.ray.shutdown()

    def _answer(self, ref: Any, then: Callable[[Any], Any] = lambda value: value) -> Future[Any]:
        """The future of an actor's call, its errors in the house's kinds."""
        out: Future[Any] = Future()

        def arrived(raw: Future[Any]) -> None:
            error = raw.exception()
            if error is None:
                out.set_result(then(raw.result()))
            else:
                out.set_exception(_meaning(error, self.ray.exceptions))

        ref.future().add_done_callback(arrived)
        return out


def store_of(weights_bytes: int, versions: int) -> int:
    """Bytes of the object store for `versions` of the weights, one more on its way, and responses."""
    return math.ceil((SPARE + 1.1 * weights_bytes * (versions + 1)) / FULL)


def refuse_small_memory(store: int, shared: Path) -> None:
    """InputError where shared memory has no room for the store: Ray would move it to disk without a word."""
    free = shutil.disk_usage(shared).free if shared.is_dir() else store
    if free < store:
        raise InputError(
            f"Ray's object store needs {store / 2**30:.2f} GiB for the weights and {shared} has {free / 2**30:.2f} GiB "
            "free: enlarge it (docker run --shm-size), lower ray.staleness, or use a cluster by ray.address"
        )


def _knock(address: str) -> None:
    """OSError where nobody listens at HOST:PORT, which Ray would wait for for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=20).close()


def _meaning(error: Any, kinds: Any) -> BaseException:
    """A worker's own error as it was raised; `WorkerGone` where its process or its engine is of no more use."""
    if isinstance(error, kinds.RayTaskError):
        cause = error.cause
        return WorkerGone(_line(cause)) if isinstance(cause, EngineDead) else cause
    return WorkerGone(_line(error)) if isinstance(error, kinds.RayError) else error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
