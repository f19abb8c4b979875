"""Workers in Pods of Kubernetes, by its official client. Several Pods are made for one invitation.

Pods, and the Secrets with their invitations, belong to one object of each executor: its own Pod, if the client runs in
one, else a ConfigMap. With that the cluster removes them. A watch keeps how the Pods stand; nothing is polled. What the
API's words mean is in kubernetes_words.py, the way to the API in kubernetes_api.py.
"""

from __future__ import annotations

import base64
import itertools
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from ..log import logger
from .base import Job, JobState, JobStatus, Launcher
from .kubernetes_api import Cluster, PodWatch
from .kubernetes_manifest import BASE, check_options, merged, read_template, resources, without_none
from .kubernetes_words import CONTAINER, GONE, Failure, Standing, advice_for, refusal, standing_of
from .script import seconds_of

STUCK_SECONDS = 30.0
"""So long a Pod may wait for what seldom mends itself, as an image that cannot be pulled: a registry may be busy."""
CANCEL_SECONDS = 5
"""The grace of Pods that are cancelled: nothing of what they do is wanted any more."""
INVITATION = "CREW_EXECUTOR_INVITATION"
POD = "CREW_EXECUTOR_POD"
MANAGED, RUN, JOB = "app.kubernetes.io/managed-by", "crew-executor/run", "crew-executor/job"
_KEY = "invitation"


