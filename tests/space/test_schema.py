"""The grammar as editors and readers see it: schema.json and README.md in spaces/ against the loader's own models."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml

from search.cli.main import app
from search.space.document import SpaceError, parse_number
from search.space.loading import parse_space
from search.space.names import MEASUREMENTS, MISTAKEN_KEYS
from search.space.schema import json_schema
from search.space.spec import (
    CONTEXT,
    QUALITIES,
    AdviceSpec,
    Affected,
    BudgetSpec,
    ClaimSpec,
    Direction,
    GoalSpec,
    LimitSpec,
    Measured,
    MetricSpec,
    ParameterSpec,
    PresetSpec,
    RuleSpec,
    SearchSpec,
    SpaceSpec,
)
from tests.support.paths import ROOT

README = (ROOT / "spaces" / "README.md").read_text(encoding="utf-8")
SPACES = sorted((ROOT / "spaces").glob("*.yaml"))
MODELS = (
    SpaceSpec, SearchSpec, MetricSpec, LimitSpec, BudgetSpec, ParameterSpec, RuleSpec, GoalSpec, PresetSpec, AdviceSpec,
    ClaimSpec,
)  # fmt: skip
KEYS = {field.alias or name for model in MODELS for name, field in model.model_fields.items()}


class EditorLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, as editors read it: `27M`, `1_000`, `yes` and `12 GiB` are text, `1e-5` is a number."""

    yaml_implicit_resolvers = {}


for tag, pattern in {
    "bool": r"^(true|True|TRUE|false|False|FALSE)$",
    "null": r"^(~|null|Null|NULL|)$",
    "int": r"^[-+]?[0-9]+$",
    "float": r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$",
}.items():
    EditorLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), None)
EditorLoader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


