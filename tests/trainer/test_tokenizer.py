"""Any text becomes tokens piece by piece: its bytes come back, and memory does not grow with its size."""

from __future__ import annotations

import base64
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.tokenizer
from tests.support.paths import ROOT
from trainer.data import open_corpus
from trainer.pieces import MAX_WORD, PIECE, pieces, read_characters
from trainer.tokenizer import BpeTokenizer, train_bpe

TEXT = "It's the quick brown fox; isn't it?\r\n\r\n  The dog's 1234 bones — naïve, 日本語。\n\n\tx = y_1 + 2\n" * 30

odd_text = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            ["\r\n", "\n\n  ", "'s", " 'll", "\u3000", "\x85", "\x1c", "²3", "_", "é", "e\u0301", "日本", "🙂", "\0"]
        ),
        st.builds(str.__mul__, st.sampled_from("a1 \n=é日\u3000"), st.sampled_from([255, 256, 257, 513, 5000])),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory) -> BpeTokenizer:
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "text").write_bytes(TEXT.encode())
    train_bpe(folder / "text", 400, folder / "tokenizer.json")
    return BpeTokenizer(folder / "tokenizer.json", 400)


@settings(deadline=None, max_examples=60)
@given(odd_text)
def test_the_tokens_of_any_text_spell_its_bytes(bpe, tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    (folder / "odd").write_bytes(text.encode())
    dtype = bpe.encode_file(folder / "odd", folder / "odd.tokens")
    tokens = np.fromfile(folder / "odd.tokens", dtype)
    assert bpe.decode(tokens) == text.encode()
    assert bpe.token_bytes[tokens].sum() == len(text.encode())
    assert np.array_equal(tokens, bpe.encode(text.encode()))


@settings(deadline=None, max_examples=60)
@given(odd_text, st.lists(st.integers(1, 6000), min_size=1, max_size=5))
def test_pieces_are_short_and_depend_on_the_text_alone(text, lengths):
    whole = list(pieces([text]))
    assert "".join(whole) == text and all(0 < len(piece) <= PIECE for piece in whole)
    chunks, start = [], 0
    while start < len(text):
        length = lengths[len(chunks) % len(lengths)]
        chunks.append(text[start : start + length])
        start += length
    assert list(pieces(chunks)) == whole


def test_pieces_have_the_tokens_of_the_whole_text(bpe):
    rng = random.Random(0)
    parts = ["'s", " 'll", *"dog|it's|12|x_1|=| |  |\n|\r\n|\n\n|\t|—|日本語|。|é".split("|")]
    text = "".join(rng.choices(parts, k=20_000))
    assert len(list(pieces([text]))) > 5
    assert bpe.encode(text.encode()).tolist() == bpe._tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("run", ["a", "1", " ", "\n", "=", "_", "語"])
def test_a_long_word_is_cut_evenly_from_its_start(run):
    cut = list(pieces(["so " + run * (3 * PIECE) + "."]))
    longest = max(len(piece) for piece in cut)
    assert longest <= 2 * MAX_WORD and sum(piece == run * MAX_WORD for piece in cut) >= 3 * PIECE // MAX_WORD - 2


def test_learning_sees_no_longer_words_than_encoding_does(tmp_path):
    (tmp_path / "a").write_text("a" * 10 * PIECE)
    assert max(map(len, trainer.tokenizer._training_texts(tmp_path / "a"))) == MAX_WORD


def test_the_batch_does_not_change_the_tokens(bpe, monkeypatch):
    whole = bpe.encode(TEXT.encode() * 4)
    monkeypatch.setattr(trainer.tokenizer, "BATCH", 1)
    assert np.array_equal(bpe.encode(TEXT.encode() * 4), whole)


def test_a_file_is_read_between_two_bytes_without_half_characters(tmp_path):
    (tmp_path / "a").write_bytes("日本語".encode())
    assert "".join(read_characters(tmp_path / "a", 1, 8, errors="ignore")) == "本"
    with pytest.raises(UnicodeDecodeError):
        list(read_characters(tmp_path / "a", 1, 8))


def test_a_text_shorter_than_the_stretches_teaches_all_that_it_has(tmp_path):
    (tmp_path / "a").write_text("aba aba aba\n")
    train_bpe(tmp_path / "a", 260, tmp_path / "tokenizer.json")
    assert len(BpeTokenizer(tmp_path / "tokenizer.json", 260).encode(b"aba")) == 1


def test_learning_stops_at_so_many_different_words_having_seen_all_parts_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.tokenizer, "MAX_DIFFERENT_BYTES", 60_000)
    text = base64.b64encode(random.Random(0).randbytes(3 * 2**18))
    (tmp_path / "a").write_bytes(text)
    seen = list(trainer.tokenizer._training_texts(tmp_path / "a"))
    assert 60_000 < sum(map(len, seen)) < 80_000
    assert {text.index(piece.encode()) * 8 // len(text) for piece in seen} == set(range(8))
    (tmp_path / "a").write_bytes(TEXT.encode() * 100)
    assert sum(map(len, trainer.tokenizer._training_texts(tmp_path / "a"))) >= len(TEXT) * 99


def test_a_long_preparation_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.tokenizer, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(trainer.tokenizer, "LONG_BYTES", 0)
    monkeypatch.setattr(trainer.tokenizer, "BATCH", 2**13)
    (tmp_path / "a.txt").write_bytes(TEXT.encode() * 10)
    said: list[str] = []
    open_corpus([tmp_path / "a.txt"], vocab_size=300, cache_dir=tmp_path / "cache", on_progress=said.append)
    assert "BPE of 300" in said[0] and all("text into tokens" in line for line in said[1:])
    assert "100%" in said[-1] and len(said) > 3


def test_a_short_preparation_says_nothing(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    said: list[str] = []
    open_corpus([tmp_path / "a.txt"], vocab_size=300, cache_dir=tmp_path / "cache", on_progress=said.append)
    assert said == []


PREPARE = """
import sys
from pathlib import Path
from trainer.tokenizer import BpeTokenizer, train_bpe
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
train_bpe(source, 300, folder / "tokenizer.json")
BpeTokenizer(folder / "tokenizer.json", 300).encode_file(source, folder / "tokens")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("ends", ["\n", " "])
def test_memory_does_not_grow_with_the_text(tmp_path, ends):
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(2_000)]
    text = ends.join(" ".join(rng.choices(words, k=12)) for _ in range(800)) + ends
    peaks, sizes = [], [2**19, 2**21]
    for size in sizes:
        (tmp_path / "text").write_text(text * (size // len(text)))
        command = [sys.executable, "-c", PREPARE, str(tmp_path / "text"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(int(done.stdout) * 1024)
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) < 8  # bytes of memory for each byte of text
