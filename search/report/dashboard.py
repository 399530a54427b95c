"""The Optuna dashboard over a study's storage, bound to this machine unless told otherwise.

It serves whoever reaches its address, without a password: who may do so is decided by the address alone.
"""

from __future__ import annotations

import socketserver
from collections.abc import Callable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna_dashboard import wsgi

from search.storage.folder import StudyError


def serve(storage: optuna.storages.BaseStorage, *, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until interrupted; `announce` gets the URL once it answers. Port 0 takes a free one. Raises StudyError."""
    try:
        server = make_server(host, port, wsgi(storage), _ThreadingServer, _QuietHandler)
    except OSError as error:
        raise StudyError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}); choose another --port"
        ) from None
    with server:
        announce(f"http://{host}:{server.server_port}/dashboard/")
        server.serve_forever()


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a browser's open connection must not keep the command alive


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for each request would bury the address."""
