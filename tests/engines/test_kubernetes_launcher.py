"""Workers in Pods of a stand-in for Kubernetes: what is made, what fails and is told, what is lost, what stays."""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.helpers import add, wait_until
from integration.launching import SECONDS, Running, all_idle, executor_of, failure_of

from crew_executor import WorkerCrashError
from crew_executor.launchers import Job, JobState, Launcher, LaunchRetry, SubmitTimeout, kubernetes, kubernetes_api
from crew_executor.launchers.kubernetes import KubernetesLauncher
from crew_executor.testing import LauncherConformance, stopped

from .kubernetes_server import Kubernetes

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120)]

Make = Callable[..., KubernetesLauncher]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Kubernetes]:
    """One that works. At the end of a test nothing may be left in it but events."""
    with contextlib.closing(Kubernetes(tmp_path)) as made:
        yield made
        wait_until(lambda: not made.pods(), "no Pod is left", SECONDS)
        assert [] == made.names("secrets")
        assert [] == made.names("configmaps")


@pytest.fixture
def make(cluster: Kubernetes) -> Make:
    """Makes launchers with these options on top."""

    def launcher(**options: Any) -> KubernetesLauncher:
        known = {"image": "crew", "host": "127.0.0.1", "kubeconfig": cluster.kubeconfig, "grace_period": 5}
        made = KubernetesLauncher(**known | options)
        made.poll_seconds = (0.1, 0.5)
        return made

    return launcher


@contextlib.contextmanager
def no_room(cluster: Kubernetes) -> Iterator[None]:
    """A time in which no Pod gets a node."""
    cluster.has_room = False
    try:
        yield
    finally:
        cluster.has_room = True


class TestKubernetesLauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _on_cluster(self, cluster: Kubernetes, make: Make) -> None:
        self._cluster = cluster
        self._make = make

    def launcher(self, **options: Any) -> KubernetesLauncher:
        """Return one."""
        return self._make(**options)

    def refused_launcher(self, **options: Any) -> KubernetesLauncher:
        """Return one whose Pods are wrong."""
        return self._make(labels={"team": "not a label"}, **options)

    def pending(self) -> Any:
        """Let no Pod have a node."""
        return no_room(self._cluster)

    def end_from_outside(self, launcher: Launcher, host: str, pid: int) -> bool:
        """Delete the Pod, as kubectl does."""
        (name,) = self._cluster.pods()
        self._cluster.delete("pods", name, 1)
        return True

    def lose(self, host: str) -> Any:
        """Stop the agent."""
        (name,) = self._cluster.pods()
        process = self._cluster.run_of(name).process
        assert process is not None
        return stopped(process.pid)

    def client_script(self) -> str:
        """Make one."""
        options = f"'crew', host='127.0.0.1', kubeconfig={str(self._cluster.kubeconfig)!r}"
        return f"from crew_executor.launchers import KubernetesLauncher\nlauncher = KubernetesLauncher({options})"

    def test_nothing_outlives_a_client_that_is_killed(self) -> None:
        """Its Pods end; as records they stay, until somebody deletes the ConfigMap that they belong to."""
        super().test_nothing_outlives_a_client_that_is_killed()
        (name,) = self._cluster.pods()
        wait_until(lambda: self._phase(name) in ("Failed", "Succeeded"), "the Pod has ended", SECONDS)
        (config_map,) = self._cluster.names("configmaps")
        assert config_map.startswith("crew-")
        self._cluster.delete("configmaps", config_map)

    def _phase(self, name: str) -> str:
        pod = self._cluster.get("pods", name)
        return "" if pod is None else str(pod["status"]["phase"])


# ---------------------------------------------------------------------- what is made


