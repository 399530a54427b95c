"""The split: a tenth of the bytes, whatever the documents; by names if they ask for it; copies on one side."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trainer.data
from tests.support.files import written
from trainer.corpus import Corpus
from trainer.data import open_corpus
from trainer.text.errors import CorpusError

WORDS = "a few words of an article here and there with ship sail wind rain sun moon old new".split()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainer.data, "UNSETTLED_NS", 0)


def article(key: object, size: int) -> str:
    """A text of about that many bytes in whole lines, none of which another key has."""
    rng, lines = random.Random(str(key)), []
    while size > 0:
        lines.append(f"{key} {len(lines)} {' '.join(rng.choices(WORDS, k=rng.randint(1, 3 if size < 100 else 12)))}")
        size -= len(lines[-1]) + 1
    return "\n".join(lines) + "\n"


def share(corpus: Corpus) -> float:
    return len(corpus.validation) / (len(corpus.train) + len(corpus.validation))


def lines_of(tokens: np.ndarray) -> list[str]:
    return bytes(tokens.astype(np.uint8)).decode().splitlines()


def keys_of(tokens: np.ndarray) -> set[str]:
    """The documents that the lines of a part are of."""
    return {line.split()[0] for line in lines_of(tokens) if line.strip()}


# By content.

SIZES = st.lists(st.integers(20, 3000) | st.integers(20, 60) | st.integers(3000, 60_000), min_size=1, max_size=60)


def as_files(folder: Path, texts: list[str]) -> list[Path]:
    for i, text in enumerate(texts):
        written(folder / f"{i % 3}" / f"{i}.txt", text)
    return [folder]


def as_lines(folder: Path, texts: list[str]) -> list[Path]:
    return [written(folder / "d.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))]


def as_json_and_gzip(folder: Path, texts: list[str]) -> list[Path]:
    records = [{"text": text} for text in texts]
    half = len(records) // 2
    written(folder / "a.JSON", json.dumps(records[half:]))
    if half:
        written(folder / "b.ndjson.gz", gzip.compress("\n".join(map(json.dumps, records[:half])).encode()))
    return [folder]


def as_parquet(folder: Path, texts: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), folder / "d.parquet", row_group_size=7)
    return [folder / "d.parquet"]


FORMATS = [as_files, as_lines, as_json_and_gzip, as_parquet]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=SIZES, data=st.data())
def test_a_tenth_of_the_bytes_is_held_out_and_the_same_wherever_it_lies(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("split")
    texts = [article(f"d{i}", size) for i, size in enumerate(sizes)]
    copies = data.draw(st.lists(st.sampled_from(texts), max_size=5))
    texts = list(dict.fromkeys(texts))
    corpus = open_corpus(data.draw(st.sampled_from(FORMATS))(folder / "a", [*texts, *copies]), vocab_size=256)
    if sum(map(len, texts)) >= 1000:
        assert 0.05 <= share(corpus) <= 0.20
    everything = sorted(lines_of(corpus.train) + lines_of(corpus.validation))
    assert "".join(sorted("".join(everything))) == "".join(sorted("".join([*texts, *copies]).replace("\n", "")))
    # A document is on both sides only if it was cut, since it is large; no line of any is.
    total = sum(map(len, [*texts, *copies]))
    train, held_out = {*lines_of(corpus.train)}, {*lines_of(corpus.validation)}
    assert not train & held_out & {line for text in texts for line in text.splitlines()}
    for text in texts:
        if len(text) * (1 + copies.count(text)) <= 0.08 * total:
            assert {*text.splitlines()} <= train or {*text.splitlines()} <= held_out
    # Elsewhere, in another order and another format, the same lines are held out.
    shuffled = data.draw(st.permutations([*texts, *copies]))
    again = open_corpus(data.draw(st.sampled_from(FORMATS))(folder / "b", shuffled), vocab_size=256)
    assert sorted(lines_of(again.validation)) == sorted(lines_of(corpus.validation))


@pytest.mark.parametrize("sizes", [[60_000, 40, 40], [40, 60_000], [1000] * 3, [1000] * 9, [50] * 500, [90_000]])
def test_files_of_any_sizes_have_a_tenth_held_out(tmp_path, sizes):
    for i, size in enumerate(sizes):
        written(tmp_path / "text" / f"{i}.txt", article(f"d{i}", size))
    corpus = open_corpus([tmp_path / "text"], vocab_size=256)
    assert 0.07 <= share(corpus) <= 0.15


def test_copies_are_on_one_side_in_whatever_file_they_are(tmp_path):
    texts = [article(f"d{i}", 300) for i in range(60)]
    for i, text in enumerate(texts):
        written(tmp_path / "text" / f"{i}.txt", text)
    written(tmp_path / "text" / "all.jsonl", "\n".join(json.dumps({"text": f"\ufeff{text.strip()}"}) for text in texts))
    corpus = open_corpus([tmp_path / "text"], vocab_size=256)
    assert not keys_of(corpus.train) & keys_of(corpus.validation)
    assert 0.05 <= share(corpus) <= 0.20 and len(lines_of(corpus.train)) % 2 == 0


def test_what_many_records_repeat_is_trained_on_and_does_not_change_the_share(tmp_path):
    records = ["ok thanks"] * 300 + [article(f"d{i}", 100) for i in range(100)]
    corpus = open_corpus([written(tmp_path / "a.jsonl", "\n".join(json.dumps(r) for r in records))], vocab_size=256)
    assert "ok thanks" not in lines_of(corpus.validation) and 0.05 <= share(corpus) <= 0.20
    corpus = open_corpus([written(tmp_path / "b.jsonl", "\n".join([json.dumps("a line of it")] * 900))], vocab_size=256)
    assert 0.05 <= share(corpus) <= 0.20  # nothing else is there


def test_a_document_more_moves_hardly_any_other(tmp_path):
    for i in range(200):
        written(tmp_path / "text" / f"{i}.txt", article(f"d{i}", 100))
    before = keys_of(open_corpus([tmp_path / "text"], vocab_size=256).validation)
    written(tmp_path / "text" / "new.txt", article("new", 100))
    after = keys_of(open_corpus([tmp_path / "text"], vocab_size=256).validation)
    assert len((before ^ after) - {"new"}) <= 1


def test_a_text_is_cut_at_the_end_of_a_line_or_of_a_word(tmp_path):
    corpus = open_corpus([written(tmp_path / "a.txt", article("d", 20_000))], vocab_size=256)
    assert bytes(corpus.train[-1:]) == b"\n" and bytes(corpus.validation[:2]) == b"d "
    corpus = open_corpus([written(tmp_path / "b.txt", "word " * 4000)], vocab_size=256)
    assert bytes(corpus.validation[:5]) == b"word "


# By names.

NAMES = [
    ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
    ("train.txt", "val.txt", None),
    ("train.txt", "dev.txt", "test.txt"),
    ("Stories-Train.txt", "Stories-Validation.txt", None),
    ("data/train-00000-of-00002.jsonl", "data/validation-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
    ("train/a.txt", "valid/a.txt", "test/a.txt"),
    ("x/training/part1/a.txt", "x/dev/part1/a.txt", None),
    ("news.2020.trainSet.txt", "news.2020.valSet.txt", None),
    ("en_train.txt.gz", "en_dev.txt", "en_test.txt"),
]


@pytest.mark.parametrize("names", NAMES)
def test_files_that_are_named_as_parts_are_these_parts(tmp_path, names):
    for name, key, size in zip(names, ("T", "V", "X"), (9000, 1300, 1700), strict=True):
        if name is not None:
            text = article(key, size)
            text = json.dumps({"text": text}) if ".jsonl" in name else text
            written(tmp_path / "text" / name, gzip.compress(text.encode()) if name.endswith(".gz") else text)
    corpus = open_corpus([tmp_path / "text"], vocab_size=256)
    assert (keys_of(corpus.train), keys_of(corpus.validation)) == ({"T"}, {"V"})
    assert corpus.test is None if names[2] is None else keys_of(corpus.test) == {"X"}
    assert corpus.read["split"] == "by the names of the files"


def test_paths_given_together_stand_together(tmp_path):
    train, valid = (written(tmp_path / f / f"{f}.txt", article(f[0], 3000)) for f in ("train", "valid"))
    for paths in ([train, valid], [train.parent, valid.parent], [train.parent, valid]):
        corpus = open_corpus(paths, vocab_size=256)
        assert (keys_of(corpus.train), keys_of(corpus.validation)) == ({"t"}, {"v"})


def test_a_test_file_beside_a_train_file_is_held_out_and_what_has_no_such_name_is_trained_on(tmp_path):
    for name, size in (("train.txt", 5000), ("test.txt", 600), ("more.txt", 900)):
        written(tmp_path / "text" / name, article(name[0], size))
    corpus = open_corpus([tmp_path / "text"], vocab_size=256)
    assert (keys_of(corpus.train), keys_of(corpus.validation)) == ({"t", "m"}, {"t"})
    assert len(corpus.validation) == len(article("t", 600)) and corpus.test is None


def test_such_names_decide_nothing_in_a_folder_of_other_files(tmp_path):
    for i in range(100):
        written(tmp_path / "code" / f"module{i}.py", article(f"m{i}", 300))
    for name in ("train.py", "test.py", "latest.py", "devices.py"):
        written(tmp_path / "code" / name, article(name, 300))
    assert 0.05 <= share(open_corpus([tmp_path / "code"], vocab_size=256)) <= 0.20


def test_a_training_document_of_which_a_copy_is_held_out_is_not_used(tmp_path):
    texts = [json.dumps({"text": article(f"d{i}", 200)}) for i in range(30)]
    written(tmp_path / "text" / "train.jsonl", "\n".join(texts))
    written(tmp_path / "text" / "valid.jsonl", "\n".join(texts[5:8]))
    corpus = open_corpus([tmp_path / "text"], vocab_size=256)
    assert keys_of(corpus.validation) == {"d5", "d6", "d7"} and not keys_of(corpus.train) & keys_of(corpus.validation)
    assert "3 copies of held-out documents not used" in corpus.read["split"]
    for name in ("train.txt", "valid.txt"):
        written(tmp_path / "same" / name, article("s", 500))
    with pytest.raises(CorpusError, match="every document of the training files is in the held-out files too"):
        open_corpus([tmp_path / "same"], vocab_size=256)


# Tokens.


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(2, 200) | st.integers(200, 9000), min_size=1, max_size=12), data=st.data())
def test_token_files_are_split_as_text_is(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("tokens")
    dtype = data.draw(st.sampled_from(["uint16", "uint32"]))
    for i, size in enumerate(sizes):
        written(folder / f"{i}" / "tokens.BIN", np.full(size, 300 + i, dtype=dtype))
    corpus = open_corpus([folder], vocab_size=400, token_dtype=dtype)
    assert sorted([*corpus.train, *corpus.validation]) == sorted(np.repeat(range(300, 300 + len(sizes)), sizes))
    if sum(sizes) >= 100:
        assert 0.04 <= share(corpus) <= 0.21  # a few tokens to either side
    for i in {*corpus.train.tolist()} & {*corpus.validation.tolist()}:
        assert sizes[i - 300] > 0.08 * sum(sizes)


@pytest.mark.parametrize("names", [("train.bin", "val.bin"), ("fw_train_000001.bin", "fw_val_000000.bin")])
def test_token_files_that_are_named_as_parts_are_these_parts(tmp_path, names):
    written(tmp_path / "d" / names[0], np.arange(50, dtype=np.uint32))
    written(tmp_path / "d" / names[1], np.arange(70, 90, dtype=np.uint32))
    written(
        tmp_path / "d" / names[0].replace("1", "2").replace("train.", "train2."), np.arange(50, 60, dtype=np.uint32)
    )
    corpus = open_corpus([tmp_path / "d"], vocab_size=100, token_dtype="uint32")
    assert sorted(corpus.train.tolist()) == list(range(60)) and corpus.validation.tolist() == list(range(70, 90))


def test_token_files_of_one_name_in_two_folders_are_two_documents(tmp_path):
    for i, folder in enumerate("ab"):
        written(tmp_path / folder / "train.bin", np.full(400, 2 * i, np.uint16))
        written(tmp_path / folder / "val.bin", np.full(80, 2 * i + 1, np.uint16))
    corpus = open_corpus([tmp_path / "a", tmp_path / "b"], vocab_size=8)
    assert {*corpus.train.tolist()} == {0, 2} and {*corpus.validation.tolist()} == {1, 3}


# Stretches that every vocabulary has.


@pytest.mark.parametrize("script", ["article", "chinese"])
def test_every_vocabulary_is_evaluated_on_the_same_bytes(tmp_path, script):
    text = (
        article("d", 400_000) if script == "article" else "".join(f"{i}个文档，没有空格的文字。\n" for i in range(9000))
    )
    path = written(tmp_path / "a.txt", text)
    seen = set()
    for vocab_size in (256, 300, 700):
        corpus = open_corpus([path], vocab_size=vocab_size)
        stretches = corpus.held_out_text(16_000)
        sizes = tuple(int(corpus.token_bytes[stretch[1:]].sum()) for stretch in stretches)
        seen.add(sizes)
        assert corpus.bytes_per_token == pytest.approx(corpus.token_bytes[corpus.train].mean())
    assert len(seen) == 1 and 8_000 <= sum(sizes) <= 32_000 and len(sizes) == 8
    from_bytes = open_corpus([path], vocab_size=256).held_out_text(16_000)
    assert all(bytes(s[1:].astype(np.uint8)).decode().isprintable() is False for s in from_bytes)  # whole characters
