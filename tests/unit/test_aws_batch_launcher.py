"""AWSBatchLauncher without AWS: what would be submitted, how answers are read, and how jobs are ended."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crew_executor import LaunchError
from crew_executor.launchers import AWSBatchLauncher, Job, JobState, LaunchRetry, SubmitTimeout, aws_batch
from crew_executor.launchers.aws_batch import status_of

PAGE = Path(__file__).parents[2] / "docs" / "aws-batch.md"
SECONDS = 10.0


def job(invitation: bytes = b'{"secret": "s"}\n', name: str = "crew-1-1") -> Job:
    """A job to be submitted."""
    return Job(name, 1, 1, invitation, {}, None, "python", 0)


class FakeBatch:
    """Answers calls of a launcher, and keeps them."""

    def __init__(self, launcher: AWSBatchLauncher, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []
        launcher._call = self  # type: ignore[method-assign, assignment]

    def __call__(self, _service: str, action: str, **arguments: Any) -> Any:
        self.calls.append((action, arguments))
        answer = self.answers[action]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(**arguments) if callable(answer) else answer

    def actions(self) -> list[str]:
        """Return which calls there were."""
        return [action for action, _arguments in self.calls]


def details(status: str = "RUNNING", **more: Any) -> Callable[..., Any]:
    """An answer of describe_jobs, in which all jobs stand alike."""
    return lambda jobs: {"jobs": [{"jobId": each, "status": status, **more} for each in jobs]}


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.005)


# ---------------------------------------------------------------------- what is submitted


def test_the_request_can_be_looked_at() -> None:
    launcher = AWSBatchLauncher(
        "fast", "worker:3", vcpus=0.5, memory_gb=1.5, gpus=1, walltime="2h", tags={"team": "us"}, propagate_tags=True,
        share_identifier="us", scheduling_priority=7, command_prefix=["conda", "run"], python="/opt/bin/python",
    )  # fmt: skip

    assert launcher.submit_request(3) == {
        "jobName": "crew-RUN-1", "jobQueue": "fast", "jobDefinition": "worker:3", "arrayProperties": {"size": 3},
        "containerOverrides": {
            "command": [
                "conda", "run", "/opt/bin/python", "-m", "crew_executor", "worker", "env:CREW_EXECUTOR_INVITATION",
            ],
            "environment": [{"name": "CREW_EXECUTOR_INVITATION", "value": "..."}],
            "resourceRequirements": [
                {"type": "VCPU", "value": "0.5"}, {"type": "MEMORY", "value": "1536"}, {"type": "GPU", "value": "1"},
            ],
        },
        "retryStrategy": {"attempts": 1}, "timeout": {"attemptDurationSeconds": 7200}, "tags": {"team": "us"},
        "propagateTags": True, "shareIdentifier": "us", "schedulingPriorityOverride": 7,
    }  # fmt: skip


def test_the_request_is_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text("utf-8")
    ((code, output),) = re.findall(r"```python\n([^`]*submit_request[^`]*)```\n\n```text\n([^`]*)```", page)
    exec(code, {})
    assert capsys.readouterr().out == output


def test_what_is_not_given_is_left_to_the_definition() -> None:
    request = AWSBatchLauncher("fast", "worker").submit_request()

    assert set(request) == {"jobName", "jobQueue", "jobDefinition", "containerOverrides", "retryStrategy"}
    assert request["containerOverrides"]["command"][0] == "python"
    assert "resourceRequirements" not in request["containerOverrides"]


def test_an_invitation_that_is_too_long_is_told() -> None:
    launcher = AWSBatchLauncher("q", "d")
    launcher._request(job(b"x" * 7000), 1)
    with pytest.raises(LaunchError, match=r"not 7\d\d\d, with an invitation of 7500: put variables of environment="):
        launcher._request(job(b"x" * 7500), 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vcpus": 0}, "vcpus must be None or a number above 0"),
        ({"memory_gb": "8"}, "memory_gb must be None or a number above 0"),
        ({"gpus": 1.5}, "gpus must be None or a whole number above 0"),
        ({"job_queue": ""}, "must be names or ARNs"),
        ({"walltime": "soon"}, "no duration"),
        ({"walltime": 5}, "walltime must be None or at least 60 s"),
        ({"retry_strategy": {"attempts": 0}}, "attempts in retry_strategy must be a whole number from 1 to 10"),
        ({"retry_strategy": {"attempts": 11}}, "attempts in retry_strategy must be a whole number from 1 to 10"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AWSBatchLauncher(**{"job_queue": "q", "job_definition": "d", **options})


@pytest.mark.parametrize("name", ["tags", "retry_strategy"])
def test_what_must_be_a_mapping_is_one(name: str) -> None:
    options: dict[str, Any] = {name: ["x"]}
    with pytest.raises(TypeError, match=rf"{name} must be None or a mapping, not \['x'\]"):
        AWSBatchLauncher("q", "d", **options)


def test_a_command_prefix_is_words() -> None:
    with pytest.raises(TypeError, match=r"\['conda', 'run'\]"):
        AWSBatchLauncher("q", "d", command_prefix="conda run")


def test_without_boto3_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("boto3", "botocore.exceptions"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    launcher = AWSBatchLauncher("q", "d")
    with pytest.raises(LaunchError, match=r"pip install crew-executor\[aws\]"):
        launcher.check()


# ---------------------------------------------------------------------- handles


def test_one_job_has_its_id_and_those_of_an_array_an_index() -> None:
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, submit_job={"jobId": "a"})

    assert launcher.submit(job(), 1) == ["a"]
    assert launcher.submit(job(), 2) == ["a:0", "a:1"]
    assert [call[1].get("arrayProperties") for call in fake.calls] == [None, {"size": 2}]


@pytest.mark.parametrize(
    ("variables", "handle"),
    [
        ({"AWS_BATCH_JOB_ID": "a"}, "a"),
        ({"AWS_BATCH_JOB_ID": "b:1", "AWS_BATCH_JOB_ARRAY_INDEX": "1"}, "b:1"),
        ({"AWS_BATCH_JOB_ID": "b", "AWS_BATCH_JOB_ARRAY_INDEX": "1"}, "b:1"),
        ({"AWS_BATCH_JOB_ID": "c"}, None),
        ({}, None),
    ],
)
def test_an_agent_says_which_job_it_is(variables: dict[str, str], handle: str | None) -> None:
    assert AWSBatchLauncher("q", "d").handle_of(variables, ["a", "b:0", "b:1"]) == handle


def test_an_unclear_submission_is_looked_for_before_it_is_repeated() -> None:
    launcher = AWSBatchLauncher("q", "d")
    listed = [{"jobSummaryList": []}, LaunchRetry("throttled"), {"jobSummaryList": []}]
    submissions = [SubmitTimeout("no answer"), {"jobId": "b"}]
    fake = FakeBatch(launcher, submit_job=submissions, list_jobs=listed)

    with pytest.raises(SubmitTimeout, match="no answer"):
        launcher.submit(job(), 1)
    assert not launcher.find(job())
    with pytest.raises(SubmitTimeout, match="is not known: throttled"):
        launcher.submit(job(), 1)
    assert launcher.submit(job(), 1) == ["b"]
    assert fake.actions() == ["submit_job", "list_jobs", "list_jobs", "list_jobs", "submit_job"]


def test_an_unclear_submission_that_has_worked_is_found() -> None:
    launcher = AWSBatchLauncher("q", "d")
    FakeBatch(
        launcher,
        submit_job=SubmitTimeout("no answer"),
        list_jobs={"jobSummaryList": [{"jobId": "a"}]},
        describe_jobs=details(arrayProperties={"size": 3}),
    )
    with pytest.raises(SubmitTimeout):
        launcher.submit(job(), 3)

    assert launcher.find(job()) == ["a:0", "a:1", "a:2"]
    assert launcher.find(job()) == []  # they are known


# ---------------------------------------------------------------------- how jobs stand


@pytest.mark.parametrize("status", ["SUBMITTED", "PENDING", "RUNNABLE"])
def test_pending(status: str) -> None:
    assert status_of({"status": status}).state is JobState.PENDING


@pytest.mark.parametrize("status", ["STARTING", "RUNNING"])
def test_running(status: str) -> None:
    assert status_of({"status": status}).state is JobState.RUNNING


ENDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "SUCCEEDED: Essential container in task exited, exit code 0": (
        "Essential container in task exited", {"exitCode": 0}, False,
    ),
    "FAILED: Essential container in task exited, "
    "OutOfMemoryError: Container killed due to memory usage, exit code 137": (
        "Essential container in task exited",
        {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"}, False,
    ),
    "FAILED: Host EC2 (instance i-1) terminated.": ("Host EC2 (instance i-1) terminated.", {}, True),
    "FAILED: Job attempt duration exceeded timeout": ("Job attempt duration exceeded timeout", {}, True),
    "FAILED: Your Spot Task was interrupted.": ("Your Spot Task was interrupted.", {}, True),
    "FAILED: Task failed to start, CannotPullContainerError: no such image": (
        "Task failed to start", {"reason": "CannotPullContainerError: no such image"}, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", ENDS)
def test_ended(words: str) -> None:
    reason, container, is_taken_away = ENDS[words]
    status = status_of({"status": words.partition(":")[0], "statusReason": reason, "container": container})

    assert status.words == words
    assert status.state is JobState.ENDED
    assert status.is_taken_away is is_taken_away
    assert status.is_sure


def test_what_no_waiting_overcomes_has_ended() -> None:
    reason = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - too large"
    status = status_of({"status": "RUNNABLE", "statusReason": reason})

    assert status.state is JobState.ENDED
    assert status.words.endswith("too large: it would pend for ever")


def test_jobs_are_asked_about_by_hundreds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, describe_jobs=details())
    handles = [f"a:{index}" for index in range(250)]

    assert set(launcher.poll(handles)) == set(handles)
    assert [len(arguments["jobs"]) for _action, arguments in fake.calls] == [100, 100, 50]
    assert pauses == [0.5, 0.5]


def test_a_new_job_may_not_be_listed_yet_and_an_old_one_is_forgotten() -> None:
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, submit_job={"jobId": "a"}, describe_jobs={"jobs": []})
    (handle,) = launcher.submit(job(), 1)
    assert launcher.poll([handle])[handle].state is JobState.PENDING
    fake.answers["describe_jobs"] = details()
    assert launcher.poll([handle])[handle].state is JobState.RUNNING
    fake.answers["describe_jobs"] = {"jobs": []}
    status = launcher.poll([handle])[handle]

    assert status.state is JobState.ENDED
    assert not status.is_sure


def test_jobs_that_wait_for_long_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, describe_jobs=details("RUNNABLE", createdAt=1000 * time.time()))
    launcher.poll(["a"])
    assert not caplog.text
    fake.answers["describe_jobs"] = details("RUNNABLE", createdAt=1000 * (time.time() - 601))
    for _ in range(2):
        launcher.poll(["a", "b"])
    assert caplog.text.count("RUNNABLE for 10 minutes") == 1


# ---------------------------------------------------------------------- the log


def test_an_explanation_has_the_end_of_the_log_from_where_it_is() -> None:
    launcher = AWSBatchLauncher("q", "d")
    container = {"logStreamName": "s", "logConfiguration": {"options": {"awslogs-group": "/mine"}}}
    events = {"events": [{"message": "first"}, {"message": "second"}]}
    fake = FakeBatch(launcher, describe_jobs=details("FAILED", container=container), get_log_events=events)

    assert "the end of its log, s in /mine:\nfirst\nsecond\n`aws batch describe-jobs --jobs a`" in launcher.explain("a")
    assert fake.calls[-1][1]["logGroupName"] == "/mine"


def test_a_log_that_may_not_be_read_is_told() -> None:
    launcher = AWSBatchLauncher("q", "d")
    answer = details("FAILED", container={"logStreamName": "s"})
    FakeBatch(launcher, describe_jobs=answer, get_log_events=LaunchError("must allow logs:GetLogEvents"))

    assert "its log, s in /aws/batch/job, cannot be read: must allow logs:GetLogEvents" in launcher.explain("a")


# ---------------------------------------------------------------------- jobs are ended


def test_cancelled_jobs_are_ended_one_by_one() -> None:
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, terminate_job={})
    launcher.cancel(["a", "b:0", "b:2"])
    wait_for(lambda: len(fake.calls) == 3)
    launcher.close()

    assert [arguments["jobId"] for _action, arguments in fake.calls] == ["a", "b:0", "b:2"]


def test_at_the_end_an_array_is_ended_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_batch, "END_SECONDS", SECONDS)  # the first call comes with the end
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, terminate_job={})
    for handle in [f"b:{index}" for index in range(1000)] + ["a", "c:7"]:
        launcher.cancel([handle])
    launcher.close()

    assert [arguments["jobId"] for _action, arguments in fake.calls] == ["b", "a", "c:7"]


def test_what_is_refused_for_now_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aws_batch, "END_SECONDS", 0.01)
    launcher = AWSBatchLauncher("q", "d")
    answers = [LaunchRetry("throttled"), LaunchRetry("throttled"), {}, LaunchError("not allowed"), {}]
    fake = FakeBatch(launcher, terminate_job=answers)
    launcher.cancel(["a", "b", "c"])
    wait_for(lambda: len(fake.calls) == 5)
    launcher.close()

    assert [arguments["jobId"] for _action, arguments in fake.calls] == ["a", "a", "a", "b", "c"]
    assert "b could not be ended: not allowed" in caplog.text


def unanswered() -> LaunchRetry:
    """What a call raises that AWS has not answered."""
    error = LaunchRetry("read timeout")
    error.__cause__ = TimeoutError()
    return error


def test_at_the_end_one_call_without_an_answer_is_enough(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aws_batch, "END_SECONDS", SECONDS)  # the first call comes with the end
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, terminate_job=unanswered())
    launcher.cancel(["a", "b"])
    launcher.close()

    assert fake.actions() == ["terminate_job"]
    assert "of these jobs some may be left: a, b" in caplog.text


def test_at_the_end_unclear_submissions_are_not_looked_for_without_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    launcher = AWSBatchLauncher("q", "d")
    fake = FakeBatch(launcher, submit_job=SubmitTimeout("?"), list_jobs=unanswered(), terminate_job={})
    for name in ("crew-1-1", "crew-1-2"):
        with pytest.raises(SubmitTimeout):
            launcher.submit(job(name=name), 1)
    launcher.close()

    assert fake.actions() == ["submit_job", "submit_job", "list_jobs"]
    assert "jobs named crew-1-1, crew-1-2 may be in q, and end after their start" in caplog.text


def test_jobs_that_cannot_be_ended_are_named_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aws_batch, "END_SECONDS", 0.001)
    launcher = AWSBatchLauncher("q", "d")
    FakeBatch(launcher, terminate_job=LaunchRetry("throttled"))
    launcher.cancel(["a"])
    launcher.close()

    assert "of these jobs some may be left: a" in caplog.text
