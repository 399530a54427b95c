"""Starts Ray on this machine, or connects to a running cluster; its machines, and the drivers that share them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Set before Ray is imported, which reads these once.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # under `uv run` it would upload the current folder
os.environ.pop("RAY_CLIENT_MODE", None)

import ray
from ray.util import list_named_actors

from search.driver import ray_private
from search.driver.hardware import KIND, Node, share_of
from search.driver.scratch import scratch_folder
from search.storage.folder import StudyError
from search.worker.hangup import held_back

CONNECT_SECONDS = 5.0
OBJECT_STORE_BYTES = 128 * 2**20  # trials exchange small reports; the corpus is a file
PROJECT_ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [str(PROJECT_ROOT / package) for package in ("search", "trainer")]  # to the machines of a cluster
DRIVERS = "tinysearch"  # the namespace with an actor for each driver of the cluster


OF_ANOTHER_RAY = (
    "RAY_ADDRESS",
    "RAY_NAMESPACE",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_REDIS_ADDRESS",
    "RAY_RAYLET_PID",
    "RAY_NODE_ID",
    "RAY_JOB_ID",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING",
    "RAY_OVERRIDE_RESOURCES",
    "RAY_OVERRIDE_LABELS",
    "RAY_RUNTIME_ENV_HOOK",
    "RAY_TMPDIR",
    "RAY_object_spilling_config",
)
"""Variables that describe another Ray than this search's own: its address, or settings of its nodes and jobs."""


@contextlib.contextmanager
def local_ray(num_cpus: int, num_gpus: int) -> Iterator[None]:
    """Start Ray on this machine until the block ends, independent of any other Ray here. Raises StudyError.

    Ray 2.60 listens on every interface, whatever address is given, and asks every client for a token. This one is known
    only to this process and its children. Without a token Ray would read or write a file in the home folder.
    """
    with scratch_folder() as scratch, _without(OF_ANOTHER_RAY):
        if not os.environ.get("RAY_AUTH_TOKEN"):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # Workers import this very checkout, even if it is not installed.
        path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
        with _ray(
            "Ray does not start on this machine",
            {"env_vars": {"PYTHONPATH": path}},
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **ray_private.folders(scratch, _store_folder(scratch)),
        ):
            yield


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Removes these variables from the environment until the block ends."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _store_folder(scratch: Path) -> str:
    """The folder of Ray's object store: shared memory, unless that is too small, as in many containers."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage("/dev/shm").free >= OBJECT_STORE_BYTES and os.access("/dev/shm", os.W_OK):
            return "/dev/shm"
    return str(scratch)


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[list[Node]]:
    """Connect to a running cluster until the block ends; yields its machines. Raises StudyError."""
    if address == "local":  # Ray's own word for a new one
        raise StudyError("--address local names no cluster that is running; leave --address out to start Ray here")
    host, _, port = address.rpartition(":")
    if host and port.isdigit():  # Ray itself would retry for minutes
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise StudyError(f"no Ray cluster answers at {address!r}: {error}") from None
    with _ray(f"no Ray cluster answers at {address!r}", {"py_modules": SHIPPED}, address=address):
        machines = nodes()
        if not any(node.cpus or node.gpus for node in machines):
            raise StudyError(f"the Ray cluster at {address!r} has neither CPUs nor GPUs; start its nodes with some")
        yield machines


def nodes() -> list[Node]:
    """The machines of the Ray that this process is connected to, as they are now."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(there.get("CPU", 0.0), there.get("GPU", 0.0), _kind(there)) for there in alive]


def _kind(resources: dict[str, float]) -> str:
    return next((name.removeprefix(KIND) for name in sorted(resources) if name.startswith(KIND)), "")


@contextlib.contextmanager
def _ray(failure: str, runtime_env: dict[str, Any], **options: Any) -> Iterator[None]:
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it lists trials that were given up, by its own ids
    # Threads that spin while waiting for each other are up to 30 times slower once another process needs a core.
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    ray_private.keep_quiet_about_lost_workers()
    try:
        with held_back():  # Ray must outlive a closed terminal, so that trials can be saved
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={**runtime_env, "env_vars": {**waiting, **runtime_env.get("env_vars", {})}},
                **options,
            )
    except Exception as error:  # errors of many classes, some of them plain Exceptions
        ray.shutdown()  # stop what has started already
        raise StudyError(f"{failure}: {_reason_of(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reason_of(error: Exception) -> str:
    """Why Ray did not start, in a sentence, with a remedy if one is known."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files; raise the limit with `ulimit -n 8192`"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_here() -> bool:
    """Whether this machine's Ray is still running."""
    here = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here)


class DriverRegistration:
    """Registers this driver with its Ray: a named actor, which ends with the driver, counts each of them."""

    def __init__(self) -> None:
        self._name = f"driver-{ray.get_runtime_context().get_job_id()}"  # ordered by the time at which they joined
        self._actor = _Presence.options(name=self._name, namespace=DRIVERS, get_if_exists=True).remote()

    def share(self, num_slots: int) -> int:
        """How many of the slots belong to this driver; there may be more drivers than slots."""
        names = {actor["name"] for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == DRIVERS}
        drivers = sorted(names | {self._name})
        return share_of(num_slots, drivers.index(self._name), len(drivers))


class _Driver:
    """Exists as long as its driver does."""


_Presence = ray.remote(num_cpus=0)(_Driver)
