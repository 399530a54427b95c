"""Space files: the shipped ones are valid, and every faulty one says what is wrong and where."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search.space.document import SpaceError
from search.space.drawing import random_values
from search.space.loading import load_space, parse_space
from search.space.narrowing import narrow
from search.space.space import extremes, rungs_of
from search.strategy.feasibility import Feasibility, assess
from tests.support.paths import ROOT

SPACES = sorted((ROOT / "spaces").glob("*.yaml"))
HYBRID = (ROOT / "spaces" / "hybrid.yaml").read_text(encoding="utf-8")


# Every space that is shipped.


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_presets_and_defaults_of_a_shipped_space_can_be_trained(path: Path):
    space = load_space(path)
    for values in [space.complete({}), *(space.complete(preset.values) for preset in space.presets.values())]:
        assert space.faults_of(values) == []
        assert space.train_config(values, rungs=rungs_of(space.budget())).family == space.family
    assert space.presets, "a space without a preset has no reference to compare a search with"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_goal_and_budget_of_a_shipped_space_leaves_something_to_search(path: Path):
    space = load_space(path)
    for goal in space.spec.goals:
        narrowed = narrow(space, goals=[goal])
        assert assess(narrowed, narrowed.budget(), num_samples=100).share > 0.05, goal
        assert narrowed.searched, goal
    for budget in [None, *space.spec.budgets]:
        narrowed = narrow(space, budget=space.budget(budget))
        assert assess(narrowed, space.budget(budget), num_samples=100).share > 0.05, budget


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_rungs_of_a_shipped_budget_are_apart(path: Path):
    """A last rung just after another would compare the same trials twice."""
    space = load_space(path)
    for budget in [None, *space.spec.budgets]:
        rungs = rungs_of(space.budget(budget))
        assert all(late >= 1.7 * early for early, late in zip(rungs, rungs[1:], strict=False)), (budget, rungs)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_parameter_of_a_shipped_guide_has_its_reason(path: Path):
    space = load_space(path)
    if space.spec.source:
        assert [name for name, p in space.parameters.items() if not p.spec.why] == []


def test_a_space_has_a_guide_if_it_names_one_or_its_source():
    assert {path.stem: load_space(path).has_guide for path in SPACES}["smoke"] is False
    assert all(load_space(path).has_guide for path in SPACES if path.stem != "smoke")
    assert not parse_space(BASE).has_guide
    assert parse_space(BASE + "guide: Notes").has_guide and parse_space(BASE + "source: a blog").has_guide


# Faulty files: the whole message, so that a place or a remedy cannot be lost.

TOP = "family: hybrid\nparameters:\n"
BASE = TOP + "  d_model: {values: [32, 64], default: 32}\n"
KEYS = (
    "family, about, source, guide, metric, metrics, limits, search, budget, budgets, parameters, not_searched, rules, "
    "goals, presets, advice, claims"
)
TRAINED = (
    "accumulate_grad_batches, attn_layer_idx, base_decay, batch_size, beta1, beta2, compile, context_factor, d_model, "
    "d_state, ema_share, fused_loss, grad_clip_norm, learning_rate, max_seq, min_lr_ratio, n_heads, n_layers, "
    "precision, schedule, seq_len, vocab_size, warmup_ratio, weight_decay"
)
MEASURED = "loss, bits_per_byte, tokens_per_second, peak_vram_bytes, num_params, train_seconds"
QUALITIES = "memory_span, adaptation_speed, stability, convergence_speed, overfitting, locality"
KNOWN_TO_ADVICE = (
    "cjk_fraction, corpus_bytes, d_model, memory_gib, non_ascii_fraction, num_gpus, num_params, tokens, vram_gib"
)
BUDGET_KEYS = "trials, min_tokens, max_tokens, eta, eval_tokens, min_steps, limits, set"

ALIASED = TOP + "  d_model: {values: [32, 64], default: 32, aliases: [DIM]}\n"

FAULTY = {
    # the file
    "family: hybrid": "1: parameters is missing",
    "family: hybrid\nparameters: {}": "2: parameters: is empty",
    "family: hybrid\nparameters: [1]": "2: parameters: expected a mapping, got a list",
    "parameters: {d_model: {value: 2}}": "1: family is missing",
    "family: hybird\nparameters: {d_model: {value: 2}}":
        "1: family: unknown family 'hybird'. Known: {families}. Did you mean 'hybrid'?",
    BASE + "limit: {}": f"4: limit: unknown key 'limit'. Known: {KEYS}. Did you mean 'limits'?",
    BASE + "constraints: []": "4: constraints: unknown key 'constraints'; here it is called rules",
    BASE + "about: 5": "4: about: expected text, got 5; put it in quotes",
    BASE + "not_searched: {d_model: x}": "4: not_searched.d_model: is under parameters as well; keep one",
    # one parameter
    TOP + "  d_model: 5":
        "3: parameters.d_model: expected a mapping such as {min: 1, max: 8, default: 4} or {value: 4}, got 5",
    TOP + "  d_model:": "3: parameters.d_model: has no value; give one, or leave it out",
    TOP + "  d_modle: {value: 3}":
        f"3: parameters.d_modle: unknown parameter 'd_modle'. Known: {TRAINED}. Did you mean 'd_model'?",
    TOP + "  1: {value: 3}": f"3: parameters.1: unknown parameter '1'. Known: {TRAINED}.",
    TOP + "  seed: {value: 3}":
        "3: parameters.seed: is not for a space to set: give it with --seed N; tinysearch confirm trains the best with "
        "several seeds",
    TOP + "  d_model: {}": "3: parameters.d_model: needs min and max, values, value or derive",
    TOP + "  n_layers: {low: 1, high: 2, default: 1}":
        "3: parameters.n_layers.low: unknown key 'low'; here it is called min\n"
        "3: parameters.n_layers.high: unknown key 'high'; here it is called max",
    TOP + "  d_model: {choices: [1]}": "3: parameters.d_model.choices: unknown key 'choices'; here it is called values",
    TOP + "  d_model: {values: 4, default: 4}": "3: parameters.d_model.values: expected a list, got 4",
    TOP + "  d_model: {values: [], default: 4}":
        "3: parameters.d_model.values: is an empty list; nothing to choose from",
    TOP + "  d_model: {values: [[8], 4], default: 4}":
        "3: parameters.d_model.values.0: expected one value, got a list; "
        "a parameter has one value in each trial: make each part a parameter of its own",
    TOP + "  d_model: {values: [true, 4], default: 4}":
        "3: parameters.d_model.values.0: expected a whole number, got true",
    TOP + "  d_model: {values: [4, 4.0], default: 4}": "3: parameters.d_model.values: lists 4 twice",
    TOP + "  d_model: {values: [8, 4], default: 6}": "3: parameters.d_model.default: 6 is not one of the values 8, 4",
    TOP + f"  d_model: {{values: {list(range(1, 300))}, default: 4}}":
        "3: parameters.d_model.values: has 299 entries; at most 200; write min: 1, max: 299",
    TOP + "  d_model: {values: [8, 4]}": "3: parameters.d_model: has no default; give the guide's own value",
    TOP + "  d_model: {values: [8, 4], min: 4, default: 4}":
        "3: parameters.d_model: has both values and min or max; give one",
    TOP + "  d_model: {values: [8, 4], log: true, default: 4}":
        "3: parameters.d_model.log: belongs to a range with min and max",
    TOP + "  d_model: {value: 4.5}": "3: parameters.d_model.value: expected a whole number, got 4.5",
    TOP + "  d_model: {value: 4, default: 4}": "3: parameters.d_model.default: a parameter with value has no default",
    TOP + "  schedule: {values: [cosine, linear], default: cosine}":
        "3: parameters.schedule.values.1: unknown schedule 'linear'. Known: constant, cosine, wsd.",
    TOP + "  n_heads: {value: 3}":
        "2: parameters: the defaults cannot be trained: n_heads 3 does not divide d_model 128",
    # ranges
    TOP + "  n_layers: {min: 10, max: 1, default: 2}":
        "3: parameters.n_layers.min: the range is empty: min 10 is above max 1",
    TOP + "  n_layers: {min: 4, max: 4, default: 4}":
        "3: parameters.n_layers.min: the range is the one value 4; write value: 4",
    TOP + "  n_layers: {min: 4, default: 4}": "3: parameters.n_layers: has no max",
    TOP + "  n_layers: {min: true, max: 4, default: 3}":
        "3: parameters.n_layers.min: expected a number or an expression, got true",
    TOP + "  n_layers: {min: 1.5, max: 4, default: 3}": "3: parameters.n_layers.min: expected a whole number, got 1.5",
    TOP + "  n_layers: {min: 3, max: 4, default: 9}": "3: parameters.n_layers.default: 9 is not in 3 to 4",
    TOP + "  n_layers: {min: 3, max: 4, default: true}":
        "3: parameters.n_layers.default: expected a whole number, got true",
    TOP + "  n_layers: {min: 1, max: 10, step: 4, default: 5}":
        "3: parameters.n_layers.step: 4 does not lead from 1 to 10; end at 9",
    TOP + "  n_layers: {min: 1, max: 9, step: 4, default: 4}":
        "3: parameters.n_layers.default: 4 is not 1 plus a multiple of 4",
    TOP + "  n_layers: {min: 1, max: 9, step: 0, default: 4}": "3: parameters.n_layers.step: 0 is not positive",
    TOP + "  beta1: {min: 0, max: 0.9, step: 0.2, default: 0.2}":
        "3: parameters.beta1.step: 0.2 does not lead from 0 to 0.9; end at 0.8",
    TOP + "  beta1: {min: 0, max: 0.9, log: true, default: 0.2}":
        "3: parameters.beta1.min: a logarithmic range must start above 0, not at 0",
    TOP + "  beta1: {min: 0.1, max: 0.9, log: true, step: 0.1, default: 0.2}":
        "3: parameters.beta1.step: a logarithmic range has no step; leave step out, or list the values",
    TOP + "  beta1: {min: 0.1, max: 0.9, log: yes, default: 0.2}":
        "3: parameters.beta1.log: expected true or false, got 'yes'",
    TOP + "  schedule: {min: 1, max: 2, default: 1}":
        "3: parameters.schedule.min: is text and has no range; give values",
    # expressions and references
    TOP + "  n_layers: {min: 3, max: d_modle, default: 3}\n  d_model: {value: 8}":
        "3: parameters.n_layers.max: d_modle: unknown parameter 'd_modle'. Known: d_model, n_layers. "
        "Did you mean 'd_model'?",
    TOP + "  n_layers: {min: 3, max: n_layers + 1, default: 3}":
        "3: parameters.n_layers: n_layers is defined by itself; let one of them stand alone",
    TOP + "  n_layers: {min: 3, max: 5, default: 3, when: n_layers > 1}":
        "3: parameters.n_layers: n_layers is defined by itself; let one of them stand alone",
    TOP + "  n_layers: {min: 3, max: d_model, default: 3}\n  d_model: {derive: n_layers * 8}":
        "3: parameters.n_layers: these parameters are defined by each other: n_layers reads d_model reads n_layers; "
        "let one of them stand alone",
    TOP + "  n_layers: {min: 3, max: 8, default: 3}\n  attn_layer_idx: {min: n_layers, max: 2, default: 1}":
        "4: parameters.attn_layer_idx.default: 1: the range 3 to 2 is empty",
    TOP + "  n_layers: {min: 3, max: 8, default: 5}\n  seq_len: {min: n_layers - 3, max: 64, log: true, default: 8}":
        "4: parameters.seq_len.min: in some configurations the logarithmic range of seq_len starts at 0; "
        "write max(1, ...)",
    TOP + "  n_layers: {min: 3, max: 8, default: 5}\n  seq_len: {min: 1, max: 64 // (n_layers - 4), default: 8}":
        "4: parameters.seq_len.max: in some configurations 64 // (n_layers - 4): n_layers - 4 can be 0, "
        "and nothing is divided by 0",
    TOP + "  n_layers: {derive: 5}":
        "3: parameters.n_layers.derive: expected an expression over parameter names, got 5",
    TOP + "  n_layers: {derive: 7 / 2}":
        "3: parameters.n_layers.derive: has no value with the defaults: n_layers is a whole number, "
        "but 7 / 2 is not always",
    TOP + "  n_layers: {derive: 2 ** 60}":
        "3: parameters.n_layers.derive: has no value with the defaults: 2 ** 60 is beyond 2**53",
    # effects
    TOP + "  d_model: {value: 8, effect: {loss: sideways}}":
        "3: parameters.d_model.effect.loss: unknown direction 'sideways'. Known: up, down, none, valley, hill.",
    TOP + "  d_model: {value: 8, effect: {vram: up}}":
        f"3: parameters.d_model.effect.vram: unknown effect 'vram'. Known: {MEASURED}, {QUALITIES}. "
        "Did you mean 'peak_vram_bytes'?",
    TOP + "  d_model: {value: 8, effect: loss}": "3: parameters.d_model.effect: expected a mapping, got 'loss'",
    # rules
    BASE + "rules: [d_model > 8]":
        "4: rules.0: expected a mapping such as {require: d_model % n_heads == 0}, got 'd_model > 8'",
    BASE + "rules:\n- why: because": "5: rules.0: require is missing",
    BASE + "rules: [{require: true}]": "4: rules.0.require: expected an expression over parameter names, got true",
    BASE + "rules: [{require: 1 == 1}]": "4: rules.0.require: 1 == 1 names no parameter",
    BASE + "rules: [{require: d_modle > 1}]":
        "4: rules.0.require: d_modle > 1: unknown parameter 'd_modle'. Known: d_model. Did you mean 'd_model'?",
    BASE + "rules: [{require: d_model = 32}]":
        "4: rules.0.require: 'd_model = 32' is not an expression; write == for =",
    BASE + "rules: [{require: d_model > 32}]":
        "4: rules.0.require: the defaults break it: d_model > 32; here d_model is 32",
    # goals
    BASE + "goals: {g: {raise: d_model}}": "4: goals.g.raise: expected a list, got 'd_model'",
    BASE + "goals: {g: {raise: [d_modle]}}":
        "4: goals.g.raise.0: unknown parameter 'd_modle'. Known: d_model. Did you mean 'd_model'?",
    BASE + "goals: {g: {why: x}}": "4: goals.g: changes nothing; give raise, lower or set",
    BASE + "goals: {g: {raise: [d_model], lower: [d_model]}}":
        "4: goals.g.raise.0: d_model is under lower as well; a goal moves it one way",
    BASE + "goals: {g: {raise: [d_model, d_model]}}": "4: goals.g.raise.1: d_model is listed twice",
    BASE + "  n_heads: {value: 4}\ngoals: {g: {raise: [n_heads]}}":
        "5: goals.g.raise.0: n_heads is not searched, so a goal cannot move it",
    BASE + "  n_heads: {derive: d_model // 8}\ngoals: {g: {lower: [n_heads]}}":
        "5: goals.g.lower.0: n_heads is not searched, so a goal cannot move it",
    BASE + "  schedule: {values: [cosine, wsd], default: wsd}\ngoals: {g: {lower: [schedule]}}":
        "5: goals.g.lower.0: schedule is text, not a number; use set",
    BASE + "goals: {g: {set: {d_model: 48}}}": "4: goals.g: d_model: 48 is not one of 32, 64",
    BASE + "goals: {g: {set: {d_model: 2 +}}}": "4: goals.g.set.d_model: '2 +' is not an expression",
    BASE + "goals: {g: {set: {d_model: d_model}}}":
        "4: goals.g: d_model is defined by itself; let one of them stand alone",
    # presets
    BASE + "presets: {p: {d_model: 48}}": "4: presets.p.d_model: 48 is not one of 32, 64",
    BASE + "presets: {p: {d_model: wide}}": "4: presets.p.d_model: expected a whole number, got 'wide'",
    BASE + "presets: {p: {d_modle: 64}}":
        "4: presets.p.d_modle: unknown parameter 'd_modle'. Known: d_model. Did you mean 'd_model'?",
    BASE + "  n_heads: {value: 4}\npresets: {p: {n_heads: 8}}":
        "5: presets.p.n_heads: 8 is not 4, to which it is fixed",
    BASE + "  max_seq: {derive: d_model * 8}\npresets: {p: {max_seq: 8}}":
        "5: presets.p.max_seq: 8, but d_model * 8 gives 256",
    BASE + "  n_heads: {values: [2, 4], default: 2, when: d_model > 32}\npresets: {p: {n_heads: 4}}":
        "5: presets.p.n_heads: does not belong here: d_model > 32 does not hold",
    BASE + "rules: [{require: d_model < 64, why: slow}]\npresets: {p: {d_model: 64}}":
        "5: presets.p: breaks the rule d_model < 64 (slow); here d_model is 64",
    # aliases
    TOP + "  d_model: {value: 64, aliases: [n_layers]}":
        "3: parameters.d_model.aliases.0: n_layers is a parameter itself",
    TOP + "  d_model: {value: 64, aliases: [width]}\n  n_layers: {value: 2, aliases: [width]}":
        "4: parameters.n_layers.aliases.0: width is an alias of d_model",
    TOP + "  d_model: {value: 64, aliases: [model width]}":
        "3: parameters.d_model.aliases.0: 'model width' is not a valid name; use letters, digits and _",
    TOP + "  d_model: {value: 64, aliases: width}": "3: parameters.d_model.aliases: expected a list, got 'width'",
    ALIASED + "presets: {p: {DIM: 64, d_model: 32}}":
        "4: presets.p.d_model: d_model and DIM are one parameter; give one",
    ALIASED + "presets: {p: {DIM: 48}}": "4: presets.p.DIM: 48 is not one of 32, 64",
    ALIASED + "presets: {p: {DIM: wide}}": "4: presets.p.DIM: expected a whole number, got 'wide'",
    ALIASED + "rules: [{require: DIM > 1}]": "4: rules.0.require: DIM > 1: unknown parameter 'DIM'. Known: d_model. "
        "Did you mean 'd_model'?",
    # advice
    BASE + "advice: {when: d_model > 1}": "4: advice: expected a list, got a mapping",
    BASE + "advice: [{when: d_model > 1}]": "4: advice.0: say is missing",
    BASE + "advice: [{when: d_model >, say: x}]": "4: advice.0.when: 'd_model >' is not an expression",
    BASE + "advice: [{when: vram > 1, say: x}]":
        f"4: advice.0.when: vram > 1: unknown name 'vram'. Known: {KNOWN_TO_ADVICE}. Did you mean 'vram_gib'?",
    BASE + "advice: [{when: tokens > 1, say: x, suggest: {d_modle: 64}}]":
        "4: advice.0.suggest.d_modle: unknown parameter 'd_modle'. Known: d_model. Did you mean 'd_model'?",
    BASE + "advice: [{when: tokens > 1, say: x, suggest: {d_model: 48}}]":
        "4: advice.0.suggest.d_model: 48 is not one of 32, 64",
    BASE + "advice: [{when: tokens > 1, say: x, suggest: {d_model: 4.5}}]":
        "4: advice.0.suggest.d_model: expected a whole number, got 4.5",
    BASE + "advice: [{when: tokens > 1, say: x, suggest: {d_model: q + 1}}]":
        f"4: advice.0.suggest.d_model: q + 1: unknown name 'q'. Known: {KNOWN_TO_ADVICE}.",
    BASE + "advice: [{when: tokens > 1, say: x, preset: big}]":
        "4: advice.0.preset: unknown preset 'big'. Known: .",
    # claims
    BASE + "claims: [{id: a, measurement: params, value: 1}]":
        f"4: claims.0.measurement: unknown measurement 'params'. Known: {MEASURED}. Did you mean 'num_params'?",
    BASE + "claims: [{id: a, measurement: loss}]": "4: claims.0: needs value, or min or max",
    BASE + "claims: [{id: a, measurement: loss, value: 1, max: 2}]": "4: claims.0: needs value, or min or max",
    BASE + "claims: [{id: a, measurement: loss, max: 2}, {id: a, measurement: loss, max: 3}]":
        "4: claims.1.id: a is an earlier claim's id",
    BASE + "presets: {p: {d_model: 32}}\nclaims: [{id: a, measurement: loss, max: 2, preset: q}]":
        "5: claims.0.preset: unknown preset 'q'. Known: p.",
    BASE + "claims: [{id: a, measurement: loss, max: 2, set: {d_model: 30}}]":
        "4: claims.0.set: cannot be trained: n_heads 4 does not divide d_model 30",
    BASE + "claims: [{id: a, measurement: loss, max: 2, against: {d_model: wide}}]":
        "4: claims.0.against: cannot be trained: d_model: expected int, got 'wide'",
    # metric, limits, budgets
    BASE + "metric: loss": "4: metric: expected a mapping such as {name: loss, goal: minimize}, got 'loss'",
    BASE + "metric: {name: val_loss}": f"4: metric.name: unknown measurement 'val_loss'. Known: {MEASURED}. "
        "Did you mean 'loss'?",
    BASE + "metric: {name: tokens_per_second}":
        "4: metric: tokens_per_second is better higher; write goal: maximize",
    BASE + "metrics: loss": "4: metrics: expected a list, got 'loss'",
    BASE + "metrics: [loss, speed]": f"4: metrics.1: unknown measurement 'speed'. Known: {MEASURED}. "
        "Did you mean 'tokens_per_second'?",
    BASE + "metrics: [loss, 3]": f"4: metrics.1: expected one of {MEASURED}, got 3",
    BASE + "metrics: [loss]": "4: metrics: names fewer than two measurements; for one write metric",
    BASE + "metrics: [loss, num_params, loss]": "4: metrics.2: loss is listed twice",
    BASE + "metric: {name: loss}\nmetrics: [loss, num_params]": "5: metrics: is given together with metric; keep one",
    BASE + "limits: {vram: {max: 1}}": f"4: limits.vram: unknown measurement 'vram'. Known: {MEASURED}. "
        "Did you mean 'peak_vram_bytes'?",
    BASE + "limits: {loss: {}}": "4: limits.loss: needs min or max",
    BASE + "limits: {loss: {max: 12 gigs}}":
        "4: limits.loss.max: expected a number such as 0.5, 27M or 12 GiB, got '12 gigs'",
    BASE + "limits: {loss: {min: 3, max: 2}}": "4: limits.loss: no value is at least 3 and at most 2",
    BASE + "budget: {trials: 0, eta: 1}":
        "4: budget.trials: 0 is too small; at least 1\n4: budget.eta: 1 is too small; at least 2",
    BASE + "budget: {max_tokens: 500K}":
        "4: budget.min_tokens: min_tokens 1,000,000 (its default) is above max_tokens 500,000",
    BASE + "budgets: {q: {set: {d_modle: 4}}}": "4: budgets.q.set.d_modle: unknown parameter 'd_modle'. "
        "Known: d_model. Did you mean 'd_model'?",
    BASE + "budget: {set: {d_model: wide}}": "4: budget.set.d_model: expected a whole number, got 'wide'",
    BASE + "budget: {set: {d_model: 48}}": "4: budget.set.d_model: 48 is not one of 32, 64",
    BASE + "budgets: {q: {trails: 4}}":
        f"4: budgets.q.trails: unknown key 'trails'. Known: {BUDGET_KEYS}. Did you mean 'trials'?",
    # an entry that cannot be read hides no other
    TOP + "  d_model: {values: [null, 4], default: 4}\n  n_layers: {low: 1}\nabout:\n"
        "rules: [{require: }, {require: q}]":
        "3: parameters.d_model.values.0: has no value; write what it stands for, such as 0 for off, or leave it out\n"
        "4: parameters.n_layers.low: unknown key 'low'; here it is called min\n"
        "5: about: has no value; give one, or leave it out\n"
        "6: rules.0.require: has no value; give one, or leave it out\n"
        "6: rules.1.require: q: unknown parameter 'q'. Known: d_model, n_layers.",
    "family: \nparameters:\n  d_model: {low: 1}\n  n_heads: &a [1]":
        "1: family: has no value; give one, or leave it out\n"
        "3: parameters.d_model.low: unknown key 'low'; here it is called min\n"
        "4: parameters.n_heads: write n_heads: {value: 1}",
    TOP + "  d_model: *a\n  n_layers: {value: 2, default: 2}":
        "3: parameters.d_model: anchors and aliases are not supported; write the value again\n"
        "4: parameters.n_layers.default: a parameter with value has no default",
    # several faults of one file, also of different kinds, are reported together
    TOP + "  d_model: {low: 1, default: 1}\nrules:\n- require: d_modle > 1\ngoals: {g: {raise: [q]}}\nabot: x":
        "3: parameters.d_model.low: unknown key 'low'; here it is called min\n"
        "5: rules.0.require: d_modle > 1: unknown parameter 'd_modle'. Known: d_model. Did you mean 'd_model'?\n"
        "6: goals.g.raise.0: unknown parameter 'q'. Known: d_model.\n"
        f"7: abot: unknown key 'abot'. Known: {KEYS}. Did you mean 'about'?",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FAULTY.items(), ids=range(len(FAULTY)))
def test_a_faulty_file_says_where_what_and_the_remedy(text: str, expected: str):
    from trainer.families.registry import BUILT_IN

    with pytest.raises(SpaceError) as error:
        parse_space(text, "s")
    expected = expected.replace("{families}", ", ".join(BUILT_IN))
    assert str(error.value) == "\n".join(f"s:{line}" for line in expected.split("\n"))


# Any text at all.


def check_loads_or_says_where(text: str) -> None:
    try:
        space = parse_space(text)
    except SpaceError as error:
        num_lines = max(1, len(text.splitlines()))
        assert error.faults
        assert all(fault.line is None or 1 <= fault.line <= num_lines for fault in error.faults)
        assert len(str(error).split("\n")) == len(error.faults)
    else:
        values = space.complete({})
        assert space.faults_of(values) == []
        space.train_config(values, rungs=(1,))


SCALARS = st.sampled_from(
    ["", "0", "-1", "1e-5", "27M", "1e999", "true", "'text'", "n_layers", "d_model - 64", "n_layers // (n_heads - 1)",
     "[]", "{}", "[1, [2]]", "{min: 1}", "*a", "!!str 1", "9007199254740993", "2 ** 64", "max_seq", "~", "\"a\\nb\""]
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, len(HYBRID)), st.integers(0, 12), st.text(max_size=8))
def test_hybrid_with_some_text_replaced_loads_or_says_where(at: int, length: int, text: str):
    check_loads_or_says_where(HYBRID[:at] + text + HYBRID[at + length :])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, HYBRID.count("\n")), SCALARS)
def test_hybrid_with_a_value_replaced_loads_or_says_where(at: int, value: str):
    lines = HYBRID.split("\n")
    lines[at] = lines[at].partition(":")[0] + f": {value}"
    check_loads_or_says_where("\n".join(lines))


def places(value: object, path: tuple = ()) -> list[tuple]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, child in children for place in places(child, (*path, key))]


TREE = yaml.safe_load(HYBRID)
PLACES = places(TREE)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(PLACES),
    st.sampled_from(PLACES),
    st.sampled_from(["drop", "copy", 5, -1.5, True, "n_layers", [], {}]),
)
def test_hybrid_with_its_structure_changed_loads_or_says_where(target: tuple, origin: tuple, change: object):
    tree = copy.deepcopy(TREE)
    parent, piece = tree, TREE
    for part in target[:-1]:
        parent = parent[part]
    for part in origin:
        piece = piece[part]
    if change == "drop":
        del parent[target[-1]]
    else:
        parent[target[-1]] = copy.deepcopy(piece) if change == "copy" else change
    check_loads_or_says_where(yaml.safe_dump(tree, sort_keys=False))


# Drawing and narrowing.

CONDITIONAL = """
family: hybrid
parameters:
  d_model: {values: [16, 32, 48, 64], default: 32}
  n_layers: {min: 2, max: 8, default: 4}
  attn_layer_idx: {min: 0, max: n_layers - 1, default: n_layers // 2}
  d_state: {min: n_layers, max: 64, default: 16}
  n_heads: {values: [1, 2, 4], default: 2, when: d_model >= 32}
  batch_size: {min: 2, max: 10, step: 4, default: 6}
  seq_len: {min: n_layers * 2, max: d_model * 2, log: true, default: 16}
  max_seq: {derive: 'max(seq_len, 64)'}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
  weight_decay: {min: 0, max: 0.2, step: 0.05, default: 0.1}
  beta1: {min: 0.5, max: 0.95, default: 0.9}
goals:
  up: {raise: [d_model, n_layers, seq_len, learning_rate, batch_size]}
  down: {lower: [d_state, n_layers, seq_len, weight_decay]}
  early: {set: {attn_layer_idx: 0}}
  front: {lower: [attn_layer_idx]}
  wide: {set: {d_model: 64}}
  narrow: {set: {d_model: 16}}
  half: {lower: [beta1]}
  tied: {set: {beta1: 0.5 + n_layers / 100}}
budgets: {quick: {trials: 2}}
presets:
  reference: {d_model: 32}
"""


def draws(space, num: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [random_values(space, rng) for _ in range(num)]


@pytest.mark.parametrize("text", [CONDITIONAL, HYBRID], ids=["conditional", "hybrid"])
def test_random_configurations_lie_in_every_range_and_what_is_accepted_can_be_trained(text: str):
    space = parse_space(text)
    feasibility = Feasibility.of(space, space.budget())
    num_accepted = 0
    for values in draws(space, 300):
        assert space.outside(values) == {}
        assert values == space.complete(values)
        for name, parameter in space.searched.items():
            if name in values and parameter.is_range:
                low, high = extremes(space, parameter)
                assert low <= values[name] <= high, name
        if not feasibility.reasons_against(values):
            num_accepted += 1
            space.train_config(values, rungs=feasibility.rungs)
    assert num_accepted > 30


def test_random_configurations_reach_every_value_and_both_ends():
    space = parse_space(CONDITIONAL)
    found = draws(space, 1500)
    assert {v["batch_size"] for v in found} == {2, 6, 10}
    assert {round(v["weight_decay"], 9) for v in found} == {0, 0.05, 0.1, 0.15, 0.2}
    assert {v["n_layers"] for v in found} == set(range(2, 9))
    assert {v.get("n_heads") for v in found} == {None, 1, 2, 4}
    assert all(("n_heads" in v) == (v["d_model"] >= 32) for v in found)
    small = sum(v["learning_rate"] < 1e-3 for v in found) / len(found)
    assert 0.45 < small < 0.55  # half of the logarithmic axis lies below


def test_bounds_between_whole_numbers_are_rounded_into_the_range():
    space = parse_space(
        TOP + "  n_layers: {min: 2, max: 5, default: 3}\n"
        "  d_state: {min: n_layers / 2, max: n_layers * 1.5, default: 3}"
    )
    assert space.parameters["d_state"].bounds({"n_layers": 3}) == (2, 4)
    assert extremes(space, space.parameters["d_state"]) == (1, 7)


def test_a_condition_that_reads_an_inactive_parameter_does_not_hold():
    space = parse_space(
        BASE + "  n_heads: {values: [2, 4], default: 2, when: d_model > 32}\n  max_seq: {value: 256, when: n_heads > 1}"
    )
    assert space.complete({}) == {"d_model": 32}
    assert space.complete({"d_model": 64}) == {"d_model": 64, "n_heads": 2, "max_seq": 256}


def test_whole_numbers_may_be_written_with_an_exponent_or_a_unit():
    budget = parse_space(BASE + "budget: {trials: 1e1, min_tokens: 1e3, max_tokens: 0.5M}").budget()
    assert (budget.trials, budget.min_tokens, budget.max_tokens) == (10, 1000, 500_000)


def test_the_same_text_gives_the_same_parameters():
    assert parse_space(CONDITIONAL).parameters == parse_space(CONDITIONAL).parameters


def test_the_same_seed_draws_the_same():
    space = parse_space(CONDITIONAL)
    assert draws(space, 20, seed=3) == draws(space, 20, seed=3) != draws(space, 20, seed=4)


@pytest.mark.parametrize("text", [CONDITIONAL, HYBRID], ids=["conditional", "hybrid"])
def test_narrowing_by_goals_never_leaves_the_original_ranges(text: str):
    space = parse_space(text)
    rng = random.Random(0)
    num_narrowed = 0
    for _ in range(30):
        goals = rng.sample(sorted(space.spec.goals), rng.randint(1, 3))
        try:
            narrowed = narrow(space, goals=goals)
        except ValueError as error:
            assert "contradict" in str(error), error
            continue
        num_narrowed += 1
        for values in draws(narrowed, 10):
            if narrowed.outside(values):
                continue  # the goals left nothing of a range at this place
            assert space.outside(values) == {}, goals
    assert num_narrowed > 5


def test_goals_that_ask_for_one_value_and_for_the_part_it_lies_in_go_together():
    space = parse_space(CONDITIONAL)
    for goals in (["front", "early"], ["early", "front"], ["up", "wide"], ["wide", "up"]):
        name, value = ("attn_layer_idx", 0) if "early" in goals else ("d_model", 64)
        assert {values[name] for values in draws(narrow(space, goals=goals), 20)} == {value}


def test_what_a_budget_sets_holds_for_every_configuration_and_preset_until_the_user_sets_it():
    space = parse_space(
        CONDITIONAL.replace("{quick: {trials: 2}}", "{quick: {set: {batch_size: 2, d_model: 16, max_seq: 128}}}")
    )
    quick = space.budget("quick")
    narrowed = narrow(space, budget=quick, goals=["down"])
    for values in [*draws(narrowed, 20), narrowed.complete(narrowed.reference.values)]:
        assert (values["batch_size"], values["d_model"], values["max_seq"]) == (2, 16, 128)
        assert narrowed.outside(values) == {}
    assert narrow(space, budget=quick, assignments=["batch_size=10"]).complete({})["batch_size"] == 10
    assert space.complete(space.reference.values)["d_model"] == 32


def test_a_goal_keeps_the_part_on_its_side_of_the_default():
    space = narrow(parse_space(CONDITIONAL), goals=["up"])
    for values in draws(space, 100):
        assert values["d_model"] >= 32 and values["n_layers"] >= 4 and values["learning_rate"] >= 1e-3
        assert values["batch_size"] in (6, 10)
    down = narrow(parse_space(CONDITIONAL), goals=["down", "early", "tied"])
    for values in draws(down, 100):
        assert values["d_state"] <= 16 and values["n_layers"] <= 4 and values["attn_layer_idx"] == 0
        assert values["beta1"] == 0.5 + values["n_layers"] / 100
    assert down.changes == ("goal down", "goal early", "goal tied")


@pytest.mark.parametrize(
    ("goals", "assignments", "message"),
    [
        (["upp"], [],
         "<space>: unknown goal 'upp'. Known: down, early, front, half, narrow, tied, up, wide. Did you mean 'up'?"),
        (["up", "down"], [],
         "the goals up and down contradict each other: one would raise n_layers, the other lower it"),
        (["quick"], [], "quick is a budget, not a goal: --budget quick"),
        (["wide", "narrow"], [],
         "the goals wide and narrow contradict each other: one would set d_model to 64, the other set it to 16"),
        (["up", "narrow"], [],
         "the goals up and narrow contradict each other: one would raise d_model, the other set it to 16"),
        (["early", "tied", "half"], [],
         "the goals tied and half contradict each other: one would set beta1 to 0.5 + n_layers / 100, the other "
         "lower it"),
        ([], ["d_model"], "--set d_model: write name=value"),
        ([], ["=5"], "--set =5: write name=value"),
        ([], ["d_model="], "--set d_model=: write name=value"),
        ([], ["n_layer=5"],
         "--set n_layer=5: unknown parameter 'n_layer'. Known: attn_layer_idx, batch_size, beta1, d_model, d_state, "
         "learning_rate, max_seq, n_heads, n_layers, seq_len, weight_decay. Did you mean 'n_layers'?"),
        ([], ["n_layers=wide"], "--set n_layers=wide: n_layers is a whole number, not 'wide'"),
        ([], ["n_layers=2.5"], "--set n_layers=2.5: n_layers is a whole number, not '2.5'"),
        ([], ["n_layers=true"], "--set n_layers=true: n_layers is a whole number, not 'true'"),
        ([], ["beta1=1e999"], "--set beta1=1e999: beta1 is a number, not '1e999'"),
        ([], ["n_layers=9"], "--set n_layers=9: 9 is not in 2 to 8; to search elsewhere, change the space"),
        ([], ["d_model=40"],
         "--set d_model=40: 40 is not one of 16, 32, 48, 64; to search elsewhere, change the space"),
        (["up"], ["n_layers=3"],
         "--set n_layers=3: 3 is not in 4 to 8 (after goal up); to search elsewhere, change the space"),
        ([], ["n_layers=3", "n_layers=4"], "--set n_layers=4: n_layers is set to 3 as well"),
        ([], ["d_model=16", "n_heads=2"],
         "--set n_heads=2: n_heads is only there where d_model >= 32, and that does not hold"),
    ],
)  # fmt: skip
def test_a_mistaken_narrowing_names_its_mistake(goals: list[str], assignments: list[str], message: str):
    with pytest.raises(ValueError) as error:
        narrow(parse_space(CONDITIONAL), goals=goals, assignments=assignments)
    assert str(error.value) == message


def test_set_fixes_searched_fixed_conditional_and_derived_parameters():
    space = narrow(parse_space(CONDITIONAL), assignments=["n_layers=3", " max_seq = 0.2K ", "n_heads=4", "beta1=0.6"])
    for values in draws(space, 50):
        assert values["n_layers"] == 3 and values["max_seq"] == 200 and values["beta1"] == 0.6
        assert values.get("n_heads", 4) == 4
        assert values["attn_layer_idx"] <= 2
    assert not {"n_layers", "max_seq", "n_heads"} & space.searched.keys()


def test_a_parameter_goes_by_any_of_its_names_in_presets_and_set():
    text = ALIASED + "  n_layers: {min: 3, max: 4, default: 4, aliases: [LAYERS]}\npresets: {p: {DIM: 64, LAYERS: 3}}"
    space = parse_space(text)
    assert space.complete(space.presets["p"].values)["d_model"] == 64
    narrowed = narrow(space, assignments=["DIM=64", "LAYERS=3"])
    assert narrowed.complete({}) == {"d_model": 64, "n_layers": 3}
    for wrong, message in {
        ("DIM=64", "d_model=64"): "--set d_model=64: d_model and DIM are one parameter; set one of them",
        ("DIM=48",): "--set DIM=48: 48 is not one of 32, 64; to search elsewhere, change the space",
    }.items():
        with pytest.raises(ValueError) as error:
            narrow(space, assignments=wrong)
        assert str(error.value) == message


def test_a_preset_that_differs_from_what_was_set_may_not_be_launched():
    space = narrow(parse_space(CONDITIONAL), assignments=["d_model=64"])
    reference = space.complete(space.presets["reference"].values)
    against = Feasibility.of(space, space.budget()).reasons_against(reference)
    assert against == ["d_model out of its range"]
    assert space.faults_of(reference) == ["d_model: 32 is not 64, to which it is fixed"]
