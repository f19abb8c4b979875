"""Checks the launcher for PBS before stand-ins for qsub, qstat and qdel: by the documentation, not by the product."""

from __future__ import annotations

import pytest

from crew_executor import LaunchError
from crew_executor.launchers import JobState, LaunchRetry
from crew_executor.launchers.pbs import PBSLauncher

from .standins.conformance import StandinConformance

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]


class TestPBSLauncher(StandinConformance):
    """The contract, and what is PBS's own."""

    kind = "pbs"
    launcher_class = PBSLauncher

    def delete(self, job: str) -> None:
        """Call qdel."""
        assert self.standin.run("qdel", job).returncode == 0

    def test_a_job_pends_with_the_servers_comment(self) -> None:
        launcher, handle = self._held_job()
        for state, comment in (
            ("H", "Job held by crew on Mon Jan 5 10:00:00 2026"),
            ("Q", "Not Running: User has reached queue workq running job limit."),
            ("W", ""),
        ):
            self.standin.set("pending_state", state)
            self.standin.set("comment", comment)
            status = launcher.poll([handle])[handle]
            assert status.state is JobState.PENDING
            assert comment in status.words
        self._end(launcher, handle)

    def test_a_job_that_can_never_run_is_not_waited_for(self) -> None:
        launcher, handle = self._held_job()
        for state, comment in (
            ("Q", "Can Never Run: Insufficient amount of resource: ncpus (R: 100 A: 4 T: 4)"),
            ("H", "job held, too many failed attempts to run"),
        ):
            self.standin.set("pending_state", state)
            self.standin.set("comment", comment)
            status = launcher.poll([handle])[handle]
            assert status.state is JobState.ENDED
            assert comment in status.words
        self._end(launcher, handle)

    def _held_job(self) -> tuple[PBSLauncher, str]:
        self.standin.set("hold")
        launcher = self.launcher()
        launcher.check()
        (handle,) = launcher.submit(self.job("exec sleep 60"), 1)
        return launcher, handle

    def _end(self, launcher: PBSLauncher, handle: str) -> None:
        launcher.cancel([handle])
        launcher.close()

    def test_how_a_job_ended_is_told_and_whose_fault_it_was(self) -> None:
        launcher = self.launcher()
        launcher.check()
        self.standin.set("104.pbs.why", "walltime")
        commands = ("exit 0", "exit 3", "kill -9 $$", "exit 1")
        handles = [launcher.submit(self.job(command, number), 1)[0] for number, command in enumerate(commands)]
        words = [self.wait_for(launcher, handle, JobState.ENDED) for handle in handles]
        statuses = launcher.poll(handles)
        launcher.close()

        assert words[0].endswith("finished, exit status 0")
        assert words[1].endswith("failed, exit status 3")
        assert words[2].endswith("failed, exit status 265, killed by signal 9")
        assert words[3].endswith("exceeded resource walltime, exit status -29: its walltime is over")
        assert [statuses[handle].is_taken_away for handle in handles] == [False, False, False, True]

    def test_a_server_without_job_history_is_asked_without_it(self) -> None:
        self.standin.set("no_history")
        launcher = self.launcher()
        launcher.check()
        (handle,) = launcher.submit(self.job("exec sleep 60"), 1)
        self.wait_for(launcher, handle, JobState.RUNNING)
        launcher.cancel([handle])
        assert "does not know it" in self.wait_for(launcher, handle, JobState.ENDED)
        launcher.close()

        assert len([line for line in self.standin.commands("qstat") if " -x " in line]) == 1

    def test_an_array_that_is_too_large_for_the_server_is_made_smaller(self) -> None:
        self.standin.set("max_array_size", "4")
        launcher = self.launcher()
        launcher.check()
        handles = launcher.submit(self.job("true"), 9)
        for handle in handles:
            self.wait_for(launcher, handle, JobState.ENDED)
        launcher.close()

        assert handles == [f"101[{index}].pbs" for index in range(4)]

    def test_all_jobs_of_an_array_are_asked_about_by_its_id(self) -> None:
        launcher = self.launcher()
        launcher.check()
        handles = launcher.submit(self.job("true"), 3)
        for handle in handles:
            self.wait_for(launcher, handle, JobState.ENDED)
        launcher.close()

        assert all(line.endswith(" 101[].pbs") for line in self.standin.commands("qstat"))

    def test_a_server_with_a_longer_name_on_the_host_is_the_same(self) -> None:
        handles = ["7[1].pbs", "7[2].pbs", "8.pbs"]
        launcher = self.launcher()
        assert launcher.handle_of({"PBS_JOBID": "7[2].pbs.cluster.example"}, handles) == "7[2].pbs"
        assert launcher.handle_of({"PBS_JOBID": "8"}, handles) == "8.pbs"
        assert launcher.handle_of({"PBS_JOBID": "7.pbs"}, handles) is None
        assert launcher.handle_of({}, handles) is None

    def test_words_of_the_server_are_for_now_or_for_ever(self) -> None:
        launcher = self.launcher()
        limits = (
            "qsub: would exceed queue generic's per-user limit",
            "qsub: Maximum number of jobs already in queue for user",
        )
        for words in limits:
            assert launcher.is_transient(words)
            assert launcher.is_full(words)
        assert launcher.is_transient("qsub: cannot connect to server pbs (errno=111)")
        assert launcher.is_unclear("qsub: End of File")
        for words, hint in (
            ("qsub: Job violates queue and/or server resource limits", "walltime="),
            ("qsub: Unknown queue", "queue="),
            ("qsub: Unauthorized Request", "project="),
            ("qsub: directive error: -r n", "skip_directives="),
        ):
            assert not launcher.is_transient(words)
            assert hint in launcher.advice(words)

    def test_a_status_that_is_no_table_of_jobs_is_no_answer(self) -> None:
        launcher = self.launcher()
        launcher.check()
        for words in ("[]", '{"Jobs": 1}', "not JSON"):
            self.standin.run("true")
            (self.folder.parent / "scheduler" / "bin" / "qstat").write_text(f"#!/bin/sh\necho '{words}'\n")
            with pytest.raises(LaunchError, match="qstat answered with"):
                launcher.poll(["1.pbs"])

    def test_a_job_that_was_moved_to_another_server_may_live(self) -> None:
        launcher = self.launcher()
        answer = '{"Jobs": {"1.pbs": {"job_state": "M", "comment": ""}}}'
        (self.folder.parent / "scheduler" / "bin" / "qstat").write_text(f"#!/bin/sh\necho '{answer}'\n")
        status = launcher.poll(["1.pbs"])["1.pbs"]

        assert status.state is JobState.ENDED
        assert not status.is_sure

    def test_one_job_too_many_is_for_now(self) -> None:
        self.standin.set("limit", "0")
        launcher = self.launcher()
        launcher.check()
        with pytest.raises(LaunchRetry, match="per-user limit"):
            launcher.submit(self.job("true"), 3)
        launcher.close()
