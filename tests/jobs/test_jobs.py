"""What is submitted to a cluster: whole texts, the schemas of their kinds, refusals, and calls of programs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

import search.cli.main
from search.cli.main import app
from search.driver.options import OPTIONS, RunOptions
from search.jobs.job import Job
from search.jobs.kubernetes import KubernetesSettings, rayjob_documents, rayjob_manifest
from search.jobs.ray_job import RayJobSettings, ray_job_command
from search.jobs.settings import declared, time_seconds
from search.jobs.slurm import SlurmSettings, slurm_script
from search.jobs.submission import submissions
from search.jobs.targets import SETTINGS, TARGETS
from search.space.loading import load_space
from tests.support.paths import ROOT
from tests.support.tool import tinysearch

GOLDEN = Path(__file__).resolve().parent / "golden"
SMOKE = ROOT / "spaces" / "smoke.yaml"

# Whatever a study, a path or an option may hold that a shell, sbatch or YAML would read as something else.
WEIRD = 'it\'s $HOME; `x` "q" #1 %j ü'

JOB = Job(
    study="hybrid",
    suffix="a1b2c3",
    arguments=("spaces/hybrid.yaml", "--name=hybrid", "--runs=/runs", "--address=auto", "--set=d_model=128"),
    runs="/home/ada/my runs",
    checkout="/home/ada/tinysearch",
    python="/home/ada/tinysearch/.venv/bin/python",
    space_text="family: hybrid\nparameters:\n  d_model: {value: 128}  # ü\n",
    settings=SlurmSettings(),
)
LARGE = dataclasses.replace(
    JOB,
    arguments=(*JOB.arguments, f"--data=/home/ada/{WEIRD}"),
    settings=SlurmSettings(
        nodes=3,
        cpus_per_node=8,
        gpus_per_node=2,
        memory_per_node="64G",
        time="1-12:00:00",
        partition="gpu",
        account="lab",
        qos="low",
    ),
)
K8S = dataclasses.replace(
    JOB,
    python="python",
    runs="/runs",
    settings=KubernetesSettings(image="registry/tinysearch:1", claim="studies", ray_version="2.60.0"),
)
LARGE_K8S = dataclasses.replace(
    K8S,
    arguments=(*JOB.arguments, f"--data=/runs/{WEIRD}"),
    settings=dataclasses.replace(
        K8S.settings, nodes=3, gpus_per_node=1, time="90", namespace="research", storage_secret="database"
    ),
)
RAY = dataclasses.replace(JOB, python="python", settings=RayJobSettings(address="http://head:8265"))

TEXTS = {
    "slurm-one-node.sh": lambda: slurm_script(JOB),
    "slurm-three-nodes.sh": lambda: slurm_script(LARGE),
    "rayjob-one-node.yaml": lambda: rayjob_manifest(K8S),
    "rayjob-three-nodes.yaml": lambda: rayjob_manifest(LARGE_K8S),
    "ray-job.txt": lambda: shlex.join(ray_job_command(RAY)) + "\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_as_they_were_seen_to_work(name: str):
    """A change is seen whole: write the file anew with `python tests/jobs/test_jobs.py`, and look at the difference."""
    assert TEXTS[name]() == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".sh")])
def test_scripts_are_bash(name: str):
    subprocess.run(["bash", "-n"], input=TEXTS[name](), text=True, check=True, timeout=10)


def test_a_script_hands_every_argument_on_as_it_is(tmp_path: Path):
    """Bash itself reads the script: what `srun` gets last is the command of the job."""
    (tmp_path / "srun").write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {tmp_path}/words\n')
    (tmp_path / "srun").chmod(0o755)
    job = dataclasses.replace(LARGE, python=sys.executable)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "1"}
    script = slurm_script(job).replace(f'export PATH={Path(sys.executable).parent}:"$PATH"', "")
    run = subprocess.run(["bash"], input=script, text=True, env=environment, capture_output=True, timeout=60)
    words = (tmp_path / "words").read_text(encoding="utf-8").split("\0")[:-1]
    assert words[-len(job.command) :] == job.command
    assert run.returncode == 1, "srun ended well, but no search was started"
    assert "the search was not started" in run.stderr


def test_a_percent_in_a_path_is_no_pattern_of_slurms():
    script = slurm_script(dataclasses.replace(JOB, runs="/a%j"))
    assert '#SBATCH --output="/a%%j/hybrid/slurm-%j.log"\n' in script


def test_a_manifest_hands_every_argument_on_as_it_is():
    space, job = yaml.safe_load_all(rayjob_manifest(LARGE_K8S))
    assert shlex.split(job["spec"]["entrypoint"]) == ["exec", *LARGE_K8S.command]
    assert space["data"]["space.yaml"] == LARGE_K8S.space_text
    assert [space, job] == rayjob_documents(LARGE_K8S)


def changed(job: Job[Any], **changes: Any) -> Job[Any]:
    """The job with other fields, or other settings."""
    own = {name: changes.pop(name) for name in list(changes) if not hasattr(job, name)}
    return dataclasses.replace(job, settings=dataclasses.replace(job.settings, **own), **changes)


def schema(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "schemas" / f"{name}.json").read_text())


@pytest.mark.parametrize("job", [K8S, LARGE_K8S], ids=["one node", "three nodes"])
def test_manifests_fit_the_published_schemas_of_their_kinds(job: Job):
    for document in rayjob_documents(job):
        jsonschema.Draft202012Validator(schema(document["kind"])).validate(document)


@pytest.mark.parametrize(
    "damage",
    [
        lambda spec: spec.update(entrypont="x"),
        lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"),
        lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="tokens"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 4}),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].pop("containers"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(images="x"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="2"),
        lambda spec: spec.update(activeDeadlineSeconds="5400"),
    ],
)
def test_the_schemas_refuse_what_is_wrong(damage: Any):
    _, document = rayjob_documents(LARGE_K8S)
    damage(document["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema("RayJob")).validate(document)


def test_names_are_dns_names_and_distinguish_studies():
    names = set()
    for study in ("hybrid", "Hybrid", "hybrid.quick", "hybrid-quick", "x" * 100, "x" * 99, "9", "a_b", "a.b"):
        name = dataclasses.replace(JOB, study=study).name
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 47, name
        names.add(name)  # KubeRay refuses a RayJob of more than 47 characters
    assert len(names) == 9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("90:30", 5430),
        ("8:00:00", 28800),
        ("36:00:00", 129600),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-12:30:15", 131415),
        *((text, None) for text in ("0", "0-0", "8h", "", "5:90", "1:60:00", "1-24", "-5", "1:2:3", "٣", "30\n")),
    ],
)
def test_times_are_slurms(text: str, seconds: int | None):
    assert time_seconds(text) == seconds


@pytest.mark.parametrize(
    ("to", "changes", "messages"),
    [
        ("slurm", {"nodes": 0, "cpus_per_node": 0}, ["--nodes 0", "--cpus-per-node 0"]),
        ("slurm", {"gpus_per_node": -1, "time": "8h"}, ["--gpus-per-node -1", "--time 8h is not a time"]),
        ("slurm", {"partition": "gpu\n#SBATCH --account=x"}, ["--partition"]),
        ("slurm", {"account": "a b", "qos": "$(x)"}, ["--account 'a b'", "--qos"]),
        ("slurm", {"runs": '/a"b'}, ["Slurm reads no path with a quote"]),
        ("slurm", {"memory_per_node": "64Gi"}, ["--memory-per-node 64Gi: not a size; give one such as 64G"]),
        ("k8s", {"image": None, "claim": None}, ["--to k8s needs --image", "--to k8s needs --claim"]),
        ("k8s", {"namespace": "Lab", "claim": "-x", "image": "a b"}, ["--namespace 'Lab'", "--claim", "--image"]),
        ("k8s", {"namespace": "a.b"}, ["--namespace 'a.b'"]),
        ("k8s", {"storage_secret": "x_y", "memory_per_node": "64 G"}, ["--storage-secret", "such as 64Gi"]),
        ("k8s", {"space_text": "x" * 2**20 + "x"}, ["larger than the 1 MiB"]),
        ("ray", {"address": "http://me:secret@head:8265"}, ["--address"]),
    ],
)
def test_what_a_cluster_would_refuse_or_misread_is_reported_at_once(to: str, changes: dict, messages: list[str]):
    with pytest.raises(ValueError) as error:
        TARGETS[to].check(changed({"slurm": JOB, "k8s": K8S, "ray": RAY}[to], **changes))
    for message in messages:
        assert message in str(error.value)
    assert len(str(error.value).splitlines()) == len(messages)
    assert "secret@" not in str(error.value)


pytestmark = pytest.mark.usefixtures("small_text")


EVERYTHING = [
    "--skip-bad",
    "--text-key=body",
    *("--name", "my.study", "--budget", "quick", "--trials", "7", "--max-tokens", "500K", "--until", "8h"),
    *("--data", "/texts/a b", "--data", "-c", "--token-dtype", "uint32", "--goal", "longer-memory", "--seed", "3"),
    *("--set", "d_model=128", "--set", "n_heads=2", "--metrics", "loss,num_params", "--limit", "num_params=2M"),
    *("--storage-path", "s3://bucket/a b", "--trials-per-gpu", "2", "--gpu-kind", "A100"),
    *("--cpus-per-trial", "2", "--parallel", "3", "--hang-minutes", "5"),
    *("--sampler", "./mine.py:Mine", "--stopping", "asha"),
]


def test_a_job_runs_with_every_option_that_was_given(monkeypatch: pytest.MonkeyPatch):
    """The words of the job, read by the command line again, ask for the same."""
    seen: list[RunOptions] = []
    monkeypatch.setattr(search.cli.main, "_search", lambda options, columns: seen.append(options) or 0)
    monkeypatch.setattr("search.jobs.submission._check_space", lambda options, folder: load_space(SMOKE))
    space = ROOT / "spaces" / "hybrid.yaml"
    assert tinysearch("run", space, *EVERYTHING)[0] == 0
    code, script, message = tinysearch("submit", space, "--to", "slurm", "--dry-run", *EVERYTHING)
    assert code == 0, message
    command = shlex.split(script[script.index('bash -c "$search"') : script.index("&\nstarted")].replace("\\\n", ""))
    words = command[command.index("search.cli") + 1 :]
    assert tinysearch(*words)[::2] == (0, "")
    asked, submitted = seen
    here = Path.cwd()
    absolute = {"data": (Path("/texts/a b"), here / "-c"), "sampler": f"{here}/mine.py:Mine"}
    assert submitted == dataclasses.replace(asked, runs=here / "runs", **absolute)
    changed = {f.name for f in dataclasses.fields(asked) if getattr(asked, f.name) != f.default}
    assert {f.name for f in dataclasses.fields(RunOptions)} - changed == {
        "runs",
        "storage",
        "address",
        "gpus_per_trial",
    }


def test_submit_has_every_option_of_run():
    commands = typer.main.get_command(app).commands
    options = {name: {opt for p in commands[name].params for opt in p.opts} for name in ("run", "submit")}
    assert options["run"] - {"--columns"} <= options["submit"]  # a job prints to a log, which has no width


def test_a_setting_of_several_targets_is_the_same_for_all():
    for target in TARGETS.values():
        for name, how in declared(target.settings).items():
            assert how == SETTINGS[name], f"{name} of {target.name}"


def test_only_the_address_is_both_a_setting_and_an_option_of_run():
    assert SETTINGS.keys() & set(OPTIONS) == {"address"}


def test_submit_has_every_setting_and_every_target():
    code, shown, _ = tinysearch("submit", "--help")
    assert code == 0 and f"--to <{'|'.join(TARGETS)}>" in shown
    assert {how.flag for how in SETTINGS.values()} <= set(re.findall(r"--[\w-]+", shown))


def refused(*arguments: str | Path) -> str:
    code, out, message = tinysearch("submit", *arguments)
    assert code == 2 and not out, (code, out)
    assert "Traceback" not in message
    assert not Path("runs").exists()
    return message.strip()


def test_a_faulty_space_is_refused_here_and_not_in_the_queue():
    Path("faulty.yaml").write_text("family: hybrid\nparameters:\n  d_modle: {value: 1}\n")
    assert "faulty.yaml:3" in refused("faulty.yaml", "--to", "slurm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "slurm", "--trials", "+10"], "a job that starts again would add as many again"),
        (["--to", "slurm", "--trials", "x"], "--trials x"),
        (["--to", "slurm", "--until", "soon"], "--until soon"),
        (["--to", "slurm", "--storage-path", "s3://key:pass@b/x"], "--storage-path s3://***@b/x: the study would keep"),
        (["--to", "slurm", "--name", "a/b"], "not a valid name for a study"),
        (["--to", "slurm", "--set", "d_modle=1"], "d_modle"),
        (["--to", "slurm", "--image", "x", "--address", "y"], "--to slurm: --address, --image means nothing there"),
        (["--to", "k8s", "--image", "x", "--claim", "y", "--data", "text"], "--data text: a job is not in this folder"),
        (["--to", "ray"], "--to ray needs --cluster-runs PATH"),
        (["--to", "ray", "--cluster-runs", "runs"], "--to ray needs --cluster-runs PATH"),
        (["--to", "ray", "--cluster-runs", "/runs", "--nodes", "3"], "--to ray: --nodes means nothing there"),
    ],
)
def test_what_cannot_become_a_job_is_refused_before_anything_is_written(arguments: list[str], message: str):
    assert message in refused(SMOKE, *arguments)


def test_a_ray_job_takes_only_a_space_of_the_checkout():
    Path("mine.yaml").write_text(SMOKE.read_text())
    assert "which is what a Ray job takes along" in refused("mine.yaml", "--to", "ray", "--cluster-runs", "/runs")


PASSWORD = "postgresql://ada:hunter2@db/studies"


@pytest.mark.parametrize("how", ["option", "environment"])
@pytest.mark.parametrize(
    "to", [["slurm"], ["k8s", "--image", "x", "--claim", "y"], ["ray", "--cluster-runs", "/runs"]], ids=lambda to: to[0]
)
def test_no_password_is_printed_or_written(how: str, to: list[str], monkeypatch: pytest.MonkeyPatch):
    given = ["--storage", PASSWORD] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("OPTUNA_STORAGE", PASSWORD)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
    code, out, message = tinysearch("submit", SMOKE, "--dry-run", "--to", *to, *given)
    assert "hunter2" not in out + message
    assert code == (0 if to[0] == "slurm" else 2), message
    if to[0] == "k8s":
        assert "give --storage-secret NAME" in message
        code, out, message = tinysearch("submit", SMOKE, "--dry-run", "--to", *to, *given, "--storage-secret", "db")
        assert code == 0 and "hunter2" not in out + message


def test_a_database_without_a_password_is_passed_to_a_ray_job():
    url = "postgresql://ada@db/studies"
    code, out, _ = tinysearch("submit", SMOKE, "--dry-run", "--to", "ray", "--cluster-runs", "/r", "--storage", url)
    assert code == 0 and f"--storage={url}" in out


def fake(monkeypatch: pytest.MonkeyPatch, **programs: str) -> Path:
    """Programs of these names that note how they are called and then do this; the folder they are in."""
    folder = Path("programs").absolute()
    folder.mkdir(exist_ok=True)
    for name, script in programs.items():
        note = f'echo "{name} $*" >> {folder}/calls'
        (folder / name).write_text(f"#!/bin/bash\n{note}\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))  # `ray` is looked for beside it
    return folder


def test_a_slurm_job_is_noted_listed_read_and_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPTUNA_STORAGE", PASSWORD)
    folder = fake(
        monkeypatch,
        sbatch='cat > "$(dirname "$0")/script"; echo "$OPTUNA_STORAGE" > "$(dirname "$0")/storage"; echo "17;here"',
        squeue="echo RUNNING",
        scancel="",
    )
    code, out, message = tinysearch("submit", SMOKE, "--to", "slurm")
    assert code == 0, message
    assert out.splitlines()[0] == "smoke: job 17 submitted to slurm"
    assert (folder / "storage").read_text().strip() == PASSWORD
    record = Path("runs/smoke/jobs.json").read_text()
    assert "hunter2" not in record + (folder / "script").read_text()
    (submission,) = submissions(Path("runs"))
    assert (submission.study, submission.to, submission.id) == ("smoke", "slurm", "17")
    assert submission.log == str(Path("runs/smoke/slurm-17.log").absolute())
    (listed,) = json.loads(tinysearch("jobs", "--json")[1])
    assert listed == {**dataclasses.asdict(submission), "state": "RUNNING"}
    assert re.search(r"smoke +slurm +17 +\S+ +RUNNING", tinysearch("jobs")[1])
    assert "has written nothing yet; it is RUNNING" in tinysearch("logs", "smoke")[2]
    Path(submission.log).write_text("trial 0 finished\n")
    assert tinysearch("logs", "smoke")[0] == 0
    assert "stop at their next checkpoint" in tinysearch("stop", "smoke")[1]
    assert (folder / "calls").read_text().splitlines()[-1] == "scancel --batch --signal=INT 17"
    fake(monkeypatch, squeue="echo PENDING")
    assert "taken from the queue" in tinysearch("stop")[1]
    fake(monkeypatch, squeue="exit 1", sacct="echo COMPLETED")
    assert "it is COMPLETED already" in tinysearch("stop", "--job", "17")[1]


def test_a_study_lists_all_its_jobs_and_the_latest_is_meant(monkeypatch: pytest.MonkeyPatch):
    fake(monkeypatch, sbatch="cat > /dev/null; echo $RANDOM", squeue="echo PENDING", scancel="")
    for _ in range(3):
        assert tinysearch("submit", SMOKE, "--to", "slurm")[0] == 0
    jobs = json.loads(tinysearch("jobs", "smoke", "--json")[1])
    assert len(jobs) == 3
    assert "there are " + ", ".join(job["id"] for job in jobs) in tinysearch("stop", "--job", "x")[2]
    assert f"job {jobs[-1]['id']}:" in tinysearch("stop", "smoke")[1]


def test_a_kubernetes_job_is_created_listed_read_and_deleted(monkeypatch: pytest.MonkeyPatch):
    status = json.dumps({"status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}})
    folder = fake(
        monkeypatch, kubectl=f"[ $1 != create ] || cat > {Path.cwd()}/manifest; [[ $* != *get* ]] || echo '{status}'"
    )
    code, _, message = tinysearch("submit", SMOKE, "--to", "k8s", "--image", "x", "--claim", "y", "--namespace", "lab")
    assert code == 0, message
    space, job = yaml.safe_load_all(Path("manifest").read_text())
    (listed,) = json.loads(tinysearch("jobs", "--json")[1])
    assert (listed["id"], listed["state"]) == (job["metadata"]["name"], "Running RUNNING")
    assert space["data"]["space.yaml"] == SMOKE.read_text()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == "2.60.0"
    assert tinysearch("logs", "--follow")[0] == 0 and tinysearch("stop")[0] == 0
    name = listed["id"]
    assert (folder / "calls").read_text().splitlines()[1:] == [
        f"kubectl --namespace=lab get rayjob/{name} --ignore-not-found --output=json",
        f"kubectl --namespace=lab logs job/{name} --follow",
        f"kubectl --namespace=lab delete rayjob/{name} configmap/{name} --ignore-not-found",
    ]
    fake(monkeypatch, kubectl="")
    assert json.loads(tinysearch("jobs", "--json")[1])[0]["state"] == "deleted"


def test_a_refused_manifest_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    refusal = 'error: resource mapping not found for name: "x" namespace: "" from "STDIN": no matches for kind "RayJob"'
    folder = fake(monkeypatch, kubectl=f"cat > /dev/null; [ $1 != create ] || {{ echo '{refusal}' >&2; exit 1; }}")
    code, _, message = tinysearch("submit", SMOKE, "--to", "k8s", "--image", "x", "--claim", "y")
    assert (code, message) == (2, f"kubectl failed: {refusal}\n")
    assert "delete configmap/ts-smoke-" in (folder / "calls").read_text()
    assert submissions(Path("runs")) == []


def test_a_ray_job_carries_the_token_in_its_environment_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    folder = fake(monkeypatch, ray='echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" > token; echo "Status for job: RUNNING"')
    code, out, message = tinysearch(
        *("submit", SMOKE, "--to", "ray", "--address", "http://head:8265", "--cluster-runs", "/shared")
    )
    assert code == 0, message
    assert Path("token").read_text() == "token hunter2\n"
    assert json.loads(tinysearch("jobs", "--json")[1])[0]["state"] == "RUNNING"
    assert tinysearch("stop")[0] == 0
    calls = (folder / "calls").read_text()
    assert "hunter2" not in out + calls + Path("runs/smoke/jobs.json").read_text()
    assert "ray job stop --address=http://head:8265 ts-smoke-" in calls


def test_a_program_that_is_missing_or_fails_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    fake(monkeypatch)
    code, _, message = tinysearch("submit", SMOKE, "--to", "slurm")
    assert code == 2 and "there is no sbatch on this machine" in message
    fake(monkeypatch, sbatch="echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    code, _, message = tinysearch("submit", SMOKE, "--to", "slurm", "--partition", "gpu")
    assert (code, message) == (2, "sbatch failed: sbatch: error: invalid partition specified: gpu\n")
    assert submissions(Path("runs")) == []
    assert "no job was submitted from runs" in tinysearch("jobs")[1]
    assert "no job was submitted" in tinysearch("stop")[2]


def test_one_cluster_that_is_away_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch):
    fake(monkeypatch, sbatch="cat > /dev/null; echo 1", ray="")
    assert tinysearch("submit", SMOKE, "--to", "slurm")[0] == 0
    assert tinysearch("submit", SMOKE, "--to", "ray", "--cluster-runs", "/shared")[0] == 0
    fake(monkeypatch, squeue="echo RUNNING", ray="echo 'Connection refused' >&2; exit 1")
    states = [job["state"] for job in json.loads(tinysearch("jobs", "--json")[1])]
    assert states == ["RUNNING", "unknown: ray job status failed: Connection refused"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"to": "slurm"}]', "[" * 100_000], ids=range(5))
def test_a_damaged_record_is_one_clear_error(text: str):
    Path("runs/smoke").mkdir(parents=True)
    Path("runs/smoke/jobs.json").write_text(text)
    code, _, message = tinysearch("jobs")
    assert code == 2 and "jobs.json does not list jobs" in message


if __name__ == "__main__":
    for name, text in TEXTS.items():
        (GOLDEN / name).write_text(text(), encoding="utf-8")
