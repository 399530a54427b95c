"""No part of a password is ever shown, however odd the URL that contains it."""

from __future__ import annotations

import os
import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from search.cli.main import app
from search.storage.address import PIECE, Address
from search.storage.database import Database
from search.storage.folder import StudyError
from search.worker.object_store import ObjectStoreError, check_url

# Letters that no message of ours has in this order; and what means something in a URL, a shell, a terminal or rich.
LETTERS = st.text("QXZJ9745", min_size=PIECE, max_size=12)
ODD = st.text("@:/?#[]%&=+;,!$'\"(){}\\ *~^|<>é\x1b\n", max_size=4)
PASSWORDS = st.tuples(ODD, LETTERS, ODD, LETTERS, ODD).map("".join)
ENCODINGS = st.sampled_from([str, quote_plus, lambda text: quote(text, safe="", errors="surrogateescape")])


def encoded(password: str, how) -> str:
    try:
        return how(password)
    except UnicodeEncodeError:
        return password


def pieces(password: str) -> set[str]:
    """What must not be shown: each part of PIECE letters, as it is and as a URL writes it."""
    found = {password[i : i + PIECE] for i in range(len(password) - PIECE + 1)}
    return {piece for piece in found if any(letter in "QXZJ9745" for letter in piece)}


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://me:{}@127.0.0.1:1/db",
        "postgresql://:{}@127.0.0.1:1/db",
        "postgresql://me:{}@/db?host=127.0.0.1",
        "postgresql://me:{}@127.0.0.1:port/db",
        "postgresql:///db?password={}",
        "postgresql://127.0.0.1:1/db?sslpassword={}&user=me",
        "mysql://me:{}@127.0.0.1:1/db?ssl_ca=x",
        "oracle://me:{}@host/db",
        "sqlite:///file.db?password={}",
        "postgres:me:{}@host",
        "no-scheme://me:{}@host",
    ],
)
@settings(max_examples=40, deadline=None)
@given(password=PASSWORDS, how=ENCODINGS)
def test_no_piece_of_a_password_is_shown(form: str, password: str, how):
    url = form.format(encoded(password, how))
    shown = []
    try:
        address = Address(url)
        shown += [address.shown, str(Database(url))]
        for said in (password, encoded(password, quote), repr(password), url, f"{password[1:]}x"):
            shown.append(address.masked(f"cannot connect: {said} is wrong"))
    except StudyError as error:
        shown.append(str(error))
    for text in shown:
        for piece in pieces(password):
            assert piece not in text, (url, text)


@pytest.mark.parametrize("form", ["s3://KEY:{}@bucket/x", "s3://b/x?token={}", "s3://b/x#t={}", "k:{}@b"])
@settings(max_examples=40, deadline=None)
@given(password=PASSWORDS)
def test_no_piece_of_a_key_of_an_object_store_is_shown(form: str, password: str):
    with pytest.raises(ObjectStoreError) as refused:
        check_url(form.format("A" + password))
    for piece in pieces(password):
        assert piece not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:QXZJ@97:w/45QZ@127.0.0.1:1/db",
        "postgresql://me:QXZJ9745@127.0.0.1:1/db",
        "postgresql://me:QXZJ9745",
        "postgresql://me:QX\udcefZJ9745@127.0.0.1/db",
        "s3://KEY:9745QZ@bucket",
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        ["status", "--storage"],
        ["status", "any", "other"],
        ["status"],
        ["run"],
        ["run", "space.yaml", "--name"],
        ["run", "space.yaml", "--storage-path"],
        ["run", "space.yaml"],
        ["run", "--data"],
        ["validate"],
    ],
)
def test_no_command_shows_a_password_that_was_given_anywhere(words: list[str], url: str, small_text):
    result = CliRunner().invoke(app, [*words, url])
    assert result.exit_code != 0 and isinstance(result.exception, SystemExit)
    for part in ("QXZJ", "9745", "45QZ"):
        assert part not in result.output, result.output


@settings(max_examples=40, deadline=None)
@given(password=LETTERS)
def test_a_password_is_not_taken_for_a_port_where_the_host_was_forgotten(password: str):
    if password.isdecimal() and int(password) <= 65535:
        password += "99999"
    for url in (f"postgresql://127.0.0.1:1/db;password={password}", f"mysql://127.0.0.1:1/db#password={password}"):
        address = Address(url)
        assert password not in address.shown and password not in address.masked(f"no database db;password={password}")
    for url in (f"postgresql://me:{password}", f"mysql://me:{password}/db", f"s3://KEY:{password}/x"):
        with pytest.raises(ValueError) as refused:
            check_url(url) if url.startswith("s3") else Address(url)
        assert password not in str(refused.value)


def test_a_password_in_the_environment_is_not_shown(small_text, monkeypatch: pytest.MonkeyPatch):
    for url in ("postgresql://me:QXZJ@97:w/45QZ@127.0.0.1:1/db", "postgresql://me:QXZJ45QZ@127.0.0.1:1/db"):
        monkeypatch.setitem(os.environ, "OPTUNA_STORAGE", url)
        result = CliRunner().invoke(app, ["status"])
        assert result.exit_code == 2 and "QXZJ" not in result.output and "45QZ" not in result.output


def test_a_url_that_can_be_read_in_two_ways_is_refused_with_what_to_write():
    for url in ("postgresql://me:a@b@host/db", "postgresql://me:a@b/c@host/db", "postgresql://host/me@db"):
        with pytest.raises(StudyError, match="write %40 for @"):
            Address(url)
    assert Address("postgresql://me@site:word@host/db").shown == "postgresql://me%40site:***@host/db"
    assert Address("postgresql://host/db?user=me@site").shown.startswith("postgresql://host/db?user=me")
    assert Address("sqlite:///me@home.db").shown == "sqlite:///me%40home.db"
    assert Address("postgresql://me:word@[::1]:5432/db?sslmode=require").shown == (
        "postgresql://me:***@[::1]:5432/db?sslmode=require"
    )


def test_what_is_not_secret_is_shown():
    address = Address("postgresql://tiny:Qx7-Zj4-Ww@host/db")
    said = 'connection to server at "host" failed: FATAL: no password for user "tiny"'
    assert address.masked(said) == said
    assert address.masked("Qx7-Zj4-Ww") == "***"
    assert string.ascii_lowercase in Address("mysql://u:p@h/db").masked(string.ascii_lowercase)
