"""A Slurm of three nodes on one machine, for tests: `sbatch`, `srun` and their kin, and what is behind them.

Each node has namespaces of its own (network, processes, mounts, host name), so that Ray finds three machines: an
address each, no process of another, its own /tmp/ray. All of them live in one outer namespace, and end with its first
process. Needs root and Linux.

    fake_slurm.py cluster FOLDER     the controller and its nodes, until it is killed
    fake_slurm.py node FOLDER N      one of them
    fake_slurm.py sbatch|srun|...    the commands; FAKE_SLURM names the folder
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

NUM_NODES = 3
JOB_ID = 4711


def ask(folder: Path, whom: str, request: dict[str, Any], fds: list[int] | None = None) -> Any:
    """Send a request to the controller or a node; returns its answers, one a line, as they come."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(folder / f"{whom}.sock"))
    socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], fds or [])
    with connection, connection.makefile() as answers:
        for line in answers:
            yield json.loads(line)


def serve(folder: Path, whom: str, answer: Any) -> None:
    """Answer requests, each in a thread, for ever."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / f".{whom}.sock"))
    server.listen(50)
    os.rename(folder / f".{whom}.sock", folder / f"{whom}.sock")  # whoever sees it can connect

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(BrokenPipeError):
            text, fds, _, _ = socket.recv_fds(connection, 1 << 20, 2)
            while not text.endswith(b"\n"):
                text += connection.recv(1 << 20)
            for reply in answer(json.loads(text), fds):
                connection.sendall(json.dumps(reply).encode() + b"\n")

    while True:
        threading.Thread(target=handle, args=(server.accept()[0],), daemon=True).start()


def node(folder: Path, number: int) -> None:
    """Runs what it is asked to run, as slurmd does."""
    if child := os.fork():  # the first process of its namespace: it must bury the dead
        while os.wait()[0] != child:
            pass
        return
    host = f"node{number}"
    while not Path("/sys/class/net/eth0").exists():  # /sys is the outer namespace's until it is mounted again
        with contextlib.suppress(subprocess.CalledProcessError):
            sh("mount -t sysfs sysfs /sys")
        time.sleep(0.02)
    socket.sethostname(host)
    sh(f"ip link set lo up && ip addr add 10.77.0.{number + 1}/24 dev eth0 && ip link set eth0 up")
    sh(f"mount --bind {shlex.quote(str(folder / 'hosts'))} /etc/hosts")
    sh("mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm")
    running: dict[int, subprocess.Popen] = {}

    def answer(request: dict[str, Any], fds: list[int]) -> Any:
        if "end" in request:  # of a job: Slurm leaves none of its processes
            others = {int(pid.name) for pid in Path("/proc").iterdir() if pid.name.isdigit()} - {1, os.getpid()}
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        if "signal" in request:
            if request["pid"] in running:
                running[request["pid"]].send_signal(request["signal"])
            return
        out, err = fds
        process = subprocess.Popen(
            request["argv"], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=request["env"], cwd=request["cwd"]
        )
        os.close(out)
        os.close(err)
        running[process.pid] = process
        yield {"pid": process.pid}
        yield {"code": process.wait()}

    serve(folder, host, answer)


def cluster(folder: Path) -> None:
    """The network, the nodes, and the controller: one job at a time, which is queued again when it asks for it."""
    (folder / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"10.77.0.{i + 1} node{i}\n" for i in range(NUM_NODES))
    )
    sh("ip link set lo up && ip link add bridge0 type bridge && ip link set bridge0 up")
    spaces = "--net --pid --mount --uts --fork --kill-child --mount-proc --propagation=private".split()
    own = os.readlink("/proc/self/ns/net")
    for i in range(NUM_NODES):
        started = subprocess.Popen(["unshare", *spaces, sys.executable, __file__, "node", str(folder), str(i)])
        while os.readlink(f"/proc/{started.pid}/ns/net") == own:
            time.sleep(0.01)
        sh(f"ip link add link{i} type veth peer name eth0 netns {started.pid}")
        sh(f"ip link set link{i} master bridge0 up")
    job: dict[str, Any] = {"state": "", "restarts": -1}

    def run_job() -> None:
        while True:
            job.update(state="RUNNING", restarts=job["restarts"] + 1, pid=None)
            env = job["env"] | {"SLURM_RESTART_COUNT": str(job["restarts"])}
            with open(job["output"], "a" if job["appends"] else "w") as log:
                request = {"argv": ["bash", str(folder / "script")], "env": env, "cwd": job["chdir"]}
                for reply in ask(folder, "node0", request, [log.fileno(), log.fileno()]):
                    job.update(reply)
            for i in range(NUM_NODES):
                list(ask(folder, f"node{i}", {"end": True}))
            if job["state"] != "PENDING":
                job["state"] = "COMPLETED" if job["code"] == 0 else "FAILED"
                return

    def answer(request: dict[str, Any], fds: list[int]) -> Any:
        if request["what"] == "submit":
            job.update(request["job"])
            threading.Thread(target=run_job, daemon=True).start()
        elif request["what"] == "requeue":  # Slurm kills what is left of the job
            job["state"] = "PENDING"
            list(ask(folder, "node0", {"signal": signal.SIGKILL, "pid": job["pid"]}))
        elif request["what"] == "signal" and job["state"] == "RUNNING":
            list(ask(folder, "node0", {"signal": request["signal"], "pid": job["pid"]}))
        yield {name: job.get(name) for name in ("state", "restarts", "code")}

    serve(folder, "controller", answer)


def sbatch(folder: Path, arguments: list[str]) -> int:
    """Reads a script from stdin as Slurm does: options only from the comments before its first command."""
    assert arguments == ["--parsable"], arguments
    script = sys.stdin.read()
    (folder / "script").write_text(script)
    options: dict[str, str] = {}
    for line in script.splitlines()[1:]:
        if not line.startswith("#"):
            break
        for word in shlex.split(line.removeprefix("#SBATCH")):
            name, _, value = word.removeprefix("--").partition("=")
            options[name] = value
    assert int(options["nodes"]) <= NUM_NODES
    env = dict(os.environ) | {"SLURM_JOB_ID": str(JOB_ID), "SLURM_JOB_NUM_NODES": options["nodes"]}
    job = {
        "env": env,
        "chdir": options["chdir"],
        "output": options["output"].replace("%j", str(JOB_ID)),
        "appends": options["open-mode"] == "append",
        "options": options,
    }
    list(ask(folder, "controller", {"what": "submit", "job": job}))
    print(JOB_ID)
    return 0


def srun(folder: Path, arguments: list[str]) -> int:
    """Runs a command on the first nodes at once, hands TERM on to it, and exits with the largest code."""
    options: dict[str, str] = {}
    while arguments[0].startswith("--"):
        name, _, value = arguments.pop(0).removeprefix("--").partition("=")
        options[name] = value
    assert options["ntasks"] == options["nodes"], options
    codes: list[int] = []
    pids: dict[str, int] = {}

    def task(number: int) -> None:
        env = dict(os.environ) | {"SLURM_PROCID": str(number), "SLURM_NODEID": str(number)}
        for reply in ask(folder, f"node{number}", {"argv": arguments, "env": env, "cwd": os.getcwd()}, [1, 2]):
            if "pid" in reply:
                pids[f"node{number}"] = reply["pid"]
            else:
                codes.append(reply["code"] if reply["code"] >= 0 else 128 - reply["code"])

    def forward(signum: int, frame: Any) -> None:
        for name, pid in pids.items():
            list(ask(folder, name, {"signal": signum, "pid": pid}))

    signal.signal(signal.SIGTERM, forward)
    tasks = [threading.Thread(target=task, args=(i,)) for i in range(int(options["nodes"]))]
    for thread in tasks:
        thread.start()
    for thread in tasks:
        thread.join()
    return max(codes)


def answer_of(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    return next(ask(folder, "controller", request))


def main() -> int:
    what, *arguments = sys.argv[1:]
    if what in ("cluster", "node"):
        folder = Path(arguments[0])
        cluster(folder) if what == "cluster" else node(folder, int(arguments[1]))
        return 0
    folder = Path(os.environ["FAKE_SLURM"])
    if what == "sbatch":
        return sbatch(folder, arguments)
    if what == "srun":
        return srun(folder, arguments)
    if what == "squeue":
        state = answer_of(folder, {"what": "state"})["state"]
        if state in ("RUNNING", "PENDING") or "--states=all" in arguments:
            print(state)
    elif what == "scontrol":
        assert arguments == ["requeue", str(JOB_ID)], arguments
        answer_of(folder, {"what": "requeue"})
    elif what == "scancel":
        batch, named, number = arguments
        assert batch == "--batch" and number == str(JOB_ID), arguments
        wanted = re.fullmatch(r"--signal=(\w+)", named)
        answer_of(folder, {"what": "signal", "signal": getattr(signal, f"SIG{wanted[1]}")})
    return 0


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
