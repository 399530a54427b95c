"""What several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def small_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the present one, with a cache of its own and a small text in `text`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYSEARCH_CACHE", str(tmp_path / "cache"))
    Path("text").mkdir()
    for i in range(12):
        Path(f"text/{i}.txt").write_text(f"The quick brown fox number {i} jumps over the lazy dog. " * 40)
    return tmp_path
