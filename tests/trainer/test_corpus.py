"""Text becomes tokens once, is split the same way everywhere, and every fault names its file and remedy."""

from __future__ import annotations

import json
import os
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest

import trainer.data
import trainer.text.records
from trainer.config import TrainConfig
from trainer.data import open_corpus
from trainer.text.errors import CorpusError
from trainer.tokenizer import BpeTokenizer, ByteTokenizer

TEXT = "The quick brown fox jumps over the lazy dog; 'naïve' — 日本語.\n" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainer.data, "UNSETTLED_NS", 0)  # the files here are a moment old
    return tmp_path / "cache"


def written(path: Path, content: str | bytes | np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        content = content.tobytes()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def text_of(tokens: np.ndarray) -> str:
    return bytes(tokens.astype(np.uint8)).decode()


def test_a_single_text_keeps_its_last_tenth_for_validation(tmp_path):
    corpus = open_corpus([written(tmp_path / "a.txt", TEXT)], vocab_size=256)
    assert text_of(corpus.train) + text_of(corpus.validation) == TEXT  # cut between two lines
    assert len(corpus.validation) == pytest.approx(len(TEXT.encode()) / 10, abs=len(TEXT.encode()) / 40)
    assert corpus.token_bytes.tolist() == [1] * 256
    assert not corpus.train.flags.writeable


@pytest.mark.parametrize("length", range(40, 46))
def test_a_text_is_cut_between_two_characters(tmp_path, length):
    corpus = open_corpus([written(tmp_path / "a.txt", "語" * length)], vocab_size=256)
    assert text_of(corpus.train) + text_of(corpus.validation) == "語" * length + "\n"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_both_parts_have_a_document_however_few_there_are(tmp_path, count):
    paths = [written(tmp_path / f"{i}.txt", f"text {i}\n") for i in range(count)]
    corpus = open_corpus(paths, vocab_size=256)
    assert len(corpus.train) and len(corpus.validation)


def test_jsonl_is_split_by_document_and_repeats_stay_on_one_side(tmp_path):
    lines = [json.dumps({"text": f"document {i % 20}", "id": i}) for i in range(60)]
    corpus = open_corpus([written(tmp_path / "a.jsonl", "\n".join(lines))], vocab_size=256)
    train, held_out = (set(text_of(part).splitlines()) for part in (corpus.train, corpus.validation))
    assert train | held_out == {f"document {i}" for i in range(20)} and not train & held_out and held_out


def test_a_file_named_twice_is_read_once(tmp_path):
    path = written(tmp_path / "a.txt", TEXT)
    corpus = open_corpus([path, tmp_path, path], vocab_size=256, cache_dir=tmp_path.parent / "elsewhere")
    assert len(corpus.train) + len(corpus.validation) == len(TEXT.encode())


def test_the_standard_library_is_the_default(tmp_path, monkeypatch):
    for name in ("os.py", "json/decoder.py", "test/test_os.py", "site-packages/x.py", "_sysconfigdata_x.py"):
        written(tmp_path / "lib" / name, f"# {name}\n" * 50)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    corpus = open_corpus([], vocab_size=256)
    lines = text_of(np.concatenate([corpus.train, corpus.validation])).splitlines()
    assert set(lines) == {"# os.py", "# json/decoder.py"}
    assert corpus.about.startswith("standard library of Python 3.")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    with pytest.raises(CorpusError, match="no library sources, only compiled ones"):
        open_corpus([], vocab_size=256)


def test_bpe_tokens_spell_the_text_and_count_its_bytes(tmp_path, cache):
    corpus = open_corpus([written(tmp_path / "a.txt", TEXT)], vocab_size=300)
    tokenizer = BpeTokenizer(cache / corpus.digest / "tokenizer.json", 300)
    everything = np.concatenate([corpus.train, corpus.validation])
    assert tokenizer.decode(everything).decode() == TEXT
    assert corpus.token_bytes[everything].sum() == len(TEXT.encode())
    assert len(everything) < len(TEXT) and everything.max() < 300
    assert np.array_equal(tokenizer.encode(TEXT.encode())[:20], everything[:20])


def test_the_same_text_teaches_the_same_bpe(tmp_path):
    path = written(tmp_path / "a.txt", TEXT)
    one, two = (open_corpus([path], vocab_size=290, cache_dir=tmp_path / name) for name in "ab")
    assert one.digest == two.digest and np.array_equal(one.train, two.train)
    files = [(tmp_path / name / one.digest / "tokenizer.json").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_bytes_round_trip():
    text = TEXT.encode()
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


def test_an_open_corpus_is_found_again_without_reading_it(tmp_path, monkeypatch):
    path = written(tmp_path / "a.txt", TEXT)
    first = open_corpus([path], vocab_size=256)
    monkeypatch.setattr(trainer.data, "collect", None)
    again = open_corpus([path], vocab_size=256)
    assert again.digest == first.digest and again.about == first.about


def test_a_changed_file_of_the_same_size_and_time_is_read_again(tmp_path):
    path = written(tmp_path / "a.txt", TEXT)
    before, times = open_corpus([path], vocab_size=256), os.stat(path)
    written(tmp_path / "a.txt", TEXT.replace("fox", "cat"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_corpus([path], vocab_size=256).digest != before.digest


@pytest.mark.parametrize("file", ["train.bin", "validation.bin", "token_bytes.bin", "meta.json"])
def test_a_damaged_cache_is_rebuilt(tmp_path, cache, file):
    path = written(tmp_path / "a.txt", TEXT)
    train = open_corpus([path], vocab_size=280).train.copy()
    damaged = cache / open_corpus([path], vocab_size=280).digest / file
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert np.array_equal(open_corpus([path], vocab_size=280).train, train)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"first": 0', '"first": -5'), ('"first": 0', '"first": "x"'), ('"first": 0', '"last": 0'), ('"uint16"', '"O"'),
     ('"uint16"', '"float64"'), ('"parts"', '"party"'), ('"vocab_size": 280', '"vocab_size": 5'), ('"train"', '"tram"'),
     ('{"vocab_size"', '[{"vocab_size"'), ('"last": ', '"last": 9'), ('"digest": "', '"digest": ["'),
     ('"uint16"', '"' + "9" * 5000 + '"'), ('"uint16"', "[]"),
     ('"path": "', '"path": "\\u0000'), ('"token_bytes": {"path": "', '"token_bytes": {"path": 5, "p": "')],
)  # fmt: skip
def test_a_cache_that_says_something_odd_is_rebuilt(tmp_path, cache, old, new):
    path = written(tmp_path / "a.txt", TEXT)
    train = open_corpus([path], vocab_size=280).train.copy()
    files = [next(cache.glob("index/*.json")), *cache.glob("*/meta.json")]
    assert len(files) == 3 and any(old in file.read_text() for file in files)  # of the bytes, and of the tokens
    for file in files:
        file.write_text(file.read_text().replace(old, new))
    assert np.array_equal(open_corpus([path], vocab_size=280).train, train)


def test_tokens_that_came_into_the_cache_later_are_reported_before_a_model_sees_them(tmp_path, cache):
    path = written(tmp_path / "a.txt", TEXT)
    digest = open_corpus([path], vocab_size=280).digest
    for part in ("train", "validation"):
        damaged = cache / digest / f"{part}.bin"
        damaged.write_bytes(b"\xff" * damaged.stat().st_size)
    corpus = open_corpus([path], vocab_size=280)
    for use in (lambda: corpus.training_batch((0,), 2, 4), lambda: corpus.held_out_stretches(10)):
        with pytest.raises(CorpusError, match="token 65535 is outside vocab_size 280: the tokens or their cache were"):
            use()


def test_what_is_neither_a_file_nor_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CorpusError, match="neither a file nor a folder"):
            open_corpus([path], vocab_size=256)


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.text.records, "MAX_RECORD_BYTES", 1000)
    long = b'{"text": "' + b"a" * 2000 + b'"}'
    with pytest.raises(CorpusError, match="a.jsonl:2: the line is longer than 1,000 bytes; split it"):
        open_corpus([written(tmp_path / "a.jsonl", b'{"text": "a"}\n' + long)], vocab_size=256)