class KubernetesLauncher(Launcher):
    """Start workers in Pods of Kubernetes.

    Args:
        image: with this minor version of Python, crew_executor, and what tasks import.
        namespace: of the Pods; None: that of the context, or of the Pod that this process runs in.
        cpus: of a Pod, its request and its limit; None: as many as it has workers.
        memory_gb: of a Pod, its request and its limit; None: not said.
        gpus: of a Pod, as nvidia.com/gpu.
        requests, limits: further ones, or others: {"ephemeral-storage": "2Gi"}; None as a value takes one of ours away.
        service_account: of the Pods; None: the namespace's own, without its token.
        node_selector: labels that a node must have.
        tolerations, volumes, volume_mounts: as in a manifest, as lists of mappings.
        labels, annotations: further ones of the Pods.
        image_pull_secrets: names of Secrets.
        image_pull_policy: "Always", "IfNotPresent", "Never"; None: the cluster's own.
        pod_template: a Pod, or the path of one in YAML, to be merged beneath all this: mappings are merged, lists are
            joined, and its container "worker" is ours.
        grace_period: seconds from SIGTERM to SIGKILL, in which workers may finish what they run.
        walltime: of a Pod: seconds, "2h", "90m"; None: no end.
        owner: what the Pods belong to: the name of a Pod in the namespace, or an owner reference; None: the Pod that
            this process runs in, or a ConfigMap.
        kubeconfig: the path of a file; None: what kubectl would take, or the Pod's own account.
        context: of the kubeconfig; None: its current one.
        python: the interpreter in the image.
        **more: as for Launcher: workers_per_job, host, port, environment, ship, lost_after, max_jobs, ...

    Raises:
        LaunchError: pod_template is a path, and there is no library to read YAML.
    """

    jobs_per_submit = 20
    variables = (POD,)
    poll_seconds = (0.5, 10.0)  # to look at what the watch has brought costs nothing

    def __init__(
        self,
        image: str,
        *,
        namespace: str | None = None,
        cpus: float | None = None,
        memory_gb: float | None = None,
        gpus: int | None = None,
        requests: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        service_account: str | None = None,
        node_selector: Mapping[str, str] | None = None,
        tolerations: Sequence[Mapping[str, Any]] = (),
        volumes: Sequence[Mapping[str, Any]] = (),
        volume_mounts: Sequence[Mapping[str, Any]] = (),
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        image_pull_secrets: Sequence[str] = (),
        image_pull_policy: str | None = None,
        pod_template: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        grace_period: float = 30,
        walltime: float | str | None = None,
        owner: str | Mapping[str, str] | None = None,
        kubeconfig: str | os.PathLike[str] | None = None,
        context: str | None = None,
        python: str = "python",
        **more: Any,
    ) -> None:
        super().__init__(walltime=seconds_of(walltime), python=python, **more)
        check_options(
            image,
            {"cpus": cpus, "memory_gb": memory_gb, "gpus": gpus, "grace_period": grace_period},
            {"image_pull_secrets": image_pull_secrets, "tolerations": tolerations, "volumes": volumes,
             "volume_mounts": volume_mounts},
        )  # fmt: skip
        self.image = image
        self.namespace = namespace
        self.cpus, self.memory_gb, self.gpus = cpus, memory_gb, gpus
        self.requests, self.limits = dict(requests or {}), dict(limits or {})
        self.service_account = service_account
        self.node_selector = dict(node_selector or {})
        self.tolerations, self.volumes, self.volume_mounts = list(tolerations), list(volumes), list(volume_mounts)
        self.labels, self.annotations = dict(labels or {}), dict(annotations or {})
        self.image_pull_secrets = list(image_pull_secrets)
        self.image_pull_policy = image_pull_policy
        self.pod_template = read_template(pod_template)
        self.grace_period = math.ceil(grace_period)
        self.owner = owner
        self.kubeconfig = None if kubeconfig is None else os.path.expanduser(os.fsdecode(kubeconfig))
        self.context = context
        self._cluster: Cluster | None = None
        self._forget()

    def _forget(self) -> None:
        """Know of no executor."""
        self._watch: PodWatch | None = None
        self._run = self._config_map = ""
        self._owner: dict[str, str] | None = None
        self._lock = threading.Lock()  # over the submissions: the watch's thread removes their Secrets
        self._submissions: dict[str, _Submission] = {}
        self._stuck_since: dict[str, float] = {}
        self._is_wait_told = self._is_limit_told = False
        self._removed: set[str] = set()

    # ------------------------------------------------------------------ what is made

    def pod_manifest(self) -> dict[str, Any]:
        """Return the manifest of a Pod that would be made, to look at."""
        job = Job("crew-RUN-1", 1, self.workers_per_job, b"", self.environment, self.walltime, self.python, 0)
        return self._manifest(job, f"{job.name}-0")

    def _manifest(self, job: Job, name: str) -> dict[str, Any]:
        variables = {POD: name, **job.environment}
        secret = {"secretKeyRef": {"name": job.name, "key": _KEY}}
        container = {
            "name": CONTAINER,
            "image": self.image,
            # In a manifest $(NAME) is a variable's value, and $$ a dollar.
            "command": [word.replace("$", "$$") for word in job.command(f"env:{INVITATION}")],
            "env": [{"name": key, "value": value.replace("$", "$$")} for key, value in variables.items()]
            + [{"name": INVITATION, "valueFrom": secret}],
            "resources": self._resources(),
            "imagePullPolicy": self.image_pull_policy,
            "volumeMounts": self.volume_mounts,
        }
        # Images are pulled in that time as well, and the clock of the workers begins when their agent has come.
        deadline = None if job.walltime is None else math.ceil(job.walltime + self.startup_timeout)
        spec = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": self.grace_period,
            "activeDeadlineSeconds": deadline,
            "serviceAccountName": self.service_account,
            "automountServiceAccountToken": True if self.service_account else None,
            "nodeSelector": self.node_selector,
            "tolerations": self.tolerations,
            "volumes": self.volumes,
            "imagePullSecrets": [{"name": each} for each in self.image_pull_secrets],
            "containers": [without_none(container)],
        }
        metadata = {**self._metadata(name, job.name, self.labels), "annotations": self.annotations}
        ours = {
            "apiVersion": "v1", "kind": "Pod", "metadata": without_none(metadata), "spec": without_none(spec),
        }  # fmt: skip
        whole: dict[str, Any] = merged(merged(BASE, self.pod_template), ours)
        return whole

    def _metadata(self, name: str, job: str = "", labels: Mapping[str, str] | None = None) -> dict[str, Any]:
        own = {MANAGED: "crew-executor", RUN: self._run or "RUN", JOB: job}
        owners = [self._owner] if self._owner else []
        return without_none({"name": name, "labels": {**(labels or {}), **without_none(own)},
                              "ownerReferences": owners})  # fmt: skip

    def _resources(self) -> dict[str, dict[str, str]]:
        cpus = self.workers_per_job if self.cpus is None else self.cpus
        return resources(cpus, self.memory_gb, self.gpus, self.requests, self.limits)

    # ------------------------------------------------------------------ the contract

    def check(self) -> None:
        """Look whether the API server can be reached, and lets this account see Pods."""
        self._cluster = cluster = Cluster(self.kubeconfig, self.context, self.namespace)
        try:
            cluster.call("list_namespaced_pod", cluster.namespace, label_selector=f"{MANAGED}=crew-executor", limit=1)
        except Failure as failure:
            self._cluster = None
            cluster.close()
            if failure.code == 0:
                raise LaunchError(
                    f"the API server of Kubernetes at {cluster.host} is not reached: {failure}; try `kubectl version` "
                    "with the same kubeconfig and context"
                ) from None
            raise refusal(failure, f"a list of Pods in namespace {cluster.namespace}") from None

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Make Pods, one by one; fewer if there is no room for all."""
        cluster = self._cluster
        assert cluster is not None, "check() comes first"
        try:
            self._begin(cluster, job)
            submission = self._open(cluster, job, number)
        except Failure as failure:
            raise refusal(failure, f"what Pods need in namespace {cluster.namespace}") from None
        made: list[str] = []
        try:
            while len(made) < number:
                made.append(self._make_pod(cluster, job, submission))
        except Failure as failure:
            error = refusal(failure, f"Pods in namespace {cluster.namespace}")
            if not made or failure.is_unclear:
                raise error from None
            level = logging.INFO if self._is_limit_told else logging.WARNING  # it may last
            self._is_limit_told = True
            logger.log(level, "%d of %d Pods were made, the others are tried later: %s", len(made), number, error)
        self._tidy()
        return made

    def _begin(self, cluster: Cluster, job: Job) -> None:
        """Have an owner and a watch, of the executor that this job is of."""
        if not self._run:
            self._run = job.name.removeprefix("crew-").rpartition("-")[0] or job.name
        if self._owner is None:
            self._owner = self._found_owner(cluster) or self._made_owner(cluster)
        if self._watch is None:
            self._watch = PodWatch(cluster, f"{RUN}={self._run}", self._tidy)

    def _found_owner(self, cluster: Cluster) -> dict[str, str] | None:
        if isinstance(self.owner, Mapping):
            return dict(self.owner)
        own = os.environ.get("POD_NAME") or socket.gethostname()  # Pods are named so, unless they say otherwise
        name = self.owner or (own if cluster.is_inside else "")
        if not name:
            return None
        try:
            metadata = cluster.call("read_namespaced_pod", name, cluster.namespace)["metadata"]
        except Failure as failure:
            if self.owner or failure.is_transient:
                raise
            logger.info("the Pods belong to a ConfigMap, for this process's own Pod was not found: %s", failure)
            return None
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": metadata["uid"]}

    def _made_owner(self, cluster: Cluster) -> dict[str, str]:
        name = f"crew-{self._run}"
        self._config_map = name
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": self._metadata(name)}
        try:
            made = cluster.call("create_namespaced_config_map", cluster.namespace, body)
        except Failure as failure:
            if not failure.is_already_there:
                raise
            made = cluster.call("read_namespaced_config_map", name, cluster.namespace)  # from a try that was unclear
        return {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made["metadata"]["uid"]}

    def _open(self, cluster: Cluster, job: Job, number: int) -> _Submission:
        """Have a Secret with the invitation."""
        with self._lock:
            submission = self._submissions.setdefault(job.name, _Submission())
            submission.wanted = len(submission.pods) + number
        if not submission.has_secret:
            data = {_KEY: base64.b64encode(job.invitation.strip()).decode()}
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": self._metadata(job.name, job.name),
                    "type": "Opaque", "immutable": True, "data": data}  # fmt: skip
            try:
                cluster.call("create_namespaced_secret", cluster.namespace, body)
            except Failure as failure:
                if not failure.is_already_there:
                    raise
            submission.has_secret = True
        return submission

    def _make_pod(self, cluster: Cluster, job: Job, submission: _Submission) -> str:
        """Make one. If a try that was unclear has made it, it is there, and that will do."""
        name = next(name for index in itertools.count() if (name := f"{job.name}-{index}") not in submission.pods)
        try:
            pod = cluster.call("create_namespaced_pod", cluster.namespace, self._manifest(job, name))
        except Failure as failure:
            if not failure.is_already_there:
                raise
            pod = cluster.call("read_namespaced_pod", name, cluster.namespace)
        assert self._watch is not None
        self._watch.know(name, pod)
        with self._lock:
            submission.pods.append(name)
        return name

    def _tidy(self) -> None:
        """Remove what is not needed any more: Secrets that all their Pods have read, Pods that others keep.

        Also called by the watch's thread, after each change.
        """
        cluster, watch = self._cluster, self._watch
        if cluster is None or watch is None:
            return
        calls: list[tuple[str, str]] = []
        with self._lock:
            for name, submission in list(self._submissions.items()):
                standings = {pod: watch.standings.get(pod, GONE) for pod in submission.pods}
                lingering = [pod for pod, each in standings.items() if each.lingers and pod not in self._removed]
                self._removed.update(lingering)
                calls += [("delete_namespaced_pod", pod) for pod in lingering]
                if len(submission.pods) < submission.wanted:
                    continue
                if submission.has_secret and all(each.needs_nothing for each in standings.values()):
                    submission.has_secret = False
                    calls.append(("delete_namespaced_secret", name))
                if not submission.has_secret and all(
                    each.status.state is JobState.ENDED and not each.lingers for each in standings.values()
                ):
                    del self._submissions[name]
        for call, name in calls:
            try:
                cluster.call(call, name, cluster.namespace)
            except Failure as failure:
                if failure.code != 404:
                    logger.info("%s of %s failed, and is done when the executor ends: %s", call, name, failure)

    def find(self, job: Job) -> Sequence[Hashable]:
        """Return the Pods of this job; if the API server does not say, none: submit() finds them by their names."""
        cluster, submission = self._cluster, self._submissions.get(job.name)
        if cluster is None or submission is None or self._watch is None:
            return ()
        try:
            pods = cluster.call("list_namespaced_pod", cluster.namespace, label_selector=f"{JOB}={job.name}")["items"]
        except Failure as failure:
            logger.info("whether Pods of %s were made is not known yet: %s", job.name, failure)
            return list(submission.pods)
        for pod in pods:
            self._watch.know(pod["metadata"]["name"], pod)
        with self._lock:
            submission.pods = list(dict.fromkeys([*submission.pods, *(pod["metadata"]["name"] for pod in pods)]))
            return list(submission.pods)

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the Pod's name."""
        return name if (name := variables.get(POD)) in handles else None

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say what the watch knows; nothing, while the API server does not answer it."""
        if self._watch is None or not self._watch.is_current:
            return {}
        return {handle: self._judged(str(handle), self._watch.standings.get(str(handle), GONE)) for handle in handles}

    def _judged(self, name: str, standing: Standing) -> JobStatus:
        status = standing.status
        if standing.waits_for_node and not self._is_wait_told:
            self._is_wait_told = True
            logger.warning(
                "Pods wait for a node, perhaps for ever: %s; see cpus=, memory_gb=, gpus=, node_selector=",
                status.words,
            )
        if not standing.is_stuck:
            self._stuck_since.pop(name, None)
            return status
        now = time.monotonic()
        if now - self._stuck_since.setdefault(name, now) < STUCK_SECONDS:
            return status
        return JobStatus(JobState.ENDED, f"{status.words}: so for {STUCK_SECONDS:g} s")

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Delete Pods; what runs there is told, and has a few seconds. The first that is not answered is the last."""
        cluster, names = self._cluster, [str(handle) for handle in handles]
        for index, name in enumerate(names if cluster is not None else ()):
            assert cluster is not None
            try:
                cluster.end("delete_namespaced_pod", name, cluster.namespace, grace_period_seconds=CANCEL_SECONDS)
            except Failure as failure:
                left = names[index:] if failure.code == 0 else [name]
                logger.warning("Pods not deleted, which end by themselves later: %s: %s", ", ".join(left), failure)
                if failure.code == 0:  # the others would be waited for just as long
                    return

    def explain(self, handle: Hashable) -> str:
        """Return how a Pod stands, its last events, the end of its log, and what to try."""
        cluster = self._cluster
        if cluster is None:
            return ""
        standing = GONE if self._watch is None else self._watch.standings.get(str(handle), GONE)
        try:
            standing = standing_of(cluster.call("read_namespaced_pod", str(handle), cluster.namespace))
        except Failure as failure:
            logger.debug("the Pod %s cannot be read any more: %s", handle, failure)
        told = [f"Pod {handle} in namespace {cluster.namespace}: {standing.status.words}"]
        if not cluster.is_silent:
            told += cluster.events_of(str(handle))
            told.append(cluster.log_tail(str(handle), CONTAINER))
        return "\n".join(filter(None, [*told, advice_for(standing)]))

    def describe(self) -> str:
        """Return what is made."""
        name = self.namespace or (self._cluster.namespace if self._cluster else "")
        where = f"namespace {name}" if name else "the context's namespace"
        return f"made as a Pod of {self.image} in {where} of Kubernetes"

    def close(self) -> None:
        """Delete what is left of this executor, and end the watch; within some 5 s, as an executor waits only 10."""
        cluster, watch, self._cluster = self._cluster, self._watch, None
        if watch is not None:
            watch.close()
        if cluster is not None:
            if self._owner is not None or self._config_map:
                self._delete_all(cluster)
            cluster.close()
        self._forget()

    def _delete_all(self, cluster: Cluster) -> None:
        which = f"{RUN}={self._run}"
        calls: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
            ("delete_collection_namespaced_pod", (cluster.namespace,),
             {"label_selector": which, "grace_period_seconds": CANCEL_SECONDS}),
            ("delete_collection_namespaced_secret", (cluster.namespace,), {"label_selector": which}),
        ]  # fmt: skip
        if self._config_map:  # the first: with it the cluster removes the rest, should that take too long
            calls.insert(0, ("delete_namespaced_config_map", (self._config_map, cluster.namespace), {}))
        for name, arguments, options in calls:
            try:
                cluster.end(name, *arguments, **options)
            except Failure as failure:
                logger.warning(
                    "%s failed: %s; `kubectl -n %s delete pods,secrets,configmaps -l %s` removes what is left",
                    name, failure, cluster.namespace, which,
                )  # fmt: skip
                if failure.code == 0:  # so are the others
                    return


class _Submission:
    """The Pods of one invitation."""

    def __init__(self) -> None:
        self.pods: list[str] = []
        self.wanted = 0
        self.has_secret = False
