"""Ray itself: started on this machine, or a cluster that is running; its machines, and the drivers that share them."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported, which reads it once

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from search.hardware import KIND, Node, share_of
from search.storage import StudyError

CONNECT_SECONDS = 5.0
OBJECT_STORE_BYTES = 128 * 2**20  # trials exchange small reports; the corpus is a file
PROJECT_ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [str(PROJECT_ROOT / package) for package in ("search", "trainer")]  # to the machines of a cluster
DRIVERS = "tinysearch"  # the namespace in which each driver of a cluster has an actor


@contextlib.contextmanager
def local_ray(num_cpus: int, num_gpus: int) -> Iterator[None]:
    """Start Ray on this machine until the block ends. Raises StudyError.

    Ray 2.60 listens on every interface, whatever address it is told, and asks all who come for a token: one that only
    this process and what it starts know. Without one Ray would take, or write, a file in the home folder.
    """
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Workers import this very checkout, also where it is not installed.
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    with _ray(
        "Ray does not start on this machine",
        {"env_vars": {"PYTHONPATH": path}},
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
    ):
        yield


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[list[Node]]:
    """Connect to a running cluster until the block ends; yields its machines. Raises StudyError."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():  # Ray itself would try for minutes
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
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # lists trials that were given up, by its own ids
    # Threads that wait for each other by spinning are up to 30 times slower once anything else wants a core.
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    ray._private.worker.print_to_stdstream = lambda *_, **__: None  # a page on each lost worker; `status` has a line
    try:
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={**runtime_env, "env_vars": {**waiting, **runtime_env.get("env_vars", {})}},
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
        raise StudyError(f"{failure}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def is_here() -> bool:
    """Whether this machine's Ray still runs."""
    here = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here)


class Seat:
    """This driver among those of its Ray, each of which is known by a named actor that ends with it."""

    def __init__(self) -> None:
        self._name = f"driver-{ray.get_runtime_context().get_job_id()}"  # in the order in which they came
        self._actor = _Driver.options(name=self._name, namespace=DRIVERS, get_if_exists=True).remote()

    def share(self, num_slots: int) -> int:
        """How many of the slots are this driver's, of whom there may be more than slots."""
        names = {actor["name"] for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == DRIVERS}
        drivers = sorted(names | {self._name})
        return share_of(num_slots, drivers.index(self._name), len(drivers))


@ray.remote(num_cpus=0)
class _Driver:
    """Says by being there that a driver is."""
