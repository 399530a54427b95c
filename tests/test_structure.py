"""The shape of the project: imports point one way, light commands stay light, names in one place match the other."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the top of the house to its foundation: a module imports only from rows below its own.
ROWS = [
    {"search.cli"},
    {"search.studies", "search.submitting"},
    {"search.disk", "search.submission", "search.options"},
    {"search.command", "search.confirm", "search.jobs", "search.validation"},
    {"search.launch", "search.preset", "search.context"},
    {"search.tune", "search.display", "search.dashboard", "search.confirmation", "search.requests", "search.planning"},
    {"search.winner", "search.pace", "search.confirm_cost", "search.amounts", "search.tables"},
    {"search.report", "search.bridge", "search.text", "search.cluster"},
    {"search.study"},
    {"search.settings", "search.alone", "search.ledger"},
    {"search.trial", "search.reference"},
    {"search.faults", "search.checkpoints", "search.corpora", "search.outcome"},
    {"search.object_store"},
    {"search.archive"},
    {"search.database"},
    {"search.patience", "search.lease", "search.scratch", "search.address"},
    {"search.storage", "search.record", "search.hardware", "search.sampling", "search.watchdog", "search.turns"},
    {"search.pareto", "search.comparable"},
    {"search.strategy", "search.feasibility", "search.journal"},
    {"search.surrogate", "search.success", "search.curves"},
    {"search.drawing", "search.configurations", "search.loading", "search.correction", "search.cost"},
    {"search.checking", "search.advise"},
    {"search.narrowing"},
    {"search.space"},
    {"search.parameter"},
    {"search.interval", "search.grammar", "search.text_units"},
    {"search.sweeps"},
    {"search.translation"},
    {
        "search.document",
        "search.expression",
        "search.noise",
        "search.deadline",
        "search.measurement",
        "search.synonyms",
    },
    {"search.replay", "search.snapshot", "search.garbage", "search.words", "search.console", "search.hangup"},
]
FOREIGN_TO = {
    "trainer": {"search", "ray", "optuna", "yaml", "pydantic", "typer", "rich"},
    "search.study": {"ray", "torch", "time", "datetime"},
    "search.trial": {"ray", "optuna"},
    "search.bridge": {"ray", "torch"},
}


def modules() -> dict[str, Path]:
    files = [*(ROOT / "search").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in sorted(files)}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def test_search_imports_point_one_way():
    row_of = {module: i for i, row in enumerate(ROWS) for module in row}
    unplaced = {m for m in modules() if m.startswith("search.")} - row_of.keys()
    assert not unplaced, f"give these a row: {sorted(unplaced)}"
    for module, path in modules().items():
        for imported in imports_of(path) & row_of.keys():
            if module in row_of:
                upward = row_of[imported] < row_of[module]
                assert not upward, f"{module} imports {imported}, which stands above it"


@pytest.mark.parametrize("owner", FOREIGN_TO)
def test_parts_stay_free_of_what_is_foreign_to_them(owner: str):
    for module, path in modules().items():
        if module == owner or module.startswith(f"{owner}."):
            foreign = {name for name in imports_of(path) if name.split(".")[0] in FOREIGN_TO[owner]}
            assert not foreign, f"{module} imports {sorted(foreign)}"


def test_only_two_modules_import_ray():
    users = {m for m, path in modules().items() if any(n.split(".")[0] == "ray" for n in imports_of(path))}
    assert users == {"search.cluster", "search.tune"}


WALL_CLOCK = {"time", "time_ns", "now", "utcnow", "today", "ctime", "localtime", "gmtime"}  # of time and datetime
MAY_ASK_THE_TIME = {
    "search.deadline": "turns `--until 18:00` into seconds",
    "search.launch": "asks once, for that; the seconds are then counted by the monotonic clock",
    "search.planning": "turns `--time 6m` into seconds, as launch does",
    "search.submission": "notes when a job was submitted",
    "search.replay": "checks that the times of a journal's entries are times",
    "trainer.data": "compares the times of files, which are of that clock; a jump costs reading the text again",
}


def asks_the_time(path: Path) -> bool:
    """Whether a module calls, or imports by name, what reads the wall clock."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            if {alias.name for alias in node.names} & {*WALL_CLOCK, "datetime", "date"}:
                return True
        elif isinstance(node, ast.Attribute) and node.attr in WALL_CLOCK:
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner in ("time", "datetime", "date"):
                return True
    return False


def test_nothing_that_decides_reads_the_wall_clock_which_may_jump():
    assert {module for module, path in modules().items() if asks_the_time(path)} == MAY_ASK_THE_TIME.keys()


def loaded_by(code: str, names: set[str]) -> set[str]:
    """Which of `names` a fresh interpreter has imported after running `code`."""
    ask = f"{code}\nimport sys; print(*sorted({names!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return set(run.stdout.split("\n")[-2].split())


def test_help_imports_nothing_heavy():
    code = "import search.cli"
    assert loaded_by(code, {"torch", "ray", "optuna", "numpy", "pydantic", "yaml"}) == set()


def test_validate_needs_neither_torch_nor_ray():
    code = (
        "import sys\nsys.argv = ['tinysearch', 'validate', 'spaces/hybrid.yaml']\nfrom search.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert loaded_by(code, {"torch", "ray"}) == set()


def test_every_module_says_what_it_is_and_init_files_hold_nothing_else():
    for module, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{module} has no docstring"
        if path.name == "__init__.py":
            assert len(tree.body) == 1, f"{module} holds more than a docstring"


def test_every_direct_dependency_is_pinned_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {}
    for requirement in [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]:
        name, bound = re.fullmatch(r"([A-Za-z0-9-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
        declared[name] = tuple(map(int, bound.split(".")))
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {name: tuple(map(int, version.split("."))) for name, version in (line.split("==") for line in lines)}
    assert pinned.keys() == declared.keys()
    assert pinned["torch"] == (2, 13, 0)
    for name, bound in declared.items():
        assert pinned[name] >= bound, name


def test_readme_names_the_two_commands_and_every_command_there_is():
    readme = (ROOT / "README.md").read_text()
    opening = "\n".join(readme.splitlines()[:30])
    assert "make run" in opening and "make test" in opening
    from search.cli import app

    for command in app.registered_commands:
        if not command.hidden:
            assert f"tinysearch {command.callback.__name__}" in readme
