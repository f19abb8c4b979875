"""The jobs of one executor and their agents: where its workers come from when a launcher starts them elsewhere.

    workforce: a worker is wanted --> a place in a job, a new one if need be --> desk: launcher.submit()
    lobby: an agent has come --> the workers that wait for it are started there
    agent's reader: a worker is over --> workforce;   an agent is lost --> all its workers are

What to do with jobs decides core/jobs.py; here it is carried out. All is done by the dispatcher's thread: what others
hear, they put into its mailbox.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from . import invitations
from .addresses import resolve
from .agent_link import AgentLink, loss_of, settings_of
from .agent_link import Home as AgentHome
from .connection import Connection
from .conversation import Conversation
from .core.admission import SECRET_BYTES, Admitted, Door
from .core.jobs import JobEntry, Jobs, Phase, in_batches
from .core.worker import Worker
from .desk import Desk
from .employer import OnExit
from .errors import CrewError, LaunchError
from .far_ends import FarEnds
from .framing import LinkClosed
from .inquest import Inquest
from .invitations import PYTHON, AgentInvitation
from .launchers import Job, JobState, JobStatus, Launcher, LaunchRetry, WorkerExit
from .launchers.base import SubmitTimeout
from .lobby import Lobby
from .log import logger
from .mailbox import Mailbox
from .network import KEY_BYTES, NetworkLink
from .reserve import Reserve

if TYPE_CHECKING:
    from .inheritance import Courier

SILENCE = 0.25
"""The part of lost_after, after which a silent link is dropped; in the rest of it the agent may come back."""
LEAVE_SECONDS = 60.0
"""Before its walltime is over a job's workers are told to leave, or a twentieth of it before, if that is less."""
RESERVE_MAX = 64
"""Threads that are kept for agents that come when the interpreter starts none any more."""
PARTING_SECONDS = 3.0
"""How long the end of an executor waits for its agents to have ended their workers."""


class Home(AgentHome, Protocol):
    """What is asked of the dispatcher."""

    mailbox: Mailbox

    @property
    def workers_lending(self) -> int:
        """How many workers only wait for subtasks of their tasks."""


