"""Text to tokens: bytes for a vocabulary of 256, else a byte-level BPE with the GPT-2 pattern, which llama.cpp reads.

Learning and encoding take bounded memory, for any length of text and number of cores: see trainer/pieces.py.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainer.families.family import BYTE_VOCAB_SIZE
from trainer.pieces import WORD, pieces, read_characters

# Merges of the sizes searched here settle long before this much text, and training time grows with it.
MAX_TRAINING_BYTES = 16 * 2**20
NUM_TRAINING_STRETCHES = 64
MIN_STRETCH_BYTES = 2**16
LONG_BYTES = 2**21  # of a text that is long to learn from: seconds
# Training holds each different word once, at about 100 bytes of memory a byte.
MAX_DIFFERENT_BYTES = 3 * 2**19
BATCH = 2**18  # characters encoded at once, at 100 to 200 bytes of memory each
PROGRESS_SECONDS = 5.0  # between two lines of progress, and before the first

OnProgress = Callable[[str], None]


class ByteTokenizer:
    """Each token is a byte."""

    vocab_size = BYTE_VOCAB_SIZE
    token_bytes = np.ones(BYTE_VOCAB_SIZE, dtype=np.int32)

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, dtype=np.uint8).astype(np.uint16)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return bytes(int(token) for token in tokens)


class BpeTokenizer:
    """A byte-level BPE read from a tokenizer.json; a small text may have taught it fewer tokens than asked for."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(path))
        self.vocab_size = vocab_size
        self.num_learned = self._tokenizer.get_vocab_size()
        self.token_bytes = np.zeros(vocab_size, dtype=np.int32)
        for token, i in self._tokenizer.get_vocab().items():
            self.token_bytes[i] = len(token)  # the byte alphabet has one character for each byte

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def encode(self, text: bytes) -> np.ndarray:
        return np.concatenate([np.empty(0, self.dtype), *self._encoded([text.decode("utf-8")])])

    def encode_file(self, source: Path, target: Path, on_progress: OnProgress | None = None) -> np.dtype[Any]:
        """Write the tokens of a file of UTF-8 text to another file; returns their dtype."""
        size, done, said = source.stat().st_size, 0, time.monotonic()
        with open(target, "wb") as file:
            for tokens in self._encoded(read_characters(source)):
                file.write(tokens.tobytes())
                done += int(self.token_bytes[tokens].sum())
                if on_progress is not None and time.monotonic() - said >= PROGRESS_SECONDS:
                    said = time.monotonic()
                    on_progress(f"turning text into tokens: {done / size:.0%} of {_mib(size)}")
        return self.dtype

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes of these tokens; the last character may be incomplete."""
        to_byte = _byte_of_character()
        words = (self._tokenizer.id_to_token(int(token)) or "" for token in tokens)
        return bytes(to_byte[character] for word in words for character in word)

    def _encoded(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """The text's tokens, a batch at a time: the batch bounds the memory, for any number of cores."""
        batch: list[str] = []
        num_characters = 0
        for piece in pieces(chunks):
            batch.append(piece)
            num_characters += len(piece)
            if num_characters >= BATCH:
                yield self._tokens(batch)
                batch, num_characters = [], 0
        if batch:
            yield self._tokens(batch)

    def _tokens(self, batch: list[str]) -> np.ndarray:
        encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        return np.concatenate([np.array(encoding.ids, dtype=self.dtype) for encoding in encodings])


def train_bpe(source: Path, vocab_size: int, path: Path, on_progress: OnProgress | None = None) -> None:
    """Learn a tokenizer from a file of UTF-8 text and write it to `path`; the same text gives the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    size = source.stat().st_size
    if on_progress is not None and size >= LONG_BYTES:
        on_progress(f"learning a BPE of {vocab_size:,} from {_mib(min(size, MAX_TRAINING_BYTES))} of the text")
    tokenizer.train_from_iterator(_training_texts(source), trainer)
    tokenizer.save(str(path))


def _training_texts(source: Path) -> Iterator[str]:
    """Pieces of evenly spaced stretches of the text, in turn, until they hold MAX_DIFFERENT_BYTES of distinct words."""
    size = source.stat().st_size
    count = min(max(1, size // MIN_STRETCH_BYTES), NUM_TRAINING_STRETCHES)
    length = min(size, MAX_TRAINING_BYTES) // count
    starts = [i * size // count for i in range(count)]
    # A stretch may begin or end inside a character: those few bytes are dropped.
    stretches = [pieces(read_characters(source, start, start + length, errors="ignore")) for start in starts]
    seen: set[str] = set()
    num_bytes = 0
    for turn in itertools.zip_longest(*stretches, fillvalue=""):
        for piece in filter(None, turn):
            new = set(WORD.findall(piece)) - seen
            seen |= new
            num_bytes += sum(len(word.encode()) for word in new)
            yield piece
            if num_bytes > MAX_DIFFERENT_BYTES:
                return


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"


def _byte_of_character() -> dict[str, int]:
    """The byte for each character of GPT-2's alphabet: printable Latin-1 is itself, the rest follow 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
