"""What a file's name says about its content: text, records, tokens, or a format that is not read."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}


class Format(Enum):
    TEXT = "text"  # one document
    LINES = "JSON lines"  # a record on each line
    JSON = "JSON"  # an array of records, or records one after another
    PARQUET = "Parquet"  # a record in each row
    TOKENS = "tokens"  # whole numbers without a header


RECORDS = (Format.LINES, Format.JSON, Format.PARQUET)

_FORMATS = {
    ".jsonl": Format.LINES,
    ".ndjson": Format.LINES,
    ".jsonlines": Format.LINES,
    ".json": Format.JSON,
    ".parquet": Format.PARQUET,
    ".parq": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".bin": Format.TOKENS,
}

# Formats that may contain the text that the user means, but that are not read.
_UNREAD_TEXT = {
    "archives": ".7z .rar .tar .tgz .tbz .tbz2 .txz .zip",
    "Arrow files": ".arrow .feather",
    "databases": ".db .lmdb .mdb .sqlite .sqlite3",
    "arrays": ".h5 .hdf5 .npy .npz .pickle .pkl .tfrecord .tfrecords .rec .msgpack .avro .orc",
    "word processor files and PDF": ".doc .docx .epub .mobi .odt .pdf .ppt .pptx .ps .rtf .xls .xlsx",
    "compressed files of other kinds": ".br .lz .lz4 .lzma .sz .z",
}
_NO_TEXT = {
    "pictures": ".avif .bmp .gif .heic .ico .jpeg .jpg .png .psd .tif .tiff .webp",
    "sound and video": ".aac .avi .flac .m4a .mkv .mov .mp3 .mp4 .ogg .opus .wav .webm",
    "compiled code": ".a .class .dll .dylib .exe .jar .lib .o .obj .pyc .pyd .pyo .so .wasm .whl",
    "weights": ".ckpt .gguf .onnx .pt .pth .safetensors",
    "fonts": ".eot .otf .ttf .woff .woff2",
    "indexes": ".idx",
}
_KINDS = {
    suffix: kind for kinds in (_UNREAD_TEXT, _NO_TEXT) for kind, listed in kinds.items() for suffix in listed.split()
}

# Files that people put beside data.
_DOCUMENTATION = ("readme", "license", "licence", "copying", "citation", "notice", "changelog", "datacard")
_METADATA = ("dataset_info", "dataset_infos", "state", "data_args", "tokenizer", "tokenizer_config", "config", "vocab")


def compression_of(path: Path) -> str | None:
    return COMPRESSIONS.get(path.suffix.lower())


def format_of(path: Path) -> Format | None:
    """The format that the name says, in any case and before a compression suffix; None if it is not read."""
    if compression_of(path) is not None:
        inner = format_of(path.with_suffix(""))
        # Parquet and tokens are read in place, so they cannot be compressed.
        return inner if inner in (Format.TEXT, Format.LINES, Format.JSON) else None
    suffix = path.suffix.lower()
    return None if suffix in _KINDS else _FORMATS.get(suffix, Format.TEXT)


def kind_of(path: Path) -> str:
    """The name of a file's kind in a list of what was left out."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        inner = path.with_suffix("").suffix.lower()
        return "archives" if inner == ".tar" else _KINDS.get(inner, f"compressed {inner} files")
    return _KINDS[suffix]


def may_hold_text(path: Path) -> bool:
    """Whether a file that is not read is of a kind that often contains text."""
    return kind_of(path) in _UNREAD_TEXT or path.suffix.lower() in COMPRESSIONS


def is_beside_data(path: Path) -> bool:
    """Whether the name is that of a description of data: README.md, LICENSE, dataset_info.json."""
    stem = path.name.lower().partition(".")[0]
    if path.suffix.lower() == ".json":
        return stem in _METADATA
    return path.suffix.lower() in ("", ".md", ".txt", ".rst", ".cff") and stem.rstrip("-_0123456789") in _DOCUMENTATION
