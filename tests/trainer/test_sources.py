"""What is read from a folder and from a file, what is left out and reported, and what is refused with a remedy."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

import trainer.data
from tests.support.files import written
from trainer.data import open_corpus
from trainer.text.errors import CorpusError
from trainer.text.sources import LeftOut

STORIES = [f"story number {i} of a cat" for i in range(300)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainer.data, "UNSETTLED_NS", 0)


def text_of(*paths: Path, **options: object) -> list[str]:
    corpus = open_corpus(paths, vocab_size=256, **options)
    return (bytes(corpus.train) + bytes(corpus.validation)).decode().splitlines()


def left_out(*paths: Path, **options: object) -> dict[str, int]:
    return LeftOut.from_dict(open_corpus(paths, vocab_size=256, **options).read["left_out"]).counts


def refusal(*paths: Path, **options: object) -> str:
    with pytest.raises(CorpusError) as error:
        open_corpus(paths, **{"vocab_size": 256, **options})
    return str(error.value)


# Formats.

LINES = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(STORIES))


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize("name", ["a.jsonl", "b.JSONL", "c.ndjson", "d.jsonlines", "e.json", "f.Json"])
def test_records_are_known_by_any_suffix_in_any_case(tmp_path, name):
    assert sorted(text_of(written(tmp_path / name, LINES))) == sorted(STORIES)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"text": text} for text in STORIES]),
        json.dumps([{"text": text, "meta": {"a": [1, 2]}} for text in STORIES], indent=2),
        "\n \n".join(json.dumps({"text": text}, indent=1) for text in STORIES),
        json.dumps(STORIES),
        "\ufeff" + json.dumps(STORIES),
    ],
    ids=["array", "indented", "one after another", "strings", "mark"],
)
def test_a_json_file_is_an_array_or_records_one_after_another(tmp_path, content, monkeypatch):
    for size in (2**20, 7):  # whole, and in parts that end anywhere
        monkeypatch.setattr("trainer.text.records.CHUNK_BYTES", size)
        monkeypatch.setattr("trainer.text.records.SAMPLE_BYTES", size)
        assert sorted(text_of(written(tmp_path / f"a{size}.json", content))) == sorted(STORIES)


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd), (".bz2", bz2.compress), (".XZ", lzma.compress)]
)
def test_compressed_files_are_read_as_what_is_in_them(tmp_path, suffix, compress):
    assert sorted(text_of(written(tmp_path / f"a.jsonl{suffix}", compress(LINES.encode())))) == sorted(STORIES)
    text = compress("\n".join(STORIES[:150]).encode()) + compress(("\n" + "\n".join(STORIES[150:])).encode())
    assert sorted(text_of(written(tmp_path / f"a.txt{suffix}", text))) == sorted(STORIES)  # two, one after the other
    whole = compress(LINES.encode())
    for damage in (
        whole[:-20],
        b"no such thing" + whole,
        whole[: len(whole) // 2] + b"\0" * 40 + whole[len(whole) // 2 :],
    ):
        message = refusal(written(tmp_path / f"b.jsonl{suffix}", damage))
        assert f"b.jsonl{suffix}" in message and "compressed file" in message


def test_parquet_is_read_by_its_column(tmp_path):
    table = pyarrow.table({"text": STORIES, "story": [f"{t}!" for t in STORIES], "n": range(300)})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    assert sorted(text_of(path)) == sorted(STORIES)
    assert sorted(text_of(path, text_key="story")) == sorted(f"{t}!" for t in STORIES)
    assert "no column 'body'; its columns of text: text, story; name one with text_key" in refusal(
        path, text_key="body"
    )
    assert "the column 'n' is int64, not text" in refusal(path, text_key="n")
    nested = pyarrow.table({"doc": [{"text": t, "n": 1} for t in STORIES]})
    parquet.write_table(nested, tmp_path / "b.parquet")
    assert sorted(text_of(tmp_path / "b.parquet", text_key="doc.text")) == sorted(STORIES)
    written(tmp_path / "c.parquet", os.urandom(3000))
    assert "c.parquet: not a whole Parquet file" in refusal(tmp_path / "c.parquet")
    parquet.write_table(pyarrow.table({"text": [*STORIES, None]}), tmp_path / "d.parquet")
    assert "d.parquet: row 301: the column 'text' is null" in refusal(tmp_path / "d.parquet")
    assert left_out(tmp_path / "d.parquet", skip_bad=True) == {"records without text (--skip-bad)": 1}


def test_the_text_may_be_under_another_key(tmp_path):
    path = written(tmp_path / "a.jsonl", "".join(json.dumps({"c": {"d": text}}) + "\n" for text in STORIES))
    assert sorted(text_of(path, text_key="c.d")) == sorted(STORIES)
    other = written(tmp_path / "b.jsonl", "".join(json.dumps({"title": "t", "body": text}) + "\n" for text in STORIES))
    message = refusal(other)
    assert "300 of 300 records cannot be used: line 1: no field 'text'; its fields with text: body, title" in message
    assert "--text-key" in message and "--skip-bad" in message
    assert (
        open_corpus([other], vocab_size=256, text_key="body").digest
        != open_corpus([other], vocab_size=256, text_key="title").digest
    )


def test_records_without_text_are_counted_named_and_skipped_only_if_asked(tmp_path):
    bad = ['{"text": null}', '{"tex": "x"}', "{broken", '{"text": "\\ud800"}', "[1]", "7", '{"text": 5}', "\0\0\0"]
    path = written(tmp_path / "a.jsonl", LINES + "\n".join(bad) + "\n")
    message = refusal(path)
    assert "8 of 308 records cannot be used: line 301: the field 'text' is null, not a string, line 302: " in message
    assert "and 5 more" in message
    assert left_out(path, skip_bad=True) == {"records without text (--skip-bad)": 8}
    assert sorted(text_of(path, skip_bad=True)) == sorted(STORIES)
    assert "a.jsonl" in refusal(path)  # what was kept with --skip-bad is not taken without it
    empty = written(tmp_path / "b.jsonl", LINES + '{"text": ""}\n\n')
    assert sorted(text_of(empty)) == sorted(STORIES)


def test_a_json_file_that_is_no_data_set_is_left_out_of_a_folder_and_refused_alone(tmp_path):
    written(tmp_path / "d" / "a.jsonl", LINES)
    config = written(tmp_path / "d" / "package.json", json.dumps({"name": "x", "data": [1]}, indent=2))
    assert left_out(tmp_path / "d") == {"JSON files that are no data set": 1}
    assert "not an array or lines of records; its records may be in 'data'" in refusal(config)
    for content in ('[{"text": "a"}', '[{"text": "a"}] more', '{"text": "a"} {"text', "[1, 2", "nonsense"):
        assert "bad.json" in refusal(written(tmp_path / "bad.json", content))


# Encodings.


def test_the_mark_of_utf8_is_no_text(tmp_path):
    for name, content in (
        ("a.txt", b"\xef\xbb\xbf" + "\n".join(STORIES).encode()),
        ("b.txt", b"\xef\xbb\xbf\xef\xbb\xbf" + "\n\ufeff".join(STORIES).encode()),  # files joined by cat
        ("c.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("d.jsonl", "".join(json.dumps({"text": f"\ufeff{text}"}) + "\n" for text in STORIES)),
    ):
        assert sorted(text_of(written(tmp_path / name, content))) == sorted(STORIES), name


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["A line of a story.\n", "Строка рассказа, длинная.\n", "Μια γραμμή της ιστορίας.\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.txt.gz"])
def test_other_encodings_are_refused_by_name(tmp_path, encoding, text, name):
    content = text * 300 if "json" not in name else json.dumps({"text": text * 100}, ensure_ascii=False) + "\n"
    encoded = content.encode(encoding)
    message = refusal(written(tmp_path / name, gzip.compress(encoded) if name.endswith(".gz") else encoded))
    expected = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    assert expected in message.replace("UTF-16LE", "UTF-16LE UTF-16").replace("UTF-32LE", "UTF-32LE UTF-32")
    assert "iconv" in message and name in message


@pytest.mark.parametrize("text", ["中文的一行故事，没有空格。\n", "naïve café – déjà vu\n", "日本語のテキスト。\n"])
def test_text_of_every_script_is_taken_as_utf8_and_its_other_encodings_are_not(tmp_path, text):
    assert text_of(written(tmp_path / "a.txt", text * 300))[0] == text.strip()
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        assert "a.txt" in refusal(written(tmp_path / "a.txt", (text * 300).encode(encoding)))
    if text.startswith("na"):
        assert "WINDOWS-1252" in refusal(written(tmp_path / "a.txt", (text * 300).encode("cp1252")))


def test_nuls_are_no_text(tmp_path):
    text = "\n".join(STORIES).encode()
    for content in (text + b"\0" * 4096, b"\0" * 512 + text, text[:1000] + b"\0" + text[1000:]):
        message = refusal(written(tmp_path / "a.txt", content))
        assert "a.txt" in message and "NUL" in message and "byte" in message
    assert "byte 7,1" in refusal(written(tmp_path / "a.txt", text + b"\0" * 4096)) or len(text) // 100 != 71
    assert "a.txt: not UTF-8 at byte" in refusal(written(tmp_path / "a.txt", text + "é".encode()[:1]))


# Folders.


def test_what_is_left_out_of_a_folder_is_counted_by_kind(tmp_path):
    folder = tmp_path / "text"
    written(folder / "a.txt", "\n".join(STORIES))
    for name in (
        ".hidden",
        "picture.PNG",
        "photo.jpeg",
        "weights.pt",
        ".git/config",
        ".cache/x",
        "notes.pdf",
        "x.tar.gz",
    ):
        written(folder / name, b"\xff\xfe")
    written(folder / "empty.txt", b"")
    os.symlink(tmp_path / "gone.txt", folder / "broken.txt")
    os.mkfifo(folder / "pipe")
    corpus = open_corpus([folder], vocab_size=256)
    found = LeftOut.from_dict(corpus.read["left_out"])
    assert found.counts == {
        "hidden files": 1, "hidden folders": 2, "pictures": 2, "weights": 1, "word processor files and PDF": 1,
        "archives": 1, "empty files": 1, "broken links": 1, "neither files nor folders": 1,
    }  # fmt: skip
    assert "pictures: 2 (photo.jpeg, picture.PNG)" in found.lines()
    assert (corpus.read["files"], corpus.read["documents"]) == (1, 1)
    written(folder / "another.png", b"")
    assert left_out(folder)["pictures"] == 3  # the folder as it is now, though the text is in the cache


def test_linked_folders_are_followed_and_loops_cut(tmp_path):
    written(tmp_path / "books" / "a.txt", "\n".join(STORIES))
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "books", tmp_path / "data" / "books")
    os.symlink(tmp_path / "data", tmp_path / "books" / "back")
    os.symlink(tmp_path / "books", tmp_path / "books" / "self")
    assert sorted(text_of(tmp_path / "data")) == sorted(STORIES)
    assert left_out(tmp_path / "data")["folders linked a second time"] == 2


def test_a_folder_without_readable_text_is_refused_with_what_it_holds(tmp_path):
    written(tmp_path / "hf" / "README.md", "# A data set\n" * 200)
    for i in range(3):
        written(tmp_path / "hf" / "data" / f"{i}.arrow", b"ARROW1")
    written(tmp_path / "hf" / "books.zip", b"PK")
    message = refusal(tmp_path / "hf")
    assert "formats that are not read: 3 .arrow, 1 .zip" in message and "Parquet" in message
    written(tmp_path / "hidden" / ".cache" / "a.txt", "text")
    assert "holds no text files; left out: hidden folders: 1 (.cache)" in refusal(tmp_path / "hidden")
    (tmp_path / "empty").mkdir()
    assert "it is empty" in refusal(tmp_path / "empty")
    assert "a.pdf: word processor files and PDF are not read" in refusal(written(tmp_path / "a.pdf", b"%PDF"))


def test_what_describes_a_data_set_is_no_text_of_it(tmp_path):
    written(tmp_path / "d" / "data.jsonl", LINES)
    for name in ("README.md", "LICENSE", "dataset_info.json"):
        written(tmp_path / "d" / name, "{}\n" * 100)
    assert sorted(text_of(tmp_path / "d")) == sorted(STORIES)
    assert left_out(tmp_path / "d") == {"descriptions of data": 3}
    written(tmp_path / "plain" / "README.md", "\n".join(STORIES))  # here it is all there is
    assert sorted(text_of(tmp_path / "plain")) == sorted(STORIES)


def test_files_that_cannot_be_read_are_left_out_if_asked(tmp_path):
    for i in range(12):
        written(tmp_path / "d" / f"{i}.txt", f"text {i}\n" * 30)
    written(tmp_path / "d" / "latin.txt", ("text\n" * 300_000).encode() + b"\xff")  # found out late
    assert "latin.txt: not UTF-8" in refusal(tmp_path / "d")
    assert left_out(tmp_path / "d", skip_bad=True) == {"files that cannot be read (--skip-bad)": 1}
    assert len(text_of(tmp_path / "d", skip_bad=True)) == 360


def test_a_name_that_is_not_utf8_is_shown_with_escapes(tmp_path):
    name = os.fsdecode(b"na\xefve.txt")
    assert sorted(text_of(written(tmp_path / name, "\n".join(STORIES)))) == sorted(STORIES)
    message = refusal(written(tmp_path / name, b"\xff" * 10))
    assert "na\\xefve.txt" in message and message.encode("utf-8")


# Tokens.


WIDTHS = [
    ("uint32", "uint16", "evidently uint32, not uint16; set token_dtype to it (--token-dtype uint32)"),
    ("uint16", "uint32", "evidently uint16, not uint32; set token_dtype to it (--token-dtype uint16)"),
    ("int64", "uint16", "evidently int64; write them as uint16 or uint32"),
    ("int64", "uint32", "evidently int64"),
    ("int32", "uint16", "evidently uint32"),
    (">u2", "uint16", "evidently big-endian uint16"),
    (">u4", "uint32", "evidently big-endian uint32"),
]


@pytest.mark.parametrize(
    ("stored", "asked", "said", "vocab_size"),
    [(*width, size) for width in WIDTHS for size in (5000, 100_000) if (width[0], size) != (">u2", 100_000)],
)
def test_tokens_of_another_width_are_refused_with_the_option(tmp_path, stored, asked, said, vocab_size):
    tokens = np.random.default_rng(0).zipf(1.3, 4000) % vocab_size
    path = written(tmp_path / "a.bin", tokens.astype(stored))
    assert said in refusal(path, vocab_size=vocab_size, token_dtype=asked)


def test_bytes_and_files_that_are_not_tokens_are_reported(tmp_path):
    text = np.random.default_rng(0).choice(np.frombuffer("\n".join(STORIES).encode(), np.uint8), 6000)
    assert "evidently uint8" in refusal(written(tmp_path / "a.bin", text))
    header = np.zeros(256, np.int32)
    header[0] = 20240520
    tokens = np.arange(500, dtype=np.uint16)
    message = refusal(written(tmp_path / "b.bin", header.tobytes() + tokens.tobytes()), vocab_size=50257)
    assert "header of 1,024 bytes" in message
    assert "an archive, such as a PyTorch checkpoint" in refusal(written(tmp_path / "c.bin", b"PK\x03\x04" + b"x" * 90))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("vocab_size", [2, 256, 60_000, 100_000])
def test_tokens_of_the_width_that_was_said_are_taken(tmp_path, dtype, vocab_size):
    high = min(vocab_size, np.iinfo(dtype).max)
    for i, tokens in enumerate(
        (np.zeros(400), np.arange(400) % high, np.random.default_rng(0).integers(0, high, 4000))
    ):
        path = written(tmp_path / f"{i}.bin", tokens.astype(dtype))
        corpus = open_corpus([path], vocab_size=vocab_size, token_dtype=dtype)
        assert np.array_equal(np.concatenate([corpus.train, corpus.validation]), tokens)


def test_tokens_beside_text_are_refused_with_their_names(tmp_path):
    written(tmp_path / "d" / "train.bin", np.zeros(100, np.uint16))
    written(tmp_path / "d" / "input.txt", "text")
    message = refusal(tmp_path / "d")
    assert "1 .bin file (train.bin) and 1 text file (input.txt): give one or the other" in message
