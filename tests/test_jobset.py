"""The JobSet for Kubernetes: valid by its schema, which refuses what is not, and what its pods do at their end."""

import copy
import json
import signal
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.standins import Fake

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
JOBSET = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
SCHEMA = jsonschema.Draft202012Validator(json.loads((LAUNCH / "jobset.schema.json").read_text()))


def parts(jobset):
    """The specification of the job, of its pods, and of their container."""
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    return job, pod, pod["containers"][0]


def variables(container) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_the_jobset_is_valid_and_agrees_with_itself():
    SCHEMA.check_schema(SCHEMA.schema)
    SCHEMA.validate(JOBSET)
    job, pod, container = parts(JOBSET)
    environ, name = variables(container), JOBSET["metadata"]["name"]
    assert job["parallelism"] == job["completions"] == int(environ["JAX_NUM_PROCESSES"])
    host = f"{name}-{JOBSET['spec']['replicatedJobs'][0]['name']}-0-0.{name}"
    assert environ["JAX_COORDINATOR_ADDRESS"].rpartition(":")[0] == host
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert environ["WORKDIR"].startswith(container["volumeMounts"][0]["mountPath"] + "/")


def rename(section, old, new):
    section[new] = section.pop(old)


BROKEN = {
    "api version": lambda s, j, p, c: s.update(apiVersion="jobset.x-k8s.io/v1alpha1"),
    "kind": lambda s, j, p, c: s.update(kind="Job"),
    "name": lambda s, j, p, c: s["metadata"].update(name="Maskdiff"),
    "misspelt key": lambda s, j, p, c: rename(s["spec"], "failurePolicy", "failurepolicy"),
    "maxRestarts": lambda s, j, p, c: s["spec"]["failurePolicy"].pop("maxRestarts"),
    "rule's name": lambda s, j, p, c: s["spec"]["failurePolicy"]["rules"][0].update(name="bad-input"),
    "two jobs": lambda s, j, p, c: s["spec"]["replicatedJobs"].append(copy.deepcopy(s["spec"]["replicatedJobs"][0])),
    "replicas": lambda s, j, p, c: s["spec"]["replicatedJobs"][0].update(replicas=2),
    "completionMode missing": lambda s, j, p, c: j.pop("completionMode"),
    "not indexed": lambda s, j, p, c: j.update(completionMode="NonIndexed"),
    "completions": lambda s, j, p, c: j.pop("completions"),
    "text for a number": lambda s, j, p, c: j.update(parallelism="2"),
    "backoffLimit": lambda s, j, p, c: j.update(backoffLimit=6),
    "restartPolicy": lambda s, j, p, c: p.update(restartPolicy="OnFailure"),
    "wrong indentation": lambda s, j, p, c: j.update(restartPolicy=p.pop("restartPolicy")),
    "no claim": lambda s, j, p, c: p["volumes"].pop(0),
    "volume of two kinds": lambda s, j, p, c: p["volumes"][0].update(emptyDir={"medium": "Memory"}),
    "container": lambda s, j, p, c: c.update(name="main"),
    "image without a tag": lambda s, j, p, c: c.update(image="registry:5000/maskdiff"),
    "number in the environment": lambda s, j, p, c: c["env"][2].update(value=2),
    "misspelt variable": lambda s, j, p, c: c["env"][2].update(name="JAX_NUM_PROCESS"),
    "no address": lambda s, j, p, c: c["env"].pop(1),
    "address of another pod": lambda s, j, p, c: c["env"][1].update(value="maskdiff-worker-0-1.maskdiff:8476"),
    "no port": lambda s, j, p, c: c["env"][1].update(value="maskdiff-worker-0-0.maskdiff"),
    "bucket": lambda s, j, p, c: c["env"][0].update(value="gs://runs/a"),
    "no accelerator": lambda s, j, p, c: c["resources"].update(limits={}),
    "two accelerators": lambda s, j, p, c: c["resources"]["limits"].update({"google.com/tpu": 4}),
    "TPU with an address": lambda s, j, p, c: rename(c["resources"]["limits"], "nvidia.com/gpu", "google.com/tpu"),
    "no name of the script": lambda s, j, p, c: c["args"].pop(1),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_the_schema_refuses(case):
    jobset = copy.deepcopy(JOBSET)
    BROKEN[case](jobset, *parts(jobset))
    assert jobset != JOBSET and not SCHEMA.is_valid(jobset)


def test_the_jobset_changed_for_a_tpu_as_its_comments_say_is_valid():
    jobset = copy.deepcopy(JOBSET)
    _, pod, container = parts(jobset)
    pod["nodeSelector"] = {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    container["resources"]["limits"] = {"google.com/tpu": 4}
    container["env"] = [variable for variable in container["env"] if not variable["name"].startswith("JAX_")]
    SCHEMA.validate(jobset)


@pytest.fixture
def fake(tmp_path):
    return Fake(tmp_path)


@pytest.mark.parametrize(
    "then, number, stop, expected",
    [
        ("report", 0, False, 0),
        ("save", 1, False, 0),  # another process's report may not yet be seen on this host
        ("save", 0, False, 1),
        ("wait", 0, True, 1),
        ("wait", 1, True, 0),
        ("fail", 0, False, 7),
        ("fail", 1, False, 7),
    ],
)
def test_a_pod_fails_where_the_run_is_not_finished_and_passes_sigterm_on(then, number, stop, expected, fake):
    container = parts(JOBSET)[2]
    environ = variables(container) | {"WORKDIR": str(fake.folder / "run"), "JOB_COMPLETION_INDEX": str(number)}
    fake.tools.mkdir()
    fake.python.rename(fake.tools / "python")
    process = fake.start(*container["command"], *container["args"], f"--then={then}", **environ)
    if stop:
        fake.wait_for(number)
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    argv, _ = json.loads(fake.noted(number)[0])
    assert argv[:4] == ["-m", "maskdiff_jax.main", f"--workdir={fake.folder}/run", "--config=cifar_sparse"]
    assert process.returncode == expected and ("stopped" in fake.noted(number)) == stop