class Fleet:
    """Have workers elsewhere.

    Args:
        home: the dispatcher.
        launcher: starts jobs.
        name, run: of the executor.
        workers_max: so many workers may be there at a time.
        idle_timeout, environment, courier: what each worker is told, or should bring along.

    Raises:
        ValueError: the initializer's arguments cannot leave this machine.
    """

    def __init__(
        self, home: Home, launcher: Launcher, name: str, run: int, *, idle_timeout: float | None,
        environment: dict[str, str], courier: Courier | None, workers_max: int,
    ) -> None:  # fmt: skip
        if courier is not None and (courier.descriptors or courier.is_bound):
            raise ValueError(
                "initargs hold locks, queues or pipes of multiprocessing: these are of one machine, and cannot reach "
                "workers on another host"
            )
        self._home = home
        self._launcher = launcher
        self._name = name
        self._run = run
        self._idle_timeout = idle_timeout
        self._variables = list(environment)
        self.startup_timeout = launcher.startup_timeout
        walltime = launcher.walltime
        stay = None if walltime is None else walltime - min(LEAVE_SECONDS, walltime / 20)
        self._jobs = Jobs(
            launcher.workers_per_job, launcher.startup_timeout, launcher.poll_seconds, stay, launcher.max_jobs,
            launcher.max_launches, launcher.max_worker_hours,
        )  # fmt: skip
        self._jobs.count(time.monotonic())
        self._refusals: dict[int, str] = {}  # by job
        self._is_limit_told = self._is_delay_told = False
        self._reserve = Reserve(name)
        self._desk = Desk(name, launcher, home.mailbox, self._reserve.make)
        self._inquest = Inquest(self._desk, home.mailbox)
        self._workers_max = workers_max
        self._door = Door(run, PYTHON)
        self._key = os.urandom(KEY_BYTES) if launcher.is_encrypted and launcher.certificates is None else None
        self._lobby: Lobby | None = None
        self._addresses: list[str] = []
        self._numbers = itertools.count(1)
        self._ordered: list[JobEntry] = []  # since the last flush()
        self._waiting: dict[int, list[tuple[Connection, OnExit]]] = {}  # by job: for its agent
        self._unplaced: list[tuple[Connection, OnExit]] = []  # for a job to end, so that another may be there
        self._homes: dict[int, JobEntry] = {}  # by worker
        self._links: dict[str, AgentLink] = {}  # by seat, with the guest's number; also read by the lobby's thread
        self._entries: dict[str, JobEntry] = {}  # the same, for those that have joined
        self._joined_links: dict[int, AgentLink] = {}  # by job

    # ------------------------------------------------------------------ workers come

    def begin(self) -> None:
        """Have idle threads: two that nothing works without, and two for each agent."""
        jobs = -(-self._workers_max // self._launcher.workers_per_job)
        if sys.version_info >= (3, 12):
            self._reserve.fill(min(2 + 2 * jobs, RESERVE_MAX))

    def connect(self, worker: Worker, now: float) -> Connection:
        """Return the connection of a worker that is to come."""
        return Connection(worker, self._run, now, FarEnds(next(self._numbers)))

    def start(self, connection: Connection, on_exit: OnExit) -> None:
        """Give it a place, at an agent that is there or in a job that is about to be submitted."""
        self._open()
        if not self._place(connection, on_exit):
            self._unplaced.append((connection, on_exit))

    def _place(self, connection: Connection, on_exit: OnExit) -> bool:
        """Give it a place; return False if it must wait for one; raise LaunchError if there will never be one."""
        now = time.monotonic()
        self._jobs.count(now)
        entry = self._jobs.place(now, self._lending() if self._home.workers_lending else {})
        if entry is None:
            words = self._jobs.limit_reached()
            if words and not self._jobs.entries:
                raise LaunchError(f"no job is there, and no more may be started: {words}")
            if words and not self._is_limit_told:
                self._is_limit_told = True
                logger.warning("executor %s starts no more jobs, and goes on with those it has: %s", self._name, words)
            return False
        number = self._number_of(connection)
        self._homes[number] = entry
        if entry.phase is Phase.JOINED:
            self._hire(entry, self._joined_links[entry.number], connection, on_exit)
            return True
        self._waiting.setdefault(entry.number, []).append((connection, on_exit))
        if not entry.launch and entry not in self._ordered:
            self._ordered.append(entry)
        return True

    def _lending(self) -> dict[int, int]:
        """Return how many workers of each job only wait for subtasks."""
        return {
            number: sum(connection.worker.is_lending for connection in list(link.connections.values()))
            for number, link in self._joined_links.items()
        }

    def _over(self, entry: JobEntry) -> None:
        """Forget a job; there may be room for another now."""
        self._jobs.over(entry)
        if self._unplaced:
            self._home.mailbox.put(self._place_unplaced)

    def _place_unplaced(self) -> None:
        unplaced, self._unplaced = self._unplaced, []
        for connection, on_exit in unplaced:
            try:
                if not self._place(connection, on_exit):
                    self._unplaced.append((connection, on_exit))
            except LaunchError as error:
                on_exit(connection, WorkerExit(connection.worker.name, reason=str(error)))
        self.flush(time.monotonic())

    def _open(self) -> None:
        """Listen, from the first launch on."""
        if self._lobby is not None:
            return
        launcher = self._launcher
        if launcher.used_by:
            raise LaunchError(
                f"this {type(launcher).__name__} starts the jobs of executor {launcher.used_by}: give each executor a "
                "launcher of its own"
            )
        launcher.used_by = self._name
        try:
            self._desk.start()
            address, self._addresses = resolve(launcher.hosts)
            self._lobby = Lobby(
                self._name, address, launcher.ports, launcher.certificates or self._key, self._door,
                self._received_of, self._admitted, self._refused,
                self._tick, launcher.lost_after * SILENCE / 3, self._reserve.make,
            )  # fmt: skip
        except (CrewError, RuntimeError) as error:  # RuntimeError: no thread
            launcher.used_by = ""
            raise LaunchError(f"this machine cannot be reached as host={launcher.hosts!r}: {error}") from error

    @staticmethod
    def _number_of(connection: Connection) -> int:
        ends = connection.ends
        assert isinstance(ends, FarEnds)
        return ends.number

    def _hire(self, entry: JobEntry, link: AgentLink, connection: Connection, on_exit: OnExit) -> None:
        connection.expected_from = time.monotonic()
        connection.worker.round_trip = link.round_trip
        connection.leaves_at = entry.leaves_at
        invitation = connection.invitation(self._idle_timeout)
        fields = {
            "name": invitation.name, "secret": invitation.secret, "idle_timeout": invitation.idle_timeout,
            "thread_variables": self._variables,
        }  # fmt: skip
        with contextlib.suppress(LinkClosed):  # it was lost a moment ago, and tells so
            link.hire(connection, fields, partial(self._worker_over, on_exit, link))

    def _worker_over(self, on_exit: OnExit, link: AgentLink, connection: Connection, end: WorkerExit) -> None:
        """Note that a worker is over; any thread."""
        judged, entry = link.judge(end), self._entries.get(link.seat)
        self._home.mailbox.put(self._free_place, self._number_of(connection))
        if judged is end or end.is_launchers_fault or entry is None or entry.handle is None:  # nobody need be asked
            on_exit(connection, judged)
        else:
            now = time.monotonic()
            self._home.mailbox.put(self._inquest.open, entry.handle, connection, judged, on_exit, now)

    def _free_place(self, number: int) -> None:
        entry = self._homes.pop(number, None)
        if entry is not None:
            self._jobs.leave(entry, time.monotonic())

    # ------------------------------------------------------------------ jobs are submitted

    def flush(self, now: float) -> None:  # noqa: ARG002  as an Employer's
        """Submit the jobs that are wanted, several at a time if the launcher can."""
        ordered, self._ordered = self._ordered, []
        for batch in in_batches(ordered, self._launcher.jobs_per_submit):
            launch = batch[0].number
            for entry in batch:
                entry.launch = launch
            job = self._job_for(launch, len(batch))
            self._desk.submit(job, len(batch), 0.0, self._submitted, batch, job)

    def _job_for(self, launch: int, places: int) -> Job:
        launcher, lobby = self._launcher, self._lobby
        assert lobby is not None
        seat, secret = f"job-{launch}", os.urandom(SECRET_BYTES)
        self._door.offer(seat, secret, places)
        # For as long as the job may wait in a queue its agent is not there, and then it has startup_timeout.
        invitation = AgentInvitation(
            self._run, seat, secret, places, self._key, launcher.certificates_there,
            [(address, lobby.port) for address in self._addresses],
            launcher.lost_after, launcher.startup_timeout, launcher.environment, list(self._launcher.variables),
        )  # fmt: skip
        name = f"crew-{self._run:016x}-{launch}"
        return Job(
            name, launch, launcher.workers_per_job, invitations.encode(invitation), launcher.environment,
            launcher.walltime, launcher.python, lobby.port,
        )  # fmt: skip

    def _submitted(self, batch: list[JobEntry], job: Job, handles: Sequence[Hashable], error: Exception | None) -> None:
        """Note what came of a submission: a handle for each job, for some, or for none."""
        now = time.monotonic()
        batch = [entry for entry in batch if entry.phase is not Phase.OVER]
        if isinstance(error, SubmitTimeout):  # what was found by its name may be known already
            known = {entry.handle for entry in self._jobs.entries.values()}
            handles = [handle for handle in handles if handle not in known]
        for entry, handle in zip(batch, handles, strict=False):
            self._jobs.submitted(entry, handle, now)
            logger.info("executor %s: job %s of %d workers was submitted", self._name, handle, job.workers)
            if entry.phase is Phase.ENDING:  # nobody wants it any more
                self._cancel(entry)
        unwanted = list(handles)[len(batch) :]
        if unwanted:
            self._desk.cancel(unwanted)
        left = []
        for entry in batch[len(handles) :]:
            if entry.phase is Phase.ENDING:
                self._cancel(entry)
            else:
                left.append(entry)
        if not left:
            return
        if error is None or isinstance(error, LaunchRetry):
            pause = max(self._jobs.retry_pause(entry) for entry in left)
            if error is None:
                error = LaunchRetry(f"submit() has started {len(handles)} of {len(handles) + len(left)} jobs")
            if not isinstance(error, SubmitTimeout):
                level = logging.INFO if self._is_delay_told else logging.WARNING  # a limit of the site's may last
                self._is_delay_told = True
                logger.log(level, "a submission of %s is tried again in %.0f s: %s", self._name, pause, error)
            self._desk.submit(job, len(left), pause, self._submitted, left, job)
            return
        text = str(error) if isinstance(error, LaunchError) else f"{type(error).__name__}: {error}"
        for entry in left:
            self._fail(entry, f"its job could not be submitted: {text}")

    def _fail(self, entry: JobEntry, reason: str, *, is_launchers_fault: bool = False) -> None:
        """Tell that the workers of a job will not come."""
        self._over(entry)
        if self._is_last_of_launch(entry):
            self._door.forget(f"job-{entry.launch}")
        for connection, on_exit in self._waiting.pop(entry.number, []):
            self._homes.pop(self._number_of(connection), None)
            end = WorkerExit(connection.worker.name, reason=reason, is_launchers_fault=is_launchers_fault)
            on_exit(connection, end)

    def _is_last_of_launch(self, entry: JobEntry) -> bool:
        return not any(other.launch == entry.launch for other in self._jobs.entries.values())

    def _cancel(self, entry: JobEntry) -> None:
        """Have a job ended by its launcher, and forget it."""
        self._over(entry)
        if self._is_last_of_launch(entry):
            self._door.forget(f"job-{entry.launch}")
        if entry.handle is not None:
            self._desk.cancel([entry.handle])

    # ------------------------------------------------------------------ agents come (the lobby's thread)

    def _received_of(self, seat: str) -> int:
        link = self._links.get(seat)
        return 0 if link is None else link.conversation.received

    def _admitted(self, admitted: Admitted, stream: NetworkLink, round_trip: float) -> None:
        link = self._links.get(admitted.seat)
        try:
            if link is not None:
                link.conversation.attach(stream, admitted.received)
                self._home.mailbox.put(self._link_back, link)
                return
            silence = self._launcher.lost_after * SILENCE
            patience = self._launcher.lost_after - silence
            conversation = Conversation(
                admitted.seat, self._run, patience, silence,
                on_unlinked=partial(self._home.mailbox.put, self._link_lost, admitted.seat),
                make_thread=self._reserve.make,
            )  # fmt: skip
            about = admitted.about
            link = AgentLink(
                round_trip, admitted.seat, str(about.get("host", "?"))[:100], int(about.get("pid", 0)), conversation,
                self._home, self._noticed, self._lost, self._reserve.make,
            )  # fmt: skip
            self._links[admitted.seat] = link
            conversation.attach(stream, admitted.received)
        except LinkClosed:
            return  # it was given up a moment ago
        except RuntimeError:  # no thread for it: it may come again
            stream.free()
            self._links.pop(admitted.seat, None)
            raise
        self._home.mailbox.put(self._joined, link, dict(about.get("variables") or {}))

    def _refused(self, seat: str, why: str) -> None:
        self._home.mailbox.put(self._note_refusal, seat.partition("/")[0], why)

    def _tick(self) -> None:
        for link in list(self._links.values()):
            link.tick()

    def _noticed(self, link: AgentLink, words: str) -> None:
        link.why_lost = f"its host was about to be taken away ({words})"
        link.was_noticed = True  # at once: a worker that is told to end as well may be over next
        self._home.mailbox.put(self._take_notice, link, words)

    def _lost(self, link: AgentLink, reason: str) -> None:
        self._home.mailbox.put(self._take_loss, link, reason)

    # ------------------------------------------------------------------ agents come and go (the dispatcher's thread)

    def _joined(self, link: AgentLink, variables: dict[str, str]) -> None:
        entry = self._entry_of(link.seat, variables)
        try:
            link.start(settings_of(self._launcher))
        except RuntimeError as error:  # no thread to read from it
            self._links.pop(link.seat, None)
            self._door.forget(link.seat)
            link.conversation.close()
            if entry is not None:
                self._do_not_wait_for(entry, f"its agent came, and could not be read from: {error}")
            return
        if entry is None:  # it was given up while it was on its way
            logger.info("an agent on %s has come too late and is sent away", link.host)
            link.end()
            return
        self._entries[link.seat] = entry
        self._joined_links[entry.number] = link
        self._jobs.joined(entry, time.monotonic())
        for connection, on_exit in self._waiting.pop(entry.number, []):
            self._hire(entry, link, connection, on_exit)

    def _entry_of(self, seat: str, variables: Mapping[str, str]) -> JobEntry | None:
        """Return which job of its submission an agent is."""
        launch = int(seat.partition("/")[0].rpartition("-")[2])
        found = [each for each in self._jobs.entries.values() if each.launch == launch and each.is_on_its_way]
        if len(found) > 1:
            handles = [entry.handle for entry in found if entry.handle is not None]
            handle = self._launcher.handle_of(variables, handles)
            found = [entry for entry in found if entry.handle == handle] or found
        return found[0] if found else None

    def _note_refusal(self, seat: str, why: str) -> None:
        """Remember why somebody was refused who said to be of a job, for when that comes to nothing."""
        for entry in self._jobs.entries.values():
            if seat == f"job-{entry.launch}" and entry.is_on_its_way:
                self._refusals[entry.number] = why

    def _link_lost(self, seat: str) -> None:
        entry, link = self._entries.get(seat), self._links.get(seat)
        if entry is not None and link is not None and not link.conversation.has_link:
            self._jobs.link_lost(entry, time.monotonic())
            if link.is_ending and not link.connections:
                link.conversation.close()  # it has ended, as it was told: its place is free

    def _link_back(self, link: AgentLink) -> None:
        if (entry := self._entries.get(link.seat)) is not None:
            self._jobs.link_back(entry)

    def _take_notice(self, link: AgentLink, words: str) -> None:
        """Let the workers of a host go that is about to be taken away; what they run may be run again for nothing."""
        entry = self._entries.get(link.seat)
        if entry is not None:
            logger.info("%s is about to be taken away (%s): its workers leave", link.host, words)
            entry.leaves_at = 0.0
            link.let_leave(0.0)

    def _take_loss(self, link: AgentLink, reason: str) -> None:
        """Give up an agent that is gone, with all its workers."""
        self._links.pop(link.seat, None)
        self._door.forget(link.seat)
        entry = self._entries.pop(link.seat, None)
        if entry is not None:
            del self._joined_links[entry.number]
        link.close()
        reason = reason or f"nothing was heard of it for lost_after={self._launcher.lost_after:g} s"
        if not link.is_ending or link.connections:
            if entry is not None and entry.words and entry.words not in reason:
                reason = f"{reason}: {entry.words}"
            logger.warning("the agent on %s is lost with %d workers: %s", link.host, len(link.connections), reason)
            reason = f"its host {link.host} is lost: {reason}"
            link.abandon(partial(loss_of, reason, link.is_taken_away or link.was_noticed))
        if entry is not None:
            if not link.is_ending and entry.handle is not None:
                self._desk.cancel([entry.handle])  # the scheduler may take a dead node for a running one for ever
            self._over(entry)

    # ------------------------------------------------------------------ workers are ended

    def kill(self, connection: Connection, signal_number: int) -> None:
        """Send a signal to a worker; one that has not come is not waited for any more."""
        number = self._number_of(connection)
        entry = self._homes.get(number)
        not_come = WorkerExit(connection.worker.name, reason="it had not come yet", is_launchers_fault=True)
        for place, (waiting, on_exit) in enumerate(self._unplaced):
            if waiting is connection:
                del self._unplaced[place]
                on_exit(connection, not_come)
                return
        if entry is None:
            return
        for place, (waiting, on_exit) in enumerate(self._waiting.get(entry.number, [])):
            if waiting is connection:
                del self._waiting[entry.number][place]
                self._free_place(number)
                if not entry.workers:
                    self._give_up(entry)
                on_exit(connection, not_come)
                return
        link = self._joined_links.get(entry.number)
        if link is not None:
            link.signal(connection, signal_number)

    def _give_up(self, entry: JobEntry) -> None:
        """Cancel a job that has not come and that nobody waits for."""
        if entry.handle is None:
            self._jobs.ending(entry)  # its submission is under way: see _submitted()
        else:
            self._cancel(entry)

    def stop(self, connection: Connection, ordinal: int) -> None:
        """End the run of a task, behind its recall."""
        connection.put_stop(ordinal)
        connection.pump()

    def describe(self, connection: Connection) -> str:  # noqa: ARG002  as an Employer's
        """Return how jobs are started."""
        try:
            return str(self._launcher.describe())
        except Exception as error:  # it may be anybody's
            return f"started by {type(self._launcher).__name__}, whose describe() failed: {error!r}"

    # ------------------------------------------------------------------ time

    def watch(self, now: float, tasks_queued: int, workers_kept: int, next_seconds: float) -> None:
        """Ask about jobs, give up those that do not come, cancel what is not needed. Under the dispatcher's lock."""
        jobs = self._jobs
        jobs.count(now)
        self._inquest.watch(now)
        due = jobs.due_polls(now)
        if due:
            self._desk.poll([entry.handle for entry in due if entry.handle is not None], self._polled)
        for entry in jobs.overdue(now):
            why = f"its agent did not come within startup_timeout={self.startup_timeout:g} s"
            self._do_not_wait_for(entry, why, is_overdue=True)
        for entry in jobs.short_of_time(now, next_seconds):
            self._joined_links[entry.number].let_leave(now)
        for entry in jobs.empty(now):
            jobs.ending(entry)
            self._joined_links[entry.number].end()
        for entry in jobs.surplus(tasks_queued, workers_kept, now):
            self._home.mailbox.put(self._withdraw, entry)

    def _withdraw(self, entry: JobEntry) -> None:
        for connection, _on_exit in list(self._waiting.get(entry.number, [])):
            self.kill(connection, 0)

    def _do_not_wait_for(self, entry: JobEntry, why: str, *, is_overdue: bool = False) -> None:
        self._jobs.ending(entry)
        self._desk.explain(entry.handle, self._explained, entry, why, is_overdue)

    def _explained(self, entry: JobEntry, why: str, is_overdue: bool, words: str) -> None:
        tried = ", ".join(f"{address}:{self._lobby.port}" for address in self._addresses) if self._lobby else "nothing"
        refusal = self._refusals.pop(entry.number, "")
        hint = f"; its agent was refused: {refusal}."
        if not refusal:
            hint = f"; agents are to come to {tried}"
            hint += ": can the host reach that, or is there a firewall?" if is_overdue else "."
        said = "\n".join(filter(None, (entry.words, words)))
        self._desk.cancel([] if entry.handle is None else [entry.handle])
        self._fail(entry, f"{why}{hint}" + (f" The launcher says:\n{said}" if said else ""))

    def _polled(self, statuses: Mapping[Hashable, JobStatus]) -> None:
        now = time.monotonic()
        by_handle = {entry.handle: entry for entry in self._jobs.entries.values() if entry.handle is not None}
        for handle, status in statuses.items():
            entry = by_handle.get(handle)
            if entry is None:
                continue
            if status.state is not JobState.ENDED:
                self._jobs.told(entry, is_pending=status.state is JobState.PENDING, words=status.words, now=now)
            elif entry.phase is Phase.SUBMITTED:
                entry.words = status.words
                if status.is_taken_away:
                    self._fail(entry, f"its job ended before it began: {status.words}", is_launchers_fault=True)
                else:
                    self._do_not_wait_for(entry, "its job ended before its agent had come")
            elif entry.phase is Phase.JOINED and status.is_sure:
                self._give_up_dead(entry, status)

    def _give_up_dead(self, entry: JobEntry, status: JobStatus) -> None:
        """Do not wait for the agent of a job to come back which the scheduler knows to have ended."""
        link = self._joined_links[entry.number]
        if not link.conversation.has_link:
            entry.words = status.words
            link.why_lost = link.why_lost or f"its job {entry.handle} has ended ({status.words or 'why is not said'})"
            link.is_taken_away = link.is_taken_away and status.is_taken_away
            link.conversation.close()

    def next_wake(self) -> list[float]:
        """Return the times that watch() must not miss."""
        return [self._jobs.next_due(), *self._inquest.next_wake()]

    def forget_share(self, number: int) -> None:
        """Agents keep content, not shares: it is forgotten with its segment."""

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """End all agents, cancel what has not come, free the port."""
        for entry in list(self._jobs.entries.values()):
            if entry.is_on_its_way or entry.phase is Phase.ENDING:
                self._cancel(entry)
        links = list(self._links.values())
        for link in links:
            link.end()
        until = time.monotonic() + PARTING_SECONDS
        for link in links:
            link.conversation.wait_for_parting(max(0.0, until - time.monotonic()))
        if self._lobby is not None:
            self._lobby.close()
        for link in list(self._links.values()):
            link.close()
        self._desk.close()
        self._reserve.close()
        if self._lobby is not None:
            self._launcher.used_by = ""