def schema_faults(text: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(json_schema())
    return [error.message for error in validator.iter_errors(yaml.load(text, EditorLoader))]


def test_the_schema_file_is_the_one_that_the_command_prints(capsys: pytest.CaptureFixture[str]):
    stored = (ROOT / "spaces" / "schema.json").read_text(encoding="utf-8")
    assert json.loads(stored) == json_schema(), "write it again: tinysearch schema > spaces/schema.json"
    command = next(c.callback for c in app.registered_commands if c.callback.__name__ == "schema")
    command()
    assert capsys.readouterr().out == stored


def test_the_schema_is_valid_and_explains_every_key_without_nulls():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for place in [schema, *schema["$defs"].values()]:
        assert place["description"]
        for key, entry in place["properties"].items():
            assert entry.get("description"), key
    assert "null" not in json.dumps(schema)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_shipped_space_satisfies_the_schema_as_an_editor_reads_it(path: Path):
    text = path.read_text(encoding="utf-8")
    assert schema_faults(text) == []
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")


BASE = "family: hybrid\nparameters:\n  d_model: {values: [32, 64], default: 32}\n"


@pytest.mark.parametrize(
    "text",
    [
        "family: hybrid",
        "family: hybrid\nparameters: {}",
        "parameters: {d_model: {value: 2}}",
        BASE + "limit: {}",
        BASE + "about:",
        BASE + "about: 5",
        BASE + "  n_layers: {low: 1, high: 4, default: 2}",
        BASE + "  n_layers: 4",
        BASE + "  n_layers: {min: true, max: 4, default: 2}",
        BASE + "  n_layers: {min: [1], max: 4, default: 2}",
        BASE + "  n_layers: {values: 4, default: 2}",
        BASE + "  n_layers: {values: [[4]], default: 2}",
        BASE + "  n_layers: {value: 2, effect: {loss: sideways}}",
        BASE + "  n_layers: {value: 2, effect: {vram: up}}",
        BASE + "  beta1: {min: 0.1, max: 0.9, log: yes, default: 0.5}",
        BASE + "rules: [d_model > 3]",
        BASE + "rules: [{require: true}]",
        BASE + "rules: [{why: x}]",
        BASE + "goals: {g: {raise: d_model}}",
        BASE + "presets: {p: {d_model: [32]}}",
        BASE + "metric: {name: accuracy}",
        BASE + "metric: loss",
        BASE + "metrics: loss",
        BASE + "metrics: [loss]",
        BASE + "metrics: [loss, loss]",
        BASE + "metrics: [loss, accuracy]",
        BASE + "limits: {vram: {max: 12 GiB}}",
        BASE + "limits: {loss: {max: twelve}}",
        BASE + "search: tpe",
        BASE + "search: {sampler: 5}",
        BASE + "search: {sampler: {multivariate: true}}",
        BASE + "search: {pruner: asha}",
        BASE + "budget: {trials: 0}",
        BASE + "budget: {min_tokens: -5K}",
        BASE + "budget: {max_tokens: lots}",
        BASE + "budget: {eta: 11}",
        BASE + "  n_layers: {value: 2, aliases: LAYERS}",
        BASE + "advice: [{when: d_model > 1}]",
        BASE + "advice: [{when: d_model > 1, say: x, suggest: [d_model]}]",
        BASE + "claims: [{id: a, measurement: speed, value: 1}]",
        BASE + "claims: [{measurement: loss, value: 1}]",
    ],
)
def test_what_the_schema_refuses_the_loader_refuses_too(text: str):
    assert schema_faults(text) != []
    with pytest.raises(SpaceError):
        parse_space(text)


def test_the_schema_reads_the_numbers_that_the_loader_reads():
    for text in ["27M", "12 GiB", "1e-5", "5 %", "1_000", ".5", "5.", "-3K", "1.5KiB", "27m", "12gb", "0x10", "1e6"]:
        assert parse_number(text) is not None
        assert schema_faults(BASE + f"limits: {{loss: {{max: {text}}}}}") == []
    for text in ["27q", "12 gigs", "1x", "K", "GiB 12"]:
        assert parse_number(text) is None
        assert schema_faults(BASE + f"limits: {{loss: {{max: {text}}}}}") != []


def test_names_in_the_grammar_are_those_that_a_trial_reports():
    from trainer.measure import Measurement

    assert set(MEASUREMENTS) <= {field.name for field in dataclasses.fields(Measurement)}
    assert get_args(Measured) == MEASUREMENTS
    assert get_args(Affected) == MEASUREMENTS + QUALITIES


def test_a_mistaken_key_leads_to_a_key_that_there_is():
    for theirs, ours in MISTAKEN_KEYS.items():
        assert any(part in KEYS for part in re.split(r", | and ", ours)), theirs


def test_the_readme_names_every_key_and_every_word_of_the_grammar():
    for word in [*KEYS, *MEASUREMENTS, *QUALITIES, *CONTEXT, *get_args(Direction), "minimize", "maximize"]:
        assert re.search(rf"`(?:[^`\n]*\W)?{word}(?:\W[^`\n]*)?`", README), word


@pytest.mark.parametrize("file", ["README.md", "spaces/README.md"])
def test_every_complete_space_in_the_readmes_loads(file: str):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)
    complete = [block for block in blocks if "\nfamily:" in f"\n{block}"]
    assert complete
    for block in complete:
        parse_space(block)
        assert schema_faults(block) == []


def test_the_errors_in_the_readme_are_real():
    text = (
        "family: hybrid\nparameters:\n  n_layers: {low: 1, high: 4, default: 2}\n"
        "  d_model: {value: 64, effect: {memory: up}}\nrules:\n  - require: d_model = 64\n"
    )
    with pytest.raises(SpaceError) as error:
        parse_space(text, "spaces/mine.yaml")
    assert f"```text\n{error.value}\n```" in README
    text = (
        "family: hybrid\nmethod: grid\nparameters:\n"
        "  lr: {distribution: log_uniform_values, min: 1e-5, max: 1e-2}\n  epochs: {value: 5}\n"
    )
    with pytest.raises(SpaceError) as error:
        parse_space(text, "sweep.yaml")
    assert f"```text\n{error.value}\n```" in README


def test_the_defaults_in_the_readme_are_those_of_the_grammar():
    for name, field in BudgetSpec.model_fields.items():
        if name not in ("limits", "set"):  # empty mappings
            cell = re.search(rf"^\| `{name}` \|.*\| (.*) \|$", README, re.MULTILINE).group(1)
            assert parse_number(cell) == field.default, name