def test_corpora_built_at_once_are_whole(tmp_path):
    path, corpora = written(tmp_path / "a.txt", TEXT * 20), []
    threads = [threading.Thread(target=lambda: corpora.append(open_corpus([path], vocab_size=256))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [text_of(c.train) + text_of(c.validation) == TEXT * 20 for c in corpora] == [True] * 6


def test_tokens_are_mapped_where_they_lie(tmp_path):
    tokens = np.arange(1000, dtype=np.uint16)
    corpus = open_corpus([written(tmp_path / "a.bin", tokens)], vocab_size=1000)
    assert np.array_equal(corpus.train, tokens[:900]) and np.array_equal(corpus.validation, tokens[900:])
    assert corpus.token_bytes is None and "900 tokens to train on, 100 held out" in corpus.about


FAULTS = [
    ({}, "no such file or folder"),
    ({"a.txt": b""}, "the text is empty"),
    ({"d/.hidden": b"x"}, "holds no text files"),
    ({"a.txt": b"abc\xffdef"}, r"a.txt: not UTF-8 at byte 3 \(0xff\)"),
    ({"a.jsonl": b'{"text": "a"}\n{"text": '}, "a.jsonl:2: not JSON"),
    ({"a.jsonl": b'\n{"body": "a"}'}, "a.jsonl:2: no field 'text'"),
    ({"a.jsonl": b'{"text": 5}'}, "a.jsonl:1: the field 'text' is int, not a string"),
    ({"a.jsonl": b"\n"}, "the text is empty"),
    ({"a.jsonl": b"[" * 5000}, "a.jsonl:1: not JSON: maximum recursion depth"),
    ({"a.txt": b"abc", "b.bin": b"ab"}, "cannot be mixed with text"),
    ({"a.bin": b""}, "a.bin: the file is empty"),
    ({"a.bin": b"abc"}, "a.bin: not a whole number of uint16 tokens"),
    ({"a.bin": b"\x00\x01\x01\x01"}, "a.bin: token 257 is outside vocab_size 256; raise vocab_size"),
]


@pytest.mark.parametrize(("files", "message"), FAULTS)
def test_faulty_text_is_refused_with_its_position(tmp_path, files, message):
    paths = [written(tmp_path / name, content) for name, content in files.items()] or [str(tmp_path / "missing")]
    if "d/.hidden" in files:
        paths = [str(tmp_path / "d")]
    with pytest.raises(CorpusError, match=message):
        open_corpus(paths, vocab_size=256)


def test_text_needs_a_vocabulary_of_256(tmp_path):
    with pytest.raises(CorpusError, match="vocab_size 255 cannot hold text"):
        open_corpus([written(tmp_path / "a.txt", TEXT)], vocab_size=255)


def test_a_cache_that_cannot_be_written_is_reported(tmp_path):
    blocked = written(tmp_path / "file", "")
    with pytest.raises(CorpusError, match="the cache folder cannot be written.*set cache_dir or TINYSEARCH_CACHE"):
        open_corpus([written(tmp_path / "a.txt", TEXT)], vocab_size=256, cache_dir=blocked)


def test_too_short_a_text_is_reported(tmp_path):
    corpus = open_corpus([written(tmp_path / "a.bin", np.zeros(100, np.uint16))], vocab_size=256)
    corpus.require(9)
    with pytest.raises(CorpusError, match="the held-out part has 10 tokens, seq_len 10 needs 11"):
        corpus.require(10)


def test_batches_depend_on_their_key_alone(tmp_path):
    corpus = open_corpus([written(tmp_path / "a.bin", np.arange(10_000, dtype=np.uint16))], vocab_size=10_000)
    inputs, targets = corpus.training_batch((0, 5, 1), 8, 16)
    assert np.array_equal(targets, inputs + 1) and targets.max() < 9000
    assert np.array_equal(corpus.training_batch((0, 5, 1), 8, 16)[0], inputs)
    assert np.array_equal(corpus.training_batch((0, 5, 1), 3, 16)[0], inputs[:3])
    for other in ((1, 5, 1), (0, 6, 1), (0, 5, 0)):
        assert not np.array_equal(corpus.training_batch(other, 8, 16)[0], inputs)


@pytest.mark.parametrize("wanted", [1, 3, 50, 98, 99, 100, 1000])
def test_held_out_stretches_hold_each_target_once(tmp_path, wanted):
    corpus = open_corpus([written(tmp_path / "a.bin", np.arange(1000, dtype=np.uint16))], vocab_size=1000)
    targets = [int(token) for stretch in corpus.held_out_stretches(wanted) for token in stretch[1:]]
    assert len(targets) == min(wanted, 99) == len(set(targets))
    assert min(targets) > 900 and targets == sorted(targets)
    assert targets[-1] == 999 or wanted == 1  # from one end of the text to the other


def test_the_default_configuration_names_no_folder_of_ours():
    assert TrainConfig.from_flat("hybrid", {"rungs": [1]}).cache_dir is None
