"""The estimates against what they estimate: every live storage of a real step, and PyTorch's own FLOP counter."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.live_bytes import peak_live_bytes
from tests.support.thorough import some_of
from trainer.config import TrainConfig
from trainer.estimate import estimate, live_bytes
from trainer.families.hybrid.cost import SCAN_FLOPS
from trainer.families.registry import build
from trainer.families.shared import memory
from trainer.loss import CHUNK_LOGITS

SPREAD = [
    {},
    {"d_model": 512, "n_heads": 8},
    {"d_state": 128, "n_layers": 3},
    {"vocab_size": 8192},
    {"n_layers": 1, "attn_layer_idx": 0, "vocab_size": 8, "n_heads": 1},
    {"n_layers": 8, "attn_layer_idx": 0, "seq_len": 256, "d_model": 64},
    {"batch_size": 2, "seq_len": 512, "accumulate_grad_batches": 2},
]

SMALL = {
    "bdh": {"n_embd": 64, "mlp_internal_dim_multiplier": 8, "n_layer": 2},
    "ghost": {"dim": 64, "layers": 1},
    "hybrid": {"d_model": 64},
    "transformer": {"d_model": 64, "n_heads": 4, "n_layers": 2},
}


PLAIN_LOSS = [(family, "bf16") for family in SMALL if family != "ghost"]


def config_of(**changes) -> TrainConfig:
    return TrainConfig.from_flat("hybrid", {"batch_size": 16, "seq_len": 64, "rungs": [1000], **changes})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("changes", SPREAD)
def test_live_bytes_are_within_five_percent_of_a_real_step(changes, precision):
    config = config_of(precision=precision, **changes)
    assert live_bytes(config) == pytest.approx(peak_live_bytes(config), rel=0.05)


@pytest.mark.parametrize("case", some_of(itertools.product(SMALL, ["fp32", "bf16"]), always=PLAIN_LOSS), ids="-".join)
def test_live_bytes_are_those_of_a_plain_loss_too_which_takes_more(case):
    family, precision = case
    changes = {"vocab_size": 8192, "batch_size": 16, "seq_len": 64, "precision": precision, **SMALL[family]}
    found = {}
    for is_fused in (False, True):
        config = TrainConfig.from_flat(family, {"rungs": [1000], "fused_loss": is_fused, **changes})
        found[is_fused] = live_bytes(config)  # a ghost is trained: fake tensors have no numbers to route by
        assert found[is_fused] == pytest.approx(peak_live_bytes(config, is_fake=family != "ghost"), rel=0.05)
    assert found[True] < found[False]


def test_the_estimate_and_the_loss_take_parts_of_the_same_size():
    assert memory.CHUNK_LOGITS == CHUNK_LOGITS


@pytest.mark.parametrize("changes", SPREAD[:4])
def test_flops_are_those_that_torch_counts_and_the_scan(changes):
    config = config_of(**changes)
    with torch.device("meta"):
        model = build(config)
        tokens = torch.zeros(config.batch_size, config.seq_len, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    m = config.model
    scan = (m.n_layers - 1) * SCAN_FLOPS * m.d_state
    counted = counter.get_total_flops() / tokens.numel() + scan
    assert estimate(config).flops_per_token == pytest.approx(3 * counted)
    assert estimate(config).train_flops == pytest.approx(3 * counted * 1000)


def test_memory_grows_with_each_documented_size():
    base = estimate(config_of()).peak_vram_bytes
    for changes in ({"d_model": 256}, {"d_state": 32}, {"n_layers": 5}, {"batch_size": 32}, {"seq_len": 128}):
        assert estimate(config_of(**changes)).peak_vram_bytes > base, changes


def test_averaged_weights_are_one_more_copy():
    plain, averaged = config_of(), config_of(ema_share=0.1)
    assert live_bytes(averaged) - live_bytes(plain) == 4 * estimate(plain).num_params
    assert peak_live_bytes(averaged) - peak_live_bytes(plain) == pytest.approx(4 * estimate(plain).num_params, rel=0.02)


def test_configurations_corpora_and_estimates_do_without_torch():
    code = "import sys, trainer.config, trainer.data, trainer.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
