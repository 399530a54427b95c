"""The fused loss is the plain one: the same sums, counts and gradients, whatever its parts, for every family."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.test_models import every_family, seeded, small
from trainer import loss
from trainer.loss import IGNORED, fused_cross_entropy, loss_sums


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_LOGITS", 200)


def tensors(num_positions: int = 23, width: int = 8, vocab_size: int = 30, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_positions, width), (vocab_size, width), (vocab_size,)]
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    targets = torch.randint(vocab_size, (num_positions,), generator=generator)
    targets[::5] = IGNORED
    return [tensor.requires_grad_() for tensor in made], targets


@pytest.mark.parametrize("chunk", [1, 60, 10**6])  # one position at a time, two, all
@pytest.mark.parametrize("has_bias", [True, False])
def test_loss_and_gradients_do_not_depend_on_the_parts(chunk, has_bias, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_LOGITS", chunk)
    (hidden, weight, bias), targets = tensors()
    inputs = [hidden, weight, bias] if has_bias else [hidden, weight]
    logits = torch.nn.functional.linear(*inputs)
    expected = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    found, _ = fused_cross_entropy(hidden, weight, bias if has_bias else None, targets)
    torch.testing.assert_close(found, expected)
    scale = 0.3  # as by the number of tokens
    for mine, theirs in zip(
        torch.autograd.grad(scale * found, inputs), torch.autograd.grad(scale * expected, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_doubt_is_what_the_largest_probability_leaves():
    (hidden, weight, bias), targets = tensors()
    _, doubt = fused_cross_entropy(hidden, weight, bias, targets)
    probabilities = torch.softmax(torch.nn.functional.linear(hidden, weight, bias), dim=-1)
    torch.testing.assert_close(doubt, 1 - probabilities.amax(-1))


def test_a_second_backward_is_refused_not_wrong():
    (hidden, weight, bias), targets = tensors()
    found, _ = fused_cross_entropy(hidden, weight, bias, targets)
    (2 * found).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        found.backward()


@every_family
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_learns_the_same_fused_or_not(family, precision):
    config = small(family, batch_size=3, **({"threshold": 0.938} if family == "ghost" else {}))
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.model.vocab_size, (3, config.seq_len), generator=generator)
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    sums, gradients, counts = {}, {}, {}
    for is_fused in (False, True):
        model = seeded(config)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found, addition, counts[is_fused] = loss_sums(model, tokens, targets, is_fused=is_fused)
            sums[is_fused] = found + addition
        sums[is_fused].backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        gradients[is_fused] = torch.cat([grad.flatten() for grad in grads])
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(sums[True], sums[False], rtol=tolerance, atol=0)
    assert counts[True] == counts[False]
    if family == "ghost":
        assert 0 < counts[True]["kept_fraction"] < targets.numel(), "a threshold that keeps some bytes shows more"
    assert (gradients[True] - gradients[False]).norm() < tolerance * gradients[False].norm()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does
def test_the_fused_loss_can_be_compiled():
    (hidden, weight, bias), targets = tensors(dtype=torch.float32)

    def summed():
        return fused_cross_entropy(hidden, weight, bias, targets)[0]

    expected = torch.autograd.grad(summed(), [hidden, weight, bias])
    compiled = torch.compile(summed, backend="aot_eager", dynamic=False, fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(), [hidden, weight, bias]), expected)
