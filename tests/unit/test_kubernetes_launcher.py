"""Checks what Kubernetes says of Pods and refused requests, in our words, and how manifests are put together."""

import json
from pathlib import Path
from typing import Any

import pytest

from crew_executor import LaunchError
from crew_executor.launchers import JobState, KubernetesLauncher, LaunchRetry, SubmitTimeout
from crew_executor.launchers.kubernetes_manifest import merged
from crew_executor.launchers.kubernetes_words import Failure, advice_for, failure_of, gone, refusal, standing_of

PENDING, RUNNING, ENDED = JobState.PENDING, JobState.RUNNING, JobState.ENDED


def pod(state: Any = None, *, deleted: bool = False, ready: bool = False, **status: Any) -> dict[str, Any]:
    """A Pod, as the API has it."""
    metadata = {"name": "p", **({"deletionTimestamp": "2026-01-05T10:00:00Z"} if deleted else {})}
    if state is not None:
        status["containerStatuses"] = [
            {"name": "side", "state": {"running": {}}}, {"name": "worker", "state": state, "ready": ready},
        ]  # fmt: skip
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": "Pending", **status}}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> list[dict[str, str]]:
    """A list of one condition."""
    return [{"type": kind, "status": status, "reason": reason, "message": message}]


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """A container's state."""
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, reason: str) -> dict[str, Any]:
    """A container's state."""
    return {"terminated": {"exitCode": code, "reason": reason}}


TAINT = condition("DisruptionTarget", "True", "DeletionByTaintManager", "Taint manager: deleting")
UNSCHEDULABLE = condition("PodScheduled", "False", "Unschedulable", "0/2 nodes are available")
OWN = "Container worker exceeded its local ephemeral storage limit"

STANDINGS: dict[str, tuple[dict[str, Any], JobState, str, bool]] = {
    "new": ({"metadata": {"name": "p"}, "spec": {}}, PENDING, "Pending", False),
    "unschedulable": (
        pod(conditions=UNSCHEDULABLE), PENDING, "Pending (Unschedulable: 0/2 nodes are available)", False,
    ),
    "image pulled": (pod(waiting("ContainerCreating")), PENDING, "Pending (ContainerCreating)", False),
    "no image": (pod(waiting("ErrImagePull", "not found")), PENDING, "Pending (ErrImagePull: not found)", False),
    "no name": (
        pod(waiting("InvalidImageName", "x")), ENDED, "Pending (InvalidImageName: x): it would pend for ever", False,
    ),
    "init waits": (
        pod(initContainerStatuses=[{"name": "i", "state": waiting("ImagePullBackOff")}]), PENDING,
        "Pending (ImagePullBackOff)", False,
    ),
    "runs": (pod({"running": {}}, phase="Running"), RUNNING, "running on node n1", False),
    "not ready": (
        pod({"running": {}}, ready=True, phase="Running", conditions=condition("Ready", "False")), RUNNING,
        "running on node n1, which does not answer", False,
    ),
    "being deleted": (
        pod({"running": {}}, deleted=True, phase="Running"), RUNNING, "running on node n1, being deleted", False,
    ),
    "deleted early": (pod(deleted=True), ENDED, "deleted before it began", False),
    "lost node": (
        pod({"running": {}}, deleted=True, phase="Running", conditions=TAINT), ENDED,
        "Running, being deleted (DeletionByTaintManager: Taint manager: deleting)", True,
    ),
    "well": (pod(ended(0, "Completed"), phase="Succeeded"), ENDED, "Succeeded", False),
    "failed": (pod(ended(3, "Error"), phase="Failed"), ENDED, "Failed (Error, exit code 3)", False),
    "memory": (pod(ended(137, "OOMKilled"), phase="Failed"), ENDED, "Failed (OOMKilled, exit code 137)", False),
    "killed": (
        pod(ended(143, "Error"), deleted=True, phase="Failed"), ENDED, "Failed (deleted; Error, exit code 143)", False,
    ),
    "time": (
        pod(phase="Failed", reason="DeadlineExceeded", message="active too long"), ENDED,
        "Failed (DeadlineExceeded: active too long)", True,
    ),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="low on memory"), ENDED, "Failed (Evicted: low on memory)", True,
    ),
    "its own fault": (pod(phase="Failed", reason="Evicted", message=OWN), ENDED, f"Failed (Evicted: {OWN})", False),
    "no room": (pod(phase="Failed", reason="OutOfcpu"), ENDED, "Failed (OutOfcpu)", True),
    "preempted": (
        pod(ended(137, "Error"), deleted=True, phase="Failed",
            conditions=condition("DisruptionTarget", "True", "PreemptionByScheduler")), ENDED,
        "Failed (PreemptionByScheduler; Error, exit code 137)", True,
    ),
    "init failed": (
        pod(phase="Failed", initContainerStatuses=[{"name": "i", "state": ended(1, "Error")}]), ENDED,
        "Failed (init container i: Error, exit code 1)", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STANDINGS)
