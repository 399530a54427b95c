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


def imports_of(path: Path) -> set[str]:
    """Everything that a file imports, also within functions; of `from a import b` the module `a.b` if it is one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module or ""}
    return found


MODULES = modules()
IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


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
        for imported in IMPORTS.get(way[-1], ()):
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


def test_a_family_is_one_folder_that_no_other_module_of_the_trainer_names():
    from trainer.families.registry import BUILT_IN

    owners = {f"trainer.families.{name}" for name in BUILT_IN}
    for owner in owners:
        assert {f"{owner}.{part}" for part in ("config", "model", "cost", "family")} <= MODULES.keys()
    for module in MODULES:
        own = {owner for owner in owners if is_in(module, owner)}
        named = {owner for owner in owners if any(is_in(imported, owner) for imported in IMPORTS[module])}
        assert named <= own, module
        if is_in(module, "trainer.families"):
            assert "trainer.config" not in ways_from(module), module


def test_what_decides_has_no_clock():
    for module in MODULES:
        if any(is_in(module, room) for room in WITHOUT_A_CLOCK):
            assert not IMPORTS[module] & {"time", "datetime"}, module


def test_only_three_modules_import_ray():
    users = {m for m in MODULES if any(is_in(n, "ray") for n in IMPORTS[m])}
    assert users == {"search.driver.cluster", "search.driver.ray_private", "search.driver.tune"}


LIBRARIES = ("optuna", "ray", "sqlalchemy")
OF_PRIVATE_PARTS = {"search.driver.ray_private", "search.storage.optuna_database", "search.storage.optuna_private"}
"""The only modules that may use private parts of LIBRARIES; tests/test_private_parts.py says which."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_of_libraries(module: str) -> bool:
    return any(is_in(module, library) for library in LIBRARIES)


def private_parts_in(text: str) -> set[str]:
    """What a module reaches that is, or may be, private to one of LIBRARIES.

    What an object is of cannot be seen here. So no private attribute may be asked of any object but one's own; and of
    one's own, none that a class does not set itself, if it is derived from one of LIBRARIES.
    """
    found: set[str] = set()
    imported: set[str] = set()  # names of LIBRARIES here
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names = [alias for alias in node.names if is_of_libraries(alias.name)]
                imported |= {alias.asname or alias.name.partition(".")[0] for alias in names}
                found |= {alias.name for alias in names if any(map(is_private, alias.name.split(".")))}
            case ast.ImportFrom() if is_of_libraries(node.module or ""):
                imported |= {alias.asname or alias.name for alias in node.names}
                paths = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {path for path in paths if any(map(is_private, path.split(".")))}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute() if is_private(node.attr):
                found.add(ast.unparse(node))
            case ast.Attribute(ctx=ast.Store() | ast.Del()) if root_of(node) in imported:
                found.add(f"{ast.unparse(node)} = ...")
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, ast.Constant(str(name)), *_]
            ):
                if is_private(name):
                    found.add(ast.unparse(node))
            case ast.Call():
                found |= {f"{keyword.arg}=" for keyword in node.keywords if keyword.arg and is_private(keyword.arg)}
            case ast.ClassDef() if any(root_of(base) in imported for base in node.bases):
                found |= inherited_parts(node)
    return found


def root_of(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def inherited_parts(derived: ast.ClassDef) -> set[str]:
    """The private attributes that a class reads of itself and neither sets nor defines."""
    own = {node for node in ast.walk(derived) if isinstance(node, ast.Attribute) and root_of(node) in ("self", "cls")}
    own = {node for node in own if isinstance(node.value, ast.Name) and is_private(node.attr)}
    made = {node.attr for node in own if isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in derived.body if isinstance(node, ast.FunctionDef)}
    return {f"{derived.name}.{node.attr}" for node in own if node.attr not in made}


@pytest.mark.parametrize(
    "text",
    [
        "import ray._private.worker",
        "from optuna.storages._rdb import models",
        "from optuna.study import _frozen",
        "study._study_id",
        "super()._actor_task_failed(task)",
        "self._storage._backend",
        "getattr(storage, '_backend', None)",
        "import ray\nray.init(_temp_dir='/tmp')",
        "from ray.tune.execution import tune_controller\ntune_controller.RayActorManager = Mine",
        "from optuna.storages.journal import JournalFileBackend\nclass Mine(JournalFileBackend):\n"
        "    def read(self):\n        return self._file_path",
    ],
)
def test_a_private_part_is_recognised(text: str):
    assert len(private_parts_in(text)) == 1


def test_private_parts_of_libraries_are_used_in_their_own_modules_alone():
    found = {module: private_parts_in(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
    reaching = {module: parts for module, parts in found.items() if parts and is_in(module, "search")}
    assert {module: parts for module, parts in reaching.items() if module not in OF_PRIVATE_PARTS} == {}
    assert reaching.keys() == OF_PRIVATE_PARTS


def test_only_the_list_of_targets_names_a_target():
    """So that a new kind of cluster is a new file and a line in that list."""
    from search.jobs.targets import TARGETS

    for target in TARGETS.values():
        module = type(target).__module__
        assert {m for m in MODULES if module in IMPORTS[m]} == {"search.jobs.targets"}, module


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


def test_types_are_checked_without_blanket_exceptions():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert set(settings["files"]) == {"search", "trainer"} and "ignore_errors" not in settings
    for override in settings.get("overrides", []):
        assert override.keys() == {"module", "ignore_missing_imports"}, override
        assert not [name for name in override["module"] if is_in(name, "search") or is_in(name, "trainer")]
    for module, path in MODULES.items():
        for line in path.read_text(encoding="utf-8").splitlines():
            if "# type:" in line or "# mypy:" in line:
                assert re.search(r"  # type: ignore\[[a-z-]+\]  # \w", line), (
                    f"{module}: {line.strip()} needs its reason"
                )


def test_every_direct_dependency_is_pinned_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {}
    for requirement in [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]:
        pattern = r"([A-Za-z0-9-]+)(?:\[\w+\])?>=([\d.]+)(?:,<([\d.]+))?"
        name, lowest, above = re.fullmatch(pattern, requirement).groups()
        declared.setdefault(name, set()).add((version_of(lowest), version_of(above) if above else None))
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {name: version_of(version) for name, version in (line.split("==") for line in lines)}
    assert pinned.keys() == declared.keys()
    assert pinned["torch"] == (2, 13, 0)
    for name, bounds in declared.items():
        for lowest, above in bounds:
            assert lowest <= pinned[name] and (above is None or pinned[name] < above), name
    for name in ("optuna", "ray"):  # of which private parts are used
        assert all(above is not None for _, above in declared[name]), name


def version_of(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_readme_names_the_two_commands_and_every_command_there_is():
    readme = (ROOT / "README.md").read_text()
    opening = "\n".join(readme.splitlines()[:30])
    assert "make run" in opening and "make test" in opening
    from search.cli.main import app

    for command in app.registered_commands:
        if not command.hidden:
            assert f"tinysearch {command.callback.__name__}" in readme
