"""What Kubernetes says of a Pod, and of a request that it refuses, in the words and kinds of a launcher. Pure.

Takes the API's objects as they are in JSON. Asks nobody, and knows nothing of the client library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import CrewError, LaunchError
from .base import JobState, JobStatus, LaunchRetry, SubmitTimeout

CONTAINER = "worker"
"""The name of the agent's container in its Pod."""
CLIENT = "KubernetesLauncher needs the client of Kubernetes: pip install crew-executor[kubernetes]"
_NEVER = {"InvalidImageName", "ErrImageNeverPull"}
"""Why a container waits, where no waiting helps."""
_STUCK = {
    "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError", "PostStartHookError",
}  # fmt: skip
"""Why a container waits, where it is tried again, mostly in vain."""
_TAKEN_AWAY = {
    "DeadlineExceeded", "NodeLost", "NodeAffinity", "NodeShutdown", "Preempting", "Shutdown", "Terminated",
    "OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage",
}  # fmt: skip
"""Reasons of a Pod's end that lie with its node, or with its time."""
_OWN_FAULT = re.compile(r"ephemeral local storage usage exceeds|exceeded its local ephemeral storage|emptyDir volume")
"""So an eviction begins that is for what the Pod itself has written."""
_ADVICE = {
    r"cannot \w+ resource": "this account may not: give it the Role of docs/kubernetes.md; `kubectl auth can-i --list` "
    "says what it may",
    r"violates PodSecurity": "the namespace asks more of its Pods: give what it names (securityContext) in "
    "pod_template=",
    r"(maximum|minimum) \S+ usage per|limit to request ratio": "the namespace has a LimitRange: see cpus=, memory_gb=, "
    "requests=, limits=",
    r"must specify (limits|requests)": "the namespace has a quota of that: see memory_gb=, requests=, limits=",
    r"namespaces? \S+ not found": "`kubectl get namespaces` lists them: give KubernetesLauncher(namespace=...)",
    r"serviceaccounts? \S+ not found|looking up service account": "`kubectl get serviceaccounts` lists them: give "
    "KubernetesLauncher(service_account=...)",
    r"is being terminated": "the namespace is being deleted: give another one, namespace=...",
    r"is invalid|cannot be handled|strict decoding|validation error": "launcher.pod_manifest() is what was sent",
}
_TRY = {
    71: "the agent runs there but does not reach this machine: give host=... an address that Pods can reach, open the "
    "port (port=...), and look for a NetworkPolicy; a client in a Pod of the same cluster is reached without all that",
    72: "the agent was not let in: see its words above",
    126: "the interpreter in the image cannot be executed: give KubernetesLauncher(python=...) another path",
    127: "there is no such interpreter in the image: give KubernetesLauncher(python=...) the path it has there",
    128: "the container's command could not be started: give KubernetesLauncher(python=...) the interpreter's path in "
    "the image",
    1: "if it says `No module named crew_executor`, the image needs that, of this version",
}
"""What to try, by exit code: those of container runtimes, of shells, and of our own agent."""


# ---------------------------------------------------------------------- how a Pod stands


class Standing(NamedTuple):
    """How a Pod stands.

    Attributes:
        status: for the executor.
        has_started: its container runs or ran: what it was to be given, it has.
        is_stuck: it waits for what seldom mends itself.
        waits_for_node: it waits for a node that has room for it.
        lingers: the worker's container has ended, and others keep the Pod.
        exit_code: of its container, or None.
    """

    status: JobStatus
    has_started: bool = False
    is_stuck: bool = False
    waits_for_node: bool = False
    lingers: bool = False
    exit_code: int | None = None

    @property
    def needs_nothing(self) -> bool:
        """Whether it has what it was to be given, or never will."""
        return self.has_started or (self.status.state is JobState.ENDED and self.status.is_sure)


GONE = Standing(JobStatus(JobState.ENDED, "the cluster does not know the Pod any more"))