def test_how_a_pod_stands(case: str) -> None:
    thing, state, words, is_taken_away = STANDINGS[case]
    status = standing_of(thing).status

    assert (state, words, is_taken_away) == (status.state, status.words, status.is_taken_away)


def test_what_a_pod_needs_and_waits_for() -> None:
    assert standing_of(pod(conditions=UNSCHEDULABLE)).waits_for_node
    assert standing_of(pod(waiting("CreateContainerConfigError"))).is_stuck
    assert not standing_of(pod(waiting("ContainerCreating"))).is_stuck
    assert standing_of(pod({"running": {}}, phase="Running")).needs_nothing
    assert not standing_of(pod()).needs_nothing
    assert standing_of(pod(deleted=True)).needs_nothing


def test_a_pod_that_others_keep_has_ended_and_lingers() -> None:
    lingering = standing_of(pod(ended(0, "Completed"), phase="Running"))

    assert lingering.status.state is ENDED
    assert lingering.lingers
    assert not standing_of(pod(ended(0, "Completed"), phase="Succeeded")).lingers


def test_the_node_of_a_pod_being_deleted_may_come_back() -> None:
    assert not standing_of(pod({"running": {}}, deleted=True, phase="Running", conditions=TAINT)).status.is_sure


def test_a_pod_that_is_gone_has_ended() -> None:
    assert gone(pod({"running": {}}, phase="Running")).status.words == "deleted by somebody (running on node n1)"
    assert gone(pod(ended(1, "Error"), phase="Failed")).status.words == "Failed (Error, exit code 1)"
    lost = gone(pod({"running": {}}, deleted=True, phase="Running", conditions=TAINT)).status
    assert (lost.state, lost.is_taken_away, lost.is_sure) == (ENDED, True, True)


def test_exit_codes_have_advice() -> None:
    assert "host=" in advice_for(standing_of(pod(ended(71, "Error"), phase="Failed")))
    assert "python=" in advice_for(standing_of(pod(ended(128, "StartError"), phase="Failed")))
    assert not advice_for(standing_of(pod()))


# ---------------------------------------------------------------------- refusals


