"""One contract over every family, and each family's fast forms against its slow reference."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from search.space.loading import load_space
from tests.support.paths import ROOT
from tests.trainer import reference
from trainer.config import TrainConfig
from trainer.corpus import Corpus
from trainer.estimate import estimate
from trainer.families.hybrid.config import HybridConfig
from trainer.families.hybrid.model import HybridLM, scan
from trainer.families.registry import BUILT_IN, build
from trainer.loop import TrainingRun
from trainer.loss import loss_sums

# A family, or one of its architectures or ways to work: ghost routing keeps about half of the bytes.
SMALL = {
    "ghost": {"vocab_size": 40, "dim": 16, "layers": 3},
    "ghost routing": {"vocab_size": 40, "dim": 16, "layers": 3, "threshold": 0.9327},
    "bdh": {
        "vocab_size": 40,
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 2,
        "mlp_internal_dim_multiplier": 8,
        "dropout": 0.0,
    },
    "hybrid": {"vocab_size": 40, "d_model": 16, "d_state": 6, "n_layers": 3, "n_heads": 2, "attn_layer_idx": 1},
    "transformer gpt2": {"vocab_size": 40, "d_model": 16, "n_layers": 3, "n_heads": 4, "dropout": 0.0},
    "transformer llama": {"arch": "llama", "vocab_size": 40, "d_model": 16, "n_layers": 3, "n_heads": 4},
}
# Each documented parameter of the model, and a value other than that of SMALL or the default.
DROPOUTS = {"dropout": 0.5, "emb_dropout": 0.5, "attn_dropout": 0.5, "resid_dropout": 0.5}
TRANSFORMER = {"vocab_size": 41, "d_model": 32, "n_layers": 4, "n_heads": 2, "d_ff": 24, "norm_eps": 0.1, **DROPOUTS}
OTHER_VALUES = {
    "ghost": {"vocab_size": 41, "dim": 40, "layers": 4, "max_depth": 2, "threshold": 0.95},
    "ghost routing": {"vocab_size": 41, "dim": 40, "layers": 4, "max_depth": 2, "threshold": 0.0},
    "bdh": {
        "vocab_size": 41,
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "mlp_internal_dim_multiplier": 4,
        "dropout": 0.5,
    },
    "hybrid": {
        "vocab_size": 41,
        "d_model": 32,
        "d_state": 7,
        "n_layers": 4,
        "n_heads": 4,
        "attn_layer_idx": 2,
        "base_decay": 0.5,
        "context_factor": 2.0,
    },
    "transformer gpt2": {**TRANSFORMER, "arch": "llama", "context_length": 24},
    "transformer llama": {**TRANSFORMER, "arch": "gpt2", "n_kv_heads": 2, "rope_theta": 100.0},
}
# What changes no output: a bound on the text, and what is another architecture's.
WITHOUT_EFFECT = {
    "hybrid": {"max_seq"},
    "transformer gpt2": {"n_kv_heads", "rope_theta"},
    "transformer llama": {"context_length"},
}
every_family = pytest.mark.parametrize("family", sorted(SMALL))
SPACES = {path.stem: load_space(path) for path in sorted((ROOT / "spaces").glob("*.yaml"))}
every_space = pytest.mark.parametrize("space", sorted(SPACES))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def small(family: str, **changes) -> TrainConfig:
    return TrainConfig.from_flat(family.split()[0], {**SMALL[family], "seq_len": 12, "rungs": [100], **changes})


def seeded(config: TrainConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(config)


def tokens_of(config: TrainConfig, batch: int = 2, time: int = 12) -> torch.Tensor:
    return torch.randint(config.model.vocab_size, (batch, time), generator=torch.Generator().manual_seed(1))


def corpus_of(vocab_size: int = 40) -> Corpus:
    """A walk that mostly counts upwards."""
    steps = np.random.default_rng(0).choice([1, 1, 1, 5], size=3000)
    tokens = (np.cumsum(steps) % vocab_size).astype(np.uint16)
    token_bytes = np.ones(vocab_size, dtype=np.int32)
    return Corpus(
        train=tokens[:2400],
        validation=tokens[2400:],
        vocab_size=vocab_size,
        token_bytes=token_bytes,
        digest="walk",
        about="a walk",
    )


def test_every_family_and_space_is_under_this_contract():
    assert {family.split()[0] for family in SMALL} == set(BUILT_IN)
    assert {space.family for space in SPACES.values()} == set(BUILT_IN)


def test_ghost_routing_keeps_some_bytes_and_skips_some():
    config = small("ghost routing")
    tokens = tokens_of(config)
    _, _, counts = loss_sums(seeded(config), tokens, tokens, is_fused=False)
    assert 0.2 < counts["kept_fraction"].item() / tokens.numel() < 0.8


@every_family
def test_logits_have_one_row_for_each_token(family):
    config = small(family)
    assert seeded(config)(tokens_of(config)).shape == (2, 12, 40)


@every_family
def test_future_tokens_do_not_change_past_logits(family):
    config = small(family)
    model, tokens = seeded(config), tokens_of(config)
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 40
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 11], after[:, 11])  # and the past reaches the future


@every_family
def test_the_parameter_count_is_as_estimated(family):
    for changes in ({}, *({name: value} for name, value in OTHER_VALUES[family].items())):
        config = small(family, **changes)
        assert sum(p.numel() for p in build(config).parameters()) == estimate(config).num_params, changes


@pytest.mark.parametrize(("V", "D", "S", "n"), [(256, 128, 16, 4), (300, 64, 8, 1), (1000, 32, 64, 6)])
def test_the_hybrid_has_the_documented_number_of_parameters(V, D, S, n):
    config = TrainConfig.from_flat(
        "hybrid", {"vocab_size": V, "d_model": D, "d_state": S, "n_layers": n, "attn_layer_idx": n // 2, "rungs": [1]}
    )
    expected = 2 * V * D + V + 2 * D + (n - 1) * (4 * D * S + 2 * S + 2 * D) + 4 * D**2 + 2 * D
    assert sum(p.numel() for p in build(config).parameters()) == expected


@every_family
def test_gradients_reach_every_parameter(family):
    config = small(family)
    model, tokens = seeded(config), tokens_of(config)
    cross_entropy, addition, _ = loss_sums(model, tokens[:, :-1], tokens[:, 1:], is_fused=False)
    (cross_entropy + addition).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_family
def test_the_loss_falls(family):
    config = small(family)
    model, tokens = seeded(config), tokens_of(config, batch=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@every_family
def test_carried_state_continues_as_one_long_call(family):
    config = small(family)
    model, tokens = seeded(config), tokens_of(config)
    state = model.empty_state()
    parts = [model(part, state) for part in tokens.split([1, 4, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=1e-5, atol=1e-5)


@every_space
def test_what_a_space_compares_with_is_causal_and_generates_as_one_long_call(space):
    """At the documented size of the reference, where the contract above has the smallest that shows it."""
    config = SPACES[space].train_config(SPACES[space].complete(SPACES[space].reference.values), rungs=(1,))
    model = seeded(config).eval()
    time = min(12, config.seq_len)
    tokens = tokens_of(config, time=time)
    changed = tokens.clone()
    changed[:, time // 2] = (changed[:, time // 2] + 1) % config.model.vocab_size
    with torch.no_grad():
        whole, after = model(tokens), model(changed)
        state = model.empty_state()
        parts = [model(part, state) for part in tokens.split([1, time - 4, 3], dim=1)]
    torch.testing.assert_close(whole[:, : time // 2], after[:, : time // 2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@every_family
def test_a_configuration_round_trips(family):
    config = small(family)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


RUN = {"batch_size": 4, "rungs": [480], "learning_rate": 1e-2, "num_threads": 1, "device": "cpu", "eval_tokens": 100}
OPTIONS = {
    "plain": {},
    "accumulating": {"accumulate_grad_batches": 2, "schedule": "wsd", "grad_clip_norm": 0.1, "beta1": 0.5},
    "dropping": {"dropout": 0.3},  # its generator must go on too
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},  # with a scaled loss
}
LACKING = {("bdh", "fp16"), *((family, "dropping") for family in ("hybrid", "ghost", "ghost routing"))}


@pytest.mark.parametrize(
    ("family", "options"), [(f, o) for f in sorted(SMALL) for o in OPTIONS if (f, o) not in LACKING]
)
def test_a_run_resumed_from_its_checkpoint_equals_one_that_never_stopped_to_the_bit(family, options, tmp_path):
    config = small(family, **RUN, **OPTIONS[options])
    whole = TrainingRun(config, corpus_of())
    expected = whole.advance(480)

    first = TrainingRun(config, corpus_of())
    halfway = first.advance(2 * 96)  # evaluated here, which must leave no trace
    first.save(tmp_path / "run.pt")
    first.close()
    torch.manual_seed(99)  # another process would have drawn other numbers before
    second = TrainingRun(TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))), corpus_of())
    second.restore(tmp_path / "run.pt")
    resumed = second.advance(480)
    for name in ("tokens", "loss", "bits_per_byte", "shares", "num_params"):
        assert getattr(resumed, name) == getattr(expected, name), name
    assert resumed.loss < halfway.loss
    same_state(second.model.state_dict(), whole.model.state_dict())
    same_state(second.optimizer.state_dict(), whole.optimizer.state_dict())
    same_state(second._scaler.state_dict(), whole._scaler.state_dict())


def same_state(one, other) -> None:
    """Equal to the bit, whatever it holds."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same_state(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same_state(left, right)
    else:
        assert one == other


