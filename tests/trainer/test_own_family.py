"""A user's own family: a file or module that a space names, from its mistakes to a search on other machines."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from optuna.storages import InMemoryStorage

from search.cli.preset import preset_config
from search.driver.options import RunOptions
from search.jobs.submission import prepare_job
from search.jobs.targets import TARGETS
from search.space.document import SpaceError
from search.space.loading import load_space
from search.space.space import Space
from search.storage.folder import StudyError
from search.strategy.feasibility import Feasibility, largest_peak
from search.study.settings import StudySettings
from search.study.study import Study
from search.worker.alone import train_alone
from search.worker.messages import TrialRequest
from search.worker.trial import TrialRun
from tests.support.paths import ROOT
from tests.support.tool import printed_json, succeeds, tinysearch
from trainer.checkpoint import CheckpointError
from trainer.config import TrainConfig
from trainer.estimate import estimate
from trainer.families import registry
from trainer.families.registry import build, family_of
from trainer.loop import TrainingRun

EXAMPLE = ROOT / "docs" / "own_family"
DEADLINE_SECONDS = 240
RUN = {"rungs": [256, 512], "seq_len": 16, "batch_size": 4, "eval_tokens": 256, "num_threads": 1, "data": ("text",)}

pytestmark = pytest.mark.usefixtures("small_text")


@pytest.fixture(autouse=True)
def example(small_text: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The document's two files in an empty folder, and a process that has loaded no family of the user's yet."""
    monkeypatch.setattr(registry, "_own", {})
    for file in ("min_gru.py", "space.yaml"):
        shutil.copyfile(EXAMPLE / file, file)
    return small_text / "min_gru.py"


def edit(old: str, new: str, file: str = "min_gru.py") -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def in_another_process() -> None:
    """What comes next finds no family loaded."""
    registry._own.clear()


def config_of(**changes: object) -> TrainConfig:
    space = load_space("space.yaml")
    return TrainConfig.from_flat(space.family, {"width": 16, "state": 16, "layers": 1, **RUN, **changes})


# The document and its files.


@pytest.mark.parametrize("file", ["min_gru.py", "space.yaml"])
def test_the_document_shows_the_very_files(file: str):
    document = (ROOT / "docs" / "own-family.md").read_text()
    blocks = re.findall(r"^```\w+\n(.*?)^```$", document, flags=re.DOTALL | re.MULTILINE)
    assert (EXAMPLE / file).read_text() in blocks


