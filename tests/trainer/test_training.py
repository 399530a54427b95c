"""The loop: exact at rungs, the same bits from the same seed, resumed as if never stopped, and fair to every shape."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from trainer.__main__ import main
from trainer.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from trainer.checks import ConfigError
from trainer.config import TrainConfig
from trainer.corpus import Corpus
from trainer.loop import Diverged, TrainingRun, _LossWatch, train
from trainer.measure import Stopwatch
from trainer.optim import AdamW, build_optimizer, lr_factor
from trainer.text.errors import CorpusError

MODEL = {"vocab_size": 32, "d_model": 16, "d_state": 4, "n_layers": 2, "n_heads": 2, "attn_layer_idx": 1}
RUN = {"seq_len": 8, "batch_size": 4, "rungs": [64, 200], "learning_rate": 1e-2, "num_threads": 1, "device": "cpu"}


def config_of(**changes) -> TrainConfig:
    return TrainConfig.from_flat("hybrid", {**MODEL, **RUN, **changes})


def corpus_of(num_tokens: int = 3000, has_bytes: bool = True) -> Corpus:
    """A walk that mostly counts upwards, so that there is something to learn."""
    steps = np.random.default_rng(0).choice([1, 1, 1, 5], size=num_tokens)
    tokens = (np.cumsum(steps) % 32).astype(np.uint8)
    cut = num_tokens * 4 // 5
    token_bytes = np.arange(1, 33, dtype=np.int32) if has_bytes else None
    return Corpus(
        train=tokens[:cut],
        validation=tokens[cut:],
        vocab_size=32,
        token_bytes=token_bytes,
        digest=f"walk {num_tokens}",
        about="a walk",
    )


def losses_of(config: TrainConfig, **options) -> list[float]:
    return [m.loss for m in train(config, lambda m: None, corpus=options.pop("corpus", corpus_of()), **options)]


def weights_of(run: TrainingRun) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def trained(config: TrainConfig, tokens: int) -> TrainingRun:
    run = TrainingRun(config, corpus_of())
    run.advance(tokens)
    return run


def test_every_rung_is_measured_at_exactly_its_tokens():
    reported = []
    returned = train(config_of(rungs=[1, 31, 32, 33, 170]), reported.append, corpus=corpus_of())
    assert [m.tokens for m in reported] == [1, 31, 32, 33, 170] and returned == reported
    assert reported[-1].loss < reported[0].loss


def test_a_measurement_says_everything():
    (m,) = train(config_of(rungs=[320]), lambda m: None, corpus=corpus_of())
    assert m.num_params == 2 * 32 * 16 + 32 + 32 + 4 * 16 * 4 + 8 + 32 + 4 * 256 + 32
    assert m.tokens_per_second > 0 and m.train_seconds > 0 and m.peak_vram_bytes > 0 and m.estimated and m.exclusive
    assert m.peak_rss_bytes is None or m.peak_rss_bytes > 0
    assert json.loads(json.dumps(m.to_dict())) == m.to_dict()


def test_a_stretch_of_whole_steps_has_a_speed_of_its_own_and_leaves_no_trace(monkeypatch):
    config = config_of(rungs=[320])  # ten steps of 32
    expected = trained(config, 320)
    now = 0.0
    monkeypatch.setattr(Stopwatch, "_now", lambda self: now)
    run = TrainingRun(config, corpus_of())
    step, seconds = run.train_step, 100.0

    def timed(num_tokens):
        nonlocal now
        now += seconds
        return step(num_tokens)

    run.train_step = timed
    assert run.train(2 * 32) == 32 / 100 and not run.is_warm
    assert run.train(3 * 32) == 32 / 100 and run.is_warm
    seconds = 4.0
    assert run.train(6 * 32) == 32 / 4 == run.tokens_per_second  # of which the first steps are no part
    seconds = 1.0
    assert (speed := run.train(320)) == 32 and run.tokens_per_second == 7 * 32 / 16
    measured = run.measure(speed)
    assert run.measurements == [measured] and (measured.tokens_per_second, measured.train_seconds) == (32, 316)
    assert measured.loss == expected.measurements[0].loss and torch.equal(weights_of(run), weights_of(expected))


def test_training_stops_when_the_report_says_so():
    assert len(train(config_of(), lambda m: False, corpus=corpus_of())) == 1


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 31])
def test_a_cut_step_trains_on_just_its_tokens_at_its_share_of_the_rate(cut):
    config = config_of(weight_decay=0.0, grad_clip_norm=0.0, schedule="constant", warmup_ratio=0.0)
    run = TrainingRun(config, corpus_of())
    before = weights_of(run)
    inputs, targets = run._training_batch(0, cut)
    assert (targets != -100).sum() == cut and len(inputs) == math.ceil(cut / 8)
    assert torch.equal(targets.flatten()[:cut] != -100, torch.ones(cut, dtype=torch.bool))
    run.train_step(cut)
    moved = (weights_of(run) - before).abs().max().item()
    assert moved == pytest.approx(1e-2 * cut / 32, rel=1e-2)  # AdamW's first step moves a weight by the rate


def test_each_step_sees_other_text():
    run = TrainingRun(config_of(), corpus_of())
    batches = []
    for _ in range(3):
        batches.append(run._training_batch(0, 32)[0])
        run.train_step(32)
    assert not torch.equal(batches[0], batches[1]) and not torch.equal(batches[1], batches[2])


def test_the_same_seed_gives_the_same_bits_after_whatever_else():
    first = losses_of(config_of())
    torch.manual_seed(99)
    losses_of(config_of(d_model=32, seed=5))
    assert losses_of(config_of()) == first
    assert losses_of(config_of(seed=1)) != first


@pytest.mark.parametrize("changes", [{}, {"accumulate_grad_batches": 2}, {"ema_share": 0.2}])
@pytest.mark.parametrize("stop", [64, 75])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, changes, stop):
    config = config_of(rungs=[stop, 300], **changes)
    whole = TrainingRun(config, corpus_of())
    expected = [whole.advance(stop).loss, whole.advance(300).loss]

    first = TrainingRun(config, corpus_of())
    assert first.advance(stop).loss == expected[0]
    first.save(tmp_path / "run.pt")
    first.close()
    torch.manual_seed(99)
    second = TrainingRun(config, corpus_of())
    second.restore(tmp_path / "run.pt")
    assert second.tokens == stop and [m.tokens for m in second.measurements] == [stop]
    assert second.advance(300).loss == expected[1]
    assert torch.equal(weights_of(second), weights_of(whole))


def test_train_resumes_from_its_checkpoint_and_reports_the_last_rung_again(tmp_path):
    path = tmp_path / "run.pt"
    whole = losses_of(config_of(rungs=[64, 128, 200]))

    def lose_power(measurement):
        if measurement.tokens == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config_of(rungs=[64, 128, 200]), lose_power, checkpoint=path, corpus=corpus_of())
    reported = []
    returned = train(config_of(rungs=[64, 128, 200]), reported.append, checkpoint=path, corpus=corpus_of())
    assert [m.tokens for m in reported] == [128, 200]
    assert [m.loss for m in returned] == whole
    extended = train(config_of(rungs=[64, 128, 200, 300]), lambda m: None, checkpoint=path, corpus=corpus_of())
    assert [m.tokens for m in extended] == [64, 128, 200, 300]
    with pytest.raises(CheckpointError, match="300 tokens, the run ends at 200"):
        losses_of(config_of(), checkpoint=path)
    with pytest.raises(CheckpointError, match="belongs to another run: seed is 0 there and 1 here"):
        losses_of(config_of(seed=1), checkpoint=path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["identity"], 5),
        (["tokens"], "64"),
        (["tokens"], -1),
        (["step_index"], 0.5),
        (["measurements"], [{"loss": 1.0}]),
        (["model"], {}),
        (["model", "head.weight"], torch.zeros(3)),
        (["optimizer", "state", 0, "exp_avg"], torch.zeros(1)),  # torch would take it, and spread it over the weights
        (["optimizer", "state", 0], {}),
        (["optimizer", "param_groups"], []),
        (["watch"], 5),
        (["watch", "average"], 10**400),
        (["stopwatch", "seconds"], "x"),
        (["generators"], []),
        (["generators", 0], torch.zeros(3)),
    ],
)
def test_a_checkpoint_whose_contents_do_not_fit_is_refused(tmp_path, path, value):
    trained(config_of(), 64).save(tmp_path / "run.pt")
    contents = load_checkpoint(tmp_path / "run.pt")
    place = contents
    for key in path[:-1]:
        place = place[key]
    assert isinstance(place, list) or path[-1] in place
    place[path[-1]] = value
    save_checkpoint(tmp_path / "run.pt", contents)
    with pytest.raises(CheckpointError, match=r"run.pt: the checkpoint does not fit this run \("):
        TrainingRun(config_of(), corpus_of()).restore(tmp_path / "run.pt")


@pytest.mark.parametrize("eval_tokens", [1, 100, 599, 10_000])
def test_held_out_text_is_the_same_for_every_shape(eval_tokens):
    predicted = []
    for seq_len, batch_size in [(8, 4), (5, 3), (64, 1), (200, 7)]:
        run = TrainingRun(config_of(seq_len=seq_len, batch_size=batch_size, eval_tokens=eval_tokens), corpus_of())
        run._evaluate()
        targets = [t[t != -100] for _, t in run._held_out.batches()]
        predicted.append(np.concatenate(targets).tolist())
    assert len(predicted[0]) == min(eval_tokens, 599)
    assert all(tokens == predicted[0] for tokens in predicted)


def test_evaluation_does_not_depend_on_the_batch_size():
    losses = []
    for batch_size in (1, 3, 50):
        run = TrainingRun(config_of(batch_size=batch_size), corpus_of())
        losses.append(run._evaluate()[0])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_bits_per_byte_count_the_bytes_of_what_is_predicted():
    corpus = corpus_of()
    (m,) = train(config_of(rungs=[64]), lambda m: None, corpus=corpus)
    num_bytes = corpus.token_bytes[corpus.validation[1:]].sum()
    assert m.bits_per_byte == pytest.approx(m.loss * 599 / math.log(2) / num_bytes)
    (m,) = train(config_of(rungs=[64]), lambda m: None, corpus=corpus_of(has_bytes=False))
    assert m.bits_per_byte is None


def test_accumulation_equals_one_big_batch():
    big = trained(config_of(rungs=[64], accumulate_grad_batches=2), 64)
    one = TrainingRun(config_of(rungs=[64], batch_size=8), corpus_of())
    parts = [big.corpus.training_batch((0, 0, micro), 4, 8) for micro in range(2)]
    one._training_batch = lambda micro, left: tuple(
        torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)
    )
    one.advance(64)
    torch.testing.assert_close(weights_of(one), weights_of(big), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_close_to_single(precision):
    single, half = losses_of(config_of(rungs=[640])), losses_of(config_of(rungs=[640], precision=precision))
    assert half != single and half == pytest.approx(single, rel=0.05)


def test_compiling_is_asked_of_torch_and_cut_steps_run_without_it(monkeypatch):
    shapes = []

    def compile_once(function, **options):
        return lambda inputs, targets: shapes.append(tuple(inputs.shape)) or function(inputs, targets)

    monkeypatch.setattr(torch, "compile", compile_once)
    assert losses_of(config_of(compile=True)) == losses_of(config_of())
    assert shapes == [(4, 8)] * 6  # 2 + 4 whole steps of 200 tokens; the cut one of 8 is not among them


def test_divergence_is_raised_promptly():
    with pytest.raises(Diverged, match="diverged after .* tokens: the training loss rose to") as caught:
        losses_of(config_of(learning_rate=30.0, rungs=[100_000], schedule="constant", warmup_ratio=0.0))
    assert caught.value.tokens < 32 * 30
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.tokens, again.reason) == (caught.value.tokens, caught.value.reason)


def test_a_loss_that_stays_at_thrice_its_start_diverges_and_a_spike_does_not():
    for steps_per_check in (1, 4):
        watch = _LossWatch(steps_per_check)
        for step, loss in enumerate([5.0, 4.0, 30.0, 4.0, 4.0, 4.0, 4.0, 4.0]):
            watch.add(torch.tensor(loss), step)
        with pytest.raises(Diverged, match="rose to 10.* from 5.00"):
            for step in range(8, 28):
                watch.add(torch.tensor(15.0), step)


def test_a_loss_that_is_not_a_number_is_divergence():
    run = TrainingRun(config_of(), corpus_of())
    with torch.no_grad():
        run.model.head.bias.fill_(math.nan)
    with pytest.raises(Diverged, match="diverged after 32 tokens: the training loss is nan"):
        run.advance(64)


def test_the_rate_warms_up_and_then_follows_its_schedule():
    def factors(schedule, *at):
        config = config_of(rungs=[1000], schedule=schedule, warmup_ratio=0.1, min_lr_ratio=0.2)
        return [lr_factor(config, tokens) for tokens in at]

    assert factors("constant", 0, 50, 100, 550, 1000) == pytest.approx([0, 0.5, 1, 1, 1])
    assert factors("cosine", 0, 50, 100, 550, 1000, 2000) == pytest.approx([0, 0.5, 1, 0.6, 0.2, 0.2])
    assert factors("wsd", 0, 50, 100, 800, 900, 1000) == pytest.approx([0, 0.5, 1, 1, 0.6, 0.2])


def test_the_average_weighs_each_step_by_a_power_of_its_tokens_and_has_the_age_asked_for():
    config = config_of(rungs=[40, 200, 700], ema_share=0.2)  # steps of 32, some cut short by a rung
    run = TrainingRun(config, corpus_of())
    ends, weights, step = [0], [], run.train_step

    def noted(num_tokens):
        loss = step(num_tokens)
        ends.append(run.tokens + num_tokens)
        weights.append(weights_of(run))
        return loss

    run.train_step = noted
    for rung in config.rungs:
        run.advance(rung)
    shares = np.diff((np.array(ends) / 700) ** 4)  # 1 / 0.2 - 1
    assert shares.sum() == pytest.approx(1) and np.diff(ends).min() == 8
    ages = 1 - (np.array(ends)[1:] + np.array(ends)[:-1]) / 2 / 700
    assert shares @ ages == pytest.approx(0.2, abs=0.01)
    expected = sum(share * of_step for share, of_step in zip(shares, weights, strict=True))
    with run._average.in_place():
        torch.testing.assert_close(weights_of(run), expected.float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(weights_of(run), weights[-1])


def test_rungs_evaluate_the_average_which_leaves_training_as_it_is():
    plain, averaged = trained(config_of(), 200), trained(config_of(ema_share=0.2), 200)
    assert torch.equal(weights_of(plain), weights_of(averaged))
    assert averaged.measurements[0].loss != plain.measurements[0].loss
    with torch.no_grad():
        for parameter, average in zip(plain.model.parameters(), averaged._average.state(), strict=True):
            parameter.copy_(average)
    assert plain._evaluate()[0] == averaged.measurements[0].loss


def test_without_averaging_no_second_copy_of_the_weights_is_kept(tmp_path):
    sizes = {}
    for share in (0.0, 0.2):
        run = trained(config_of(ema_share=share), 64)
        run.save(tmp_path / f"{share}.pt")
        sizes[share] = (tmp_path / f"{share}.pt").stat().st_size
    assert run._average is not None and trained(config_of(), 64)._average is None
    assert sizes[0.2] - sizes[0.0] >= 4 * weights_of(run).numel()


def test_only_matrices_that_are_no_embedding_decay():
    model = TrainingRun(config_of(), corpus_of()).model
    decayed, kept = build_optimizer(model, config_of(weight_decay=0.3)).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert all(names[id(p)].endswith(".weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert "embedding.weight" in {names[id(p)] for p in kept["params"]}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_the_optimizer_is_torchs_to_the_bit():
    config = config_of(weight_decay=0.3, learning_rate=1e-2)
    ours = TrainingRun(config, corpus_of())
    theirs = TrainingRun(config, corpus_of())
    options = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2), "fused": True}
    theirs.optimizer = torch.optim.AdamW(build_optimizer(theirs.model, config).param_groups, **options)
    assert [ours.advance(n).loss for n in (64, 200)] == [theirs.advance(n).loss for n in (64, 200)]
    assert all(map(torch.equal, ours.model.parameters(), theirs.model.parameters()))


def test_clipping_bounds_the_gradient(monkeypatch):
    norms = []
    step = AdamW.step

    def look(self, *args, **kwargs):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(AdamW, "step", look)
    losses_of(config_of(grad_clip_norm=0.01))
    assert max(norms) <= 0.01 * 1.001
    norms.clear()
    losses_of(config_of(grad_clip_norm=0.0))
    assert min(norms) > 0.01


def test_faults_of_the_user_are_reported_before_training():
    with pytest.raises(CorpusError, match="seq_len 100 needs 101"):
        TrainingRun(config_of(seq_len=100), corpus_of(300))
    with pytest.raises(ConfigError, match="device 'gpu' is unknown to torch; use auto, cpu or cuda"):
        TrainingRun(config_of(device="gpu"), corpus_of())
    with pytest.raises(ConfigError, match="torch sees .* GPUs"):
        TrainingRun(config_of(device="cuda:99"), corpus_of())


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYSEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("a small text to learn from\n" * 40)
    document = {"family": "hybrid", **MODEL, **RUN, "vocab_size": 256, "data": [str(tmp_path / "text.txt")]}
    (tmp_path / "config.json").write_text(json.dumps(document))
    return tmp_path / "config.json"


def test_the_command_prints_a_line_for_each_rung(config_file, capsys):
    assert main([str(config_file)]) == 0
    text, split, first, second = capsys.readouterr().out.splitlines()
    assert "1 file, 1 document, 1.08 KB" in text and "held out: the end of 1 document" in split
    assert "64 tokens  loss" in first and "200 tokens  loss" in second
    assert main([str(config_file), "--json"]) == 0
    assert [json.loads(line)["tokens"] for line in capsys.readouterr().out.splitlines()] == [64, 200]


def test_the_command_reports_a_fault_in_one_line_and_exits_2(config_file, capsys):
    config_file.write_text(json.dumps({"family": "hybird", "rungs": [1]}))
    assert main([str(config_file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    config_file.write_text(json.dumps({"family": "hybrid", "rungs": [1], "data": ["nowhere.txt"]}))
    assert main([str(config_file)]) == 2
    assert capsys.readouterr().err == "error: nowhere.txt: no such file or folder\n"


def test_ctrl_c_exits_130(config_file, capsys, monkeypatch):
    def interrupted(self, tokens):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "advance", interrupted)
    assert main([str(config_file)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_training_needs_neither_the_search_nor_its_libraries_nor_torchs_compiler(config_file):
    code = (
        "import sys; from trainer.__main__ import main; main(sys.argv[1:]); "
        "unneeded = {'search', 'ray', 'optuna', 'pydantic', 'yaml', 'tokenizers', 'torch._dynamo', 'sympy'}; "
        "found = unneeded & set(sys.modules); "
        "sys.exit(str(found) if found else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(config_file)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