@every_family
def test_every_documented_parameter_changes_the_output(family):
    config = small(family)
    tokens = tokens_of(config)
    logits = seeded(config)(tokens)
    documented = {field.name for field in dataclasses.fields(config.model)} - WITHOUT_EFFECT.get(family, set())
    assert documented == set(OTHER_VALUES[family])
    for name, value in OTHER_VALUES[family].items():
        other = seeded(small(family, **{name: value}))(tokens)
        assert other.shape != logits.shape or not torch.allclose(other, logits), name


def test_more_tokens_than_max_seq_are_refused():
    model = HybridLM(HybridConfig(max_seq=8))
    state = model.empty_state()
    model(torch.zeros(1, 8, dtype=torch.int64), state)
    for arguments in [(torch.zeros(1, 9, dtype=torch.int64),), (torch.zeros(1, 1, dtype=torch.int64), state)]:
        with pytest.raises(ValueError, match="9 positions are more than max_seq 8"):
            model(*arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_decay": 0.005, "context_factor": 0.5, "d_state": 8},
        {"base_decay": 0.05, "context_factor": 0.75, "attn_layer_idx": 0, "n_heads": 1},
        {"base_decay": 0.3, "context_factor": 1.0, "n_layers": 2, "n_heads": 8},
        {"base_decay": 0.5, "context_factor": 1.5, "attn_layer_idx": 2, "n_heads": 4, "d_state": 64},
    ],
)
def test_the_hybrid_equals_its_reference_with_gradients(changes):
    """From end to end of what the space searches."""
    config = small("hybrid", **changes)
    model, tokens = seeded(config), tokens_of(config, time=24)
    exact = copy.deepcopy(model).double()
    fast, slow = model(tokens), reference.hybrid_logits(exact, tokens)
    assert relative_error(fast, slow) < 1e-5
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(0))
    fast_gradients = torch.autograd.grad((fast * weight).sum(), list(model.parameters()))
    slow_gradients = torch.autograd.grad((slow * weight.double()).sum(), list(exact.parameters()))
    for fast_gradient, slow_gradient in zip(fast_gradients, slow_gradients, strict=True):
        assert relative_error(fast_gradient, slow_gradient) < 1e-5


