"""The transformer family against the GPT-2 and Llama of transformers, and against its guide."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.live_bytes import peak_live_bytes
from tests.support.thorough import some_of
from tests.trainer import reference_transformer
from trainer.checks import ConfigError
from trainer.config import TrainConfig
from trainer.estimate import estimate, live_bytes
from trainer.families.transformer.config import TransformerConfig
from trainer.families.transformer.model import Attention, TransformerLM
from trainer.optim import build_optimizer

ARCHS = ["gpt2", "llama"]
SMALL = {"vocab_size": 40, "context_length": 24, "d_model": 32, "n_layers": 3, "n_heads": 4, "dropout": 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def seeded(arch: str, **changes) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(TransformerConfig(**{"arch": arch, **SMALL, **changes}))


def scrambled(arch: str, **changes) -> TransformerLM:
    """With every weight, bias and norm away from its start, so that each one matters."""
    model = seeded(arch, **changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def tokens_of(time: int = 24) -> torch.Tensor:
    return torch.randint(40, (2, time), generator=torch.Generator().manual_seed(1))


def num_params(config: TransformerConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in TransformerLM(config).parameters())


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("gpt2", {}),
        ("gpt2", {"d_ff": 50, "norm_eps": 1e-2, "n_heads": 2}),
        ("llama", {}),
        ("llama", {"n_kv_heads": 2, "d_ff": 72}),
        ("llama", {"n_kv_heads": 1, "rope_theta": 100.0, "norm_eps": 1e-2}),
    ],
)
def test_logits_equal_those_of_transformers(arch, changes):
    model, tokens = scrambled(arch, **changes), tokens_of()
    with torch.no_grad():
        expected = reference_transformer.counterpart(model)(tokens).logits
        difference = (model(tokens) - expected).abs().max().item()
    assert difference < 1e-4 and expected.abs().max() > 1


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("gpt2", {}),
        ("gpt2", {"d_ff": 64, "n_heads": 1, "context_length": 64}),
        ("llama", {"n_kv_heads": 2, "d_ff": 192}),
        ("llama", {"n_kv_heads": 1, "n_heads": 8, "context_length": 64}),
    ],
)
def test_logits_and_gradients_equal_those_of_transformers_in_double_precision(arch, changes):
    model = scrambled(arch, **changes)
    tokens = tokens_of(model.config.context_length)
    other = reference_transformer.counterpart(model).double()
    fast, slow = model(tokens), other(tokens).logits
    assert relative_error(fast, slow) < 1e-5
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(0))
    (fast * weight).sum().backward()
    (slow * weight.double()).sum().backward()
    expected = {name: p.grad for name, p in other.named_parameters()}
    with torch.no_grad():  # our gradients, in the places that transformers has for our weights
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    placed = {name: p for name, p in reference_transformer.counterpart(model).named_parameters()}
    compared = [name for name in placed if placed[name].any()]  # but biases that only transformers has
    assert len(compared) >= len(list(model.parameters()))
    for name in compared:
        assert relative_error(placed[name], expected[name]) < 1e-5, name


def relative_error(fast: torch.Tensor, slow: torch.Tensor) -> float:
    return ((fast.double() - slow).abs().max() / slow.abs().max()).item()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"context_length": 256, "d_model": 384, "n_layers": 2, "n_heads": 6}, 6_791_424),
        ({}, 10_436_352),
        ({"d_model": 512, "n_layers": 6, "n_heads": 8}, 23_362_560),
        (
            {"vocab_size": 16_384, "context_length": 1024, "d_model": 640, "n_layers": 8, "n_heads": 10, "d_ff": 2560},
            50_515_200,
        ),
        ({"arch": "llama", "vocab_size": 16_384, "n_layers": 12, "n_heads": 12, "n_kv_heads": 4}, 32_257_920),
    ],
    ids=["nano", "tiny", "small", "medium", "llama3-16k"],
)
def test_the_documented_profiles_have_their_number_of_parameters(sizes, expected):
    assert num_params(TransformerConfig(**sizes)) == expected


@pytest.mark.parametrize(("V", "ctx", "d", "L"), [(40, 24, 32, 3), (300, 128, 96, 1)])
def test_parameters_follow_their_formulas(V, ctx, d, L):
    sizes = {"vocab_size": V, "context_length": ctx, "d_model": d, "n_layers": L, "n_heads": 4}
    assert num_params(TransformerConfig(**sizes)) == V * d + ctx * d + L * (12 * d**2 + 10 * d) + 2 * d
    for n_kv in (1, 2, 4):
        config = TransformerConfig(arch="llama", n_kv_heads=n_kv, **sizes)
        d_ff = {32: 256, 96: 512}[d]  # 4 d, rounded up to a multiple of 256
        expected = V * d + L * (2 * d**2 + 2 * d * n_kv * (d // 4) + 3 * d * d_ff + 3 * d) + d
        assert num_params(config) == expected


@pytest.mark.parametrize("arch", ARCHS)
def test_every_matrix_starts_at_the_same_scale_and_every_bias_at_zero(arch):
    model = seeded(arch, d_model=128, vocab_size=500, context_length=200)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:  # also those that write to the residual
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03), name
            assert abs(parameter.mean().item()) < 1e-3, name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, "norm.weight" in name)), name


@pytest.mark.parametrize("place", ["dropout", "emb_dropout", "attn_dropout", "resid_dropout"])
@pytest.mark.parametrize("arch", ARCHS)
def test_each_dropout_is_only_in_training(arch, place):
    model, plain, tokens = seeded(arch, **{place: 0.5}), seeded(arch), tokens_of()
    if place == "dropout":  # of the feed-forward part alone
        model = seeded(arch, dropout=0.5, emb_dropout=0.0, attn_dropout=0.0, resid_dropout=0.0)
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), plain(tokens))


def test_dropouts_left_out_follow_the_general_one_and_the_architecture():
    assert [TransformerConfig(dropout=0.3, attn_dropout=0.0).dropout_rate(p) for p in ("", "emb", "attn", "resid")] == [
        0.3,
        0.3,
        0.0,
        0.3,
    ]
    assert TransformerConfig().dropout_rate("resid") == 0.1
    assert TransformerConfig(arch="llama").dropout_rate("resid") == 0.0


@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_groups_give_the_same_with_and_without_fused_attention(n_kv_heads, monkeypatch):
    model, tokens = scrambled("llama", n_kv_heads=n_kv_heads), tokens_of()
    fused = model(tokens)
    monkeypatch.setattr("trainer.families.transformer.model.has_fused_groups", lambda q: False)
    torch.testing.assert_close(model(tokens), fused)


def test_rotations_for_the_compiler_are_the_same(monkeypatch):
    model, tokens = scrambled("llama"), tokens_of()
    expected = model(tokens)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(model(tokens), expected)


@pytest.mark.parametrize("kv_heads", [None, 0])
def test_no_number_of_key_heads_means_as_many_as_query_heads(kv_heads):
    config = TransformerConfig(arch="llama", n_kv_heads=kv_heads)
    assert config.faults() == []
    assert Attention(config).qkv.out_features == 3 * config.d_model


@pytest.mark.parametrize("arch", ARCHS)
def test_more_tokens_than_context_length_are_refused(arch):
    model = seeded(arch)
    state = model.empty_state()
    model(tokens_of(24), state)
    for arguments in [(tokens_of(25),), (tokens_of(1), state)]:
        with pytest.raises(ValueError, match="25 positions are more than context_length 24"):
            model(*arguments)
    with pytest.raises(ConfigError, match="seq_len 25 is longer than context_length 24"):
        TrainConfig.from_flat("transformer", {**SMALL, "arch": arch, "seq_len": 25, "rungs": [1]})


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"arch": "gtp2"}, "Did you mean 'gpt2'?"),
        ({"n_heads": 5}, "n_heads 5 does not divide d_model 32"),
        ({"arch": "llama", "n_heads": 32}, "the head width d_model / n_heads = 1 is odd"),
        ({"arch": "llama", "n_kv_heads": 3}, "n_kv_heads 3 does not divide n_heads 4"),
        ({"n_kv_heads": 2}, "only arch llama can do"),
        ({"rope_theta": 500.0}, "rope_theta is for arch llama"),
        ({"n_heads": 0}, "n_heads 0 is below 1"),
        ({"resid_dropout": 1.0}, "resid_dropout 1.0 is not in"),
        ({"norm_eps": 0.0}, "norm_eps 0.0 is not positive"),
    ],
)
def test_what_cannot_be_built_is_refused(values, fault):
    with pytest.raises(ConfigError, match=fault.replace("?", r"\?")):
        TrainConfig.from_flat("transformer", {**SMALL, "seq_len": 8, "rungs": [1], **values})


@pytest.mark.parametrize("arch", ARCHS)
def test_embeddings_norms_and_biases_do_not_decay(arch):
    config = TrainConfig.from_flat("transformer", {**SMALL, "arch": arch, "seq_len": 8, "rungs": [1]})
    model = seeded(arch)
    decayed, kept = build_optimizer(model, config).param_groups
    matrices = {m.weight.data_ptr() for m in model.modules() if isinstance(m, torch.nn.Linear)}
    assert {p.data_ptr() for p in decayed["params"]} == matrices
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def run_of(**changes) -> TrainConfig:
    sizes = {"vocab_size": 256, "d_model": 128, "n_heads": 4, "n_layers": 3, "batch_size": 8, "seq_len": 64}
    return TrainConfig.from_flat("transformer", {"rungs": [1000], **sizes, **changes})


@pytest.mark.parametrize("precision", some_of(["fp32", "bf16"], always=["fp32"]))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.2, "resid_dropout": 0.0, "n_layers": 6},
        {"vocab_size": 8192, "d_model": 256},
        {"vocab_size": 8192, "d_model": 384, "batch_size": 1, "n_layers": 1},
        {"vocab_size": 64, "d_model": 256, "batch_size": 1, "seq_len": 32},
        {"d_ff": 128, "n_heads": 8, "seq_len": 256, "batch_size": 2},
        {"vocab_size": 8192, "d_model": 256, "batch_size": 1, "accumulate_grad_batches": 2},
    ],
)
@pytest.mark.parametrize("arch", ARCHS)
def test_live_bytes_are_within_five_percent_of_a_real_step(arch, changes, precision):
    config = run_of(arch=arch, precision=precision, **changes)
    assert live_bytes(config) == pytest.approx(peak_live_bytes(config), rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_live_bytes_with_grouped_heads_too(precision):
    config = run_of(arch="llama", n_heads=8, n_kv_heads=2, precision=precision)
    assert live_bytes(config) == pytest.approx(peak_live_bytes(config), rel=0.05)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("changes", [{}, {"vocab_size": 1000, "d_ff": 100, "n_heads": 2}, {"seq_len": 512}])
def test_flops_are_those_that_torch_counts(arch, changes):
    config = run_of(arch=arch, dropout=0.0, **changes)
    with torch.device("meta"):
        model = TransformerLM(config.model)
        tokens = torch.zeros(config.batch_size, config.seq_len, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    assert estimate(config).flops_per_token == pytest.approx(3 * counter.get_total_flops() / tokens.numel())
