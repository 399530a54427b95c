"""Advice: it applies where its condition holds, and stays silent about what is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.cli.context import text_facts
from search.space.advice import Advice, advise, unknown_to
from search.space.loading import load_space, parse_space
from tests.support.paths import ROOT
from trainer.corpus import Corpus

TEXT = """
family: transformer
parameters:
  arch: {values: [gpt2, llama], default: gpt2}
  d_model: {values: [128, 256], default: 128, aliases: [n_embd]}
  n_heads: {value: 2}
  n_kv_heads: {values: [1, 2], default: 2, when: arch == 'llama'}
  dropout: {values: [0.0, 0.2], default: 0.0}
  learning_rate: {min: 1e-5, max: 1e-2, log: true, default: 1e-3}
presets:
  small: {d_model: 128}
advice:
  - {when: tokens < 5e6, say: little text, suggest: {dropout: 0.2}, preset: small, source: section 1}
  - {when: num_params > 1e6, say: a large model, suggest: {learning_rate: 1e-3 * 1e6 / num_params, n_embd: 256}}
  - {when: d_model > 128 and vram_gib <= 4, say: a small GPU, suggest: {n_embd: 128}}
  - {when: n_kv_heads < n_heads, say: grouped heads}
  - {when: 1 / (num_gpus - 1) > 0, say: many GPUs, suggest: {d_model: 128 * num_gpus / 3}}
"""
SPACE = parse_space(TEXT)


def said(context: dict) -> list[str]:
    return [advice.say for advice in advise(SPACE, context)]


def test_advice_applies_where_its_condition_holds():
    assert advise(SPACE, {"tokens": 10**6}) == [
        Advice(say="little text", when="tokens < 5e6", suggest={"dropout": 0.2}, preset="small", source="section 1")
    ]
    assert said({"tokens": 10**7}) == []
    assert said({"vram_gib": 4}) == []
    assert said({"vram_gib": 4, "d_model": 256}) == said({"vram_gib": 4, "n_embd": 256}) == ["a small GPU"]


def test_what_is_not_known_or_not_there_gives_no_advice():
    assert said({}) == []
    assert unknown_to(SPACE, {"tokens": 1}) == ["num_params", "vram_gib", "num_gpus"]
    assert said({"arch": "llama", "n_kv_heads": 1}) == ["grouped heads"]
    assert said({"n_kv_heads": 1}) == []  # gpt2 has none
    assert said({"num_gpus": 1}) == []  # a division by zero


def test_an_expression_suggests_its_value_under_the_parameters_own_name():
    (advice,) = advise(SPACE, {"num_params": 4e6})
    assert advice.suggest == {"learning_rate": 2.5e-4, "d_model": 256}
    assert advise(SPACE, {"num_gpus": 3})[0].suggest == {"d_model": 128}
    assert advise(SPACE, {"num_gpus": 2})[0].suggest == {}  # 85.3 is not a width


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"token": 1}, "unknown name 'token'. Known: arch, cjk_fraction, corpus_bytes, d_model, dropout, "
         "learning_rate, memory_gib, n_heads, n_kv_heads, non_ascii_fraction, num_gpus, num_params, tokens, vram_gib. "
         "Did you mean 'tokens'?"),
        ({"d_model": "wide"}, "d_model is a whole number, not 'wide'"),
    ],
)  # fmt: skip
def test_a_mistaken_context_is_refused(context: dict, message: str):
    with pytest.raises(ValueError) as error:
        advise(SPACE, context)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "non_ascii", "cjk"),
    [
        ("def main(): pass", 0, 0),
        ("é" * 10 + "e" * 30, 0.25, 0),
        ("हिन्दी", 1, 0),
        ("ひカ漢字한글", 1, 1),
        ("\u303f\u3040\u9fff\ua000\uabff\uac00\ud7a3", 1, 4 / 7),  # the ends of what counts, and what is beyond
        ("😀a", 0.5, 0),
    ],
)
def test_what_scripts_a_text_has_is_counted_by_character(text: str, non_ascii: float, cjk: float, monkeypatch):
    monkeypatch.setattr("search.cli.context.CHUNK_TOKENS", 2)  # so that characters lie across chunks
    tokens = np.frombuffer(text.encode(), dtype=np.uint8)
    corpus = Corpus(train=tokens, validation=tokens, vocab_size=256, token_bytes=None, digest="", about="")
    assert text_facts(corpus) == {
        "corpus_bytes": len(tokens),
        "non_ascii_fraction": pytest.approx(non_ascii),
        "cjk_fraction": pytest.approx(cjk),
    }


@pytest.mark.parametrize("path", sorted((ROOT / "spaces").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("vram_gib", [1, 8, 80])
def test_what_a_shipped_space_suggests_its_parameters_can_have(path: Path, vram_gib: int):
    from search.space.space import not_in

    space = load_space(path)
    entries = {entry.say: entry for entry in space.spec.advice}
    for tokens in (10**5, 10**7, 10**9):
        text = {"tokens": tokens, "corpus_bytes": 4 * tokens, "non_ascii_fraction": 0.1, "cjk_fraction": 0.0}
        machine = {"vram_gib": vram_gib, "memory_gib": vram_gib, "num_gpus": tokens // 10**7}
        for advice in advise(space, {**text, **machine, "num_params": 10**7}):
            assert len(advice.suggest) == len(entries[advice.say].suggest), "a suggestion without a value"
            for name, value in advice.suggest.items():
                parameter = space.parameters[name]
                assert not parameter.is_searched or not_in(space, parameter, value) is None, advice