@pytest.mark.parametrize("base_decay", [0.0, 0.005, 0.05, 0.5, 1.0, 7.0, 100.0])
@pytest.mark.parametrize("has_initial", [False, True])
def test_the_scan_equals_the_sequential_reference(base_decay, has_initial):
    generator = torch.Generator().manual_seed(0)
    B, T, S = 2, 515, 3  # longer than every chunk, and a multiple of none
    gate, u, weight = (torch.randn(B, T, S, generator=generator, dtype=torch.float64) for _ in range(3))
    leaves = [-base_decay * torch.sigmoid(gate), u]
    if has_initial:
        leaves.append(torch.randn(B, S, generator=generator, dtype=torch.float64))
    leaves = [leaf.float().double() for leaf in leaves]  # the same numbers for both
    slow_leaves = [leaf.requires_grad_() for leaf in leaves]
    fast_leaves = [leaf.detach().float().requires_grad_() for leaf in leaves]

    slow = reference.sequential_scan(*slow_leaves)
    fast = scan(fast_leaves[0], fast_leaves[1], fast_leaves[2] if has_initial else None, base_decay)
    assert relative_error(fast, slow) < 1e-5
    slow_gradients = torch.autograd.grad((slow * weight).sum(), slow_leaves)
    fast_gradients = torch.autograd.grad((fast * weight.float()).sum(), fast_leaves)
    for fast_gradient, slow_gradient in zip(fast_gradients, slow_gradients, strict=True):
        assert relative_error(fast_gradient, slow_gradient) < 1e-5


def relative_error(fast: torch.Tensor, slow: torch.Tensor) -> float:
    return ((fast.double() - slow).abs().max() / slow.abs().max()).item()
