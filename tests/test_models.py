"""One contract over every family, and each family's fast forms against its slow reference."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from tests import reference
from trainer.config import HybridConfig, TrainConfig
from trainer.estimate import estimate
from trainer.loop import loss_sums
from trainer.models.hybrid import HybridLM, scan
from trainer.models.registry import FAMILIES, build

# A family, or one of its architectures.
SMALL = {
    "ghost": {"vocab_size": 40, "dim": 16, "layers": 3},
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


def test_every_family_is_under_this_contract():
    assert {family.split()[0] for family in SMALL} == set(FAMILIES)


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
    cross_entropy, addition, _ = loss_sums(model, tokens[:, :-1], tokens[:, 1:])
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


@every_family
def test_a_configuration_round_trips(family):
    config = small(family)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


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


def test_the_hybrid_equals_its_reference():
    config = small("hybrid", base_decay=0.3, context_factor=0.5)
    model, tokens = seeded(config), tokens_of(config)
    fast = model(tokens)
    slow = reference.hybrid_logits(model.double(), tokens)
    assert relative_error(fast, slow) < 1e-5


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
