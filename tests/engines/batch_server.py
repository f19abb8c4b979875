"""AWS Batch on 127.0.0.1: moto's API, with each container run as a process of this machine.

Real are boto3, HTTP, and moto's checks of requests. Ours, where moto has none or is unlike AWS: how a job runs and ends
(exit codes, reasons, SIGTERM before SIGKILL, its log as it grows), what becomes of an array's parent, limits of a call,
and a queue without room. Not there: images, memory and vCPUs, IAM, retries, throttling. `python batch_server.py FOLDER`
serves until its stdin ends, and then no job is left. It must not be reachable from elsewhere, and reads no credentials.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from typing_extensions import Self

REGION, QUEUE, DEFINITION = "us-east-1", "crew", "crew-worker"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}  # fmt: skip
START_SECONDS, GRACE_SECONDS, LOOK_SECONDS = 60.0, 2.0, 0.05
LOG_GROUP = "/aws/batch/job"
IDS_MAX = 100
ENDED = ("SUCCEEDED", "FAILED")
EXITED = "Essential container in task exited"


class BatchServer:
    """A server in a process of its own, with a queue and a job definition; to be used in `with`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="batch-server-")
        self.path = Path(self._folder.name)
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with open(self.path / "server.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, self.path], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        until = time.monotonic() + START_SECONDS
        port = self.path / "port"
        while not port.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise AssertionError("moto's server did not start")
            time.sleep(LOOK_SECONDS)
        self.url = f"http://127.0.0.1:{port.read_text()}"
        self._set_up()
        return self

    def __exit__(self, *_error: object) -> None:
        for client in self._clients.values():
            client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(START_SECONDS)
        self._folder.cleanup()

    def client(self, service: str) -> Any:
        """Return a client of boto3's."""
        import boto3

        if service not in self._clients:
            session = boto3.Session("test", "test", region_name=REGION)
            self._clients[service] = session.client(service, endpoint_url=self.url)
        return self._clients[service]

    def _set_up(self) -> None:
        role = self.client("iam").create_role(RoleName="crew-role", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        batch = self.client("batch")
        place = batch.create_compute_environment(
            computeEnvironmentName="crew-env", type="UNMANAGED", state="ENABLED", serviceRole=role
        )
        order = [{"order": 1, "computeEnvironment": place["computeEnvironmentArn"]}]
        for name, state in ((QUEUE, "ENABLED"), ("closed", "DISABLED")):
            batch.create_job_queue(jobQueueName=name, state=state, priority=1, computeEnvironmentOrder=order)
        container = {"image": "local", "vcpus": 1, "memory": 256, "command": ["true"]}
        batch.register_job_definition(jobDefinitionName=DEFINITION, type="container", containerProperties=container)

    def jobs(self) -> list[dict[str, Any]]:
        """Return what there is and was, without the parents of arrays."""
        batch = self.client("batch")
        listed = batch.list_jobs(jobQueue=QUEUE)["jobSummaryList"]
        ids = [job["jobId"] for job in listed]
        found = []
        for start in range(0, len(ids), IDS_MAX):
            found += batch.describe_jobs(jobs=ids[start : start + IDS_MAX])["jobs"]
        return [job for job in found if "size" not in job.get("arrayProperties", {})]

    def live(self) -> list[dict[str, Any]]:
        """Return the jobs that have not ended."""
        return [job for job in self.jobs() if job["status"] not in ENDED]

    def end_all(self) -> None:
        """End the jobs that have not."""
        for job in self.live():
            self.client("batch").terminate_job(jobId=job["jobId"], reason="the test is over")

    def terminate(self, job_id: str) -> None:
        """End a job as an administrator would."""
        self.client("batch").terminate_job(jobId=job_id, reason="an administrator wanted it")

    def take_away(self, job_id: str) -> None:
        """Take the instance of a job away, as Spot does."""
        (self.path / f"taken-{job_id}").touch()

    @contextlib.contextmanager
    def without_room(self, reason: str = "") -> Iterator[None]:
        """No job starts meanwhile; those at the head of the queue have this reason."""
        (self.path / "pending").write_text(reason)
        try:
            yield
        finally:
            (self.path / "pending").unlink()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections, and does not answer."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


# ---------------------------------------------------------------------- in the server's process


class Container:
    """A job's process, with all that it has started."""

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._log_end = 0
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG") or "COVERAGE" in name}
        self._process = subprocess.Popen(
            command, env={**kept, "HOME": str(folder), **environment}, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def code(self) -> int | None:
        """Return its exit code, as a container has it; None: it runs."""
        code = self._process.poll()
        return None if code is None else 128 - code if code < 0 else code

    def stop(self) -> None:
        """End it as ECS does: SIGTERM to the first process, later SIGKILL to all."""
        members = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait()

    def new_lines(self) -> list[str]:
        """Return what it has printed since this was asked last."""
        text = os.pread(self.log.fileno(), 1 << 20, self._log_end)
        self._log_end += len(text)
        return text.decode(errors="replace").splitlines()


def run_job(job: Any) -> None:
    """Do what a job does: wait for room, run, end. In a thread of its own, in place of moto's."""
    folder = Path(sys.argv[1])
    pending = folder / "pending"
    job.status = "RUNNABLE"
    while pending.exists() and not job.stop:
        with contextlib.suppress(FileNotFoundError):
            job.job_stopped_reason = pending.read_text() or None
        time.sleep(LOOK_SECONDS)
    if job.stop:
        end(job, job.job_stopped_reason)
        return
    job.job_stopped_reason = None
    job.job_started_at = dt.datetime.now()  # noqa: DTZ005  moto compares it with such
    job.status = "STARTING"
    name, _, index = job.job_id.partition(":")
    environment = {each["name"]: each["value"] for each in job.container_overrides.get("environment", [])}
    environment |= {"AWS_BATCH_JOB_ID": job.job_id, "AWS_BATCH_JOB_ATTEMPT": "1"}
    if index:
        environment |= {"AWS_BATCH_JOB_ARRAY_INDEX": index}
    try:
        container = Container(job.container_overrides.get("command", ["true"]), environment, folder)
    except OSError as error:
        job.reason = f"CannotStartContainerError: {error}"
        end(job, "Task failed to start")
        return
    job.log_stream_name = f"{job.job_definition.name}/default/{name}{index and '-'}{index}"
    job._start_attempt()
    job.status = "RUNNING"
    watch(job, container, folder / f"taken-{job.job_id}")


def watch(job: Any, container: Container, taken: Path) -> None:
    """Wait until a job's container has ended, or has to."""
    limit = (job.timeout or {}).get("attemptDurationSeconds", float("inf"))
    began = time.monotonic()
    why = ""
    while not why:
        code = container.code()
        put_log(job, container)
        if code is not None:
            why = EXITED
        elif taken.exists():
            why = "Host EC2 (instance i-0123456789abcdef0) terminated."
        elif time.monotonic() > began + limit:
            why = "Job attempt duration exceeded timeout"
        elif job.stop:
            why = job.job_stopped_reason
        else:
            time.sleep(LOOK_SECONDS)
    if why != EXITED:
        container.stop()
        put_log(job, container)
    job.exit_code = container.code()
    container.log.close()
    end(job, why)


def put_log(job: Any, container: Container) -> None:
    """Pass on what a container has printed."""
    lines = container.new_lines()
    backend = job._log_backend
    backend.ensure_log_group(LOG_GROUP)
    backend.ensure_log_stream(LOG_GROUP, job.log_stream_name)
    if lines:
        now = int(1000 * time.time())
        backend.put_log_events(LOG_GROUP, job.log_stream_name, [{"timestamp": now, "message": line} for line in lines])


def end(job: Any, why: str | None) -> None:
    """Note a job's end."""
    job.job_stopped_reason = why
    job._mark_stopped(success=job.exit_code == 0 and why == EXITED)


def patch_jobs() -> None:
    """Make moto's jobs run and end as those of AWS, as far as it matters here."""
    from moto.batch.models import BatchBackend, Job
    from moto.moto_api import state_manager

    state_manager.set_transition("batch::job", {"progression": "manual", "times": 10**9})  # by run_job() alone
    describe = Job.describe

    def described(job: Any) -> Any:
        about = describe(job)
        facts = {"exitCode": job.exit_code, "reason": getattr(job, "reason", None)}
        about["container"] |= {name: value for name, value in facts.items() if value is not None}
        if job._child_jobs:
            states = {child.status for child in job._child_jobs}
            about["status"] = "PENDING" if states - set(ENDED) else "FAILED" if "FAILED" in states else "SUCCEEDED"
        return about

    def terminated(backend: Any, job_id: str, reason: str) -> None:
        job = backend.get_job_by_id(job_id)
        for each in [] if job is None else job._child_jobs or [job]:
            if each.status not in ENDED:  # moto would give an ended job another reason
                each.terminate(reason)

    Job.run, Job.describe, BatchBackend.terminate_job = run_job, described, terminated


def patch_calls() -> None:
    """Make moto refuse what AWS refuses, and list what AWS lists."""
    from moto.batch.exceptions import ClientException
    from moto.batch.models import BatchBackend

    describe_jobs, describe_definitions = BatchBackend.describe_jobs, BatchBackend.describe_job_definitions
    list_jobs, submit_job = BatchBackend.list_jobs, BatchBackend.submit_job

    def described_jobs(backend: Any, jobs: list[str]) -> Any:
        if len(jobs) > IDS_MAX:
            raise ClientException(f"a call may have {IDS_MAX} jobs")
        return describe_jobs(backend, jobs) if jobs else []

    def described_definitions(backend: Any, name: Any = None, names: Any = None, status: Any = None) -> Any:
        if names and (name or status):
            raise ClientException("jobDefinitions can't be used with other parameters")
        if names:  # with their revisions, which moto does not know here
            return [each for each in map(backend.get_job_definition, names) if each is not None]
        return describe_definitions(backend, name, names, status)

    def listed(backend: Any, **which: Any) -> Any:
        found = list_jobs(backend, **which)
        return [job for job in found if not (which.get("filters") and ":" in job.job_id)]

    def submitted(backend: Any, *arguments: Any, **options: Any) -> Any:
        size = (options.get("array_properties") or {}).get("size", 2)
        if not 2 <= size <= 10_000:
            raise ClientException("Array size must be between 2 and 10000")
        return submit_job(backend, *arguments, **options)

    BatchBackend.describe_jobs, BatchBackend.describe_job_definitions = described_jobs, described_definitions
    BatchBackend.list_jobs, BatchBackend.submit_job = listed, submitted


def serve(folder: Path) -> None:
    """Serve until stdin ends."""
    from moto.server import ThreadedMotoServer

    patch_jobs()
    patch_calls()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    new = folder / "port.new"
    new.write_text(str(server.get_host_and_port()[1]))
    new.rename(folder / "port")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.pause()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
