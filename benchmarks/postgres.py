"""A PostgreSQL server of one's own: the machine's binaries, a temporary folder, a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg

PASSWORD = "s3cret-{word}/@"
START_SECONDS = 60


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`; Debian keeps it out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


class Server:
    """A server that can be stopped as by a crash and started again with its data."""

    def __init__(self, binaries: Path):
        self._binaries = binaries
        self._user = _unprivileged_user() if os.getuid() == 0 else None  # PostgreSQL does not run as root
        self._folder = Path(tempfile.mkdtemp(prefix="tinysearch-postgres-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self._folder / "password").write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, self._folder / "password"):
                shutil.chown(path, self._user)
        how = "-D data -U tinysearch -A scram-sha-256 --pwfile=password --no-sync -E UTF8"
        self._run("initdb", *how.split()).wait(timeout=START_SECONDS)
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        options = ["-D", "data", "-p", str(self.port), "-k", str(self._folder), "-c", "listen_addresses=127.0.0.1"]
        self._process = self._run("postgres", *options, "-c", "fsync=off")
        ends = time.monotonic() + START_SECONDS
        while True:
            try:
                self._connection().close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > ends or self._process.poll() is not None:
                    raise RuntimeError((self._folder / "log").read_text()) from None
                time.sleep(0.1)

    def crash(self) -> None:
        """What `pg_ctl stop -m immediate` does: connections break, nothing is written any more."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=START_SECONDS)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.crash()
        shutil.rmtree(self._folder)

    def new_database(self) -> str:
        """The URL of a database of its own."""
        name = f"db{uuid.uuid4().hex[:8]}"
        with self._connection() as connection:
            connection.autocommit = True
            connection.execute(f"create database {name}")
        return f"postgresql://tinysearch:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{name}"

    def _connection(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="tinysearch", password=PASSWORD, dbname="postgres", connect_timeout=5
        )

    def _run(self, program: str, *arguments: str) -> subprocess.Popen:
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [str(self._binaries / program), *arguments],
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )


def _unprivileged_user() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server until the block ends. Raises RuntimeError where the machine has no PostgreSQL."""
    if (found := binaries()) is None:
        raise RuntimeError("PostgreSQL is not installed here: there is no `postgres`")
    server = Server(found)
    try:
        server.start()
        yield server
    finally:
        server.close()
