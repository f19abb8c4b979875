"""What launchers by job scripts must do before a stand-in, beside what every launcher must."""

from __future__ import annotations

import contextlib
import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, LaunchError
from crew_executor.errors import BrokenCrewError
from crew_executor.launchers import Job, JobState, LaunchRetry, script
from crew_executor.launchers.base import SubmitTimeout
from crew_executor.launchers.script import ScriptLauncher
from crew_executor.testing import LauncherConformance, stopped

from ..helpers import add, wait_until
from . import standin

RUN = "crew-0123456789abcdef"


class StandinConformance(LauncherConformance):
    """Tests of a launcher before its stand-in; those that begin with an underscore are the launcher's own."""

    kind = ""
    launcher_class: type[ScriptLauncher]

    @pytest.fixture(autouse=True)
    def _scheduler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.folder = tmp_path / "jobs"
        self.monkeypatch = monkeypatch
        with standin(self.kind, tmp_path / "scheduler", monkeypatch) as self.standin:
            yield

    # ------------------------------------------------------------------ for the contract's tests

    def launcher(self, **options: Any) -> ScriptLauncher:
        """Return one."""
        made = self.launcher_class(**{"folder": self.folder, "host": "127.0.0.1", **options})
        made.poll_seconds = (0.2, 0.5)
        return made

    def refused_launcher(self, **options: Any) -> ScriptLauncher:
        """Return one with a queue that is not there."""
        return self.launcher(queue="nosuch", **options)

    @contextlib.contextmanager
    def pending(self) -> Iterator[None]:
        """Hold all jobs."""
        self.standin.set("hold")
        try:
            yield
        finally:
            self.standin.set("hold", None)

    @abstractmethod
    def delete(self, job: str) -> None:
        """End a job as an administrator does."""

    def end_from_outside(self, launcher: Any, host: str, pid: int) -> bool:
        """End the only job that runs."""
        (job,) = [job for job, facts in self.standin.jobs().items() if facts["state"] == "running"]
        self.delete(job)
        return True

    @contextlib.contextmanager
    def lose(self, host: str) -> Iterator[None]:
        """Stop the agents."""
        with contextlib.ExitStack() as stack:
            for facts in self.standin.jobs().values():
                if facts["state"] == "running":
                    stack.enter_context(stopped(int(str(facts["pid"]))))
            yield

    def client_script(self) -> str:
        """Make one."""
        name, module = self.launcher_class.__name__, self.launcher_class.__module__
        options = f"folder={str(self.folder)!r}, host='127.0.0.1', lost_after=2.0"
        return f"from {module} import {name}\nlauncher = {name}({options})"

    # ------------------------------------------------------------------ for tests without an executor

    def job(self, command: str, number: int = 1) -> Job:
        """Return a job that runs shell commands in an agent's place."""
        program = self.folder.parent / f"program-{number}"
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)
        return Job(f"{RUN}-{number}", number, 1, b"secret", {}, None, str(program), 0)

    def wait_for(self, launcher: ScriptLauncher, handle: Any, state: JobState) -> str:
        """Wait until a job is in this state; return the scheduler's words."""
        wait_until(lambda: launcher.poll([handle])[handle].state is state, f"{handle} is {state}")
        return launcher.poll([handle])[handle].words

    # ------------------------------------------------------------------ the tests

    def test_an_array_of_three_is_one_submission_and_each_job_is_known(self) -> None:
        launcher = self.launcher()
        with CrewExecutor(3, launcher=launcher, min_workers=3) as executor:
            wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 3, "all have come")
            assert len(self.standin.commands(launcher.submit_command[0])) == 1
            known = {entry.handle: entry.phase.name for entry in _entries(executor)}

        assert known == dict.fromkeys(self.standin.jobs(), "JOINED")
        assert len(known) == 3

    def test_a_limit_of_the_users_jobs_means_fewer_workers_and_no_failure(self) -> None:
        self.standin.set("limit", "2")
        with CrewExecutor(5, launcher=self.launcher(), min_workers=5) as executor:
            wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 2, "two have come")
            assert executor.submit(add, 1, 2).result() == 3
            assert len(self.standin.jobs()) == 2

    def test_what_a_job_has_put_out_is_told_if_its_agent_never_came(self) -> None:
        launcher = self.launcher(python="/nowhere/python", max_failed_launches=1)
        with CrewExecutor(1, launcher=launcher) as executor:
            error = executor.submit(add, 1, 2).exception()

        assert isinstance(error, BrokenCrewError)
        assert "/nowhere/python" in str(error)
        assert re.search("not found|No such file", str(error))  # the shell's words
        assert "127" in str(error)

    def test_the_output_of_each_job_of_an_array_is_found(self) -> None:
        launcher = self.launcher()
        launcher.check()
        handles = launcher.submit(self.job("echo this is number $PBS_ARRAY_INDEX$LSB_JOBINDEX; exit 3"), 3)
        for handle in handles:
            self.wait_for(launcher, handle, JobState.ENDED)
        texts = [launcher.explain(handle) for handle in handles]
        first = 0 if self.kind == "pbs" else 1

        assert all(f"this is number {first + place}\n" in f"{text}\n" for place, text in enumerate(texts))
        launcher.close()

    def test_a_job_that_was_killed_while_it_pended_has_ended(self) -> None:
        self.standin.set("hold")
        launcher = self.launcher()
        launcher.check()
        (handle,) = launcher.submit(self.job("sleep 60"), 1)
        assert launcher.poll([handle])[handle].state is JobState.PENDING
        assert "no output" in launcher.explain(handle)
        launcher.cancel([handle])
        self.wait_for(launcher, handle, JobState.ENDED)
        launcher.cancel([handle])  # it is gone already: no error
        launcher.close()

    def test_a_job_that_nobody_knows_has_ended(self) -> None:
        launcher = self.launcher()
        launcher.check()
        (handle,) = launcher.submit(self.job("exec sleep 60"), 1)
        self.wait_for(launcher, handle, JobState.RUNNING)
        unknown = str(handle).replace("101", "999")
        statuses = launcher.poll([unknown, handle])

        assert [status.state for status in statuses.values()] == [JobState.ENDED, JobState.RUNNING]
        assert "does not know it" in statuses[unknown].words
        launcher.cancel([handle, unknown])
        launcher.close()

    def test_a_status_command_that_fails_is_no_answer(self) -> None:
        launcher = self.launcher()
        launcher.check()
        (handle,) = launcher.submit(self.job("exec sleep 60"), 1)
        self.standin.set("server", "refuses")
        with pytest.raises(LaunchError, match="ended with exit code"):
            launcher.poll([handle])
        assert "does not answer" in launcher.explain(handle)
        self.standin.set("server", None)
        launcher.cancel([handle])
        launcher.close()

    def test_a_server_that_is_not_there_is_tried_again(self) -> None:
        self.standin.set("server", "refuses")
        with CrewExecutor(1, launcher=self.launcher()) as executor:
            future = executor.submit(add, 1, 2)
            wait_until(lambda: bool(self._submissions()), "it is tried")
            self.standin.set("server", None)
            assert future.result() == 3

        assert len(self.standin.jobs()) == 1

    def _submissions(self) -> list[str]:
        return self.standin.commands(self.launcher_class.submit_command[0])

    def test_submissions_without_an_answer_are_not_doubled(self) -> None:
        self.monkeypatch.setattr(script, "COMMAND_SECONDS", 1.0)
        self.standin.set("server", "forgets")
        with CrewExecutor(2, launcher=self.launcher(), min_workers=2) as executor:
            wait_until(lambda: len(self.standin.jobs()) == 2, "they are submitted")
            assert executor.submit(add, 1, 2).result() == 3
            wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 2, "both have come")

        assert len(self.standin.jobs()) == 2
        assert len(self._submissions()) == 1

    def test_jobs_of_a_first_submission_are_not_found_for_a_second_one(self) -> None:
        launcher = self.launcher()
        launcher.check()
        job = self.job("exec sleep 60")
        first = launcher.submit(job, 1)
        self.monkeypatch.setattr(script, "COMMAND_SECONDS", 1.0)
        self.standin.set("server", "forgets")
        with pytest.raises(SubmitTimeout):
            launcher.submit(job, 3)
        self.standin.set("server", None)
        self.monkeypatch.undo()
        self.monkeypatch.setenv("PATH", self.standin.path)
        self.monkeypatch.setenv("CREW_TEST_STANDIN", str(self.standin.state))
        found = launcher.find(job)

        assert len(set(found)) == 3
        assert not set(first) & set(found)
        assert {*first, *found} == set(self.standin.jobs())
        assert not launcher.find(job)
        launcher.cancel([*first, *found])
        launcher.close()

    def test_refusals_have_the_command_the_words_and_what_to_try(self) -> None:
        launcher = self.launcher(queue="nosuch")
        launcher.check()
        with pytest.raises(LaunchError) as caught:
            launcher.submit(self.job("true"), 1)
        launcher.close()

        assert launcher.submit_command[0] in str(caught.value)
        assert f"give {self.launcher_class.__name__}(queue=...)" in str(caught.value)

    def test_a_server_that_is_down_is_for_now(self) -> None:
        launcher = self.launcher()
        launcher.check()
        self.standin.set("server", "refuses")
        with pytest.raises(LaunchRetry) as caught:
            launcher.submit(self.job("true"), 1)
        launcher.close()

        assert not isinstance(caught.value, SubmitTimeout)
        assert "onnect" in str(caught.value)

    def test_words_with_odd_signs_arrive_unharmed(self) -> None:
        self.folder = self.folder.parent / "wörds $HOME 'n\" `more`"
        launcher = self.launcher(log_folder=self.folder.parent / "logs", working_directory=self.folder)
        launcher.check()
        (self.folder / "out put").mkdir()
        program = self.folder / "pro gram $x"
        program.write_text('#!/bin/sh\npwd\nfor word; do echo "<$word>"; done\n')
        program.chmod(0o755)
        (handle,) = launcher.submit(Job(f"{RUN}-1", 1, 1, b"", {}, None, str(program), 0), 1)
        self.wait_for(launcher, handle, JobState.ENDED)
        text = launcher.explain(handle)
        launcher.close()

        path = self.folder / f"{RUN}-1.invitation"
        assert f"{self.folder}\n<-m>\n<crew_executor>\n<worker>\n<{path}>" in text

    def test_folders_that_would_be_something_else_to_the_scheduler_are_refused(self) -> None:
        for odd in ["a b", "a'b", 'a"b', "a\nb"] + (["a:b", "a,b", "a^array_index^"] if self.kind == "pbs" else ["%J"]):
            with pytest.raises(ValueError, match=r"log_folder|one line"):
                self.launcher(folder=f"/tmp/{odd}")


def _entries(executor: CrewExecutor) -> list[Any]:
    fleet = executor._dispatcher._employer
    return list(fleet._jobs.entries.values())