def test_the_parallel_scan_equals_the_recurrence():
    module = sys.modules[family_of(load_space("space.yaml").family).config.__module__]
    generator = torch.Generator().manual_seed(0)
    gate, value = (3 * torch.randn(2, 300, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    state, states = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(300):
        z, v = torch.sigmoid(gate[:, t]), value[:, t]
        state = (1 - z) * state + z * torch.where(v > 0, v + 0.5, torch.sigmoid(v))
        states.append(state)
    torch.testing.assert_close(module.scan(gate, value), torch.stack(states, dim=1))


def test_the_example_is_causal_and_its_parameters_are_counted_without_a_draw():
    config = config_of()
    torch.manual_seed(0)
    model = build(config)
    before = torch.get_rng_state()
    assert estimate(config).num_params == sum(p.numel() for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert estimate(config).peak_vram_bytes is None
    tokens = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    torch.testing.assert_close(model(tokens)[:, :7], model(changed)[:, :7])
    assert not torch.allclose(model(tokens)[:, 11], model(changed)[:, 11])


def test_it_trains_and_resumes_from_a_checkpoint_of_the_same_text_only(tmp_path: Path):
    config = config_of(learning_rate=1e-2)
    whole = TrainingRun(config)
    first, second = whole.advance(256), whole.advance(512)
    assert second.loss < first.loss and second.peak_vram_bytes is None and not second.estimated
    begun = TrainingRun(config)
    begun.advance(256)
    begun.save("run.pt")
    again = TrainingRun(config)
    again.restore("run.pt")
    assert again.advance(512).loss == second.loss
    edit("+ 0.5", "+ 0.25")
    with pytest.raises(CheckpointError, match="family_digest is '[0-9a-f]{16}' there and '[0-9a-f]{16}' here"):
        TrainingRun(config_of(learning_rate=1e-2)).restore("run.pt")


def test_a_preset_is_trained_alone():
    config = preset_config("space.yaml/plain", RunOptions(space=None, assignments=("width=16",)))
    assert (config.model.width, config.model.state, config.rungs) == (16, 64, (4_000, 12_000))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# What is wrong with one.

BROKEN = {
    "syntax": ("import torch\n", "import torch torch\n", "{file}:12: invalid syntax"),
    "import": (
        "import torch\n",
        "import torch, no_such\n",
        "{file}:12: ModuleNotFoundError: No module named 'no_such'",
    ),
    "exit": ("import torch\n", "raise SystemExit(3)\n", "{file}:12: SystemExit: 3"),
    "no descriptor": (
        "FAMILY = Family(",
        "dict(",
        '{file} has no descriptor; write FAMILY = Family(name="mine", config=MyConfig, build=MyModel) at its end',
    ),
    "two descriptors": (
        "FAMILY = ",
        'OTHER = Family(name="other", config=MinGRUConfig, build=MinGRU)\nFAMILY = ',
        "{file} has 2 descriptors, OTHER, FAMILY; keep one",
    ),
    "argument": (
        ", build=MinGRU)",
        ")",
        "{file}:69: TypeError: Family.__init__() missing 1 required keyword-only argument: 'build'",
    ),
    "name": (
        '"min_gru"',
        '"min gru"',
        "{file}: the descriptor's name 'min gru' is not a valid name; use letters, digits and _",
    ),
    "not frozen": (
        "@dataclass(frozen=True, kw_only=True)",
        "@dataclass",
        "{file}: the config MinGRUConfig is not a frozen dataclass derived from ModelConfig; write "
        "@dataclass(frozen=True, kw_only=True) above class MinGRUConfig(ModelConfig)",
    ),
    "no dataclass": (
        "config=MinGRUConfig",
        "config=7",
        "{file}: the config 7 is not a frozen dataclass derived from ModelConfig; write "
        "@dataclass(frozen=True, kw_only=True) above class MyConfig(ModelConfig)",
    ),
    "build": ("build=MinGRU", "build=7", "{file}: build is 7, which cannot be called with a config"),
    "cost": (
        "build=MinGRU",
        "build=MinGRU, cost=7",
        "{file}: cost is 7, not a Cost; leave it out to have the parameters counted",
    ),
    "types": (
        "width: int = 64",
        "width: Wide = 64",
        "{file}: the types of MinGRUConfig cannot be read: NameError: name 'Wide' is not defined",
    ),
    "vocabulary": (
        "vocab_size: int = 256\n",
        "vocab: int = 256\n",
        "{file}: MinGRUConfig has no field vocab_size, the number of tokens that the model must know",
    ),
    "field": (
        "width: int = 64",
        "width: tuple[int] = (64,)",
        "{file}: MinGRUConfig.width is not an int, float, str or bool, or one of these or None",
    ),
    "taken": (
        "width: int = 64\n",
        "width: int = 64\n    seq_len: int = 64\n",
        "MinGRUConfig.seq_len is a field of every training run; give it another name",
    ),
    "build raises": (
        "        self.norm = nn.RMSNorm(config.width)\n        self.head",
        "        self.norm = nn.RMSNorm(config.wide)\n        self.head",
        "{file}:38: AttributeError: 'MinGRUConfig' object has no attribute 'wide'; min_gru was built on torch's meta "
        "device, where tensors have no values, to count its parameters",
    ),
    "no module": (
        "build=MinGRU",
        "build=lambda config: None",
        "build of the family min_gru returned NoneType, not an nn.Module",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_error_at_the_spaces_line(kind: str, example: Path):
    old, new, expected = BROKEN[kind]
    edit(old, new)
    if kind == "types":
        edit("from dataclasses", "from __future__ import annotations\n\nfrom dataclasses")
    with pytest.raises(SpaceError) as error:
        load_space("space.yaml")
    assert str(error.value) == f"space.yaml:2: family: {expected.replace('{file}', str(example))}"
    code, _, message = tinysearch("validate", "space.yaml")
    assert code == 2 and "Traceback" not in message and "family: " in message


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("./other.py", "{folder}/other.py: no such file or directory"),
        ("./text.py", "{folder}/text.py: is a directory"),
        ("no_such.mine", "the module no_such.mine cannot be imported: ModuleNotFoundError: No module named 'no_such'"),
        ("json.no_such", "there is no module json.no_such; a file is named as ./file.py, relative to the space"),
        ("json.decoder", "json.decoder has no descriptor; write FAMILY = Family("),
        ("./min_gru", "unknown family './min_gru'. Known: bdh, ghost, hybrid, transformer. A file of your own is"),
        ("min_gru", "unknown family 'min_gru'. Known: bdh, ghost, hybrid, transformer."),
    ],
)  # fmt: skip
def test_a_family_that_is_not_there_is_one_error_at_the_spaces_line(word: str, expected: str, small_text: Path):
    Path("text.py").mkdir()
    edit("./min_gru.py", word, "space.yaml")
    with pytest.raises(SpaceError) as error:
        load_space("space.yaml")
    assert str(error.value).startswith(f"space.yaml:2: family: {expected.replace('{folder}', str(small_text))}")
    assert str(error.value).count("family: ") == 1


def test_a_parameter_that_the_family_lacks_is_refused_with_those_it_has():
    edit("  layers:", "  depth: {value: 3}\n  layers:", "space.yaml")
    with pytest.raises(SpaceError, match=r"space.yaml:11: parameters.depth: .*layers"):
        load_space("space.yaml")


def test_faults_that_the_config_names_are_reasons_and_what_it_raises_is_one_too(example: Path):
    edit("if size < 1]", 'if size < 1] + ["width 48 is odd"] * (self.width == 48) + [1 // (self.width - 64)] * 0')
    space = load_space("space.yaml")
    feasibility = Feasibility.of(space, space.budget())
    against = {w: feasibility.reasons_against({**space.complete({}), "width": w, "state": 96}) for w in (32, 48, 64)}
    assert against == {
        32: [],
        48: ["width 48 is odd"],
        64: [f"{example}:28: ZeroDivisionError: integer division or modulo by zero"],
    }


def test_a_limit_on_parameters_holds_before_launch_and_one_on_memory_only_for_what_is_measured():
    edit("num_params: {max: 60K}", "num_params: {max: 60K}\n  peak_vram_bytes: {max: 1 KiB}", "space.yaml")
    space = load_space("space.yaml")
    feasibility, values = Feasibility.of(space, space.budget()), space.complete({})
    assert feasibility.reasons_against(values) == []
    assert feasibility.reasons_against({**values, "width": 96, "state": 192}) == ["num_params above 60000"]
    assert not feasibility.learn(values, {"peak_vram_bytes": 2**20, "estimated": False})
    code, output, message = tinysearch("validate", "space.yaml")
    assert code == 0
    assert "warning: the limit on peak_vram_bytes holds for what a GPU measures" in output + message
    with pytest.raises(ValueError, match="is not known before it trains; give a number of trials"):
        largest_peak(space, space.budget(), {})


def test_costs_replace_counting_and_are_compared_with_the_model():
    edit("import Family, ModelConfig", "import Cost, Family, ModelConfig")
    formula = "256 * 32 + 2 * (32 + 33 * 128 + 65 * 32) + 32 + 33 * 256"
    cost = f"cost=Cost(num_params=lambda m: {formula}, forward_flops=lambda run: 5.0, live_bytes=lambda run: 0)"
    edit("build=MinGRU)", f"build=MinGRU, {cost})")
    space = load_space("space.yaml")
    found = estimate(space.train_config(space.complete({}), rungs=(10,)))
    assert found.num_params == 29_344 and found.flops_per_token == 15 and found.peak_vram_bytes == 2**25
    edit("256 * 32 +", "256 * 31 +")
    with pytest.raises(SpaceError) as error:
        load_space("space.yaml")
    assert str(error.value) == (
        "space.yaml:2: family: cost.num_params says 29,088 for the defaults, but the model has 29,344 parameters"
    )


def test_a_module_is_a_family_too(small_text: Path, monkeypatch: pytest.MonkeyPatch):
    (small_text / "mine_of_test").mkdir()
    shutil.move("min_gru.py", "mine_of_test/recurrent.py")
    monkeypatch.syspath_prepend(small_text)
    edit("./min_gru.py", "mine_of_test.recurrent", "space.yaml")
    config = config_of()
    assert config.family == "mine_of_test.recurrent" and estimate(config).num_params > 0
    sent = registry.family_of(config.family).source
    assert sent.text is None and sent.location == config.family
    in_another_process()
    edit("+ 0.5", "+ 0.25", "mine_of_test/recurrent.py")
    assert registry.receive(sent).startswith("a worker reads another family from mine_of_test.recurrent: its digest is")


# A study keeps which one it was.


def settings_of(space: Space) -> StudySettings:
    return StudySettings(space=space, budget=space.budget(), corpus={"digest": "d", "about": "text", "paths": []})


def test_a_study_opens_with_the_family_that_it_began_with_and_no_other(example: Path):
    before = settings_of(load_space("space.yaml"))
    stored = Study.create(InMemoryStorage(), "study", before)._study
    in_another_process()
    after = StudySettings.of(stored)
    assert after.space.family == str(example) and before.differences(after) == []

    edit("+ 0.5", "+ 0.25")
    with pytest.raises(StudyError) as error:
        StudySettings.of(stored)
    digests = re.findall("[0-9a-f]{16}", str(error.value))
    assert len(set(digests)) == 2
    before_and_now = f"its digest was {digests[0]}, it is {digests[1]} now"
    assert str(error.value) == (
        f"the family of the study 'study' is not what it was: {example} has changed: {before_and_now}; bring back what "
        "it was (the folder of the study has a copy of a file), or give a new search another --name"
    )
    now = settings_of(load_space("space.yaml"))
    assert before.differences(now) == [
        f"the text of the family ./min_gru.py: digest {digests[0]} before, {digests[1]} now"
    ]


def test_a_study_whose_family_has_moved_opens_where_its_file_is_now(example: Path):
    stored = Study.create(InMemoryStorage(), "study", settings_of(load_space("space.yaml")))._study
    Path("elsewhere").mkdir()
    for file in ("min_gru.py", "space.yaml"):
        shutil.move(file, f"elsewhere/{file}")
    in_another_process()
    with pytest.raises(StudyError, match=f"{example}: no such file or directory"):
        StudySettings.of(stored)
    load_space("elsewhere/space.yaml")
    assert StudySettings.of(stored).space.family == str(example.parent / "elsewhere" / "min_gru.py")


def test_a_study_that_keeps_a_damaged_family_runs_nothing(example: Path):
    stored = Study.create(InMemoryStorage(), "study", settings_of(load_space("space.yaml")))._study
    Path("min_gru.py").write_text("raise SystemExit('this ran')")
    in_another_process()
    for kept in (
        {"location": str(example)},
        {"location": str(example), "digest": 1},
        {"location": str(example), "digest": "x"},
    ):
        stored.set_user_attr("family", kept)
        with pytest.raises(StudyError, match="damaged|has changed") as error:
            StudySettings.of(stored)
        assert "this ran" not in str(error.value)
    stored.set_user_attr("family", {})
    with pytest.raises(StudyError, match="family: nothing says which text of this family it is about"):
        StudySettings.of(stored)


# Workers.


def request_of(config: TrainConfig) -> TrialRequest:
    family = registry.family_of(config.family).source
    return TrialRequest(train=config.to_dict(), location="checkpoints", checkpoint="trial-0.pt", family=family)


def test_a_worker_with_another_text_of_the_family_says_so(example: Path):
    """The driver's file has changed; the worker's machine has the old one. In a process of its own, as a worker is."""
    old = example.read_text()
    edit("+ 0.5", "+ 0.25")
    request = request_of(config_of())
    example.write_text(old)
    report = train_alone(request, lambda report: None)
    there = registry.digest_of(old)
    assert report.environment_error == (
        f"a worker reads another family from {example}: its digest is {there} there and {request.family.digest} "
        "here; make them equal"
    )


def test_a_machine_without_the_file_trains_the_same_model(example: Path):
    config = config_of()
    here = TrialRun(request_of(config)).step().measurement["loss"]
    shutil.rmtree("checkpoints")
    request = request_of(config)
    example.unlink()
    in_another_process()
    there = TrialRun(request).step()
    assert there.measurement["loss"] == here


def test_a_job_takes_the_file_along_or_refuses(example: Path):
    options = RunOptions(space=Path("space.yaml"), name="mine", runs=Path("runs"))
    given = {"image": "image", "claim": "claim"}
    job = prepare_job(options, TARGETS["k8s"], given)
    assert dict(job.family_files) == {"min_gru.py": example.read_text()}
    Path("deeper").mkdir()
    shutil.move("min_gru.py", "deeper/min_gru.py")
    edit("./min_gru.py", "./deeper/min_gru.py", "space.yaml")
    with pytest.raises(ValueError, match="is not beside space.yaml; a Kubernetes job takes both along"):
        prepare_job(options, TARGETS["k8s"], given)


# From the command line, through Ray.


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_search_of_the_documents_own_family_from_a_folder_outside_the_checkout(small_text: Path):
    """With a limit on num_params; then more of it, the winner alone and confirmed, and a file that has changed."""
    search = ("run", "space.yaml", "--data", "text", "--name", "own", "--trials", "3")
    assert "3 of 3 trials" in succeeds(*search)
    assert Path("runs/own/min_gru.py").read_text() == Path("min_gru.py").read_text()
    trials = printed_json("trials", "own")
    assert all(m["num_params"] <= 60_000 for trial in trials for m in trial["measurements"].values())
    in_another_process()
    assert "4 of 4 trials" in succeeds("resume", "own", "--trials", "+1")
    assert "plain" in succeeds("confirm", "own", "--top", "1", "--seeds", "1")
    edit("+ 0.5", "+ 0.25")
    in_another_process()
    for arguments in (search, ("resume", "own")):
        code, _, message = tinysearch(*arguments)
        assert code == 2 and "Traceback" not in message
        assert "the family of the study 'own' is not what it was" in message