def standing_of(pod: Mapping[str, Any]) -> Standing:
    """Return how a Pod stands.

    Args:
        pod: as the API has it.
    """
    status = pod.get("status") or {}
    phase = status.get("phase") or "Pending"
    own = _own(status)
    state = own.get("state") or {}
    ended = state.get("terminated")
    if phase in ("Succeeded", "Failed") or ended:
        # Of a Pod whose other containers go on the phase is Running still.
        return _ended(pod, phase if phase != "Running" else "Ended", ended)
    is_deleted = _is_deleted(pod)
    disruption = _disruption(status)
    if is_deleted and disruption.startswith("DeletionByTaintManager"):
        # Its node is lost, so that nobody there can say that it has ended; it may also come back.
        words = f"{phase}, being deleted ({disruption})"
        return Standing(JobStatus(JobState.ENDED, words, is_taken_away=True, is_sure=False), has_started=True)
    if "running" in state:
        return Standing(JobStatus(JobState.RUNNING, _running_words(pod, status, own, disruption)), has_started=True)
    if is_deleted:
        words = "deleted before it began" + (f" ({disruption})" if disruption else "")
        return Standing(JobStatus(JobState.ENDED, words, is_taken_away=bool(disruption)))
    return _pending(status)


def gone(pod: Mapping[str, Any]) -> Standing:
    """Return how a Pod stands that is deleted.

    Args:
        pod: as it was last.
    """
    last = standing_of(pod)
    if last.status.state is JobState.ENDED and last.status.is_sure:
        return last
    disruption = _disruption(pod.get("status") or {})
    words = f"deleted ({disruption})" if disruption else f"deleted by somebody ({last.status.words})"
    return last._replace(
        status=JobStatus(JobState.ENDED, words, is_taken_away=bool(disruption)), is_stuck=False, waits_for_node=False
    )


def advice_for(standing: Standing) -> str:
    """Return what to try after such an end, or ""."""
    return "" if standing.exit_code is None else _TRY.get(standing.exit_code, "")


def _is_deleted(pod: Mapping[str, Any]) -> bool:
    return bool((pod.get("metadata") or {}).get("deletionTimestamp"))


def _own(status: Mapping[str, Any]) -> Mapping[str, Any]:
    found = [each for each in status.get("containerStatuses") or () if each.get("name") == CONTAINER]
    return found[0] if found else {}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found = [each for each in status.get("conditions") or () if each.get("type") == kind]
    return found[0] if found else {}


def _with_message(reason: str, message: Any) -> str:
    return ": ".join(filter(None, (reason, str(message or "").strip())))


def _disruption(status: Mapping[str, Any]) -> str:
    """Return why the cluster takes a Pod away, or ""."""
    condition = _condition(status, "DisruptionTarget")
    if condition.get("status") != "True":
        return ""
    return _with_message(condition.get("reason") or "DisruptionTarget", condition.get("message"))


def _running_words(
    pod: Mapping[str, Any], status: Mapping[str, Any], own: Mapping[str, Any], disruption: str
) -> str:  # fmt: skip
    words = f"running on node {(pod.get('spec') or {}).get('nodeName', '?')}"
    if own.get("ready") and _condition(status, "Ready").get("status") == "False":
        words += ", which does not answer"  # the container was ready, says its kubelet; the cluster says: not any more
    if _is_deleted(pod):
        words += ", being deleted"
    return f"{words} ({disruption})" if disruption else words


def _ended(pod: Mapping[str, Any], phase: str, ended: Mapping[str, Any] | None) -> Standing:
    status = pod.get("status") or {}
    reason, message = status.get("reason") or "", str(status.get("message") or "")
    disruption = _disruption(status)
    causes = [_with_message(reason, message), "" if message and message in disruption else disruption]
    if _is_deleted(pod) and not reason and not disruption:
        causes.append("deleted")
    ends: list[tuple[str, Any]] = [("", ended)]
    ends += [
        (f"init container {each.get('name')}: ", (each.get("state") or {}).get("terminated"))
        for each in status.get("initContainerStatuses") or ()
    ]
    for whose, end in ends:
        if end and end.get("exitCode"):
            why = _with_message(end.get("reason") or "Error", end.get("message"))
            causes.append(f"{whose}{why}, exit code {end['exitCode']}")
    words = "; ".join(filter(None, causes))
    is_evicted = reason == "Evicted" and not _OWN_FAULT.search(message)
    is_taken_away = (reason in _TAKEN_AWAY or is_evicted or bool(disruption)) and not _OWN_FAULT.search(message)
    exit_code = ended.get("exitCode") if ended else None
    return Standing(
        JobStatus(JobState.ENDED, f"{phase} ({words})" if words else phase, is_taken_away=is_taken_away),
        has_started=True, lingers=status.get("phase") == "Running", exit_code=exit_code,
    )  # fmt: skip


