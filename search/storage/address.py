"""A database URL: as the user gives it, as SQLAlchemy takes it, and as messages may show it.

The shown form is put together from the parts that hold no secret. Cutting secrets out of the URL would not be safe,
because odd characters in a password change where a reader sees it end. A URL that can be read in two ways is refused.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

import sqlalchemy

from search.storage.folder import StudyError
from trainer.checks import printable

DRIVERS = {"sqlite": None, "postgresql": "psycopg", "mysql": "pymysql"}  # the driver if the URL names none
CONNECT_ARGS: dict[str, dict[str, Any]] = {  # a lost server is noticed within half a minute
    "sqlite": {},
    "postgresql": {"connect_timeout": 10, "keepalives_idle": 15, "keepalives_interval": 5, "tcp_user_timeout": 30_000},
    "mysql": {"connect_timeout": 10, "read_timeout": 30, "write_timeout": 30},
}
OPEN_KEYS = frozenset(
    "user host hostaddr port dbname sslmode sslrootcert sslcert ssl_ca ssl_cert ssl_mode charset client_encoding mode "
    "connect_timeout read_timeout write_timeout timeout tcp_user_timeout keepalives keepalives_idle "
    "keepalives_interval application_name target_session_attrs channel_binding gssencmode unix_socket uri".split()
)
SECRET_KEYS = frozenset("password passwd sslpassword passfile sslkey ssl_key options service key token".split())
"""Keys of a URL's query: without a secret, and with one. A key in neither set is not shown at all."""
FORMS = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or mysql://USER:PASSWORD@HOST/DATABASE"
PIECE = 4  # this many characters of a password are hidden too
MAX_PORT = 65535
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_WORD = re.compile(r"[\w.-]*")
_HOST = re.compile(r"[\w.:/\[\]%-]*")
_OTHERS_QUERY = re.compile("[;#&=]")  # between a database and a password, as other programs write it
_FILE_NAME = re.compile(r"[\w./~ -]+")


def shown_url(url: str) -> str:
    """A database's URL for messages, without its password."""
    return Address(url).shown


class Address:
    """A database URL. Raises StudyError if it is not one, or if it is unclear where its host begins."""

    def __init__(self, text: str):
        try:
            if printable(text) != text:  # SQLAlchemy would read on after a line break as if it were not there
                raise ValueError("no text")
            url = sqlalchemy.make_url(text)
            self.backend = url.get_backend_name()
            if url.port is not None and not 0 <= url.port <= MAX_PORT:
                raise ValueError("no port")
        except (sqlalchemy.exc.ArgumentError, ValueError, AttributeError):
            raise StudyError(f"--storage {_shown_part(text)} is not a database URL; write {FORMS}") from None
        if self.backend != "sqlite" and _is_ambiguous(text, url):
            raise StudyError(
                f"--storage {_scheme(text)}***: an @ is misplaced; in a user's name or a password write %40 "
                "for @, %3A for :, %2F for / and %3F for ?"
            )
        self._secrets = _secrets(text, url)
        self.shown = _shown(url)
        if self.backend not in DRIVERS:
            raise StudyError(f"--storage {self.shown}: unknown scheme {self.backend!r}. Known: {', '.join(DRIVERS)}.")
        database = url.database or ""
        if self.backend == "sqlite" and database in ("", ":memory:"):
            raise StudyError(
                f"--storage {self.shown} would be lost with this process; name a file: sqlite:///studies.db"
            )
        if DRIVERS[self.backend] and "+" not in url.drivername:
            url = url.set(drivername=f"{self.backend}+{DRIVERS[self.backend]}")
        self.driver = url.drivername.partition("+")[2] or "sqlite3"
        self.file = Path(database) if self.backend == "sqlite" else None
        self.for_sqlalchemy = url.render_as_string(hide_password=False)
        known = CONNECT_ARGS[self.backend] if self.driver == DRIVERS[self.backend] else {}
        self.connect_args = {key: value for key, value in known.items() if key not in url.query}

    @property
    def holds_secret(self) -> bool:
        return bool(self._secrets)

    def masked(self, text: str) -> str:
        """The message without the password, in whatever form it contains it, and without pieces of it."""
        is_hidden = [False] * len(text)
        for secret in self._secrets:
            quoted = (how(secret, errors="replace") for how in (quote, quote_plus, functools.partial(quote, safe="")))
            for form in {secret, unquote_plus(secret), repr(secret)[1:-1], *quoted}:
                for start, end in _found(form, text):
                    is_hidden[start:end] = [True] * (end - start)
        parts = [
            "***" if hidden and not before else "" if hidden else letter
            for letter, hidden, before in zip(text, is_hidden, [False, *is_hidden], strict=False)
        ]
        return "".join(parts)


