"""Sweeps written for other tools: each entry gets one line that says what to write here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.space.document import SpaceError
from search.space.loading import load_space, parse_space
from search.space.narrowing import narrow
from search.space.spec import SpaceSpec
from search.space.sweeps import COUNTS, FOREIGN_KEYS, SPACES
from search.space.synonyms import ELSEWHERE, SYNONYMS, synonym, unknown_parameter
from search.space.translation import as_ours, translated
from trainer.config import parameter_types
from trainer.families.registry import BUILT_IN

SWEEPS = Path(__file__).resolve().parent / "sweeps"

# Of each file every line that has a fault, the entry, and what is essential of the message.
EXPECTED = {
    "wandb": [
        (1, "", "family is missing"),
        (1, "program", "no program"),
        (2, "project", "leave it out"),
        (3, "entity", "leave it out"),
        (4, "name", "--name"),
        (5, "method", "write search: {sampler: gp}"),
        (7, "metric.name", "Did you mean 'loss'?"),
        (9, "early_terminate", "write search: {stopping: hyperband}"),
        (12, "run_cap", "write budget: {trials: 50}"),
        (13, "command", "no program"),
        (19, "parameters.lr", "write learning_rate: {min: 1e-05, max: 0.01, log: true, default: 0.0003}"),
        (23, "parameters.weight_decay", "write weight_decay: {min: 0.0001, max: 0.1, log: true, default: 0.003} (the"),
        (27, "parameters.bs", "write batch_size: {min: 8, max: 256, log: true, default: 50} (a logarithmic range has"),
        (32, "parameters.n_embd", "has no default"),
        (34, "parameters.dropout", "write dropout: {min: 0.04, max: 0.16, default: 0.1} (there is no normal"),
        (38, "parameters.n_layer", "write n_layer: {min: 2, max: 12, default: 7}"),
        (42, "parameters.n_head", "write n_head: {values: [2, 4, 8], default: 2} (all values are alike likely"),
        (46, "parameters.betas", "write beta1 and beta2"),
        (48, "parameters.warmup_steps", "write warmup_ratio, a share of the training"),
        (54, "parameters.grad_clip.values.0", "has no value; write what it stands for, such as 0 for off"),
        (55, "parameters.seed", "--seed N"),
        (57, "parameters.optimizer", "one optimizer, AdamW"),
        (59, "parameters.epochs", "budget: {max_tokens: N}"),
    ],
    "wandb_nested": [
        (1, "method", "write search: {sampler: grid}"),
        (6, "parameters.optimizer.parameters.lr", "write learning_rate: {min: 0.0001, max: 0.1, default: 0.05}"),
        (9, "parameters.optimizer.parameters.betas", "write beta1 and beta2"),
        (11, "parameters.model.n_layer", "write n_layers: {values: [2, 4], default: 2}"),
        (13, "parameters.batch_size", "has no default"),
        (19, "parameters.weight_decay.step", "a logarithmic range has no step"),
        (21, "parameters.dropout", "write dropout: {min: 0, max: 0.5, default: 0.25}"),
    ],
    "ray": [
        (3, "metric", "expected a mapping such as {name: loss, goal: minimize}"),
        (4, "mode", "write metric:"),
        (5, "num_samples", "write budget: {trials: 100}"),
        (6, "scheduler", "write search: {stopping: asha}"),
        (7, "search_alg", "write search: {sampler: tpe}"),
        (8, "resources_per_trial", "--gpus-per-trial"),
        (10, "parameters.lr", "write learning_rate: {min: 0.0001, max: 0.1, log: true, default: 0.003}"),
        (11, "parameters.momentum", "write beta1: {min: 0.8, max: 0.99, default: 0.9}"),
        (12, "parameters.batch_size", "write batch_size: {values: [16, 32, 64], default: 16}"),
        (13, "parameters.hidden_size", "write d_model: {min: 64, max: 512, step: 64, default: 256}"),
        (14, "parameters.num_layers", "write n_layers: {min: 2, max: 8, default: 5} (the end is included here)"),
        (15, "parameters.dropout", "write dropout: {values: [0, 0.1, 0.2], default: 0}"),
        (16, "parameters.weight_decay", "write weight_decay: {derive: ...}"),
        (17, "parameters.max_steps", "--max-tokens N"),
        (18, "parameters.block_size", "write seq_len: {min: 64, max: 1024, log: true, default: 300} (the end"),
    ],
    "hydra": [
        (1, "defaults", "Hydra"),
        (3, "hydra", "write what it sweeps under parameters"),
        (11, "hydra.sweeper.params.optimizer.lr", "write learning_rate: {min: 0.0001, max: 0.1, log: true, default: "),
        (12, "hydra.sweeper.params.model.n_layer", "write n_layers: {min: 2, max: 8, default: 5} (the end is"),
        (13, "hydra.sweeper.params.+model.width", "write d_model: {values: [64, 128, 256], default: 64}"),
        (14, "hydra.sweeper.params.data.batch_size", "write batch_size: {values: [16, 32, 64], default: 16}"),
        (15, "hydra.sweeper.params.optimizer.weight_decay", "write weight_decay: {value: 0.1}"),
        (16, "seed", "--seed N"),
        (17, "lr", "belongs under parameters: write learning_rate: {value: 0.001}"),
    ],
    "nni": [
        (1, "", "family is missing"),
        (1, "", "parameters is missing"),
        (1, "experimentName", "--name"),
        (2, "trialCommand", "no program"),
        (3, "trialConcurrency", "--parallel"),
        (4, "maxTrialNumber", "write budget: {trials: 40}"),
        (5, "maxExperimentDuration", "--until"),
        (6, "tuner", "leave it out"),
        (9, "trainingService", "leave it out"),
        (10, "searchSpace", "here it is called parameters"),
        (11, "searchSpace.lr", "write learning_rate: {min: 0.0001, max: 0.1, log: true, default: 0.003}"),
        (12, "searchSpace.batch_size", "write batch_size: {values: [16, 32, 64], default: 16}"),
        (13, "searchSpace.num_hidden_layers", "write n_layers: {min: 1, max: 8, default: 4} (the end is included"),
        (14, "searchSpace.dropout", "write dropout: {min: 0, max: 0.5, step: 0.1, default: 0.2}"),
    ],
    "ax": [
        (1, "name", "--name"),
        (3, "objectives", "here it is called metrics"),
        (4, "parameters", "expected a mapping, got a list"),
        (5, "parameters.0", "write learning_rate: {min: 1e-05, max: 0.1, log: true, default: 0.001}"),
        (6, "parameters.1", "write n_layer: {min: 2, max: 8, default: 5}"),
        (7, "parameters.2", "write n_embd: {values: [64, 128, 256], default: 64}"),
        (8, "parameters.3", "write dropout: {value: 0.1}"),
        (9, "parameter_constraints", "write rules:"),
        (10, "total_trials", "write budget: {trials: 20}"),
    ],
    "optuna": [
        (1, "study_name", "--name"),
        (2, "direction", "write metric:"),
        (3, "storage", "--storage"),
        (4, "sampler", "write search: {sampler: tpe}"),
        (5, "pruner", "write search: {stopping: median}"),
        (6, "n_trials", "write budget: {trials: 100}"),
        (7, "timeout", "--until"),
        (10, "parameters.learning_rate", "write learning_rate: {min: 1e-05, max: 0.01, log: true, default: 0.0003}"),
        (11, "parameters.width", "write dim: {min: 64, max: 512, step: 64, default: 256}"),
        (12, "parameters.depth", "write layers: {min: 2, max: 8, default: 5}"),
        (13, "parameters.schedule", "write schedule: {values: [cosine, constant], default: cosine}"),
        (14, "parameters.weight_decay", "write weight_decay: {min: 0, max: 0.3, step: 0.05, default: 0.1}"),
        (15, "parameters.beta2.high", "here it is called max"),
        (15, "parameters.beta2.low", "here it is called min"),
        (16, "parameters.batch_size", "expected a mapping such as {min: 1, max: 8, default: 4} or {value: 4}, got 16"),
    ],
}


def faults_of(text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(SpaceError) as error:
        parse_space(text, "s")
    return [(fault.line, fault.where, fault.message) for fault in error.value.faults]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_whole_file_of_another_tool_gets_every_line_at_once(name: str):
    with pytest.raises(SpaceError) as error:
        load_space(SWEEPS / f"{name}.yaml")
    found = sorted((fault.line, fault.where, fault.message) for fault in error.value.faults)
    assert [place[:2] for place in found] == [place[:2] for place in sorted(EXPECTED[name])]
    for (line, where, message), (*_, words) in zip(found, sorted(EXPECTED[name]), strict=True):
        assert words in message, (line, where)


def test_every_sweep_file_has_its_expected_lines():
    assert {path.stem for path in SWEEPS.glob("*.yaml")} == set(EXPECTED)


ENTRIES = {
    # W&B; its log_uniform has exponents
    "{distribution: uniform, min: 0, max: 0.5}": "{min: 0, max: 0.5, default: 0.25}",
    "{distribution: log_uniform, min: -9.2103, max: 0}": "{min: 0.0001, max: 1, log: true, default: 0.01} (the ends",
    "{distribution: inv_log_uniform_values, min: 0.9, max: 0.999}": "{min: 0.9, max: 0.999, log: true, default: 0.9}",
    "{distribution: q_uniform, min: 0, max: 0.5, q: 0.2}": "{min: 0, max: 0.4, step: 0.2, default: 0.2}",
    "{distribution: q_log_uniform_values, min: 0.1, max: 1, q: 0.1}": "log: true, default: 0.3} (a logarithmic range",
    "{distribution: log_normal, mu: 0, sigma: 0.5}": "{min: 0.368, max: 2.72, log: true, default: 1} (there is no",
    "{distribution: q_normal, mu: 1, sigma: 0.2, q: 0.1}": "{min: 0.6, max: 1.4, default: 1} (there is no normal",
    "{distribution: beta, a: 1, b: 2}": "there is no beta distribution",
    "{distribution: constant, value: 0.5}": "{value: 0.5}",
    "{distribution: categorical_w_probabilities, values: [0.1, 0.2], probabilities: [0.5, 0.5]}": "[0.1, 0.2], default",
    "{values: [0.1, 0.2], probabilities: [0.5, 0.5]}": "{values: [0.1, 0.2], default: 0.1} (all values are alike",
    "{mu: 0.1, sigma: 0.02}": "{min: 0.06, max: 0.14, default: 0.1}",
    # calls
    "tune.uniform(0, 0.5)": "{min: 0, max: 0.5, default: 0.25}",
    "'loguniform(1e-4, 1e-1)'": "{min: 0.0001, max: 0.1, log: true, default: 0.003}",
    "hp.loguniform('x', -9.2103, 0)": "{min: 0.0001, max: 1, log: true",
    "'tune.quniform(0, 1, 0.25)'": "{min: 0, max: 1, step: 0.25, default: 0.5}",
    "tune.randn(0, 1)": "{min: -2, max: 2, default: 0} (there is no normal",
    "'interval(0, 1)'": "{min: 0, max: 1, default: 0.5}",
    "range(0, 1, 0.25)": "{min: 0, max: 0.75, step: 0.25, default: 0.25} (the end is included here)",
    "'choice(0.1, 0.2)'": "{values: [0.1, 0.2], default: 0.1}",
    "'0.1, 0.2,0.3'": "{values: [0.1, 0.2, 0.3], default: 0.1}",
    "trial.suggest_float(0.1, 0.9, log=True)": "{min: 0.1, max: 0.9, log: true, default: 0.3}",
    "suggest_loguniform('x', 0.1, 0.9)": "{min: 0.1, max: 0.9, log: true, default: 0.3}",
    "suggest_categorical('x', [0.1, 0.2])": "{values: [0.1, 0.2], default: 0.1}",
    # lists
    "[0.1, 0.2]": "{values: [0.1, 0.2], default: 0.1}",
    "[0.1]": "{value: 0.1}",
    "{grid_search: [0.1, 0.2]}": "{values: [0.1, 0.2], default: 0.1}",
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_foreign_entry_is_reported_as_it_is_written_here(entry: str):
    space = f"family: transformer\nparameters:\n  wd: {entry}\n  n_layers: {{low: 1}}\n"
    first, *others = faults_of(space)
    assert first[:2] == (3, "parameters.wd") and "write weight_decay: " in first[2] and ENTRIES[entry] in first[2]
    assert [fault[:2] for fault in others] == [(4, "parameters.n_layers.low")]


def test_what_is_said_to_write_can_be_written():
    """Each `write ...` without gaps is an entry that loads."""
    num_checked = 0
    for entry, expected in ENTRIES.items():
        message = faults_of(f"family: transformer\nparameters:\n  wd: {entry}\n")[0][2]
        if "..." in message or "{min: -2" in expected:  # a weight decay is not negative
            continue
        written = message.partition("write ")[2].partition(" (")[0]
        assert "weight_decay" in parse_space(f"family: transformer\nparameters:\n  {written}\n").parameters
        num_checked += 1
    assert num_checked > 20


@pytest.mark.parametrize(
    ("entry", "place", "words"),
    [
        ("{value: [0.9, 0.95]}", "parameters.beta1.value", "make each part a parameter of its own"),
        ("{values: [{a: 1}, 0.9], default: 0.9}", "parameters.beta1.values.0", "a parameter of its own"),
        ("{value: null}", "parameters.beta1.value", "has no value"),
        (f"{{values: [{', '.join(f'{i / 1000}' for i in range(500))}], default: 0}}", "parameters.beta1.values",
         "write min: 0.0, max: 0.499, step: 0.001"),
        ("{value: !!python/float 0.5}", "parameters.beta1.value", "tags such as"),
    ],
)  # fmt: skip
def test_what_is_no_value_gets_one_line(entry: str, place: str, words: str):
    found = faults_of(f"family: hybrid\nparameters:\n  beta1: {entry}\n  n_heads: {{value: 2, default: 2}}\n")
    assert [fault[1] for fault in found] == [place, "parameters.n_heads.default"] and words in found[0][2]


FAMILIES_NAMES = {
    "lr": ["learning_rate"] * 4, "n_embd": ["dim", "d_model", "d_model", "n_embd"], "bs": ["batch_size"] * 4,
    "wd": ["weight_decay"] * 4, "num_layers": ["layers", "n_layers", "n_layers", "n_layer"],
    "n_head": [None, "n_heads", "n_heads", "n_head"], "block_size": ["seq_len"] * 4,
    "dropout_rate": [None, None, "dropout", "dropout"], "warmup": ["warmup_ratio"] * 4,
    "hidden_size": ["dim", "d_model", "d_model", "n_embd"], "batch": ["batch_size"] * 4,
    "model.depth": ["layers", "n_layers", "n_layers", "n_layer"], "optim/LR": ["learning_rate"] * 4,
    "max_grad_norm": ["grad_clip_norm"] * 4, "gradientAccumulationSteps": ["accumulate_grad_batches"] * 4,
    "n_ctx": ["seq_len", "seq_len", "context_length", "seq_len"], "epochs": [None] * 4, "zebra": [None] * 4,
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES_NAMES)
def test_a_parameters_other_names_lead_to_the_familys_own(name: str):
    families = ("ghost", "hybrid", "transformer", "bdh")
    assert [synonym(name, parameter_types(family)) for family in families] == FAMILIES_NAMES[name]


def test_the_other_names_are_suggested_in_spaces_and_in_set():
    text = "family: ghost\nparameters:\n  dim: {values: [8, 16], default: 8}\n  seq_len: {value: 32}\n"
    space = parse_space(text)
    for wrong, ours in (("n_embd=8", "dim"), ("model.width=8", "dim"), ("block_size=32", "seq_len")):
        with pytest.raises(ValueError, match=f"Did you mean '{ours}'"):
            narrow(space, assignments=[wrong])
    with pytest.raises(ValueError, match="unknown parameter 'epochs': training length is counted in tokens"):
        narrow(space, assignments=["epochs=3"])
    (fault,) = faults_of(text + "presets: {p: {hidden_size: 8}}\n")
    assert fault[:2] == (5, "presets.p.hidden_size") and "Did you mean 'dim'?" in fault[2]
    (fault,) = faults_of(text + "  warmup_steps: {value: 5}\n")
    assert "Did you mean 'warmup_ratio', a share of the training?" in fault[2]


def test_the_tables_name_what_there_is():
    known = {name for family in BUILT_IN for name in parameter_types(family)}
    for ours, theirs in SYNONYMS.items():
        assert set(ours.split()) <= known and len(set(theirs.split())) == len(theirs.split()), ours
    every = [name for names in (*SYNONYMS.values(), *ELSEWHERE) for name in names.split()]
    assert len(set(every)) == len(every), sorted(name for name in every if every.count(name) > 1)
    keys = {field.alias or name for name, field in SpaceSpec.model_fields.items()}
    assert not keys & {*FOREIGN_KEYS, *COUNTS, *SPACES, *every}
    assert unknown_parameter("lr", ["learning_rate"]).endswith("Did you mean 'learning_rate'?")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.sampled_from([*ENTRIES, "x", "range(1, 0)"]),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "distribution type _type _value min max q mu sigma values probabilities bounds log step".split()
            ),
            part | st.sampled_from(["uniform", "log_uniform", "q_uniform", "normal", "range", "choice", "randint"]),
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_any_entry_has_a_translation_or_none(entry: object):
    for found in (translated(entry), as_ours(entry)):
        for is_whole in (False, True):
            assert found is None or isinstance(found.written(is_whole=is_whole), str)