def answer(code: int, reason: str, message: str) -> Failure:
    """What is made of a Status."""
    return failure_of(code, json.dumps({"kind": "Status", "reason": reason, "message": message}), reason)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (answer(403, "Forbidden", "exceeded quota: q, requested: pods=1"), LaunchRetry),
        (answer(403, "Forbidden", 'cannot create resource "pods" in API group'), LaunchError),
        (answer(422, "Invalid", 'Pod "p" is invalid: spec.containers[0].image: Required value'), LaunchError),
        (answer(404, "NotFound", 'namespaces "n" not found'), LaunchError),
        (answer(409, "Conflict", "the object has been modified"), LaunchRetry),
        (answer(429, "TooManyRequests", "slowly"), LaunchRetry),
        (answer(500, "InternalError", "failed calling webhook"), LaunchRetry),
        (answer(504, "Timeout", "the request did not complete"), SubmitTimeout),
        (failure_of(502, b"<html>bad gateway</html>", "Bad Gateway"), LaunchRetry),
        (Failure("Connection refused"), LaunchRetry),
        (Failure("Read timed out", is_unclear=True), SubmitTimeout),
    ],
)  # fmt: skip
def test_what_a_refusal_is(failure: Failure, kind: type[Exception]) -> None:
    error = refusal(failure, "Pods in namespace n")

    assert type(error) is kind
    assert str(failure) in str(error)
    assert "Pods in namespace n" in str(error)


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        (answer(403, "Forbidden", 'cannot create resource "pods"'), "docs/kubernetes.md"),
        (answer(403, "Forbidden", 'violates PodSecurity "restricted:latest"'), "securityContext"),
        (answer(403, "Forbidden", "maximum memory usage per Container is 1Gi"), "LimitRange"),
        (answer(403, "Forbidden", "failed quota: q: must specify limits.memory"), "memory_gb="),
        (answer(403, "Forbidden", "error looking up service account n/x"), "service_account="),
        (answer(403, "Forbidden", "unable to create in namespace n because it is being terminated"), "namespace="),
        (answer(401, "Unauthorized", "Unauthorized"), "credentials"),
        (answer(422, "Invalid", 'Pod "p" is invalid: spec'), "pod_manifest()"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_try(failure: Failure, advice: str) -> None:
    assert advice in str(refusal(failure, "Pods"))


# ---------------------------------------------------------------------- manifests


def worker_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The worker's container."""
    (found,) = [each for each in manifest["spec"]["containers"] if each["name"] == "worker"]
    return dict(found)


def test_options_become_fields() -> None:
    launcher = KubernetesLauncher(
        "image:1", cpus=1.5, memory_gb=2, gpus=1, requests={"memory": "1Gi"}, limits={"cpu": None}, walltime="1h",
        startup_timeout=30.0, service_account="crew", node_selector={"disk": "ssd"}, grace_period=45, python="/bin/py",
        tolerations=[{"key": "gpu", "operator": "Exists"}], volumes=[{"name": "d", "emptyDir": {}}],
        volume_mounts=[{"name": "d", "mountPath": "/d"}], labels={"team": "us"}, annotations={"note": "x"},
        image_pull_secrets=["registry"], image_pull_policy="Always", environment={"A": "$b"},
    )  # fmt: skip
    manifest = launcher.pod_manifest()
    spec, worker = manifest["spec"], worker_of(manifest)

    assert spec["restartPolicy"] == "Never"
    assert spec["terminationGracePeriodSeconds"] == 45
    assert spec["activeDeadlineSeconds"] == 3630
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("crew", True)
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert worker["resources"] == {
        "requests": {"cpu": "1.5", "memory": "1Gi"}, "limits": {"memory": "2048Mi", "nvidia.com/gpu": "1"},
    }  # fmt: skip
    assert worker["command"] == ["/bin/py", "-m", "crew_executor", "worker", "env:CREW_EXECUTOR_INVITATION"]
    assert {"name": "A", "value": "$$b"} in worker["env"]
    assert worker["imagePullPolicy"] == "Always"
    assert manifest["metadata"]["labels"]["team"] == "us"
    assert manifest["metadata"]["annotations"] == {"note": "x"}


def test_by_default_a_pod_has_a_cpu_for_each_worker_and_no_token() -> None:
    manifest = KubernetesLauncher("image:1", workers_per_job=3).pod_manifest()

    assert worker_of(manifest)["resources"] == {"requests": {"cpu": "3"}, "limits": {"cpu": "3"}}
    assert manifest["spec"]["automountServiceAccountToken"] is False
    assert "activeDeadlineSeconds" not in manifest["spec"]


def test_a_template_lies_beneath(tmp_path: Path) -> None:
    template = {
        "metadata": {"labels": {"team": "us", "crew-executor/run": "mine"}},
        "spec": {
            "restartPolicy": "Always", "priorityClassName": "low", "enableServiceLinks": True,
            "containers": [
                {"name": "worker", "image": "other", "args": ["x"], "env": [{"name": "A", "value": "1"}]},
                {"name": "side", "image": "s"},
            ],
        },
    }  # fmt: skip
    before = json.dumps(template)
    manifest = KubernetesLauncher("image:1", pod_template=template).pod_manifest()

    assert json.dumps(template) == before
    assert manifest["metadata"]["labels"]["team"] == "us"
    assert manifest["metadata"]["labels"]["crew-executor/run"] == "RUN"
    spec, worker = manifest["spec"], worker_of(manifest)
    assert (spec["restartPolicy"], spec["priorityClassName"], spec["enableServiceLinks"]) == ("Never", "low", True)
    assert worker["image"] == "image:1"
    assert worker["env"][0] == {"name": "A", "value": "1"}
    assert "args" not in worker
    assert [each["name"] for each in spec["containers"]] == ["worker", "side"]


def test_lists_are_joined_and_mappings_merged() -> None:
    assert merged({"a": [1], "b": {"c": 1, "d": 2}}, {"a": [2], "b": {"c": 3}}) == {"a": [1, 2], "b": {"c": 3, "d": 2}}
    assert merged({"a": None}, {"a": [1]}) == {"a": [1]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": ""}, "image must name"),
        ({"cpus": 0}, "cpus must be"),
        ({"memory_gb": -1}, "memory_gb must be"),
        ({"gpus": 1.5}, "gpus must be"),
        ({"grace_period": 0}, "grace_period must be"),
        ({"walltime": "soon"}, "is no duration"),
        ({"pod_template": {"containers": []}}, "pod_template must be a Pod"),
        ({"pod_template": {"spec": {"containers": [{"image": "i"}]}}}, "must have names"),
    ],
)
def test_options_that_no_pod_can_have_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KubernetesLauncher(**{"image": "image:1", **options})


def test_one_text_is_no_sequence() -> None:
    with pytest.raises(TypeError, match=r"image_pull_secrets must be a sequence.*give \['registry'\]"):
        KubernetesLauncher("image:1", image_pull_secrets="registry")