def _shown(url: sqlalchemy.URL) -> str:
    secret = [key for key in url.query if key.lower() not in OPEN_KEYS]
    shown = url.difference_update_query(secret)
    if _OTHERS_QUERY.search(_database(url)):
        shown = shown.set(database="***")
    text = shown.render_as_string(hide_password=True)
    keys = [f"{key if key.lower() in SECRET_KEYS else '***'}=***" for key in secret]
    return text + "".join(f"{'&' if i or '?' in text else '?'}{key}" for i, key in enumerate(keys))


def _secrets(text: str, url: sqlalchemy.URL) -> list[str]:
    """The secrets of a URL, as SQLAlchemy decodes them and as they were typed."""
    rest = text.partition("://")[2]
    found = [url.password, re.sub("^[^:/]*:", "", rest.partition("@")[0]) if url.password else None]
    values = [url.query[key] for key in url.query if key.lower() not in OPEN_KEYS]
    found += [v for value in values for v in ([value] if isinstance(value, str) else value)]
    if _OTHERS_QUERY.search(_database(url)):
        found += [_database(url), re.split("[;#&=?]", rest, maxsplit=1)[-1]]
    query = rest.partition("?")[2]
    keys = [match for match in re.finditer("(?:^|&)([^=&]*)", query) if match[1].lower() not in OPEN_KEYS]
    if keys:  # parts divided by an & or a # may be one secret, typed without escapes
        found.append(query[keys[0].end() :].removeprefix("="))
    return [secret for secret in found if secret]


def _database(url: sqlalchemy.URL) -> str:
    """The name of a database on a server; for a file, any name is allowed."""
    return "" if url.get_backend_name() == "sqlite" else url.database or ""


def _found(secret: str, text: str) -> list[tuple[int, int]]:
    """The positions of a secret, or of pieces of it, in a text. A very short secret counts only as a whole word."""
    if len(secret) < PIECE:
        return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(secret)}(?!\w)", text)]
    pieces = {secret[i : i + PIECE] for i in range(len(secret) - PIECE + 1)}
    pieces = {piece for piece in pieces if piece not in "password"}  # a word that databases use themselves
    return [(i, i + PIECE) for i in range(len(text) - PIECE + 1) if text[i : i + PIECE] in pieces]


def _is_ambiguous(text: str, url: sqlalchemy.URL) -> bool:
    """Whether an @ follows the one that ends user and password, or one appears where there can be no user."""
    rest = text.partition("://")[2]
    if url.username is None and url.password is None:
        return "@" in rest.partition("?")[0]
    userinfo = re.match(r"[^:/]*(?::[^@]*)?@", rest)  # as SQLAlchemy reads it
    assert userinfo is not None
    # A host, a database and a query with an @ in a value also look like a user and a password.
    return "@" in rest[userinfo.end() :] or re.search("[/?].*=", userinfo[0]) is not None


def _scheme(text: str) -> str:
    scheme, separator, _ = text.partition("://")
    return f"{scheme}://" if separator and _SCHEME.fullmatch(scheme) else ""


def _shown_part(text: str) -> str:
    """What may be shown of a URL that cannot be read: everything that cannot be a password."""
    if "://" not in text or not _scheme(text):
        return text if _FILE_NAME.fullmatch(text) else "***"
    userinfo, at, host = text.partition("://")[2].partition("@")
    user, colon, _ = userinfo.partition(":")
    if not (at and colon and _WORD.fullmatch(user) and _HOST.fullmatch(host)):
        return f"{_scheme(text)}***"
    return f"{_scheme(text)}{user}:***@{host}"
