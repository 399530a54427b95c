"""The ghost family: its fast forms against the slow ones, what routing may know, and what it saves."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.live_bytes import peak_live_bytes
from tests.support.thorough import some_of
from tests.trainer import reference_ghost
from trainer.checks import ConfigError
from trainer.config import TrainConfig
from trainer.corpus import Corpus
from trainer.estimate import estimate, live_bytes
from trainer.families.ghost import cost as costs
from trainer.families.ghost import model as ghost
from trainer.families.ghost.config import GhostConfig
from trainer.families.ghost.model import SEGMENT, GhostLM
from trainer.families.registry import build
from trainer.loop import TrainingRun
from trainer.loss import loss_sums
from trainer.optim import build_optimizer


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


SMALL = {"vocab_size": 40, "dim": 24, "layers": 2}


def corpus() -> Corpus:
    """Runs upwards, easy to predict, between draws at random, which nobody can predict."""
    generator = np.random.default_rng(0)
    parts = [np.concatenate([generator.integers(20, 40, 4), np.arange(16)]) for _ in range(400)]
    tokens = np.concatenate(parts).astype(np.uint8)
    return Corpus(
        train=tokens[:6000],
        validation=tokens[6000:],
        vocab_size=40,
        token_bytes=np.ones(40, dtype=np.int32),
        digest="runs",
        about="runs and draws",
    )


@cache
def trained(threshold: float = 0.5) -> TrainingRun:
    values = {**SMALL, "threshold": threshold, "seq_len": 40, "batch_size": 8, "learning_rate": 1e-2}
    config = TrainConfig.from_flat("ghost", {**values, "rungs": [60_000], "eval_tokens": 1000, "num_threads": 1})
    run = TrainingRun(config, corpus())
    run.advance(60_000)
    return run


def with_threshold(threshold: float, **changes) -> GhostLM:
    """The trained model, routed at another threshold."""
    model = GhostLM(GhostConfig(**SMALL, threshold=threshold, **changes))
    model.load_state_dict(trained().model.state_dict())
    return model


def batch(rows: int = 3, time: int = 45) -> torch.Tensor:
    text = torch.from_numpy(corpus().validation.astype(np.int64))
    return text[: rows * time].view(rows, time)


def kept_fraction(model: GhostLM, tokens: torch.Tensor) -> float:
    _, _, counts = loss_sums(model, tokens[:, :-1], tokens[:, 1:], is_fused=False)
    return counts["kept_fraction"].item() / tokens[:, 1:].numel()


@pytest.mark.parametrize(("D", "L", "expected"), [(64, 6, 446_578), (128, 6, 1_592_754), (256, 6, 5_986_354)])
def test_it_has_the_published_number_of_parameters(D, L, expected):
    assert sum(p.numel() for p in GhostLM(GhostConfig(dim=D, layers=L)).parameters()) == expected
    E, R = 2 * D, -(-D // 16)
    mamba = 2 * D * E + 5 * E + E * (R + 32) + R * E + E + 16 * E + E + E * D
    outside = 256 * D + 5 * D + 16 * D + 49 + (D + 257) + 2 * (256 * D + 256) + D
    assert L * (mamba + 8 * D * D + 7 * D) + outside == expected


@pytest.mark.parametrize("max_depth", [None, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_logits_and_gradients_equal_the_sequential_reference(threshold, max_depth):
    model, tokens = with_threshold(threshold, max_depth=max_depth), batch()
    weight = torch.randn(*tokens.shape, 40, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(model).double()
    slow, kept = reference_ghost.logits(exact, tokens)
    assert 0.1 < np.mean(kept) < 0.9 or threshold == 0
    fast = model(tokens)
    assert relative_error(fast, slow) < 1e-5
    (fast * weight).sum().backward()
    (slow * weight.double()).sum().backward()
    for (name, module), other in zip(model.named_modules(), exact.modules(), strict=True):
        pairs = list(zip(module.parameters(recurse=False), other.parameters(recurse=False), strict=True))
        if any(q.grad is not None for _, q in pairs):
            # A module's together: a bias's own gradient may be all but nothing, a sum that cancels.
            fast_gradient, slow_gradient = (
                torch.cat([p.grad.flatten() for p in ps]) for ps in zip(*pairs, strict=True)
            )
            assert relative_error(fast_gradient, slow_gradient) < 1e-5, name
        else:
            assert all(p.grad is None for p, _ in pairs), name


@pytest.mark.parametrize("block_numbers", [1, 2**20])
@pytest.mark.parametrize("num_moments", [1, SEGMENT, 3 * SEGMENT + 5])
@pytest.mark.parametrize("step_scale", [0.01, 1.0, 30.0])
def test_the_scan_equals_the_sequential_reference(step_scale, num_moments, block_numbers, monkeypatch):
    """Steps from none to those at which a state forgets all but the present."""
    generator = torch.Generator().manual_seed(0)
    K, B, E, N = num_moments, 2, 5, 16
    shapes = [(K, B, E), (K, B, E), (K, B, N), (K, B, N), (N, E), (E,), (B, N, E)]
    leaves = [torch.randn(shape, generator=generator) for shape in shapes]
    leaves[0] *= step_scale
    leaves[4] = torch.arange(1.0, N + 1).log()[:, None] + 0.1 * leaves[4]
    weight = torch.randn(K, B, E, generator=generator)
    slow_leaves = [leaf.double().requires_grad_() for leaf in leaves]
    fast_leaves = [leaf.requires_grad_() for leaf in leaves[:-1]]
    slow = reference_ghost.scan(*slow_leaves)
    fast, _ = ghost._Scan.apply(*fast_leaves, leaves[-1])
    assert relative_error(fast, slow) < 1e-5
    slow_gradients = torch.autograd.grad((slow * weight.double()).sum(), slow_leaves[:-1])
    fast_gradients = torch.autograd.grad((fast * weight).sum(), fast_leaves)
    for fast_gradient, slow_gradient in zip(fast_gradients, slow_gradients, strict=True):
        assert relative_error(fast_gradient, slow_gradient) < 1e-5


def test_the_convolution_equals_its_reference_and_its_gradient_the_numeric_one():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 2, 3), (4, 3), (3,)]
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(ghost._ConvSilu.apply, leaves)


@pytest.mark.parametrize("position", [1, 20, 43])
def test_with_a_trained_router_future_bytes_do_not_change_past_logits(position):
    model, tokens = trained().model, batch()
    changed = tokens.clone()
    changed[:, position] = (changed[:, position] + 7) % 40
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :position], after[:, :position], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before[:, position:], after[:, position:], atol=1e-2)


@pytest.mark.parametrize("sizes", [[1] * 45, [1, 2, 3, 4, 35], [40, 5]])
def test_with_a_trained_router_generation_continues_as_one_long_call(sizes):
    model, tokens = trained().model, batch()
    state = model.empty_state()
    with torch.no_grad():
        parts = [model(part, state) for part in tokens.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=1e-5, atol=1e-5)


def test_the_quick_head_learns_by_its_own_loss_alone():
    run = trained()
    tokens = batch()
    _, addition, _ = loss_sums(run.model, tokens[:, :-1], tokens[:, 1:], is_fused=False)
    per_byte = addition.item() / ghost.QUICK_LOSS_WEIGHT / tokens[:, 1:].numel()
    assert per_byte < 0.5 * np.log(40)
    gradients = torch.autograd.grad(addition, list(run.model.parameters()), allow_unused=True)
    names = [n for (n, _), g in zip(run.model.named_parameters(), gradients, strict=True) if g is not None]
    assert names == ["quick.weight", "quick.bias"]


def test_fewer_bytes_are_kept_as_the_threshold_rises():
    fractions = [kept_fraction(with_threshold(threshold), batch()) for threshold in (0.0, 0.1, 0.5, 0.9, 0.9999)]
    assert fractions[0] == 1 and fractions[-1] == 0
    assert fractions == sorted(fractions, reverse=True) and len(set(fractions)) >= 4
    assert 0.1 < trained().measurements[-1].shares["kept_fraction"] < 0.5  # 4 of 20 bytes are draws, after 4 more


def test_surprise_does_not_depend_on_the_threshold():
    """A threshold moves what the layers learn, and with them the tokenizer, but not the router for given weights."""
    a, b = with_threshold(0.3), with_threshold(0.9)
    tokens = batch().T
    assert torch.equal(a._guess(a._tokenize(tokens, None)), b._guess(b._tokenize(tokens, None)))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 0.9999])
def test_skipped_bytes_cost_no_layer_anything(threshold):
    model, tokens = with_threshold(threshold), batch()
    rows = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("layers."):
            module.register_forward_hook(lambda m, i, out, name=name: rows.update({name: out[..., 0].numel()}))
    _, _, counts = loss_sums(model, tokens, tokens, is_fused=False)  # every position counts
    model(tokens)
    kept = counts["kept_fraction"].item()
    if not kept:
        assert not rows
        return
    packed = {n: count for n, count in rows.items() if not n.endswith((".select", ".step"))}
    assert len(packed) == 2 * 5 and set(packed.values()) == {kept}
    # The scan's own inputs are as long as the row that keeps most.
    assert {count for n, count in rows.items() if n not in packed} == {longest_kept(model, tokens) * len(tokens)}


def longest_kept(model: GhostLM, tokens: torch.Tensor) -> int:
    h = model._tokenize(tokens.T, None)
    keep = model._is_kept(model._guess(h)) if model.config.threshold else torch.ones_like(tokens.T)
    return int(keep.sum(0).max())


def test_layers_from_max_depth_on_do_not_run():
    model = with_threshold(0.0, max_depth=1)
    model.layers[1] = None
    model(batch())


def test_only_matrices_decay():
    config = TrainConfig.from_flat("ghost", {**SMALL, "rungs": [1]})
    model = GhostLM(config.model)
    decayed, _ = build_optimizer(model, config).param_groups
    names = {n for n, p in model.named_parameters() if any(p is q for q in decayed["params"])}
    kinds = {n.removeprefix("layers.0.").removeprefix("layers.1.") for n in names}
    inside = {"mamba.input", "mamba.gate", "mamba.select", "mamba.step", "mamba.output", "ffn.0", "ffn.2"}
    assert kinds == {f"{n}.weight" for n in {"tokenizer_state", "boost", "quick", "depth", "head", *inside}}


SPREAD = [
    {},
    {"dim": 256, "layers": 1},
    {"vocab_size": 4096, "layers": 1},
    {"dim": 40, "layers": 3, "vocab_size": 8, "max_depth": 1, "seq_len": 20},
    {"dim": 64, "seq_len": 100, "batch_size": 4, "accumulate_grad_batches": 2},
]


def every_byte_kept(**changes) -> TrainConfig:
    values = {"dim": 128, "layers": 2, "threshold": 0.0, "batch_size": 16, "seq_len": 64, "rungs": [1000]}
    return TrainConfig.from_flat("ghost", {**values, **changes})


@pytest.mark.parametrize("precision", some_of(["fp32", "bf16"], always=["fp32"]))
@pytest.mark.parametrize("changes", SPREAD)
def test_live_bytes_are_within_five_percent_of_a_real_step_that_keeps_every_byte(changes, precision):
    config = every_byte_kept(precision=precision, **changes)
    assert live_bytes(config) == pytest.approx(peak_live_bytes(config), rel=0.05)


@pytest.mark.parametrize("changes", SPREAD[:4])
def test_flops_are_those_that_torch_counts_and_the_scan(changes):
    config = every_byte_kept(**changes)
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    model = build(config)
    with FlopCounterMode(display=False) as counter:
        loss_sums(model, tokens, tokens, is_fused=False)
    m = config.model
    counted = sum(counter.get_flop_counts()["Global"].get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    scan = costs.SCAN_FLOPS * m.d_state * m.expand * m.dim * m.depth
    assert costs.forward_flops(config) == pytest.approx(counted / tokens.numel() + scan)


def test_the_estimate_and_the_model_keep_the_same_states():
    assert costs.SEGMENT == SEGMENT


def test_a_threshold_costs_at_most_what_keeping_every_byte_costs():
    assert estimate(every_byte_kept()) == estimate(every_byte_kept(threshold=0.7))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.0}, r"threshold 1.0 is not in \[0, 1\)"),
        ({"threshold": -0.1}, r"threshold -0.1 is not in \[0, 1\)"),
        ({"layers": 2, "max_depth": 3}, "max_depth 3 is not in 1 to layers 2"),
        ({"max_depth": 0}, "max_depth 0 is not in 1 to layers 6"),
        ({"d_state": 8}, "unknown parameter 'd_state'"),
    ],
)
def test_what_cannot_be_built_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_flat("ghost", {"rungs": [1], **values})


def relative_error(fast: torch.Tensor, slow: torch.Tensor) -> float:
    return ((fast.double() - slow).abs().max() / slow.abs().max().clamp_min(1e-12)).item()
