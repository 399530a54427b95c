"""The text of a study: read and cached before it starts, and the same one whenever it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.settings import StudySettings
from search.space import Space, extremes
from search.storage import StudyError
from trainer.data import open_corpus


def corpus_of(space: Space, paths: Sequence[str], *, token_dtype: str) -> dict[str, Any]:
    """What a study keeps of its text, which is read and cached for every vocabulary that the space may ask for."""
    vocabulary = space.parameters.get("vocab_size")
    sizes = (
        vocabulary.choices
        if vocabulary is not None and vocabulary.choices
        else (space.train_config(space.complete({}), rungs=(1,)).model.vocab_size,)
    )
    longest = space.parameters.get("seq_len")
    digests, about = [], ""
    for size in sizes:
        corpus = open_corpus(paths, vocab_size=int(size), token_dtype=token_dtype)
        if longest is not None:
            corpus.require(int(extremes(space, longest)[1]))
        digests.append(corpus.digest)
        about = about or corpus.about
    return {"paths": list(paths), "digest": "+".join(digests), "about": about}


def check_text(settings: StudySettings) -> None:
    """Raises StudyError where the text is not what the study has been trained on."""
    found = corpus_of(settings.space, settings.corpus["paths"], token_dtype=settings.run["token_dtype"])
    if found["digest"] != settings.corpus["digest"]:
        raise StudyError(
            f"the text has changed since the search: {settings.corpus['about']} then, {found['about']} now; "
            "its trials go on with the same text only"
        )


def corpus_digests(settings: StudySettings) -> list[str]:
    """The digests of the study's text, one for each vocabulary; none where a trial may have one not read before."""
    vocabulary = settings.space.parameters.get("vocab_size")
    return settings.corpus["digest"].split("+") if vocabulary is None or vocabulary.choices else []
