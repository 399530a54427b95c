"""A Ray cluster of several nodes on this machine, each with its own raylet, host name and resources."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 600.0  # a slow machine is not a fault
OBJECT_STORE_BYTES = 100_000_000
UNSHARE = ["unshare", "--uts", "--mount", "--propagation", "private"]
CAN_UNSHARE = (
    shutil.which("unshare") is not None and subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
)
"""Whether a node can have a host name, and a folder for Ray's session, of its own.

Nodes that share that folder delete each other's copies of the code that was shipped.
"""
APART = 'hostname "$0" && mount --bind "$1" "$2" && shift 2 && exec "$@"'


class Cluster:
    """A head without CPUs for trials, which asks all who come for a token, and nodes that join it and are killed."""

    def __init__(self, folder: Path):
        self.port, self.jobs_port = _free_port(), _free_port()
        self.jobs = f"http://127.0.0.1:{self.jobs_port}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "TINYSEARCH_CACHE": str(folder / "cache"),  # in what each node has for itself
        }
        self.own = folder  # each node has a folder of its own there
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, num_cpus: int) -> None:
        """Start a node; the first one is the head. Returns when it runs."""
        arguments = ["--address", f"127.0.0.1:{self.port}"]
        if not self._nodes:
            arguments = ["--head", "--port", str(self.port), "--temp-dir", str(self.own), "--dashboard-host"]
            arguments += [
                "127.0.0.1",
                "--dashboard-port",
                str(self.jobs_port),
                "--ray-client-server-port",
                str(_free_port()),
            ]
        arguments += [
            "--num-cpus",
            str(num_cpus),
            "--num-gpus",
            "0",
            "--min-worker-port",
            "0",
            "--max-worker-port",
            "0",
        ]
        # Its usual port is the first Ray's of this machine; who does not get it takes no jobs.
        arguments += ["--dashboard-agent-listen-port", str(_free_port())]
        arguments += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--node-ip-address", "127.0.0.1", "--block"]
        own, log = self.own.parent / f"ray-{name}", self.own.parent / f"{name}.log"
        own.mkdir()
        self.own.mkdir(exist_ok=True)
        apart = [*UNSHARE, "sh", "-c", APART, name, str(own), str(self.own)]
        command = [*apart, str(RAY), "start", *arguments]
        with open(log, "wb") as out:
            self._nodes[name] = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)
        give_up = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            if self._nodes[name].poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"the node {name} does not start: {log.read_text()}")
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """End all of a node at once, as if its machine had lost its power."""
        process = self._nodes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            for child in [*parent.children(recursive=True), parent]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        process.wait()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, such as `job submit`, as one who has the token."""
        command = [str(RAY), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=900)

    def stop(self) -> None:
        for name in reversed(list(self._nodes)):
            self.kill(name)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of no nodes yet, which all end with the block. `folder` is short: Ray's sockets allow 107 bytes."""
    cluster = Cluster(folder / "ray")
    try:
        yield cluster
    finally:
        cluster.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
