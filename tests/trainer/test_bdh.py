"""BDH's fast forms against its formulas, and what its guide says about its parameters."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.live_bytes import peak_live_bytes
from tests.support.thorough import some_of
from tests.trainer import reference_bdh
from trainer.checks import ConfigError
from trainer.config import TrainConfig
from trainer.estimate import estimate, live_bytes
from trainer.families.bdh import cost as costs
from trainer.families.bdh import model as bdh
from trainer.families.bdh.config import BDHConfig
from trainer.families.bdh.model import BDH, CHUNK, DENSE_TOKENS
from trainer.optim import build_optimizer

SMALL = {"vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 2, "mlp_internal_dim_multiplier": 8, "dropout": 0.0}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def seeded(**changes) -> BDH:
    torch.manual_seed(0)
    return BDH(BDHConfig(**{**SMALL, **changes}))


def tokens_of(batch: int, time: int) -> torch.Tensor:
    return torch.randint(40, (batch, time), generator=torch.Generator().manual_seed(1))


def relative_error(fast: torch.Tensor, slow: torch.Tensor) -> float:
    return ((fast.double() - slow.double()).abs().max() / slow.abs().max()).item()


@pytest.mark.parametrize(
    ("time", "changes"),
    [
        (9, {}),
        (64, {"n_head": 1}),
        (64, {"n_head": 4, "n_embd": 32}),
        (64, {"n_head": 12, "n_embd": 24}),
        (64, {"n_head": 16, "n_embd": 32}),
        (DENSE_TOKENS, {}),
        (DENSE_TOKENS + 1, {}),
        (5 * CHUNK + 44, {}),
        (5 * CHUNK + 44, {"n_embd": 256, "mlp_internal_dim_multiplier": 1, "n_layer": 2}),
    ],
)
def test_logits_and_gradients_equal_the_formulas(time, changes):
    model = seeded(**changes)
    with torch.no_grad():  # away from its start, where every logit is nearly the same
        for parameter in model.parameters():
            parameter.mul_(3)
    tokens = tokens_of(2, time)
    weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    slow = reference_bdh.logits(weights, tokens, model.config.n_layer)
    probe = torch.randn(slow.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slow_gradients = torch.autograd.grad((slow * probe).sum(), list(weights.values()))

    fast = model(tokens)
    assert relative_error(fast, slow) < 1e-5
    gradients = torch.autograd.grad((fast * probe.float()).sum(), list(model.parameters()))
    exact = model.double()
    exact_gradients = torch.autograd.grad((exact(tokens) * probe).sum(), list(exact.parameters()))
    for name, slow_one, fast_one, exact_one in zip(weights, slow_gradients, gradients, exact_gradients, strict=True):
        assert relative_error(exact_one, slow_one) < 1e-9, name
        assert relative_error(fast_one, slow_one) < 1e-5, name


def test_both_forms_are_in_use(monkeypatch):
    monkeypatch.setattr(bdh, "attend_in_chunks", None)
    seeded()(tokens_of(1, DENSE_TOKENS))
    with pytest.raises(TypeError):
        seeded()(tokens_of(1, DENSE_TOKENS + 1))


def test_state_continues_over_chunks_of_any_length():
    model, tokens = seeded(), tokens_of(2, 3 * CHUNK)
    state = model.empty_state()
    parts = [model(part, state) for part in tokens.split([1, CHUNK + 5, 1, 2 * CHUNK - 7], dim=1)]
    assert state.num_tokens == 3 * CHUNK
    assert relative_error(torch.cat(parts, dim=1), model(tokens)) < 1e-5


def test_positions_stay_exact_far_into_a_text():
    turns = bdh.rotary_turns(10_000_000, 1, 8, torch.device("cpu"), torch.float32)
    angles = 10_000_000 * 65536 ** (-2 * torch.arange(4, dtype=torch.float64) / 8)
    assert relative_error(turns[0], torch.stack([angles.cos(), angles.sin()], dim=-1)) < 1e-6


def test_rotations_for_the_compiler_are_the_same(monkeypatch):
    x = torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    turns = bdh.rotary_turns(3, 5, 8, x.device, x.dtype)
    there, back = bdh.rotate(x, turns), bdh.rotate(x, turns, back=True)
    torch.testing.assert_close(bdh.rotate(there, turns, back=True), x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(bdh.rotate(x, turns), there)
    torch.testing.assert_close(bdh.rotate(x, turns, back=True), back)


def test_dropout_is_as_dropping_what_the_gate_lets_through():
    generator = torch.Generator().manual_seed(0)
    xs, a, encoder_v, decoder = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in [(2, 30, 12), (2, 30, 5), (2, 5, 12), (2, 12, 5)]
    )
    torch.manual_seed(3)
    fast = bdh.Gate.apply(xs, a, encoder_v, decoder, 0.4)
    torch.manual_seed(3)
    gated = torch.nn.functional.dropout(xs * torch.relu(a @ encoder_v), 0.4)
    slow = (gated @ decoder).sum(0)
    torch.testing.assert_close(fast, slow)
    probe = torch.randn(slow.shape, generator=generator, dtype=torch.float64)
    leaves = [xs, a, encoder_v, decoder]
    gradients = [torch.autograd.grad((y * probe).sum(), leaves) for y in (fast, slow)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_only_in_training():
    model, plain, tokens = seeded(dropout=0.5), seeded(), tokens_of(2, 12)
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), plain(tokens))


@pytest.mark.parametrize("n_head", [1, 2, 4, 8, 16])
def test_the_number_of_heads_changes_no_parameter_count(n_head):
    with torch.device("meta"):
        model = BDH(BDHConfig(n_head=n_head))
    assert sum(p.numel() for p in model.parameters()) == 25_296_896


def test_half_precision_under_autocast_stays_close():
    model, tokens = seeded(), tokens_of(2, 40)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(tokens)
        low.float().square().mean().backward()
    assert relative_error(low, model(tokens)) < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_fp16_is_refused_with_its_reason():
    with pytest.raises(ConfigError, match="fp16 overflows in bdh.*use bf16 or fp32"):
        TrainConfig.from_flat("bdh", {"rungs": [1], "precision": "fp16"})


def test_uneven_latents_are_refused():
    assert BDHConfig(n_embd=6, n_head=4, mlp_internal_dim_multiplier=2).faults()
    assert BDHConfig(n_embd=6, n_head=4, mlp_internal_dim_multiplier=4).faults() == []
    assert BDHConfig(dropout=1.0).faults() == ["dropout 1.0 is not in [0, 1)"]


def test_all_matrices_decay_but_the_embedding():
    config = TrainConfig.from_flat("bdh", {**SMALL, "rungs": [1]})
    model = seeded()
    decayed, kept = build_optimizer(model, config).param_groups
    assert {p.data_ptr() for p in decayed["params"]} == {
        p.data_ptr() for p in (model.encoder, model.encoder_v, model.decoder, model.head)
    }
    assert [p.data_ptr() for p in kept["params"]] == [model.embedding.weight.data_ptr()]


def run_of(**changes) -> TrainConfig:
    sizes = {"n_embd": 64, "mlp_internal_dim_multiplier": 32, "batch_size": 4, "seq_len": 64, "n_layer": 3}
    return TrainConfig.from_flat("bdh", {"rungs": [1000], **sizes, **changes})


@pytest.mark.parametrize("precision", some_of(["fp32", "bf16"], always=["fp32"]))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layer": 6, "dropout": 0.0},
        {"seq_len": 512, "n_head": 1},
        {"seq_len": 512, "n_head": 8, "n_layer": 2},
        {"seq_len": 1024, "n_layer": 2},
        {"n_embd": 256, "batch_size": 1, "seq_len": 32},
        {"vocab_size": 8192, "n_layer": 1},
        {"accumulate_grad_batches": 2},
    ],
)
def test_live_bytes_are_within_five_percent_of_a_real_step(changes, precision):
    config = run_of(precision=precision, **changes)
    assert live_bytes(config) == pytest.approx(peak_live_bytes(config), rel=0.05)


@pytest.mark.parametrize("changes", [{}, {"n_head": 8, "vocab_size": 1000}, {"seq_len": 512}, {"seq_len": 1024}])
def test_flops_are_those_that_torch_counts(changes):
    config = run_of(**changes)
    with torch.device("meta"):
        model = BDH(config.model)
        tokens = torch.zeros(config.batch_size, config.seq_len, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    assert estimate(config).flops_per_token == pytest.approx(3 * counter.get_total_flops() / tokens.numel())


def test_the_estimate_takes_the_same_form_as_the_model():
    for D in (16, 192, 256, 1024):
        for T in (1, 512, 513, 640, 641, 1024, 4096):
            assert costs.is_chunked(T, D) == bdh.is_chunked(T, D)
    assert costs.CHUNK == bdh.CHUNK