def test_many_pods_are_made_for_one_invitation_which_is_a_secret(cluster: Kubernetes, make: Make) -> None:
    with executor_of(make(), 4, min_workers=4) as executor:
        all_idle(executor, 4)
        (secret,) = [each.body for each in cluster.requests if (each.verb, each.resource) == ("create", "secrets")]
        pods = [each.body for each in cluster.requests if (each.verb, each.resource) == ("create", "pods")]
        (config_map,) = cluster.names("configmaps")
        wait_until(lambda: not cluster.names("secrets"), "the Secret is deleted when all have read it", SECONDS)
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))

    invitation = json.loads(base64.b64decode(secret["data"]["invitation"]))
    assert len(pods) == invitation["places"] == 4
    assert invitation["key"] not in json.dumps(pods)
    assert invitation["secret"] not in json.dumps(pods)
    for thing in (secret, *pods):
        (owner,) = thing["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("ConfigMap", config_map)
        assert thing["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "crew-executor"
        assert f"crew-{thing['metadata']['labels']['crew-executor/run']}" == config_map
    assert {pod["metadata"]["name"] for pod in pods} == {f"{config_map}-1-{index}" for index in range(4)}


def test_nothing_is_polled(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    with executor_of(make(), 1) as executor:
        with no_room(cluster):
            future = executor.submit(add, 1, 2)
            wait_until(lambda: cluster.count("watch", "pods") == 1, "it is watched", SECONDS)
            assert not future.done()
        assert future.result(SECONDS) == 3
        assert cluster.count("watch", "pods") == 1
        assert cluster.count("get", "pods") == 0
        assert cluster.count("list", "pods") == 2  # one by check()


def test_tasks_do_not_see_the_invitation(cluster: Kubernetes, make: Make) -> None:
    launcher = make(environment={"GREETING": "cost: $5, $(HOME) $$"})
    with executor_of(launcher, 1) as executor:
        variables = executor.submit(dict, os.environ).result(SECONDS)
        there = executor.submit(_environment).result(SECONDS)

    assert variables
    assert kubernetes.INVITATION not in there
    assert there["GREETING"] == "cost: $5, $(HOME) $$"
    assert there[kubernetes.POD].startswith("crew-")


def _environment() -> dict[str, str]:
    return dict(os.environ)


def test_a_launcher_serves_one_executor_after_the_other(cluster: Kubernetes, make: Make) -> None:
    launcher = make()
    for _ in range(2):
        with executor_of(launcher, 1) as executor:
            assert executor.submit(add, 1, 2).result(SECONDS) == 3
    assert len(set(_created(cluster, "configmaps"))) == 2


def _created(cluster: Kubernetes, resource: str) -> list[str]:
    found = [each.body for each in cluster.requests if (each.verb, each.resource) == ("create", resource)]
    return [body["metadata"]["name"] for body in found]


def test_pods_may_belong_to_another_pod(cluster: Kubernetes, make: Make) -> None:
    with no_room(cluster):
        metadata = {"name": "client"}
        spec = {"containers": [{"name": "worker", "image": "crew", "command": ["python"]}]}
        cluster.create("pods", {"metadata": metadata, "spec": spec})
    with executor_of(make(owner="client"), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        assert not cluster.names("configmaps")
        cluster.delete("pods", "client", 0)
        wait_until(lambda: not cluster.pods(), "the cluster has deleted what belonged to it", SECONDS)


# ---------------------------------------------------------------------- what fails is told


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such namespace": ({"namespace": "nosuch"}, 'namespaces "nosuch" not found', "namespace=..."),
    "no image": ({"image": "missing/crew:1"}, 'missing/crew:1": not found', "event Failed"),
    "a bad image": ({"image": "Crew:1"}, "Pending (InvalidImageName", "it would pend for ever"),
    "no interpreter": ({"python": "/nosuch"}, "Failed (StartError", "give KubernetesLauncher(python=...)"),
    "no module": ({"pod_template": {"spec": {"containers": [{"name": "worker", "env": [
        {"name": "PYTHONPATH", "value": "/nosuch"}, {"name": "PYTHONSAFEPATH", "value": "1"}]}]}}, "python": "false"},
        "Failed (Error, exit code 1)", "its log is empty"),
    "a bad quantity": ({"requests": {"cpu": "many"}}, "quantities must match", "launcher.pod_manifest() is what"),
    "too much": ({"requests": {"cpu": "9"}}, "must be less than or equal to cpu limit", "launcher.pod_manifest()"),
    "a bad volume": ({"volume_mounts": [{"name": "data", "mountPath": "/data"}]}, 'Not found: "data"', "manifest()"),
    "an unknown field": ({"pod_template": {"spec": {"nosuch": 1}}}, "nosuch", "launcher.pod_manifest()"),
    "a bad context": ({"context": "nosuch"}, "the configuration of Kubernetes cannot be used", "give kubeconfig=..."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_or_comes_to_nothing_is_told(
    case: str, cluster: Kubernetes, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "STUCK_SECONDS", 0.5)
    options, words, advice = REFUSALS[case]
    text = failure_of(make(**options, max_failed_launches=1))

    assert words in text
    assert advice in text


@pytest.mark.parametrize(("verb", "resource"), [("create", "pods"), ("create", "secrets"), ("list", "pods")])
def test_what_the_account_may_not_do_is_told(cluster: Kubernetes, make: Make, verb: str, resource: str) -> None:
    cluster.forbidden = {(verb, resource)}
    text = failure_of(make(max_failed_launches=1))

    assert f'cannot {verb} resource "{resource}"' in text
    assert "give it the Role of docs/kubernetes.md" in text


def test_an_api_server_that_is_not_there_is_told(make: Make, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "kubeconfig").read_text("utf-8"))
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    (tmp_path / "other").write_text(json.dumps(config), "utf-8")

    assert "at http://127.0.0.1:1 is not reached" in failure_of(
        make(kubeconfig=tmp_path / "other", max_failed_launches=1)
    )


def test_credentials_that_are_not_accepted_are_told(make: Make, tmp_path: Path) -> None:
    config = (tmp_path / "kubeconfig").read_text("utf-8").replace("the-token", "another")
    (tmp_path / "other").write_text(config, "utf-8")

    text = failure_of(make(kubeconfig=tmp_path / "other", max_failed_launches=1))
    assert "401 Unauthorized" in text
    assert "it does not accept these credentials" in text


def test_without_the_library_the_extra_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "kubernetes", None)

    assert "pip install crew-executor[kubernetes]" in failure_of(make(max_failed_launches=1))


def test_a_pod_without_a_node_is_waited_for_with_a_warning(
    cluster: Kubernetes, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with executor_of(make(), 1) as executor:
        with no_room(cluster):
            future = executor.submit(add, 1, 2)
            wait_until(lambda: "Pods wait for a node, perhaps for ever" in caplog.text, "it is told", SECONDS)
            assert "1 Insufficient cpu" in caplog.text
            assert not future.done()
        assert future.result(SECONDS) == 3


# ---------------------------------------------------------------------- what is tried again


def test_a_quota_gives_fewer_workers(cluster: Kubernetes, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    cluster.pods_max = 2
    with executor_of(make(), 4, min_workers=4) as executor:
        all_idle(executor, 2)
        wait_until(lambda: "exceeded quota" in caplog.text, "it is told", SECONDS)
        assert list(executor.map(add, range(100), range(100))) == list(range(0, 200, 2))
        cluster.pods_max = 4
        all_idle(executor, 4)


PASSING = {
    "throttled": (429, "TooManyRequests", "the server has received too many requests"),
    "out of order": (503, "ServiceUnavailable", "etcdserver: leader changed"),
    "a quota's conflict": (409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "q": the object has been'),
}


@pytest.mark.parametrize("resource", ["configmaps", "secrets", "pods"])
@pytest.mark.parametrize("case", PASSING)
def test_what_may_pass_is_tried_again(case: str, resource: str, cluster: Kubernetes, make: Make) -> None:
    code, reason, message = PASSING[case]
    cluster.fail("create", resource, code, reason, message)
    with executor_of(make(max_failed_launches=1), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        assert executor.stats().launched == 1


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("resource", ["configmaps", "secrets", "pods"])
def test_what_is_not_answered_is_not_doubled(
    is_done: bool, resource: str, cluster: Kubernetes, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "ANSWER_SECONDS", 2.0)
    cluster.fail("create", resource, 0, is_done=is_done)
    with executor_of(make(max_failed_launches=1), 2, min_workers=2) as executor:
        all_idle(executor, 2)
        assert len(cluster.pods()) == 2


def test_a_watch_that_has_expired_begins_anew(cluster: Kubernetes, make: Make) -> None:
    with executor_of(make(), 1) as executor:
        with no_room(cluster):
            future = executor.submit(add, 1, 2)
            wait_until(lambda: cluster.count("watch", "pods") == 1, "it is watched", SECONDS)
            cluster.expire()
            wait_until(lambda: cluster.count("watch", "pods") == 2, "it is watched again", SECONDS)
        assert future.result(SECONDS) == 3


def test_a_watch_that_fails_is_begun_again(cluster: Kubernetes, make: Make) -> None:
    cluster.fail("watch", "pods", 500, "InternalError", "oh", times=2)
    with executor_of(make(), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        wait_until(lambda: cluster.count("watch", "pods") == 3, "it is watched", SECONDS)


def test_an_account_that_may_not_watch_lists_now_and_then(
    cluster: Kubernetes, make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "STUCK_SECONDS", 0.5)
    cluster.forbidden = {("watch", "pods")}
    text = failure_of(make(image="missing/crew", max_failed_launches=1))

    assert "missing/crew" in text
    assert caplog.text.count("how Pods stand cannot be watched; see the Role in docs/kubernetes.md") == 1


# ---------------------------------------------------------------------- what is lost


def lost(cluster: Kubernetes, make: Make, folder: Path, harm: Callable[[str], object], **options: Any) -> str:
    """Return the error of a task whose Pod comes to harm."""
    with executor_of(make(**options), 1) as executor:
        running = Running(folder, executor)
        harm(cluster.pods()[0])
        error = running.future.exception(SECONDS)
        assert isinstance(error, WorkerCrashError)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
    return str(error)


def test_a_container_that_is_out_of_memory_is_told(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    text = lost(cluster, make, tmp_path, lambda name: cluster.run_of(name).kill("OOMKilled"))
    assert "Failed (OOMKilled, exit code 137)" in text


def test_an_eviction_is_told(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    text = lost(cluster, make, tmp_path, cluster.evict)
    assert "Evicted: The node was low on resource: memory." in text


def test_a_task_of_an_evicted_pod_runs_again_without_a_charge(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    with executor_of(make(), 1) as executor:
        running = Running(tmp_path, executor.options(crash_retries=1))
        for _ in range(2):
            running.begun.unlink()
            cluster.evict(_latest(cluster))
            wait_until(running.begun.exists, "the task runs again", SECONDS)
        running.release()
        assert running.future.result(SECONDS)


def _latest(cluster: Kubernetes) -> str:
    return max(cluster.pods(), key=lambda name: int(name.split("-")[2]))


def test_a_preempted_pod_has_its_grace(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    """The task may end in that; its worker is replaced."""
    with executor_of(make(), 1) as executor:
        running = Running(tmp_path, executor)
        pod = cluster.pods()[0]
        cluster.preempt(pod)
        later = executor.submit(add, 1, 2)
        running.release()
        assert running.future.result(SECONDS)
        assert later.result(SECONDS) == 3
        wait_until(lambda: pod not in cluster.pods(), "it is gone", SECONDS)


def test_a_deadline_is_told(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    with executor_of(make(walltime=3, startup_timeout=2.0), 1) as executor:
        running = Running(tmp_path, executor)
        error = running.future.exception(SECONDS)
    assert isinstance(error, WorkerCrashError)
    assert "SIGTERM" in str(error) or "DeadlineExceeded" in str(error)


def test_a_lost_node_is_told(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:

        def lose(name: str) -> None:
            process = cluster.run_of(name).process
            assert process is not None
            stack.enter_context(stopped(process.pid))
            cluster.lose_node_of(name)

        text = lost(cluster, make, tmp_path, lose, lost_after=6.0)
    assert "which does not answer" in text


# ---------------------------------------------------------------------- the parts by themselves


def job(number: int = 1, command: str = "") -> Job:
    """A job whose agent is another program."""
    made = Job(f"crew-{os.getpid():016x}-{number}", number, 1, b"{}\n", {}, None, "python", 1)
    made.command = lambda _path="-": ["sh", "-c", command or "exec sleep 600"]  # type: ignore[method-assign]
    return made


@pytest.fixture
def alone(cluster: Kubernetes, make: Make) -> Iterator[KubernetesLauncher]:
    """A launcher without an executor."""
    launcher = make()
    launcher.check()
    yield launcher
    launcher.close()


def test_a_pod_goes_through_its_states(cluster: Kubernetes, alone: KubernetesLauncher) -> None:
    cluster.has_room = False
    (handle,) = alone.submit(job(command="echo hello; exit 3"), 1)
    wait_until(lambda: "Unschedulable" in alone.poll([handle])[handle].words, "it pends", SECONDS)
    assert alone.poll([handle])[handle].state is JobState.PENDING
    cluster.has_room = True
    wait_until(lambda: alone.poll([handle])[handle].state is JobState.ENDED, "it has ended", SECONDS)

    assert alone.poll([handle])[handle].words == "Failed (Error, exit code 3)"
    text = alone.explain(handle)
    assert "the end of its log:\nhello" in text
    assert "event Scheduled: Successfully assigned" in text
    assert alone.poll(["crew-nosuch"])["crew-nosuch"].state is JobState.ENDED


def test_cancelled_pods_are_gone_and_to_cancel_them_again_is_no_error(
    cluster: Kubernetes, alone: KubernetesLauncher
) -> None:
    handles = alone.submit(job(), 3)
    wait_until(lambda: all(each.state is JobState.RUNNING for each in alone.poll(handles).values()), "all run", SECONDS)
    for _ in range(2):
        alone.cancel(handles)
    wait_until(lambda: not cluster.pods(), "all are gone", SECONDS)
    wait_until(
        lambda: all(each.state is JobState.ENDED for each in alone.poll(handles).values()), "it is told", SECONDS
    )
    assert all("deleted" in each.words for each in alone.poll(handles).values())


def test_a_submission_that_is_unclear_is_found(
    cluster: Kubernetes, alone: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "ANSWER_SECONDS", 1.0)
    this = job()
    cluster.fail("create", "pods", 0, is_done=True)
    with pytest.raises(SubmitTimeout):
        alone.submit(this, 2)
    found = alone.find(this)
    rest = alone.submit(this, 1)
    assert sorted(cluster.pods()) == sorted([*found, *rest]) == [f"{this.name}-0", f"{this.name}-1"]


def test_a_quota_that_lets_in_none_is_not_now(cluster: Kubernetes, alone: KubernetesLauncher) -> None:
    cluster.pods_max = 1
    assert len(alone.submit(job(1), 3)) == 1
    with pytest.raises(LaunchRetry, match="exceeded quota"):
        alone.submit(job(2), 1)


def test_close_says_what_it_could_not_delete(cluster: Kubernetes, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    launcher = make()
    launcher.check()
    launcher.submit(job(command="exit"), 1)
    cluster.forbidden = {("deletecollection", "pods")}
    launcher.close()
    assert "removes what is left" in caplog.text
    wait_until(lambda: not cluster.pods(), "the cluster has deleted what belonged to the ConfigMap", SECONDS)


def test_close_gives_up_after_the_first_call_without_an_answer(
    cluster: Kubernetes, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An executor waits 10 s, and a thread that comes out of a call later may abort a client that is just ending."""
    assert kubernetes_api.CLOSE_SECONDS + kubernetes_api.END_SECONDS + kubernetes_api.END_SECONDS_AGAIN <= 5.0
    monkeypatch.setattr(kubernetes_api, "END_SECONDS", 0.5)
    monkeypatch.setattr(kubernetes_api, "END_SECONDS_AGAIN", 0.1)
    monkeypatch.setattr(kubernetes_api, "ANSWER_SECONDS", SECONDS)  # is not waited for
    launcher = make()
    launcher.check()
    with no_room(cluster):  # so that nothing is deleted but by these
        handles = launcher.submit(job(), 3)
        cluster.fail("delete", "pods", 0)
        cluster.fail("delete", "configmaps", 0)
        launcher.cancel(handles)
        launcher.close()
    ends = [(each.verb, each.resource) for each in cluster.requests if each.verb.startswith("delete")]

    assert ends == [("delete", "pods"), ("delete", "configmaps")]
    assert f"Pods not deleted, which end by themselves later: {', '.join(map(str, handles))}: " in caplog.text
    assert "delete pods,secrets,configmaps -l crew-executor/run=" in caplog.text
    assert "removes what is left" in caplog.text
    cluster.delete("configmaps", cluster.names("configmaps")[0])


def test_a_container_that_does_not_heed_sigterm_is_killed(cluster: Kubernetes, alone: KubernetesLauncher) -> None:
    (handle,) = alone.submit(job(command="trap '' TERM; while :; do sleep 1; done"), 1)
    wait_until(lambda: alone.poll([handle])[handle].state is JobState.RUNNING, "it runs", SECONDS)
    cluster.delete("pods", str(handle), 1)
    wait_until(lambda: alone.poll([handle])[handle].state is JobState.ENDED, "it has ended", SECONDS)
    assert alone.poll([handle])[handle].words == f"Failed (deleted; Error, exit code {128 + signal.SIGKILL})"


def test_a_pod_whose_node_is_given_up_has_perhaps_ended(cluster: Kubernetes, alone: KubernetesLauncher) -> None:
    (handle,) = alone.submit(job(), 1)
    wait_until(lambda: alone.poll([handle])[handle].state is JobState.RUNNING, "it runs", SECONDS)
    cluster.give_up_node_of(str(handle))
    wait_until(lambda: alone.poll([handle])[handle].state is JobState.ENDED, "it is told", SECONDS)
    status = alone.poll([handle])[handle]

    assert "DeletionByTaintManager" in status.words
    assert status.is_taken_away
    assert not status.is_sure
