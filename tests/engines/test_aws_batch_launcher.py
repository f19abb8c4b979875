"""Workers in jobs of AWS Batch, as moto has them: what works, what fails and is told, what is lost, what stays."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.conftest import lasting
from integration.helpers import add, is_alive, touch_and_wait, wait_until
from integration.launching import SECONDS, all_idle, executor_of, failure_of

from crew_executor import LaunchError, WorkerCrashError
from crew_executor.launchers import AWSBatchLauncher, Job, Launcher, LaunchRetry, SubmitTimeout, aws_batch
from crew_executor.testing import LauncherConformance

from .batch_server import CREDENTIALS, DEFINITION, QUEUE, REGION, BatchServer

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120)]


Make = Callable[..., AWSBatchLauncher]


@pytest.fixture(scope="module")
def started() -> Iterator[BatchServer]:
    """A server for all tests of this file: it takes seconds to start."""
    with BatchServer() as server:
        lasting.add(server.process.pid)
        yield server
    lasting.discard(server.process.pid)


@pytest.fixture
def server(started: BatchServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """The server; at the end of the test no job may be left."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    started.seen = {job["jobId"] for job in started.jobs()}
    try:
        yield started
        wait_until(lambda: not started.live(), "no job is left", SECONDS)
    finally:
        started.end_all()


@pytest.fixture
def make(server: BatchServer) -> Make:
    """Makes launchers with these options on top."""

    def launcher(**options: Any) -> AWSBatchLauncher:
        own = {"host": "127.0.0.1", "python": sys.executable, "region": REGION, "endpoint_url": server.url}
        made = AWSBatchLauncher(**{"job_queue": QUEUE, "job_definition": DEFINITION, **own, **options})
        made.poll_seconds = (0.3, 1.0)
        return made

    return launcher


def new_jobs(server: BatchServer) -> list[dict[str, Any]]:
    """Return the jobs of this test."""
    return [job for job in server.jobs() if job["jobId"] not in server.seen]


def job_id_here() -> str:
    """Return the job in which this runs."""
    return os.environ["AWS_BATCH_JOB_ID"]


def secrets_here() -> list[str]:
    """Return the names of variables that a task should not see."""
    return [name for name in os.environ if "INVITATION" in name]


class TestAWSBatchLauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _on_server(self, server: BatchServer, make: Make) -> None:
        self._server = server
        self._make = make

    def launcher(self, **options: Any) -> AWSBatchLauncher:
        """Return one."""
        return self._make(**options)

    def refused_launcher(self, **options: Any) -> AWSBatchLauncher:
        """Return one with a definition that is not there."""
        return self._make(job_definition="nosuch", **options)

    def pending(self) -> Any:
        """Let no job start."""
        return self._server.without_room()

    def end_from_outside(self, launcher: Launcher, host: str, pid: int) -> bool:
        """Terminate the job."""
        (job,) = self._server.live()
        self._server.terminate(job["jobId"])
        return True

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        containers = psutil.Process(self._server.process.pid).children(recursive=True)
        for process in containers:
            process.suspend()
        try:
            yield
        finally:
            for process in containers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def lose(self, host: str) -> Any:
        """Stop all that runs in jobs."""
        return self._stopped()

    def client_script(self) -> str:
        """Make one."""
        options = f"{QUEUE!r}, {DEFINITION!r}, host='127.0.0.1', python={sys.executable!r}, region={REGION!r}"
        return (
            "from crew_executor.launchers import AWSBatchLauncher\n"
            f"launcher = AWSBatchLauncher({options}, endpoint_url={self._server.url!r}, lost_after=8.0)"
        )

    def is_alive(self, host: str, pid: int) -> bool:
        """Look here."""
        assert host == socket.gethostname()
        return is_alive(pid)


# ---------------------------------------------------------------------- what is submitted


def test_many_workers_are_one_array_and_know_which_they_are(server: BatchServer, make: Make) -> None:
    with executor_of(make(), 4, min_workers=4) as executor:
        all_idle(executor, 4)
        jobs = new_jobs(server)
        assert sorted(job["jobId"].partition(":")[2] for job in jobs) == list("0123")
        assert len({job["jobId"].partition(":")[0] for job in jobs}) == 1
        assert {job["jobName"].split("-")[0] for job in jobs} == {"crew"}
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))
        assert executor.submit(job_id_here).result(SECONDS) in {job["jobId"] for job in jobs}
        assert executor.submit(secrets_here).result(SECONDS) == []

    wait_until(lambda: {job["status"] for job in new_jobs(server)} == {"SUCCEEDED"}, "all end well", SECONDS)


