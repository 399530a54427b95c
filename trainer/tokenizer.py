"""Text to tokens: bytes at a vocabulary of 256, else a byte-level BPE with the GPT-2 pattern, which llama.cpp reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainer.configs.model import BYTE_VOCAB_SIZE

# Merges of the sizes searched here settle long before this much text, and training time grows with it.
MAX_TRAINING_BYTES = 16 * 2**20
NUM_TRAINING_STRETCHES = 64


class ByteTokenizer:
    """A token is a byte."""

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

    def encode(self, text: bytes) -> np.ndarray:
        pieces = self._tokenizer.encode_batch([piece.decode("utf-8") for piece in _pieces(text)])
        dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
        return np.concatenate([np.array(piece.ids, dtype=dtype) for piece in pieces] or [np.empty(0, dtype)])

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes that the tokens stand for, which need not end where a character does."""
        to_byte = _byte_of_character()
        words = (self._tokenizer.id_to_token(int(token)) or "" for token in tokens)
        return bytes(to_byte[character] for word in words for character in word)


def train_bpe(text: np.ndarray, vocab_size: int, path: Path) -> None:
    """Write to `path` the tokenizer that the text (bytes, as a 1-D array) teaches; the same text, the same file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(text), trainer)
    tokenizer.save(str(path))


def _training_texts(text: np.ndarray) -> Iterator[str]:
    """Evenly spaced stretches of the text, MAX_TRAINING_BYTES at most."""
    stretch = max(1, min(len(text), MAX_TRAINING_BYTES) // NUM_TRAINING_STRETCHES)
    step = max(stretch, len(text) // NUM_TRAINING_STRETCHES)
    for start in range(0, len(text), step):
        # A stretch may begin or end inside a character: those few bytes are dropped.
        yield bytes(text[start : start + stretch]).decode("utf-8", errors="ignore")


def _pieces(text: bytes, size: int = 2**18) -> Iterator[bytes]:
    """The text cut after line ends into pieces of about `size` bytes, so that encoding can use every core."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + size) + 1 or len(text)
        yield text[start:end]
        start = end


def _byte_of_character() -> dict[str, int]:
    """The byte behind each character of GPT-2's alphabet: printable Latin-1 stands for itself, the rest follow 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
