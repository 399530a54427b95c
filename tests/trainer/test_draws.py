"""Every configuration that a space's rules allow can be built and trained: random ones through the real loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch

from search.space.drawing import random_values
from search.space.loading import load_space
from search.space.space import Space
from tests.support.paths import ROOT
from tests.support.thorough import some_of
from trainer.config import TrainConfig
from trainer.corpus import Corpus
from trainer.data import open_corpus
from trainer.estimate import estimate
from trainer.families.registry import build
from trainer.loop import Diverged, TrainingRun

SPACES = {path.stem: load_space(path) for path in sorted((ROOT / "spaces").glob("*.yaml"))}
every_space = pytest.mark.parametrize("name", SPACES)

NUM_BUILT, NUM_TRAINED = 25, 2  # with each seed
every_seed = pytest.mark.parametrize("seed", some_of(range(4), always=[0]))
# What one test may cost: floating-point operations of one configuration's training, and its parameters.
MAX_FLOPS, MAX_PARAMS = 1e10, 12_000_000


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@cache
def corpus_of(vocab_size: int) -> Corpus:
    """The embedded text as bytes; for a larger vocabulary, two neighbouring bytes folded into one token.

    So every vocabulary's whole range of tokens occurs without the minutes that learning each would take.
    """
    text = open_corpus([], vocab_size=256)
    if vocab_size == 256:
        return text
    parts = [part[:400_000].astype(np.int64) for part in (text.train, text.validation)]
    train, validation = ((part[:-1] * 257 + part[1:] * 31) % vocab_size for part in parts)
    return Corpus(
        train=train.astype(np.uint16),
        validation=validation.astype(np.uint16),
        vocab_size=vocab_size,
        token_bytes=np.ones(vocab_size, dtype=np.int32),
        digest=f"folded {vocab_size}",
        about="folded bytes",
    )


def allowed(space: Space, seed: int) -> Iterator[TrainConfig]:
    """Random configurations that no rule and no range forbids, whatever memory they take, as whole runs."""
    rng = np.random.default_rng(seed)
    while True:
        values = random_values(space, rng)
        if not space.faults_of(values):
            yield space.train_config(values, rungs=(1,), eval_tokens=1, num_threads=1, device="cpu")


def training(config: TrainConfig, step_tokens: int) -> TrainConfig:
    return TrainConfig.from_dict({**config.to_dict(), "rungs": [step_tokens, 2 * step_tokens]})


def flops(config: TrainConfig, step_tokens: int) -> float:
    """Of two steps and their evaluations, which also run rows that are mostly padding."""
    rows = -(-step_tokens // config.seq_len)
    return estimate(config).flops_per_token * config.seq_len * (2 * rows + 1)


def check_trains(config: TrainConfig) -> None:
    """Two optimizer steps: the loss stays finite, or the run ends as diverged in the trainer's own words."""
    run = TrainingRun(config, corpus_of(config.model.vocab_size))
    try:
        for rung in config.rungs:
            measurement = run.advance(rung)
            assert math.isfinite(measurement.loss)
            assert measurement.num_params == estimate(config).num_params
        assert run._step_index >= 2
        assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    except Diverged as diverged:
        assert diverged.tokens in range(1, config.budget_tokens + 1) and diverged.reason
    finally:
        run.close()


@every_seed
@every_space
def test_what_no_rule_forbids_is_built_with_the_estimated_parameters(name: str, seed: int):
    """At every documented size: nothing is computed, so a model of a billion parameters takes no memory."""
    draws = allowed(SPACES[name], seed=seed)
    for config in (next(draws) for _ in range(NUM_BUILT)):
        with torch.device("meta"):
            model = build(config)
        assert sum(p.numel() for p in model.parameters()) == estimate(config).num_params, config


@every_seed
@every_space
def test_what_no_rule_forbids_trains_in_whole_steps(name: str, seed: int):
    """Of what is drawn, those whose two steps, batch, window and accumulation whole, stay within MAX_FLOPS."""
    found = allowed(SPACES[name], seed=10 + seed)
    draws = (config for config in found if flops(config, config.tokens_per_step) <= MAX_FLOPS)
    for config in (next(draws) for _ in range(NUM_TRAINED)):
        check_trains(training(config, config.tokens_per_step))


@every_seed
@every_space
def test_what_no_rule_forbids_trains_at_documented_sizes_in_cut_steps(name: str, seed: int):
    """Of what is drawn, those up to MAX_PARAMS, their steps cut by the rungs to one row, which is within MAX_FLOPS.

    The batch and the accumulation of such a step are as small as its row; its window and its model are whole.
    """
    draws = (
        config
        for config in allowed(SPACES[name], seed=20 + seed)
        if estimate(config).num_params <= MAX_PARAMS and flops(config, config.seq_len) <= MAX_FLOPS
    )
    for config in (next(draws) for _ in range(NUM_TRAINED)):
        check_trains(training(config, config.seq_len))