def test_the_job_of_an_array_that_is_ended_is_that_of_its_worker(
    server: BatchServer, make: Make, tmp_path: Path
) -> None:
    """Each agent is told from the others of its array: only what ran in the job that ended is lost."""
    with executor_of(make(), 3, min_workers=3) as executor:
        all_idle(executor, 3)
        release = tmp_path / "release"
        futures = {}
        for number in range(3):
            begun = tmp_path / f"begun {number}"
            futures[number] = executor.submit(wait_here, str(begun), str(release))
            wait_until(begun.exists, "the task runs", SECONDS)
        victim = (tmp_path / "begun 1").read_text()
        (job,) = [job["jobId"] for job in new_jobs(server) if is_within(server, job["jobId"], int(victim))]
        server.terminate(job)
        error = futures[1].exception(SECONDS)
        release.touch()
        others = {futures[number].result(SECONDS) for number in (0, 2)}

    assert isinstance(error, WorkerCrashError)
    assert job not in others
    assert len(others) == 2


def wait_here(begun: str, release: str) -> str:
    """Wait to be released, and return the job in which this runs."""
    touch_and_wait(begun, release)
    return job_id_here()


def is_within(server: BatchServer, job_id: str, pid: int) -> bool:
    """Answer whether a process is one of a job's."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return f"AWS_BATCH_JOB_ID={job_id}".encode() in environment


def test_several_workers_share_a_job(server: BatchServer, make: Make) -> None:
    with executor_of(make(workers_per_job=3), 3, min_workers=3) as executor:
        all_idle(executor, 3)
        assert len(new_jobs(server)) == 1
        assert "size" not in new_jobs(server)[0].get("arrayProperties", {})


def test_jobs_that_pend_at_the_end_are_ended_by_one_call(server: BatchServer, make: Make) -> None:
    launcher = make()
    ended: list[str] = []
    with server.without_room(), executor_of(launcher, 40, min_workers=40):
        launcher._endings._end = lambda job: ended.append(job) or launcher._end(job)  # type: ignore[func-returns-value]
        wait_until(lambda: len(new_jobs(server)) == 40, "all are submitted", SECONDS)

    wait_until(lambda: {job["status"] for job in new_jobs(server)} == {"FAILED"}, "all have ended", SECONDS)
    assert 1 <= len(ended) < 20
    assert any(":" not in job for job in ended)


# ---------------------------------------------------------------------- what fails is told


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "there is no job queue 'nosuch' in region us-east-1": ({"job_queue": "nosuch"}, "describe-job-queues"),
    "the job queue 'closed' takes no jobs: it is DISABLED": ({"job_queue": "closed"}, "enable or repair it"),
    "no job definition 'nosuch' is active in region us-east-1": (
        {"job_definition": "nosuch"},
        "describe-job-definitions",
    ),
    "no job definition 'crew-worker:9' is active": ({"job_definition": "crew-worker:9"}, "job_definition="),
}


def test_a_refusal_has_its_words_and_what_to_try(server: BatchServer, make: Make) -> None:
    for words, (options, advice) in REFUSALS.items():
        text = failure_of(make(**options, max_failed_launches=1))
        assert words in text
        assert advice in text
    assert not new_jobs(server)


def test_queues_and_definitions_may_be_named_in_any_way(server: BatchServer, make: Make) -> None:
    batch = server.client("batch")
    (queue,) = batch.describe_job_queues(jobQueues=[QUEUE])["jobQueues"]
    (definition,) = batch.describe_job_definitions(jobDefinitionName=DEFINITION)["jobDefinitions"]
    arn = definition["jobDefinitionArn"]
    for name in (DEFINITION, f"{DEFINITION}:1", arn, arn.removesuffix(":1")):
        launcher = make(job_queue=queue["jobQueueArn"], job_definition=name)
        try:
            launcher.check()
        finally:
            launcher.close()


def test_a_service_out_of_reach_is_told_at_once(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nothing listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        text = failure_of(make(endpoint_url=url, max_failed_launches=1))

    assert "Could not connect to the endpoint URL" in text
    assert "proxies and firewalls" in text


def test_missing_credentials_and_regions_are_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "are there credentials, and are they valid? `aws configure`" in failure_of(make(max_failed_launches=1))
    assert "could not be found" in failure_of(make(profile="nosuch", max_failed_launches=1))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert "give region=" in failure_of(make(region=None, max_failed_launches=1))


def test_an_agent_that_cannot_start_is_told_with_its_log(server: BatchServer, make: Make) -> None:
    prefix = ["sh", "-c", "echo the module is not there; exit 3", "--"]
    text = failure_of(make(command_prefix=prefix, max_failed_launches=1))

    assert "FAILED: Essential container in task exited, exit code 3" in text
    assert "the end of its log, crew-worker/default/" in text
    assert "the module is not there" in text
    assert "aws batch describe-jobs --jobs " in text


def test_a_container_that_cannot_start_is_told(make: Make) -> None:
    text = failure_of(make(python="/nosuch/python", max_failed_launches=1))

    assert "FAILED: Task failed to start, CannotStartContainerError: " in text
    assert "it has no log in CloudWatch" in text


def test_a_job_that_waits_for_ever_is_told_of_and_waited_for(
    server: BatchServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    reason = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no instances"
    with executor_of(make(), 1) as executor:
        with server.without_room(reason):
            future = executor.submit(add, 1, 2)
            wait_until(lambda: reason in caplog.text, "it is told", SECONDS)
            assert not future.done()
        assert future.result(SECONDS) == 3
    assert caplog.text.count("perhaps for ever") == 1


def test_a_job_that_can_never_start_is_told_and_ended(server: BatchServer, make: Make) -> None:
    with server.without_room("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - too large"):
        text = failure_of(make(max_failed_launches=1))

        assert "too large: it would pend for ever" in text
        wait_until(lambda: [job["status"] for job in new_jobs(server)] == ["FAILED"], "it is ended", SECONDS)


# ---------------------------------------------------------------------- what ends, and what is lost


@pytest.mark.parametrize("why", ["Host EC2", "Job attempt duration exceeded timeout"])
def test_a_job_that_is_taken_away_costs_its_task_nothing(
    server: BatchServer, make: Make, tmp_path: Path, why: str
) -> None:
    launcher = make()
    if why != "Host EC2":
        launcher.settings["timeout"] = {"attemptDurationSeconds": 4}  # as a definition may say: nobody here knows of it
    with executor_of(launcher, 1) as executor:
        counted = executor.options(crash_retries=1).submit(run_thrice, str(tmp_path))
        wait_until((tmp_path / "1").exists, "it runs", SECONDS)
        (job,) = new_jobs(server)
        if why == "Host EC2":
            server.take_away(job["jobId"])
        # Had this been charged, nothing would be left for the crash.
        assert counted.result(SECONDS) == 3
        assert counted.record().attempts == 3

    told = {job["jobId"]: str(job.get("statusReason")) for job in new_jobs(server)}
    assert told[job["jobId"]].startswith(why)


def run_thrice(folder: str) -> int:
    """Wait in the first run, die in the second, and end well in the third."""
    number = 1 + len(os.listdir(folder))
    (Path(folder) / str(number)).touch()
    if number == 1:
        wait_until((Path(folder) / "never").exists, "this is ended", SECONDS)
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_workers_leave_before_their_time_is_over_and_others_come(
    server: BatchServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_batch, "TIMEOUT_MIN", 30)
    launcher = make(walltime="30s")
    launcher.walltime = 5.0  # Batch takes no less than a minute: what is tested is our clock
    with executor_of(launcher, 1) as executor:
        first = executor.submit(job_id_here).result(SECONDS)
        assert [job["timeout"] for job in new_jobs(server)] == [{"attemptDurationSeconds": 30}]
        wait_until(lambda: [job["status"] for job in new_jobs(server)] == ["SUCCEEDED"], "it ended by itself", SECONDS)
        assert executor.submit(job_id_here).result(SECONDS) != first


def test_a_submission_without_an_answer_is_not_repeated(
    server: BatchServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was on its way, and is done when the service wakes up."""
    monkeypatch.setattr(aws_batch, "ANSWER_SECONDS", 1)
    launcher = make()
    launcher.check()
    job = Job("crew-frozen-1", 1, 1, b"{}", {}, None, "true", 0)
    try:
        with server.frozen(), pytest.raises(SubmitTimeout, match="Read timeout"):
            launcher.submit(job, 2)
        wait_until(lambda: len(new_jobs(server)) == 2, "it was done", SECONDS)
        handles = launcher.submit(job, 2)
        assert sorted(handles) == sorted(each["jobId"] for each in new_jobs(server))
        assert not launcher.find(job)  # all are known
    finally:
        launcher.close()


