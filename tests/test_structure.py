"""The shape of the project: imports point one way, light commands stay light, names in one place match the other."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the top of the house to its foundation: a room imports from rooms below its own.
ROOMS = [
    "search.cli",
    "search.jobs",
    "search.driver",
    "search.confirm",
    "search.report",
    "search.study",
    "search.strategy",
    "search.storage",
    "search.space",
    "search.worker",
    "trainer",
]
FOREIGN_TO = {
    "trainer": {"search", "ray", "optuna", "yaml", "pydantic", "typer", "rich"},
    "search.worker": {"ray", "optuna", "pydantic", "yaml"},
    "search.space": {"ray", "optuna", "torch"},
    "search.storage": {"ray", "torch", "search.space", "search.worker"},
    "search.strategy": {"ray", "torch", "search.storage"},
    "search.study": {"ray", "torch"},
    "search.report": {"ray"},
    "search.confirm": {"ray"},
    "search.driver.bridge": {"ray"},
}
"""What a room, or a module, does without: whatever it imports does without it too."""

WITHOUT_A_CLOCK = ("search.space", "search.strategy", "search.study")


def modules() -> dict[str, Path]:
    files = [*(ROOT / "search").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in sorted(files)}


@cache
def imports_of(module: str) -> frozenset[str]:
    """Everything that a module of ours imports, also within functions; of `from a import b`, `a.b` if it is one."""
    if module not in MODULES:
        return frozenset()
    path = MODULES[module]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module or ""}
    return frozenset(found)


MODULES = modules()


def is_in(module: str, owner: str) -> bool:
    return module == owner or module.startswith(f"{owner}.")


def room_of(module: str) -> int | None:
    """The row of a module's room; None for the package itself, and for what is not ours."""
    return next((i for i, room in enumerate(ROOMS) if is_in(module, room)), None)


def ways_from(module: str) -> dict[str, tuple[str, ...]]:
    """Everything that a module imports, through others too, and the way there."""
    ways: dict[str, tuple[str, ...]] = {}
    todo = [(module,)]
    while todo:
        way = todo.pop()
        for imported in imports_of(way[-1]):
            if imported not in ways:
                ways[imported] = (*way, imported)
                todo.append(ways[imported])
    return ways


def test_every_module_of_search_is_in_a_room():
    assert {m for m in MODULES if room_of(m) is None} == {"search"}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_between_rooms_point_down(room: str):
    for module in MODULES:
        if is_in(module, room):
            for imported, way in ways_from(module).items():
                above = room_of(imported)
                assert above is None or above >= ROOMS.index(room), f"{' -> '.join(way)}: {imported} is above {room}"


@pytest.mark.parametrize("owner", FOREIGN_TO)
def test_rooms_stay_free_of_what_is_foreign_to_them(owner: str):
    for module in MODULES:
        if is_in(module, owner):
            for imported, way in ways_from(module).items():
                foreign = [name for name in FOREIGN_TO[owner] if is_in(imported, name)]
                assert not foreign, f"{' -> '.join(way)}: {owner} does without {foreign[0]}"


def test_what_decides_has_no_clock():
    for module in MODULES:
        if any(is_in(module, room) for room in WITHOUT_A_CLOCK):
            assert not imports_of(module) & {"time", "datetime"}, module


def test_only_two_modules_import_ray():
    users = {m for m in MODULES if any(is_in(n, "ray") for n in imports_of(m))}
    assert users == {"search.driver.cluster", "search.driver.tune"}


WALL_CLOCK = {"time", "time_ns", "now", "utcnow", "today", "ctime", "localtime", "gmtime"}  # of time and datetime
MAY_ASK_THE_TIME = {
    "search.driver.deadline": "turns `--until 18:00` into seconds",
    "search.driver.launch": "asks once, for that; the seconds are then counted by the monotonic clock",
    "search.driver.planning": "turns `--time 6m` into seconds, as launch does",
    "search.jobs.submission": "notes when a job was submitted",
    "search.storage.replay": "checks that the times of a journal's entries are times",
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
    assert {module for module, path in MODULES.items() if asks_the_time(path)} == MAY_ASK_THE_TIME.keys()


def loaded_by(code: str, names: set[str]) -> set[str]:
    """Which of `names` a fresh interpreter has imported after running `code`."""
    ask = f"{code}\nimport sys; print(*sorted({names!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return set(run.stdout.split("\n")[-2].split())


def test_help_imports_nothing_heavy():
    code = "import search.cli.main"
    assert loaded_by(code, {"torch", "ray", "optuna", "numpy", "pydantic", "yaml"}) == set()


def test_validate_needs_neither_torch_nor_ray():
    code = (
        "import sys\nsys.argv = ['tinysearch', 'validate', 'spaces/hybrid.yaml']\nfrom search.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert loaded_by(code, {"torch", "ray"}) == set()


def test_every_module_says_what_it_is_and_init_files_hold_nothing_else():
    for module, path in MODULES.items():
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
    from search.cli.main import app

    for command in app.registered_commands:
        if not command.hidden:
            assert f"tinysearch {command.callback.__name__}" in readme
