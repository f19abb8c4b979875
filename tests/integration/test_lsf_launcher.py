"""Checks the launcher for LSF before stand-ins for bsub, bjobs and bkill: by the documentation, not by the product."""

from __future__ import annotations

import pytest

from crew_executor.launchers import JobState, LaunchRetry
from crew_executor.launchers.lsf import LSFLauncher

from .standins.conformance import StandinConformance

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]


class TestLSFLauncher(StandinConformance):
    """The contract, and what is LSF's own."""

    kind = "lsf"
    launcher_class = LSFLauncher

    def delete(self, job: str) -> None:
        """Call bkill."""
        assert self.standin.run("bkill", job).returncode == 0

    def test_states_of_jobs_that_pend_or_run(self) -> None:
        self.standin.set("hold")
        launcher = self.launcher()
        launcher.check()
        (handle,) = launcher.submit(self.job("exec sleep 60"), 1)
        for state in ("PEND", "PSUSP", "WAIT"):
            self.standin.set("pending_state", state)
            assert launcher.poll([handle])[handle] == (JobState.PENDING, state, False, True)
        self.standin.set("hold", None)
        self.wait_for(launcher, handle, JobState.RUNNING)
        for state in ("USUSP", "SSUSP", "RUN"):
            self.standin.set("running_state", state)
            assert launcher.poll([handle])[handle] == (JobState.RUNNING, state, False, True)
        launcher.cancel([handle])
        assert "TERM_OWNER: job killed by owner" in self.wait_for(launcher, handle, JobState.ENDED)
        launcher.close()

    def test_a_job_whose_host_is_out_of_sight_may_live(self) -> None:
        launcher = self.launcher()
        launcher.check()
        (handle,) = launcher.submit(self.job("exec sleep 60"), 1)
        self.wait_for(launcher, handle, JobState.RUNNING)
        for state in ("UNKWN", "ZOMBI"):
            self.standin.set("running_state", state)
            status = launcher.poll([handle])[handle]
            assert (status.state, status.is_taken_away, status.is_sure) == (JobState.ENDED, True, False)
            assert state in status.words
        launcher.cancel([handle])
        launcher.close()

    def test_how_a_job_ended_is_told_and_whose_fault_it_was(self) -> None:
        launcher = self.launcher()
        launcher.check()
        cases = (
            ("exit 0", "", "DONE", False),
            ("exit 3", "", "EXIT (exit code 3)", False),
            ("exit 1", "memory", "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit, exit code 1", False),
            ("exit 1", "runlimit", "TERM_RUNLIMIT: job killed after reaching LSF run time limit", True),
            ("exit 1", "TERM_PREEMPT: job killed after preemption", "preemption", True),
            ("exit 1", "TERM_RC_RECLAIM: job killed and requeued when an LSF resource connector", "connector", True),
        )
        handles = []
        for number, (command, why, _words, _is_taken_away) in enumerate(cases):
            if why:
                self.standin.set(f"{101 + number}.why", why)
            handles += launcher.submit(self.job(command, number), 1)
        for handle, (_command, _why, words, is_taken_away) in zip(handles, cases, strict=True):
            assert words in self.wait_for(launcher, handle, JobState.ENDED)
            assert launcher.poll([handle])[handle].is_taken_away is is_taken_away
        assert "The output (if any) is above this job summary." in launcher.explain(handles[-1])
        launcher.close()

    def test_a_submission_that_waits_for_room_is_ended_and_tried_again(self) -> None:
        self.standin.set("limit", "0")
        launcher = self.launcher()
        launcher.check()
        with pytest.raises(LaunchRetry, match="Pending job threshold reached"):
            launcher.submit(self.job("true"), 1)
        launcher.close()

        assert not self.standin.jobs()

    def test_the_index_in_an_array_is_told_by_a_variable(self) -> None:
        launcher = self.launcher()
        handles = ["7[1]", "7[12]", "8"]
        assert launcher.handle_of({"LSB_JOBID": "7", "LSB_JOBINDEX": "12"}, handles) == "7[12]"
        assert launcher.handle_of({"LSB_JOBID": "8", "LSB_JOBINDEX": "0"}, handles) == "8"
        assert launcher.handle_of({"LSB_JOBID": "7", "LSB_JOBINDEX": "0"}, handles) is None
        assert launcher.handle_of({}, handles) is None

    def test_words_of_the_daemon_are_for_now_or_for_ever(self) -> None:
        launcher = self.launcher()
        for words in ("LSF is down. Please wait ...", "batch daemon not responding ... still trying"):
            assert launcher.is_transient(words)
            assert not launcher.is_full(words)
        assert launcher.is_unclear("Failed in an LSF library call: Communication time out")
        for words, hint in (
            ("nosuch: No such queue. Job not submitted.", "queue="),
            ("short: User cannot use the queue. Job not submitted.", "queue="),
            ("RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.", "walltime="),
            ("Too many processors requested. Job not submitted.", "cpus="),
            ("Bad resource requirement syntax. Job not submitted.", "skip_directives="),
        ):
            assert not launcher.is_transient(words)
            assert hint in launcher.advice(words)

    def test_a_queue_of_the_users_is_kept_and_what_a_job_around_us_has_set_is_not(self) -> None:
        self.monkeypatch.setenv("LSB_DEFAULTQUEUE", "short")
        self.monkeypatch.setenv("LSB_JOBID", "5")
        self.monkeypatch.setenv("LSB_BJOBS_FORMAT", "user")
        said = self.launcher().ask("/usr/bin/env")

        assert "LSB_DEFAULTQUEUE=short" in said
        assert "LSB_JOBID" not in said
        assert "LSB_BJOBS_FORMAT" not in said

    def test_memory_is_counted_in_the_clusters_unit(self) -> None:
        assert '#BSUB -M 2\n#BSUB -R "rusage[mem=2]"\n' in self.launcher(memory_gb=2, memory_unit_mb=1024).job_script()
        for unit in (0, -1.0, float("inf")):
            with pytest.raises(ValueError, match="memory_unit_mb"):
                self.launcher(memory_unit_mb=unit)

    def test_a_short_job_gets_no_warning_as_that_would_come_at_once(self) -> None:
        assert "-wt" not in self.launcher(walltime=60).job_script()
        assert "-wa USR1" in self.launcher(walltime=180).job_script()