def test_what_an_unclear_submission_has_started_is_ended_with_the_executor(
    server: BatchServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_batch, "ANSWER_SECONDS", 1)
    launcher = make()
    launcher.check()
    with server.without_room():
        with server.frozen(), pytest.raises(SubmitTimeout):
            launcher.submit(Job("crew-frozen-2", 1, 1, b"{}", {}, None, "true", 0), 1)
        wait_until(lambda: len(new_jobs(server)) == 1, "it was done", SECONDS)
        launcher.close()
        wait_until(lambda: [job["status"] for job in new_jobs(server)] == ["FAILED"], "it is ended", SECONDS)


def test_close_gives_up_when_batch_does_not_answer(
    server: BatchServer, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An executor waits 10 s, and a thread that comes out of a call later may abort a client that is just ending."""
    monkeypatch.setattr(aws_batch, "HURRY_SECONDS", 1)
    monkeypatch.setattr(aws_batch, "END_SECONDS", SECONDS)  # the first call comes with the end
    launcher = make()
    launcher.check()
    with server.without_room():
        first = launcher.submit(Job("crew-frozen-3", 1, 1, b"{}", {}, None, "true", 0), 1)
        second = launcher.submit(Job("crew-frozen-4", 1, 1, b"{}", {}, None, "true", 0), 1)
        with server.frozen():
            launcher.cancel([*first, *second])
            launcher.close()
            assert not [each for each in threading.enumerate() if each.name == "crew-aws-batch"]
        left = [str(each) for each in (*first, *second)]
        assert f"of these jobs some may be left: {', '.join(left)}" in caplog.text
        launcher.cancel(left)  # in another life
        launcher.close()


def test_jobs_that_batch_has_forgotten(server: BatchServer, make: Make) -> None:
    launcher = make()
    try:
        (status,) = launcher.poll(["00000000-0000-0000-0000-000000000000"]).values()
        assert not status.is_sure
        assert "does not know" in launcher.explain("00000000-0000-0000-0000-000000000000")
    finally:
        launcher.close()


# ---------------------------------------------------------------------- what boto3 raises


def client_error(code: str, status: int = 400, words: str = "no", operation: str = "SubmitJob") -> Exception:
    """Return an answer of AWS that is an error."""
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": words}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)  # type: ignore[no-any-return, unused-ignore]


def error_named(name: str, **facts: Any) -> Exception:
    """Return an error of botocore's, of this class."""
    from botocore import exceptions

    error: Exception = getattr(exceptions, name)(**facts)
    return error


ERRORS: dict[str, tuple[Callable[[], Exception], type[Exception], str]] = {
    "throttled": (lambda: client_error("TooManyRequestsException", 429), LaunchRetry, ""),
    "throttled with another status": (lambda: client_error("ThrottlingException"), LaunchRetry, ""),
    "broken": (lambda: client_error("ServerException", 500), SubmitTimeout, ""),
    "a proxy's": (lambda: client_error("503", 503), SubmitTimeout, ""),
    "denied": (
        lambda: client_error("AccessDeniedException", 403), LaunchError, "must allow batch:SubmitJob",
    ),
    "expired": (lambda: client_error("ExpiredTokenException", 403), LaunchError, "aws sso login"),
    "no queue": (
        lambda: client_error("ClientException", words="JobQueue crew not found"), LaunchError, "see job_queue=",
    ),
    "no definition": (
        lambda: client_error("ClientException", words="JobDefinition crew:1 is not ACTIVE"), LaunchError,
        "see job_definition=",
    ),
    "wrong size": (
        lambda: client_error("ClientException", words="Fargate resource requirements (2 vCPU)"), LaunchError, "vcpus=",
    ),
    "unknown host": (lambda: error_named("EndpointConnectionError", endpoint_url="u"), LaunchRetry, ""),
    "nobody answers": (lambda: error_named("ConnectTimeoutError", endpoint_url="u"), LaunchRetry, ""),
    "no answer": (lambda: error_named("ReadTimeoutError", endpoint_url="u"), SubmitTimeout, ""),
    "cut": (lambda: error_named("ConnectionClosedError", endpoint_url="u"), SubmitTimeout, ""),
    "certificate": (lambda: error_named("SSLError", endpoint_url="u", error="e"), LaunchError, "SSL validation"),
    "no credentials": (lambda: error_named("NoCredentialsError"), LaunchError, "aws configure"),
    "no region": (lambda: error_named("NoRegionError"), LaunchError, "give region="),
    "no login": (
        lambda: error_named("UnauthorizedSSOTokenError"), LaunchError, "aws sso login",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ERRORS)
def test_errors_of_a_submission(what: str) -> None:
    make_error, kind, advice = ERRORS[what]
    launcher = AWSBatchLauncher("q", "d")

    def fail(**_arguments: Any) -> None:
        raise make_error()

    launcher._clients["batch", False] = type("Client", (), {"submit_job": staticmethod(fail)})
    with pytest.raises(kind, match="submit_job of AWS batch failed") as told:
        launcher.submit(Job("crew-1-1", 1, 1, b"{}", {}, None, "python", 0), 1)

    assert type(told.value) is kind
    assert advice in str(told.value)