def _waiting(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield why containers wait, with the whole words, those first that are to begin first."""
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (each.get("state") or {}).get("waiting")
        if waiting:
            reason = waiting.get("reason") or "waiting"
            yield reason, _with_message(reason, waiting.get("message"))


def _pending(status: Mapping[str, Any]) -> Standing:
    waiting = list(_waiting(status))
    for reason, words in waiting:
        if reason in _NEVER:
            return Standing(JobStatus(JobState.ENDED, f"Pending ({words}): it would pend for ever"))
        if reason in _STUCK:
            return Standing(JobStatus(JobState.PENDING, f"Pending ({words})"), is_stuck=True)
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        words = _with_message(scheduled.get("reason") or "not scheduled", scheduled.get("message"))
        return Standing(JobStatus(JobState.PENDING, f"Pending ({words})"), waits_for_node=True)
    words = waiting[-1][1] if waiting else ""
    return Standing(JobStatus(JobState.PENDING, f"Pending ({words})" if words else "Pending"))


# ---------------------------------------------------------------------- what is refused


class Failure(Exception):
    """What the API server answers when it does not do what it was asked, or that it does not answer.

    Attributes:
        code: the HTTP status; 0: there was no answer.
        reason: the API's own word: "Forbidden", "AlreadyExists", ...
        is_unclear: what was asked may have been done all the same.
    """

    def __init__(self, message: str, code: int = 0, reason: str = "", *, is_unclear: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.is_unclear = is_unclear

    @property
    def is_already_there(self) -> bool:
        """Whether there is an object of this name."""
        return self.code == 409 and self.reason == "AlreadyExists"

    @property
    def is_quota(self) -> bool:
        """Whether the namespace has no room for more at the moment."""
        return self.code == 403 and "exceeded quota" in str(self)

    @property
    def is_transient(self) -> bool:
        """Whether the same may succeed a little later."""
        # 409: "the object has been modified": so says a quota that several create Pods under at a time.
        return self.code in (0, 408, 409, 429) or self.code >= 500 or self.is_quota


def failure_of(code: int, body: str | bytes | None, reason: str | None) -> Failure:
    """Return the failure that an answer stands for.

    Args:
        code: the HTTP status; 0: none.
        body: a Status of the API, or any text: proxies answer, too.
        reason: the HTTP reason.
    """
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        status = json.loads(text)
    except ValueError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        status = {"message": text[:500].strip(), "reason": reason}
    word = str(status.get("reason") or reason or "")
    return Failure(str(status.get("message") or word), code, word, is_unclear=code in (0, 504))


def refusal(failure: Failure, what: str) -> CrewError:
    """Return what submit() is to raise.

    Args:
        failure: what was answered.
        what: that was asked for: "Pods in namespace default".
    """
    code = f" ({failure.code} {failure.reason})" if failure.code else ""
    text = f"the API server of Kubernetes does not give {what}{code}: {failure}"
    if failure.is_unclear:
        return SubmitTimeout(text)
    if failure.is_transient:
        return LaunchRetry(text)
    advice = next((advice for pattern, advice in _ADVICE.items() if re.search(pattern, str(failure))), "")
    if failure.code == 401:
        advice = "it does not accept these credentials: try `kubectl get pods` with the same kubeconfig and context"
    return LaunchError(f"{text}\n{advice}" if advice else text)
