"""Storage that every machine reaches by a URL, such as s3://bucket/folder: anything fsspec supports, with retries.

A call whose answer was lost is repeated, because every call may be carried out twice. An object is written whole or not
at all, as object stores guarantee; elsewhere, as over SFTP, the checksum finds a torn checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

PATIENCE_SECONDS = 300.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)  # on this machine's own disk: not retried
EXTRAS = {"s3": "s3", "s3a": "s3"}  # extras of this package that install the driver of a URL scheme
# Errors that a retry would raise again; those without a class of their own by name.
LASTING = (PermissionError, ImportError, ValueError, TypeError, NotImplementedError, IsADirectoryError)
LASTING_NAMES = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")
T = TypeVar("T")


class ObjectStoreError(ValueError):
    """A location that cannot be read or written; the message says which, why, and what to do."""


MAX_PORT = 65535


def check_url(url: str) -> None:
    """Raises ObjectStoreError for an invalid URL, or one with a password, which the study would store and show."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[\w+.-]+(?:::[\w+.-]+)*", scheme):
        raise ObjectStoreError(
            f"--storage-path {'***' if '@' in url else url}: not a URL; write one such as s3://bucket/folder "
            "(a folder that all machines share is given with --runs)"
        )
    # A key may contain slashes, a token follows a question mark, and a port or a secret follows a colon.
    userinfo, at, place = rest.rpartition("@")
    port = re.match(r"[^/]*:([^/]*)", place)
    is_port = port is None or port[1].isdecimal() and int(port[1]) <= MAX_PORT
    if ":" in userinfo or "?" in rest or "#" in rest or not is_port:
        is_known = at and not re.search("[?#]", userinfo)
        shown = f"{scheme}://***" + (f"@{re.split('[?#]', place)[0]}" if is_known else "")
        raise ObjectStoreError(
            f"--storage-path {shown}: the study would keep the password or token that was given with it; give that in "
            "the environment, or in the files in which the scheme's own tools look for it"
        )


class ObjectStore:
    """Objects by name at a URL. Every method raises ObjectStoreError if the location does not answer in time.

    A full disk of this machine raises OSError.
    """

    def __init__(
        self, url: str, *, patience_seconds: float = PATIENCE_SECONDS, on_wait: Callable[[float], None] | None = None
    ):
        """`on_wait` gets the seconds for which the location did not answer, once it does."""
        import fsspec

        self.url = url.rstrip("/")
        self._patience_seconds, self._on_wait = patience_seconds, on_wait
        check_url(url)
        scheme = url.partition("://")[0]
        try:
            self._files, root = fsspec.url_to_fs(self.url)
        except ImportError as error:
            how = f"run pip install -e '.[{EXTRAS[scheme]}]' in tinysearch's checkout" if scheme in EXTRAS else error
            raise ObjectStoreError(f"{self.url}: what speaks to {scheme}:// is not installed; {how}") from None
        except Exception as error:  # fsspec's file systems have their own errors
            raise ObjectStoreError(f"{self.url} cannot be used: {reason_of(error)}") from None
        self._root = root.rstrip("/")
        self._is_local = scheme in ("file", "local")

    def __str__(self) -> str:
        return self.url

    def put(self, file: Path, name: str) -> None:
        """Write a file as the object `name`."""

        def put() -> None:
            path = self._path(name)
            if not self._is_local:
                self._files.put_file(str(file), path)
                return
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(file), f"{path}.part")
            self._files.mv(f"{path}.part", path)

        self._patiently(put, is_writing=True)

    def get(self, name: str, file: Path) -> bool:
        """Read the object `name` into a file; False if it does not exist."""
        try:
            self._patiently(lambda: self._files.get_file(self._path(name), str(file)))
        except FileNotFoundError:
            return False
        return True

    def write(self, content: bytes, name: str) -> None:
        """Write a small object."""
        with tempfile.NamedTemporaryFile(prefix="tinysearch-") as scratch:
            scratch.write(content)
            scratch.flush()
            self.put(Path(scratch.name), name)

    def read(self, name: str) -> bytes | None:
        """A small object; None if it does not exist."""
        try:
            return self._patiently(lambda: self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        return self._patiently(lambda: self._files.exists(self._path(name)))

    def delete(self, name: str) -> None:
        """Delete an object if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self._files.rm_file(self._path(name)))

    def sizes(self, folder: str) -> dict[str, int]:
        """Name and size in bytes of each object directly in a folder."""

        def sizes() -> dict[str, int]:
            self._files.invalidate_cache()
            found = self._files.ls(self._path(folder), detail=True)
            return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found if entry["type"] == "file"}

        try:
            return dict(sorted(self._patiently(sizes).items()))
        except FileNotFoundError:
            return {}

    def check_writable(self, folder: str) -> None:
        """Raises ObjectStoreError if nothing can be written in that folder; leaves nothing there."""
        probe = f"{folder}/.tinysearch"
        self.write(b"", probe)
        self.delete(probe)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _patiently(self, call: Callable[[], T], *, is_writing: bool = False) -> T:
        """The call's result, after as many tries as patience allows. Raises FileNotFoundError if it has no object."""
        started: float | None = None
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                result = call()
                break
            except FileNotFoundError as error:
                if not is_writing:
                    raise
                raise ObjectStoreError(f"{self.url} is not there: {reason_of(error)}; make the bucket first") from error
            except Exception as error:  # fsspec's file systems have their own errors
                if isinstance(error, OSError) and error.errno in NO_SPACE:
                    raise
                if isinstance(error, LASTING) or type(error).__name__ in LASTING_NAMES:
                    raise ObjectStoreError(
                        f"{self.url} cannot be used: {reason_of(error)}; see that this machine may read and write it"
                    ) from error
                started = time.monotonic() if started is None else started
                if time.monotonic() - started + pause > self._patience_seconds:
                    waited = f" for {self._patience_seconds:.0f} s" if self._patience_seconds else ""
                    raise ObjectStoreError(
                        f"{self.url} did not answer{waited} ({reason_of(error)}); see that it can be reached"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        if started is not None and self._on_wait is not None:
            self._on_wait(time.monotonic() - started)
        return result


def reason_of(error: Any) -> str:
    """A file system's error message, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
