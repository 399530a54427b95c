"""The training loop of every family: it stops and evaluates at exact token counts, and resumes bit for bit."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.averaging import WeightAverage
from trainer.checkpoint import CheckpointError, identity, load_checkpoint, require_same, save_checkpoint
from trainer.checks import ConfigError
from trainer.config import TrainConfig
from trainer.corpus import Corpus
from trainer.data import corpus_for
from trainer.estimate import estimate
from trainer.families.registry import build
from trainer.loss import IGNORED, loss_sums
from trainer.measure import Measurement, Stopwatch
from trainer.memory import MemoryPeak
from trainer.optim import build_optimizer, lr_factor

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

DIVERGED_RATIO = 2.0
LOSS_SMOOTHING = 0.9
CUDA_STEPS_PER_CHECK = 16  # reading a loss waits for the GPU


class Diverged(Exception):
    """Training has failed: the loss is not finite, or its average has risen to twice the first step's loss.

    The average is exponential, over about ten steps. A spike recovers; a loss that stays so far above that of an
    untrained model does not.
    """

    def __init__(self, tokens: int, reason: str) -> None:
        super().__init__(tokens, reason)  # both, so that it can be pickled
        self.tokens, self.reason = tokens, reason

    def __str__(self) -> str:
        return f"diverged after {self.tokens:,} tokens: {self.reason}"


def train(
    config: TrainConfig,
    report: Callable[[Measurement], Any],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    corpus: Corpus | None = None,
) -> list[Measurement]:
    """Train over config.rungs and return the measurement of each; stop early if `report` returns False.

    With a checkpoint path the run is saved after every rung, before that rung is reported, and resumes from the file if
    it exists. The last rung saved is then reported again, because its report may have been lost. Raises Diverged,
    CorpusError, CheckpointError or ConfigError.
    """
    run = TrainingRun(config, corpus)
    try:
        if checkpoint is not None and Path(checkpoint).exists():
            run.restore(checkpoint)
            if run.measurements and report(run.measurements[-1]) is False:
                return run.measurements
        for rung in config.rungs:
            if rung > run.tokens:
                measurement = run.advance(rung)
                assert measurement is not None  # there was no time limit
                if checkpoint is not None:
                    run.save(checkpoint)
                if report(measurement) is False:
                    break
        return run.measurements
    finally:
        run.close()


class TrainingRun:
    """One model in training. Seeds torch when created, so that earlier work of its process has no effect."""

    def __init__(self, config: TrainConfig, corpus: Corpus | None = None) -> None:
        self.config = config
        self.tokens = 0
        self.measurements: list[Measurement] = []
        self.device = _device(config.device)
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        if corpus is None:
            corpus = corpus_for(config)
        corpus.require(config.seq_len)
        assert corpus.vocab_size == config.model.vocab_size, (corpus.vocab_size, config.model.vocab_size)
        self.corpus = corpus

        self._memory = MemoryPeak(self.device)  # before the model, whose weights belong to the peak
        torch.manual_seed(config.seed)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
        self.model = build(config).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self._average = WeightAverage(self.model, config.ema_share) if config.ema_share else None
        self._loss_sum = torch.compile(self._eager_loss_sum, dynamic=False) if config.compile else self._eager_loss_sum
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self._step_index = 0
        self._watch = _LossWatch(1 if self.device.type == "cpu" else CUDA_STEPS_PER_CHECK)
        self._stopwatch = Stopwatch(self.device)
        self._held_out: _HeldOut | None = None

    def advance(self, tokens: int, *, max_seconds: float = math.inf) -> Measurement | None:
        """Train until exactly `tokens` training tokens, then evaluate. Raises Diverged.

        Returns None if max_seconds of training ended first, so that a caller can save and report between rungs. Called
        again, the run continues as if it had not paused.
        """
        self.train(tokens, max_seconds=max_seconds)
        return self.measure() if self.tokens == tokens else None

    def train(self, tokens: int, *, max_seconds: float = math.inf) -> float:
        """As `advance`, without evaluating; returns the tokens per second of this stretch.

        A stretch that ends between two rungs must end with a whole step; otherwise the run would differ.
        """
        assert tokens > self.tokens, (tokens, self.tokens)
        deadline = time.monotonic() + max_seconds
        before = self._stopwatch.state()
        self.model.train()
        self._stopwatch.start()
        while self.tokens < tokens and time.monotonic() < deadline:
            take = min(self.config.tokens_per_step, tokens - self.tokens)
            loss = self.train_step(take)
            self.tokens += take
            self._stopwatch.step(take)
            self._watch.add(loss, self.tokens)
        self._watch.check()
        self._stopwatch.stop()
        return self._stopwatch.speed_since(before)

    def measure(self, tokens_per_second: float | None = None) -> Measurement:
        """Evaluate and keep the measurement, with the run's speed unless another is given. Raises Diverged."""
        measurement = self._measure(self.tokens_per_second if tokens_per_second is None else tokens_per_second)
        self.measurements.append(measurement)
        return measurement

    @property
    def is_warm(self) -> bool:
        """Whether this process has trained its first steps, which the speed excludes."""
        return self._stopwatch.is_warm

    @property
    def tokens_per_second(self) -> float:
        """Training tokens per second of training time so far, without the warm-up; 0.0 before the first step."""
        return self._stopwatch.tokens_per_second

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that `restore` needs to resume bit for bit."""
        generators = [torch.get_rng_state()]
        if self.device.type == "cuda":
            generators.append(torch.cuda.get_rng_state(self.device))
        contents = {
            "identity": identity(self.config, self.corpus.digest),
            "tokens": self.tokens,
            "step_index": self._step_index,
            "measurements": [measurement.to_dict() for measurement in self.measurements],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self._average.state() if self._average is not None else [],
            "scaler": self._scaler.state_dict(),
            "generators": generators,
            "watch": self._watch.state(),
            "stopwatch": self._stopwatch.state(),
        }
        save_checkpoint(path, contents)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Resume from a checkpoint of the same run, whose rungs may have been extended. Raises CheckpointError."""
        contents = load_checkpoint(path)
        try:
            self._take(path, contents)
        except (CheckpointError, torch.OutOfMemoryError):
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise CheckpointError(
                f"{path}: the checkpoint does not fit this run ({reason}); delete it to start again"
            ) from None

    def _take(self, path: str | os.PathLike[str], contents: dict[str, Any]) -> None:
        """As `restore`; raises torch's or Python's own error if the contents are not what `save` writes."""
        require_same(path, contents["identity"], identity(self.config, self.corpus.digest))
        self.tokens, self._step_index = _count(contents["tokens"]), _count(contents["step_index"])
        if self.tokens > self.config.budget_tokens:
            raise CheckpointError(
                f"{path}: the checkpoint has {self.tokens:,} tokens, the run ends at "
                f"{self.config.budget_tokens:,}; extend its rungs"
            )
        self.measurements = [Measurement.of(fields) for fields in contents["measurements"]]
        self.model.load_state_dict(contents["model"])
        self.optimizer.load_state_dict(contents["optimizer"])
        self._check_optimizer()
        if self._average is not None:
            self._average.restore(contents["average"])
        self._scaler.load_state_dict(contents["scaler"])
        self._watch.restore(contents["watch"])
        self._stopwatch.restore(contents["stopwatch"])
        torch.set_rng_state(contents["generators"][0])
        if self.device.type == "cuda" and len(contents["generators"]) > 1:
            torch.cuda.set_rng_state(contents["generators"][1], self.device)

    def _check_optimizer(self) -> None:
        """Raises ValueError if the optimizer's state has other shapes than its parameters, which torch accepts."""
        for parameter, state in self.optimizer.state.items():
            shapes = {name: tuple(value.shape) for name, value in state.items()}
            if shapes != {"step": (), "exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape)}:
                raise ValueError(f"the optimizer has {shapes} for a parameter of {tuple(parameter.shape)}")

    def close(self) -> None:
        """Free the model's memory, on the GPU too; the run cannot continue after this."""
        del self.model, self.optimizer, self._average, self._loss_sum
        self._watch = _LossWatch(1)  # it may hold losses on the device
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def train_step(self, num_tokens: int) -> Tensor:
        """One optimizer step on num_tokens tokens; returns their mean loss, on the device.

        A step cut short by a rung moves the weights by its share: a full step on few tokens would add noise just when
        trials are compared.
        """
        config = self.config
        share = num_tokens / config.tokens_per_step
        rate = config.learning_rate * lr_factor(config, self.tokens + num_tokens) * share
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=self.device)
        left = num_tokens
        for micro in range(config.accumulate_grad_batches):
            if left <= 0:
                break
            inputs, targets = self._training_batch(micro, left)
            is_whole = targets.numel() <= left
            # Code is compiled for one shape: a cut batch runs without it.
            loss_sum = self._loss_sum if is_whole and len(inputs) == config.batch_size else self._eager_loss_sum
            part = loss_sum(inputs, targets) / num_tokens
            self._scaler.scale(part).backward()
            loss += part.detach()
            left -= targets.numel()
        if config.grad_clip_norm > 0:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update(self.tokens, self.tokens + num_tokens)
        self._step_index += 1
        return loss

    def _training_batch(self, micro: int, left: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (rows, seq_len): at most batch_size rows, and no more than contain `left` tokens."""
        config = self.config
        rows = min(config.batch_size, -(-left // config.seq_len))
        key = (config.seed, self._step_index, micro)
        inputs, targets = self.corpus.training_batch(key, rows, config.seq_len)
        if rows * config.seq_len > left:
            targets[-1, left - rows * config.seq_len :] = IGNORED
        return self._to_device(inputs), self._to_device(targets)

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _eager_loss_sum(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What a step minimises: the summed cross-entropy in nats of targets that count, plus the family's own loss."""
        with self._autocast():
            cross_entropy, addition, _ = loss_sums(self.model, inputs, targets, is_fused=self.config.fused_loss)
            return cross_entropy + addition

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = AUTOCAST_DTYPES.get(self.config.precision)
        return torch.autocast(self.device.type, dtype) if dtype is not None else contextlib.nullcontext()

    def _measure(self, tokens_per_second: float) -> Measurement:
        loss, bits_per_byte, shares = self._evaluate()
        if not math.isfinite(loss):
            raise Diverged(self.tokens, f"the held-out loss is {loss}")
        expected = estimate(self.config)
        vram_bytes = self._memory.vram_bytes()
        return Measurement(
            tokens=self.tokens,
            loss=loss,
            bits_per_byte=bits_per_byte,
            tokens_per_second=tokens_per_second,
            peak_vram_bytes=expected.peak_vram_bytes if vram_bytes is None else vram_bytes,
            num_params=sum(parameter.numel() for parameter in self.model.parameters()),
            train_seconds=self._stopwatch.seconds,
            peak_rss_bytes=self._memory.rss_bytes(),
            estimated=vram_bytes is None and expected.peak_vram_bytes is not None,
            exclusive=True,
            shares=shares,
        )

    def _evaluate(self) -> tuple[float, float | None, dict[str, float]]:
        """The loss in nats per token on held-out text, bits per byte if the tokens' bytes are known, and the shares of
        the tokens that the family counts; with the averaged weights, if there are any.
        """
        if self._held_out is None:
            self._held_out = _HeldOut(self.corpus, self.config)
        held_out = self._held_out
        self.model.eval()
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        totals: dict[str, Tensor] = {}
        averaged = self._average.in_place() if self._average is not None else contextlib.nullcontext()
        with averaged, torch.inference_mode(), self._autocast():
            for inputs, targets in held_out.batches():
                batch = self._to_device(inputs), self._to_device(targets)
                cross_entropy, _, counts = loss_sums(self.model, *batch, is_fused=self.config.fused_loss)
                nats += cross_entropy
                totals = {name: totals.get(name, 0) + count for name, count in counts.items()}
        total = nats.item()
        bits_per_byte = None if held_out.num_bytes is None else total / math.log(2) / held_out.num_bytes
        shares = {name: count.item() / held_out.num_tokens for name, count in totals.items()}
        return total / held_out.num_tokens, bits_per_byte, shares


class _HeldOut:
    """The text to evaluate on: the same tokens for every seq_len and batch_size, each predicted once.

    With `eval_bytes`, the same bytes for every vocabulary too.
    """

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        if config.eval_bytes is None or corpus.marks is None:
            self.stretches = corpus.held_out_stretches(config.eval_tokens)
        else:
            self.stretches = corpus.held_out_text(config.eval_bytes)
        self.seq_len, self.rows = config.seq_len, config.batch_size  # at most the memory of a training batch
        self.num_tokens = sum(len(stretch) - 1 for stretch in self.stretches)
        self.num_bytes = None
        if corpus.token_bytes is not None:
            self.num_bytes = int(sum(corpus.token_bytes[stretch[1:]].sum() for stretch in self.stretches))

    def batches(self) -> Any:
        """Inputs and targets (rows, seq_len); a stretch's last window is padded, and the padding ignored."""
        windows = [(stretch, start) for stretch in self.stretches for start in range(0, len(stretch) - 1, self.seq_len)]
        for first in range(0, len(windows), self.rows):
            batch = windows[first : first + self.rows]
            inputs = np.zeros((len(batch), self.seq_len), dtype=np.int64)
            targets = np.full((len(batch), self.seq_len), IGNORED, dtype=np.int64)
            for row, (stretch, start) in enumerate(batch):
                window = stretch[start : start + self.seq_len + 1]
                inputs[row, : len(window) - 1] = window[:-1]
                targets[row, : len(window) - 1] = window[1:]
            yield inputs, targets


class _LossWatch:
    """Raises Diverged within `steps_per_check` steps of a loss that shows it."""

    def __init__(self, steps_per_check: int) -> None:
        self.steps_per_check = steps_per_check
        self.first: float | None = None
        self.average = 0.0
        self._pending: list[tuple[Tensor, int]] = []

    def add(self, loss: Tensor, tokens: int) -> None:
        self._pending.append((loss, tokens))
        if len(self._pending) >= self.steps_per_check:
            self.check()

    def check(self) -> None:
        if not self._pending:
            return
        losses = torch.stack([loss for loss, _ in self._pending]).tolist()  # one wait for the GPU, not one per step
        pending, self._pending = self._pending, []
        for loss, (_, tokens) in zip(losses, pending, strict=True):
            if not math.isfinite(loss):
                raise Diverged(tokens, f"the training loss is {loss}")
            if self.first is None:
                self.first = self.average = loss
            self.average = LOSS_SMOOTHING * self.average + (1 - LOSS_SMOOTHING) * loss
            if self.average > DIVERGED_RATIO * self.first:
                raise Diverged(tokens, f"the training loss rose to {self.average:.2f} from {self.first:.2f}")

    def state(self) -> dict[str, Any]:
        return {"first": self.first, "average": self.average}

    def restore(self, state: dict[str, Any]) -> None:
        self.first = None if state["first"] is None else float(state["first"])
        self.average = float(state["average"])


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r:.60} is not a count")
    return number


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown to torch; use auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} GPUs; use auto or cpu")
    return device
