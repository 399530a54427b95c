"""A local S3 server for a test."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import fsspec

SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print("ready", flush=True)
threading.Event().wait()
"""
MAKE = "import fsspec, sys; fsspec.filesystem('s3').mkdir(sys.argv[1])"
BUCKET = "bucket"


def s3_environment() -> dict[str, str]:
    """The environment by which its users will find a server on a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "n0secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def s3_server(environment: dict[str, str]) -> Iterator[None]:
    """A server with an empty bucket, where this environment says, until the block ends."""
    port = environment["AWS_ENDPOINT_URL"].rpartition(":")[2]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, port], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        subprocess.run([sys.executable, "-c", MAKE, BUCKET], env={**os.environ, **environment}, check=True)
        yield
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # it would be asked again in a later server's place
        server.kill()
        server.communicate()
