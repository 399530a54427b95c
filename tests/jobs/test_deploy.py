"""The image and the service of deploy/: everything that can be checked without a container engine."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|KEY")
GIVEN_OR_REFUSED = re.compile(r"\$\{(\w+):\?[^}]+\}")


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def services() -> dict[str, dict[str, Any]]:
    return load(COMPOSE)["services"]


@pytest.fixture(params=services())
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return services()[request.param]


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("compose*.yaml")), ids=lambda path: path.name)
def test_compose_files_are_of_the_published_specification(path: Path):
    schema = json.loads((ROOT / "tests/jobs/schemas/compose-spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    assert [error.message for error in validator(schema).iter_errors(load(path))] == []


def test_only_this_machine_reaches_a_published_port(service: dict[str, Any]):
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert "network_mode" not in service


def test_who_is_waited_for_has_a_health_check(service: dict[str, Any]):
    for name, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}, name
        assert services()[name]["healthcheck"]["test"][0] == "CMD", name


def test_secrets_are_given_from_outside_or_refused(service: dict[str, Any]):
    for name, value in service.get("environment", {}).items():
        if SECRET.search(name):
            assert GIVEN_OR_REFUSED.fullmatch(value), name


def test_no_address_holds_a_password():
    for path in sorted(DEPLOY.iterdir()):
        assert not re.search(r"://[^/\s@]*:[^/\s@]*@", path.read_text(encoding="utf-8")), path


def test_the_example_has_every_variable_and_no_secret():
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    text = COMPOSE.read_text(encoding="utf-8")
    assert example.keys() == set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert {name for name, value in example.items() if not value} == set(GIVEN_OR_REFUSED.findall(text))
    for name, default in re.findall(r"\$\{(\w+):-([^}]+)\}", text):
        assert example[name] == default, name


def test_every_image_is_pinned_by_a_tag(service: dict[str, Any]):
    name, _, tag = service["image"].partition(":")
    assert name and tag and tag != "latest", service["image"]
    assert name == "tinysearch" or re.match(r"\d", tag), service["image"]


def test_a_container_may_do_no_more_than_it_must(service: dict[str, Any]):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user") == "postgres" or service["image"].startswith("tinysearch:")  # neither is root
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & service.keys()


def test_workers_find_what_a_search_names_at_the_same_paths():
    folders = [services()[name]["volumes"] for name in ("ray-head", "ray-worker", "search", "tinysearch")]
    assert folders == [folders[0]] * 4
    assert {"runs:/app/runs", "cache:/cache"} < set(folders[0])


def test_every_member_of_the_cluster_asks_for_the_token():
    for name in ("ray-head", "ray-worker", "search"):
        environment = services()[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" in environment, name


def test_only_drivers_and_the_dashboard_reach_the_database():
    assert {name for name, service in services().items() if "database" in service["networks"]} == {
        "postgres",
        "dashboard",
        "ray-head",
        "search",
        "tinysearch",
    }
    assert load(COMPOSE)["networks"]["database"] == {"internal": True}


# The Dockerfile.


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with what follows it, continued lines as one."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = filter(None, re.sub(r"\\\n\s*", " ", text).splitlines())
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def of_kind(kind: str) -> list[str]:
    return [rest for word, rest in instructions() if word == kind]


def test_the_base_image_is_pinned():
    for base in of_kind("FROM"):
        assert re.fullmatch(r"python:\d+\.\d+-slim-\w+", base), base
        minor = int(base.split(".")[1].split("-")[0])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["requires-python"] == ">=3.11,<3.14" and 11 <= minor < 14


def test_the_image_runs_tinysearch_and_not_as_root():
    kinds = [word for word, _ in instructions()]
    assert of_kind("USER") == ["$UID"] and "UID=10001" in of_kind("ARG")
    assert not {"RUN", "COPY", "ADD"} & set(kinds[kinds.index("USER") :])
    assert [json.loads(entry) for entry in of_kind("ENTRYPOINT")] == [["tinysearch"]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "tinysearch" in project["scripts"]


def test_the_code_is_copied_once_and_after_what_it_depends_on():
    assert of_kind("COPY") == ["pyproject.toml constraints.txt ./", ". ."]
    assert not of_kind("ADD")
    after = instructions()[instructions().index(("COPY", ". .")) + 1 :]
    assert [word for word, _ in after] == ["USER", "ENTRYPOINT", "CMD"]


def test_the_image_has_the_tested_versions_and_known_extras():
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert f"TORCH_VERSION={pins['torch']}" in of_kind("ARG")
    (install,) = (run for run in of_kind("RUN") if "--editable" in run)
    words = shlex.split(install)
    assert words[words.index("--constraint") + 1] == "constraints.txt"
    extras = words[words.index("--editable") + 1].removeprefix(".[").removesuffix("]").split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"postgresql", "cluster", "s3"} == set(extras) <= project["optional-dependencies"].keys()
    assert any(requirement.startswith("ray[default]") for requirement in project["optional-dependencies"]["cluster"])


def test_the_image_contains_only_what_is_listed():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    code = set(packages["targets"]["wheel"]["packages"])
    assert kept == {"README.md", "constraints.txt", "pyproject.toml", "spaces", *code}
