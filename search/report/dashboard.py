"""The Optuna dashboard over a study's storage, by default on this machine only.

It has no password: anyone who can reach its address can use it.
"""

from __future__ import annotations

import socketserver
from collections.abc import Callable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna_dashboard import wsgi

from search.storage.folder import StudyError


def serve(storage: optuna.storages.BaseStorage, *, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until interrupted; `announce` gets the URL once it answers. Port 0: any free port. Raises StudyError."""
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
        """Does nothing: a line for each request would hide the address."""
