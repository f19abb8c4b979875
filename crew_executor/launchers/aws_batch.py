"""Workers in jobs of AWS Batch, each in a container of the user's job definition; several are one submission, an array.

A submission is never repeated unasked, here or by boto3: Batch would not tell the second from the first. It takes no
secrets, so the invitation is a variable of the container, which batch:DescribeJobs shows. Knows nothing of links.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from ..log import logger
from .base import Job, JobState, JobStatus, Launcher, LaunchRetry, SubmitTimeout
from .script import NEVER, seconds_of

INVITATION, LOG_GROUP, LOG_LINES = "CREW_EXECUTOR_INVITATION", "/aws/batch/job", 50
CONNECT_SECONDS, ANSWER_SECONDS, TIMEOUT_MIN, STARTUP_SECONDS = 10, 30, 60, 300.0  # in the last the image is pulled
ASK_SECONDS, END_SECONDS = 0.5, 0.1  # between two calls: all users of an account share its limits
CLOSE_SECONDS, FAILURES_MAX = 8.0, 5  # to end the rest, at the end
HURRY_SECONDS = 3  # to connect, and to answer, when jobs are ended: close() has 10 s in all
ATTEMPTS_MAX = 10
IDS_MAX, OVERRIDES_MAX = 100, 8192 - 700  # jobs in a question; characters that ECS takes, less variables of Batch's own
NEW_SECONDS, STUCK_SECONDS = 300.0, 600.0  # so long a job may not be listed yet; so long it waits before that is told
_PENDING, _RUNNING = ("SUBMITTED", "PENDING", "RUNNABLE"), ("STARTING", "RUNNING")
_TAKEN_AWAY = re.compile(r"^Host EC2\b|attempt duration exceeded timeout|Spot .*interrupt", re.IGNORECASE)
_IMPOSSIBLE = re.compile(r"MISCONFIGURATION:(COMPUTE_ENVIRONMENT_MAX_RESOURCE|JOB_RESOURCE_REQUIREMENT)")
_DOUBTFUL = re.compile(r"(MISCONFIGURATION|CAPACITY|ACTION_REQUIRED|UNDETERMINED)[\w:]*")
_CREDENTIALS = re.compile(r"Credential|Token|SSO|Profile|Login|Signature|Expired|Unrecognized|OptIn")
_ADVICE = {
    r"share.?identifier|scheduling": "only queues with a fair-share policy want it: see share_identifier=",
    r"queue": "`aws batch describe-job-queues` lists the queues of a region: see job_queue=, region=",
    r"definition": "`aws batch describe-job-definitions --status ACTIVE` lists them: see job_definition=, region=",
    r"resource|vcpu|memory|gpu|fargate": "see vcpus=, memory_gb=, gpus=; Fargate takes certain pairs only",
}


class AWSBatchLauncher(Launcher):
    """Start workers in jobs of AWS Batch.

    The container must have an interpreter of the same minor version with crew_executor, and reach this machine.

    Args:
        job_queue: its name or ARN.
        job_definition: of a single container on ECS: its name, "name:revision" or ARN.
        vcpus, memory_gb, gpus: of each job; None: as the definition says.
        walltime: of a job: seconds, at least 60, "2h", "90m"; Batch ends it then. None: as the definition says.
        tags, propagate_tags: of the jobs, at most 50; True: of their ECS tasks too; None: as the definition says.
        retry_strategy: as Batch takes it. None: one attempt, as a second would come with an invitation that is used up.
        share_identifier, scheduling_priority: for queues with a fair-share policy.
        command_prefix: words before the agent's command: ["conda", "run", "-n", "mine"].
        region, profile, session: as boto3 takes them, the last in place of the others; None: its own choice.
        endpoint_url: of another service that speaks like Batch, for tests.
        **more: as for Launcher: workers_per_job, host, port, lost_after, max_jobs, ...; python is "python", and
            startup_timeout 300 s, in which the image is pulled.
    """

    jobs_per_submit = 10_000
    variables = ("AWS_BATCH_JOB_ID", "AWS_BATCH_JOB_ARRAY_INDEX")
    poll_seconds = (5.0, 60.0)

    def __init__(
        self, job_queue: str, job_definition: str, *, vcpus: float | None = None, memory_gb: float | None = None,
        gpus: int | None = None, walltime: float | str | None = None, tags: Mapping[str, str] | None = None,
        propagate_tags: bool | None = None, retry_strategy: Mapping[str, Any] | None = None,
        share_identifier: str | None = None, scheduling_priority: int | None = None,
        command_prefix: Sequence[str] = (), region: str | None = None, profile: str | None = None, session: Any = None,
        endpoint_url: str | None = None, **more: Any,
    ) -> None:  # fmt: skip
        more = {"python": "python", "startup_timeout": STARTUP_SECONDS, **more}
        super().__init__(walltime=seconds_of(walltime), **more)
        if not job_queue or not job_definition:
            raise ValueError(f"job_queue and job_definition must be names or ARNs, not {(job_queue, job_definition)!r}")
        for name, number in (("vcpus", vcpus), ("memory_gb", memory_gb), ("gpus", gpus)):
            kinds, word = (int, "whole ") if name == "gpus" else ((int, float), "")
            if number is not None and not (isinstance(number, kinds) and 0 < number < math.inf):
                raise ValueError(f"{name} must be None or a {word}number above 0, not {number!r}")
        if isinstance(command_prefix, str):
            raise TypeError(f"command_prefix must be a sequence of words, not one text: {command_prefix.split()!r}")
        _check_settings(self.walltime, tags, retry_strategy)
        self.job_queue, self.job_definition, self.gpus = job_queue, job_definition, gpus
        self.command_prefix = list(command_prefix)
        sizes = (("VCPU", vcpus), ("MEMORY", memory_gb and math.ceil(1024 * memory_gb)), ("GPU", gpus))
        self.sizes = [{"type": kind, "value": f"{size:.10g}"} for kind, size in sizes if size is not None]
        settings = {
            "retryStrategy": {"attempts": 1} if retry_strategy is None else dict(retry_strategy),
            "tags": dict(tags or {}) or None, "propagateTags": propagate_tags,
            "shareIdentifier": share_identifier, "schedulingPriorityOverride": scheduling_priority,
            "timeout": self.walltime and {"attemptDurationSeconds": math.ceil(self.walltime)},
        }  # fmt: skip
        self.settings = {name: value for name, value in settings.items() if value is not None}
        self._session, self._region, self._profile, self._endpoint_url = session, region, profile, endpoint_url
        self._clients: dict[tuple[str, bool], Any] = {}
        self._clients_lock = threading.Lock()  # sessions are not to be shared; the thread of the endings makes its own
        self._is_closing = False
        self._new_until: dict[Hashable, float] = {}  # of all jobs that are known; 0: Batch has listed it
        self._unclear: set[str] = set()  # names of submissions that may have worked
        self._endings = _Endings(self._end)

    def submit_request(self, number: int = 1) -> dict[str, Any]:
        """Return what submit_job would be called with for so many jobs, to look at; without a real invitation."""
        job = Job("crew-RUN-1", 1, self.workers_per_job, b"...", self.environment, self.walltime, self.python, 0)
        return self._request(job, number)

    def _request(self, job: Job, number: int) -> dict[str, Any]:
        overrides: dict[str, Any] = {
            "command": [*self.command_prefix, *job.command(f"env:{INVITATION}")],
            "environment": [{"name": INVITATION, "value": job.invitation.decode().strip()}],
        }
        if self.sizes:
            overrides["resourceRequirements"] = self.sizes
        length = len(json.dumps(overrides))
        if length > OVERRIDES_MAX:
            raise LaunchError(
                f"a container of AWS Batch may be told {OVERRIDES_MAX} characters, not {length}, with an invitation of "
                f"{len(job.invitation)}: put variables of environment= into the job definition; give a single host="
            )
        array = {"arrayProperties": {"size": number}} if number > 1 else {}  # Batch refuses arrays of one
        return {
            "jobName": job.name, "jobQueue": self.job_queue, "jobDefinition": self.job_definition,
            "containerOverrides": overrides, **self.settings, **array,
        }  # fmt: skip

    def check(self) -> None:
        """Look whether boto3, credentials, the queue and the job definition are there."""
        name = self.job_definition.rpartition("/")[2]
        which: dict[str, Any] = {"jobDefinitionName": name, "status": "ACTIVE"}
        if ":" in name:  # one revision, with which AWS takes no other parameter
            which = {"jobDefinitions": [self.job_definition]}
        try:
            queues = self._call("batch", "describe_job_queues", jobQueues=[self.job_queue])["jobQueues"]
            listed = self._call("batch", "describe_job_definitions", **which)["jobDefinitions"]
        except LaunchRetry as error:
            if getattr(error.__cause__, "response", None):  # AWS has answered
                raise
            raise LaunchError(f"{error}; see region=, endpoint_url=, proxies and firewalls") from None
        region = self._client("batch").meta.region_name
        if not queues:
            raise LaunchError(f"there is no job queue {self.job_queue!r} in region {region}; {_ADVICE['queue']}")
        if queues[0]["state"] != "ENABLED" or queues[0].get("status") == "INVALID":
            said = ", ".join(filter(None, (queues[0].get(key) for key in ("state", "status", "statusReason"))))
            raise LaunchError(f"the job queue {self.job_queue!r} takes no jobs: it is {said}; enable or repair it")
        definitions = [each for each in listed if each.get("status", "ACTIVE") == "ACTIVE"]
        if not definitions:
            raise LaunchError(f"no job definition {name!r} is active in region {region}; {_ADVICE['definition']}")
        newest = max(definitions, key=lambda each: int(each.get("revision", 0)))
        if newest.get("type") != "container" or newest.get("eksProperties") or newest.get("ecsProperties"):
            raise LaunchError(f"{name!r} is of no single container on ECS or Fargate; for EKS see KubernetesLauncher")

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Submit a job, or an array; not again what may have worked, before that was looked for once more."""
        if job.name in self._unclear:
            try:
                found = self._found(job.name)
            except LaunchRetry as error:
                raise SubmitTimeout(f"whether {job.name} was submitted is not known: {error}") from None
            self._unclear.discard(job.name)
            if found:
                self.cancel(found[number:])
                return found[:number]
        try:
            answer = self._call("batch", "submit_job", **self._request(job, number))
        except SubmitTimeout as error:
            self._unclear.add(job.name)
            self.warn_once("submit", f"AWS Batch does not answer now; it is tried again: {error}")
            raise
        return self._note(answer["jobId"], number)

    def _note(self, job_id: str, number: int) -> list[Hashable]:
        handles: list[Hashable] = [job_id] if number == 1 else [f"{job_id}:{index}" for index in range(number)]
        self._new_until.update(dict.fromkeys(handles, time.monotonic() + NEW_SECONDS))
        return handles

    def _found(self, name: str) -> Sequence[Hashable]:
        """Return the jobs of this name that were not known; from now on they are."""
        filters = [{"name": "JOB_NAME", "values": [name]}]  # jobs in arrays are not listed then
        listed = self._call("batch", "list_jobs", jobQueue=self.job_queue, filters=filters)["jobSummaryList"]
        found: list[Hashable] = []
        for each in self._describe(each["jobId"] for each in listed):
            number = each.get("arrayProperties", {}).get("size", 1)
            handle = each["jobId"] if number == 1 else f"{each['jobId']}:0"
            if handle not in self._new_until:
                found += self._note(each["jobId"], number)
        return found

    def find(self, job: Job) -> Sequence[Hashable]:
        """Return the jobs of this name that are not known; if Batch does not say, submit() asks again."""
        try:
            return self._found(job.name)
        except (LaunchError, LaunchRetry) as error:
            logger.info("whether %s was submitted is not known yet: %s", job.name, error)
            return ()

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the job's id, which in an array is that of the array and an index."""
        job_id, index = (variables.get(name, "") for name in self.variables)
        return next((each for each in (job_id, f"{job_id}:{index}") if each in handles), None)

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Ask about jobs, a hundred at a time."""
        said = {each["jobId"]: each for each in self._describe(map(str, handles))}
        statuses: dict[Hashable, JobStatus] = {}
        for handle in handles:
            detail = said.get(str(handle))
            if detail is None and time.monotonic() < self._new_until.get(handle, 0.0):
                statuses[handle] = JobStatus(JobState.PENDING, "not listed yet")
                continue
            self._new_until[handle] = 0.0
            statuses[handle] = status_of(detail)
            if detail is not None and detail["status"] == "RUNNABLE":
                self._warn_of_stuck(handle, detail)
        return statuses

    def _describe(self, job_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return what Batch says of jobs; those that it does not know are not there."""
        ids, details = list(job_ids), []
        for start in range(0, len(ids), IDS_MAX):
            if start:
                time.sleep(ASK_SECONDS)
            details += self._call("batch", "describe_jobs", jobs=ids[start : start + IDS_MAX])["jobs"]
        return details

    def _warn_of_stuck(self, handle: Hashable, detail: Mapping[str, Any]) -> None:
        reason = detail.get("statusReason") or f"RUNNABLE for {STUCK_SECONDS / 60:g} minutes"
        doubt = _DOUBTFUL.match(reason)
        if doubt or time.time() > detail.get("createdAt", math.inf) / 1000 + STUCK_SECONDS:
            text = f"job {handle} waits in {self.job_queue}, perhaps for ever ({reason}): is the compute environment "
            text += "ENABLED and VALID, have it and your quota enough vCPUs, and can its instances reach ECS?"
            self.warn_once(doubt[0] if doubt else "stuck", text)

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Have jobs ended, in a thread: there may be thousands, and each is one call."""
        self._endings.want(map(str, handles))

    def _end(self, job_id: str) -> None:
        self._call("batch", "terminate_job", jobId=job_id, reason="crew_executor: not needed any more")

    def explain(self, handle: Hashable) -> str:
        """Return what Batch says of the job, the end of its log, and how to look further."""
        more = f"`aws batch describe-jobs --jobs {handle}` says more, and the console: Batch, Jobs, {self.job_queue}"
        try:
            detail = next(iter(self._describe([str(handle)])), None)
        except (LaunchError, LaunchRetry) as error:
            return f"{error}\n{more}"
        log = "" if detail is None else self._log_of(detail)
        return "\n".join(filter(None, (f"job {handle}: {status_of(detail).words}", log, more)))

    def _log_of(self, detail: Mapping[str, Any]) -> str:
        container = detail.get("container") or {}
        options = (container.get("logConfiguration") or {}).get("options") or {}
        stream, group = container.get("logStreamName"), options.get("awslogs-group", LOG_GROUP)
        if not stream:
            return "it has no log in CloudWatch: its container has not started, or has another log driver"
        try:
            events = self._call("logs", "get_log_events", logGroupName=group, logStreamName=stream, limit=LOG_LINES)
        except (LaunchError, LaunchRetry) as error:
            return f"its log, {stream} in {group}, cannot be read: {error}"
        return "\n".join((f"the end of its log, {stream} in {group}:", *(each["message"] for each in events["events"])))

    def describe(self) -> str:
        """Return the queue and the definition."""
        return f"submitted to AWS Batch, queue {self.job_queue}, job definition {self.job_definition}"

    def close(self) -> None:
        """End what is left, with what unclear submissions have started, and close the connections."""
        self._is_closing = True
        left = sorted(self._unclear)
        is_silent = False
        while left and not is_silent:
            try:
                self.cancel(self._found(left[0]))
            except (LaunchError, LaunchRetry) as error:
                is_silent = _is_silence(error)
                names = ", ".join(left if is_silent else left[:1])
                text = f"jobs named {names} may be in {self.job_queue}, and end after their start: {error}"
                logger.warning("%s", text)
            del left[0]
        self._unclear.clear()
        self._endings.close(is_silent=is_silent)
        self._is_closing = False
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._new_until.clear()

    def _client(self, service: str, *, hurries: bool = False) -> Any:
        with self._clients_lock:
            if (service, hurries) not in self._clients:
                boto3, config = _module("boto3"), _module("botocore.config")
                session = self._session or boto3.Session(region_name=self._region, profile_name=self._profile)
                connect, read = (HURRY_SECONDS, HURRY_SECONDS) if hurries else (CONNECT_SECONDS, ANSWER_SECONDS)
                settings = config.Config(connect_timeout=connect, read_timeout=read, retries={"total_max_attempts": 1})
                made = session.client(service, endpoint_url=self._endpoint_url, config=settings)
                self._clients[service, hurries] = made
            return self._clients[service, hurries]

    def _call(self, service: str, action: str, **arguments: Any) -> Any:
        """Return the answer of AWS; raise LaunchRetry, SubmitTimeout if it may have been done, or LaunchError."""
        errors = _module("botocore.exceptions")
        try:
            hurries = self._is_closing or action == "terminate_job"
            return getattr(self._client(service, hurries=hurries), action)(**arguments)
        except (errors.ClientError, errors.BotoCoreError) as error:
            raise _told(error, service, action) from error


class _Endings:
    """End jobs, in a thread: thousands may be given up, one by one. In close() one call ends all of an array."""

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self._wanted: dict[str, None] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_silent = False

    def want(self, jobs: Iterable[str]) -> None:
        """Have jobs ended."""
        with self._changed:
            self._wanted.update(dict.fromkeys(jobs))
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="crew-aws-batch", daemon=True)
                self._thread.start()

    def close(self, *, is_silent: bool = False) -> None:
        """End the rest soon: no job of any array is wanted any more; not if nobody answers."""
        with self._changed:
            self._is_closing, self._is_silent = True, is_silent
            self._changed.notify_all()
            self.want(())  # it may have given up
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)
        if self._wanted:
            logger.warning("AWS Batch is slow: of these jobs some may be left: %s", ", ".join(self._wanted))
        self._is_closing = self._is_silent = False

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, END_SECONDS * 2**failures)
                job = next(iter(self._wanted), "")
                if not job or failures > FAILURES_MAX or (self._is_closing and self._is_silent):
                    self._thread = None
                    return
                array = job.partition(":")[0]
                jobs = [each for each in self._wanted if self._is_closing and each.startswith(array)] or [job]
            try:
                self._end(array if len(jobs) > 1 else job)
            except LaunchRetry as error:
                logger.info("%s could not be ended yet: %s", job, error)
                failures += 1
                self._is_silent = _is_silence(error)
                continue
            except LaunchError as error:
                logger.warning("%s could not be ended: %s", job, error)
            failures, self._is_silent = 0, False
            with self._changed:
                for each in jobs:
                    self._wanted.pop(each, None)


def status_of(detail: Mapping[str, Any] | None) -> JobStatus:
    """Return how a job stands, from what describe_jobs says of it; None: nothing."""
    if detail is None:
        return JobStatus(JobState.ENDED, "AWS Batch does not know it any more", is_sure=False)
    state, reason, container = detail["status"], detail.get("statusReason") or "", detail.get("container") or {}
    code = f"exit code {container['exitCode']}" if "exitCode" in container else ""
    words = ": ".join(filter(None, (state, ", ".join(filter(None, (reason, container.get("reason"), code))))))
    if state == "RUNNABLE" and _IMPOSSIBLE.match(reason):
        return JobStatus(JobState.ENDED, f"{words}: {NEVER}")
    if state in _PENDING or state in _RUNNING:
        return JobStatus(JobState.PENDING if state in _PENDING else JobState.RUNNING, words)
    return JobStatus(JobState.ENDED, words, is_taken_away=state == "FAILED" and bool(_TAKEN_AWAY.search(reason)))


def _is_silence(error: BaseException) -> bool:
    """Answer whether AWS has not answered at all, so that all else would be waited for just as long."""
    return (
        isinstance(error, LaunchRetry)
        and error.__cause__ is not None
        and not getattr(error.__cause__, "response", None)
    )


def _check_settings(walltime: float | None, tags: Any, retry_strategy: Any) -> None:
    """Raise ValueError or TypeError for what Batch would refuse with each job."""
    if walltime is not None and walltime < TIMEOUT_MIN:
        raise ValueError(f"walltime must be None or at least {TIMEOUT_MIN} s, as Batch takes no less, not {walltime!r}")
    for name, each in (("tags", tags), ("retry_strategy", retry_strategy)):
        if each is not None and not isinstance(each, Mapping):
            raise TypeError(f"{name} must be None or a mapping, not {each!r}")
    attempts = (retry_strategy or {}).get("attempts", 1)
    if not isinstance(attempts, int) or not 1 <= attempts <= ATTEMPTS_MAX:
        raise ValueError(f"attempts in retry_strategy must be a whole number from 1 to {ATTEMPTS_MAX}, not {attempts}")


def _told(error: Any, service: str, action: str) -> LaunchRetry | LaunchError:
    """Return an error of boto3's, in a call of "batch", "submit_job" or the like, as one of ours."""
    errors = _module("botocore.exceptions")
    text = f"{action} of AWS {service} failed: {error}"
    answer = {"Error": {}, "ResponseMetadata": {}, **(getattr(error, "response", None) or {})}
    code, status = answer["Error"].get("Code", ""), answer["ResponseMetadata"].get("HTTPStatusCode", 0)
    is_unsent = isinstance(error, errors.ConnectionError) and not isinstance(error, errors.SSLError)
    if is_unsent or status == 429 or re.search("TooManyRequests|Thrott|RequestLimitExceeded|SlowDown", code):
        return LaunchRetry(text)
    if status >= 500 or code == "ServerException" or isinstance(error, errors.HTTPClientError):
        return SubmitTimeout(text) if action == "submit_job" else LaunchRetry(text)
    if re.search("AccessDenied|UnauthorizedOperation", code):
        advice = f"the IAM policy of these credentials must allow {service}:{error.operation_name}"
    elif isinstance(error, errors.NoRegionError):
        advice = "give region=, or set AWS_DEFAULT_REGION"
    elif _CREDENTIALS.search(code or type(error).__name__):
        advice = "are there credentials, and are they valid? `aws configure`, `aws sso login`; see profile=, session="
    else:
        advice = next((each for key, each in _ADVICE.items() if re.search(key, str(error), re.IGNORECASE)), "")
    return LaunchError(f"{text}\n{advice}".strip())


def _module(name: str) -> Any:
    """Return a module of boto3's; raise LaunchError if that is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LaunchError(f"AWSBatchLauncher needs boto3: pip install crew-executor[aws] ({error})") from None
