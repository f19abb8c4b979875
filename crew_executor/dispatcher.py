r"""The imperative shell around the scheduler: one per executor, in the client's process.

    submit()                  users' threads ----> inbox, and a bell if somebody waits for it
    cancel(), stats()         users' threads ---\\
    outcomes, joining, BYE    reader threads ----+--> lock { scheduler decides } --> effects, after the lock:
    new tasks in the inbox    whoever of ours --/                                      send frames, finish futures,
    time, exits of processes, scaling, shutdown  -> dispatcher thread                   read a cell, kill

A thread of ours that comes along with news takes the lock, takes what is in the inbox as well, lets the scheduler
decide, frees the lock, and carries out the effects. When workers are busy those are the reader threads; the dispatcher
thread comes when the bell rings, keeps the time, scales, and buries workers.

Rule 1: under the lock nothing blocks, and nothing of a user's is called. Rule 2: users' threads decide nothing that has
more than one step. A signal handler may raise in the middle of it, or call submit(): see inbox.py. What cancel() had
begun is finished by the dispatcher thread; and who finds that its own thread has the lock, being a handler or a
finaliser that interrupted its holder, leaves an event to that thread. Rule 3: whatever ends that one ends every future
with it.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import errors, pools, transport
from .announcer import Announcer
from .broadcasts import Broadcasts
from .canceller import Canceller
from .cell import load_barrier
from .chunks import Chunk
from .connection import Connection
from .core.messages import Outcome
from .core.scaling import ScalingRules
from .core.scheduler import Scheduler
from .core.stock import Stock
from .core.task import Task
from .effects import Effects
from .employer import Employer
from .errors import LaunchError, ProtocolError
from .events import EventStream
from .futures import CrewFuture
from .inbox import Inbox
from .log import logger
from .mailbox import Event, Mailbox
from .options import TaskOptions
from .reader import serve
from .recaller import Recaller
from .recruiter import Recruiter
from .segments import SegmentPool
from .shares import Beside, Shares
from .stats import Stats
from .subtasks import Subtasks
from .thread import Thread
from .turnstile import Turnstile
from .workforce import Workforce

STALL_SECONDS = 2.0
"""A pause of this thread above this is the client's own (SIGSTOP, debugger): every deadline moves by it (RULES 6)."""
LOOK_SECONDS = 1.0
"""While tasks are out, seconds between looks at the workers' clocks: has each started what it was given?"""
GLANCE_SECONDS = 0.002
"""While tickets are in use, seconds between looks at what their users have sent; see Inbox.is_glanced_at."""
THREADLESS_LOOK = 0.02
"""Seconds between looks for a worker to read from, while the interpreter ends."""


class Dispatcher:
    """Run the tasks of one executor. All public methods may be called from any thread."""

    def __init__(
        self, name: str, run_id: int, hire: Callable[[Dispatcher], Employer], rules: ScalingRules, *,
        tasks_max: int | None, max_pending: int | None, initializer: bytes, stock: Stock,
    ) -> None:  # fmt: skip
        transport.load()
        errors.load()
        load_barrier()
        self.name, self.run_id, self.max_pending = name, run_id, max_pending
        self._lock = threading.RLock()  # re-entrant only for is_interrupting()
        self.mailbox = Mailbox()
        self._employer = hire(self)
        self._workforce = Workforce(self, self._employer, name, tasks_max, rules.max_workers, stock)
        self._connections = self._workforce.connections
        self.events = events = EventStream(self._lock, self._connections)
        self._announcer = announcer = Announcer(name, events)
        self._task_ids = itertools.count(1)
        self._effects = Effects(self._connections, announcer, self._task_ids, self._recall, self._poke)
        self._scheduler = Scheduler(self._effects, rules.max_workers)
        self.recruiter = Recruiter(name, rules, self._scheduler, self._connections, stock)
        self._scaler = self.recruiter.scaler
        self.segments: SegmentPool = SegmentPool()
        self.shares: Shares = Shares(name, lambda number: self.mailbox.put(self._workforce.forget_share, number))
        self._inbox = Inbox(self.mailbox)
        self.refuse_later = partial(self._effects.note, self._refuse)
        self._turnstile = Turnstile(self, self._inbox, self._scheduler, self._connections)
        self._launches_asked: list[threading.Lock] = []
        self.is_closing = self._is_killing = self._is_poked = self._is_tick_planned = self._is_look_planned = False
        self.broken: errors.BrokenCrewError | None = None
        self._new_thread = partial(Thread, self._run, f"crew-dispatcher-{name}")
        self._thread = self._new_thread()
        self._is_started = self._is_running = self._is_ended = self.is_lent_a_thread = False  # the thread
        self._reader_idents: set[int] = set()
        self.recaller = Recaller(self, self._scheduler, self._connections)
        self.canceller = Canceller(self, self._lock, self._scheduler, self._workforce, self._inbox, announcer, events)
        self.broadcasts = Broadcasts(self, self._lock, announcer, self._connections, initializer, self._scheduler)
        self._subtasks = Subtasks(self, self.canceller, self._task_ids)
        # What readers tell these two, as the dispatcher is their listener:
        self.subtask_asked = self._subtasks.serve
        self.welcome, self.call_answered = self.broadcasts.welcome, self.broadcasts.answered

    # ------------------------------------------------------------------ for users' threads

    def submit(
        self, future: CrewFuture[Any], key: Any, head: bytes, payload: bytes | tuple[bytes, ...], options: TaskOptions,
        beside: Beside | None,
    ) -> None:  # fmt: skip
        """Take a task; block while max_pending are open, except in threads of ours (RULES 14).

        Raises:
            RuntimeError: the executor is shut down.
            BrokenCrewError: the pool cannot go on.
        """
        number = next(self._task_ids)
        if options.are_plain:
            task = Task(number, key, payload, future, beside, head)  # none by name: a third of what it costs
        else:
            task = Task(
                number, key, payload, future, head=head, priority=options.priority or 0, budget=options.make_budget(),
                flags=options.task_flags, beside=beside, needs=options.resources or None,
            )  # fmt: skip
        future._task = task
        self._put(task)

    def submit_chunk(
        self, chunk: Chunk, key: Any, count: int, size: int, priority: int, flags: int, beside: Beside | None
    ) -> None:
        """Take several items of a map(), of so many bytes; raises as submit() does."""
        task = Task(
            next(self._task_ids), key, (), chunk, priority=priority, flags=flags, items=count, payload_bytes=size,
            beside=beside,
        )  # fmt: skip
        self._put(task)

    def _put(self, task: Task) -> None:
        if self.is_closing:
            self.check_open()
        if not self._is_running:
            self.start()  # before the task is anywhere: it may fail
        if self.max_pending is None or self._is_ours():  # a callback must not wait for the thread that makes room
            self._inbox.put(task)
        else:
            self._inbox.put_when(self._has_room, task)
        if self._is_ended:  # since the first look; the dispatcher may have taken its last look before the put
            self._refuse(self._inbox.take())
            self.check_open()

    def _has_room(self) -> bool:
        self.check_open()
        return self._scheduler.tasks_open + len(self._inbox.tasks) < self.max_pending  # type: ignore[operator]

    def is_interrupting(self) -> bool:
        """Answer whether the caller is a signal handler or finaliser that has interrupted the holder of the lock."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]

    def _is_ours(self) -> bool:
        """Answer whether the calling thread is one that the rest waits for."""
        ident = threading.get_ident()
        return ident in self._reader_idents or ident == self._thread.ident or self._announcer.callbacks.is_current()

    def shutdown(self, cancel_futures: bool = False) -> None:
        """Take no more tasks; finish those that are here, or cancel the queued ones, then let the workers go."""
        self.is_closing = True
        self._ask(self._begin_end, cancel_futures, waits=cancel_futures)

    def kill_workers(self, signal_number: int = signal.SIGKILL) -> None:
        """End every worker now: running tasks fail, queued ones are cancelled. The executor is closed by it."""
        self.shutdown(cancel_futures=True)
        self.mailbox.put(self._kill_all, signal_number)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all tasks are done, all callbacks have run, and all workers are gone; return whether they are."""
        return self._thread.wait_over(timeout) if self.may_wait() else self._thread.is_over

    def may_wait(self) -> bool:
        """Answer whether the dispatcher's thread runs, and does not wait for the caller: see is_interrupting()."""
        return self._is_running and not self._is_ours() and not self.is_interrupting()

    def join_lending_this_thread(self) -> None:
        """Wait like join(), and read from workers meanwhile if no thread can be started any more.

        Python 3.12 starts no thread once the main thread has come to its end, and that is when the work of a short
        script is done. One reader is enough to finish everything.
        """
        self.is_lent_a_thread = True
        while self._is_running and not self._thread.is_over:
            if self._workforce.readerless:
                self.serve(self._workforce.readerless.popleft())
            self._thread.wait_over(THREADLESS_LOOK)

    def stats(self) -> Stats:
        """Return a consistent snapshot, taken by the dispatcher's thread: else a handler that waits while this thread
        has the lock would wait for ever.
        """
        taken: list[Stats] = []
        if self.may_wait():
            self._ask(self._tell_stats, taken, waits=True)
        elif self._is_running and not self.is_interrupting():
            self.decide(self._nothing)
        return taken[0] if taken else self._take_stats()

    def _tell_stats(self, taken: list[Stats], is_done: threading.Lock) -> None:
        self.decide(self._nothing)
        taken.append(self._take_stats())
        is_done.release()

    def _take_stats(self) -> Stats:
        with self._lock:
            workers = tuple(connection.stats() for connection in self._connections.values())
            return Stats(
                (scheduler := self._scheduler).tasks_queued + self._inbox.count(), scheduler.tasks_held,
                scheduler.tasks_done, workers, self._workforce.seats.launches, self._workforce.seats.stats(),
                tuple(self.recruiter.decisions),
            )  # fmt: skip

    def check_open(self) -> None:
        """Raise what submit() would raise, if it would."""
        if self.broken is not None:
            raise errors.BrokenCrewError(str(self.broken)) from self.broken.__cause__
        if self.is_closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def start_workers(self, number: int = 0) -> None:
        """Launch those that are wanted without any task, and so many more: return when stats() has these."""
        if number or self._scaler.floor() > 0:
            self.start()
            self._ask(self._request_workers, number, waits=number > 0)

    def _ask(self, function: Callable[..., None], *arguments: Any, waits: bool) -> None:
        """Have the thread call a function with a lock besides; wait till that is freed, if the thread can do so."""
        is_done = threading.Lock()
        is_done.acquire()
        self.mailbox.put(function, *arguments, is_done)
        while waits and self.may_wait() and not self._is_ended and not is_done.acquire(timeout=LOOK_SECONDS):
            pass  # it may have ended just before the event was put

    # ------------------------------------------------------------------ effects

    def _settle(self) -> list[Event]:
        """Take what was submitted meanwhile, and return the effects of all that was decided. Under the lock, last."""
        inbox = self._inbox
        while True:
            if inbox.tasks:
                self._turnstile.let_in()
            inbox.is_awaited = self._scheduler.can_take or self.recruiter.has_room()
            if not inbox.tasks:
                break
        inbox.wake_waiting()
        if self._scheduler.tasks_held and not self._is_look_planned:
            self._poke()  # this thread sleeps as if nothing was out, and nobody would notice a frozen worker
        if self.events.listeners:
            self.recruiter.tell(self.events)
        self._turnstile.offer()
        return self._effects.take()

    # What the turnstile asks and tells, under the lock:

    @property
    def is_refusing(self) -> bool:
        """Whether nothing that was submitted is run any more."""
        return self.broken is not None or self._is_killing

    @property
    def gives_tickets(self) -> bool:
        """Whether next places of workers may be promised."""
        return self.max_pending is None and not self.is_closing

    def demand_noted(self, now: float, tasks_over: int) -> None:
        """Count it for the scaler; wake the thread if it is to do something about it."""
        self.recruiter.note_demand(now, tasks_over)
        if self._must_tick_earlier() or self.recruiter.is_short():
            self._poke()

    def _refuse(self, tasks: list[Task]) -> None:
        """End the futures of tasks that came too late."""
        with self._lock:
            dropped = [task for task in tasks if self._scheduler.cancel(task)]
        self._announcer.dropped(dropped, self.broken)

    def _act(self, effects: list[Event]) -> None:
        for function, arguments in effects:
            function(*arguments)

    def _recall(self, connection: Connection) -> None:
        self.recaller.recall(connection)

    @property
    def workers_lending(self) -> int:
        """How many workers only wait for subtasks of their tasks."""
        return self._scheduler.workers_lending

    def decide(self, decision: Callable[..., Any], *arguments: Any) -> Any:
        """Have the scheduler decide something, with what was submitted before, and carry it out."""
        with self._lock:
            self._turnstile.catch_up()
            result = decision(*arguments)
            effects = self._settle()
        self._act(effects)
        return result

    # ------------------------------------------------------------------ the readers' threads

    def serve(self, connection: Connection) -> None:
        """Read from a worker until its link ends."""
        self._reader_idents.add(threading.get_ident())
        try:
            serve(connection, self)
        finally:  # a lent main thread goes on after a Ctrl-C: it waits for the others then
            self._reader_idents.discard(threading.get_ident())

    def worker_joined(self, connection: Connection) -> None:
        """Give the worker tasks."""
        self.decide(self._worker_ready, connection)

    def _worker_ready(self, connection: Connection) -> None:
        if connection.killed_because:
            return  # it came too late: its death is under way and must not cost a task
        connection.is_ready = True
        if not self._is_killing:
            self.events.worker("joined", connection)
            self._scheduler.worker_ready(connection.worker, time.monotonic())
            self._poke()

    def initializer_failed(self, connection: Connection, error: BaseException) -> None:
        """Break the pool as soon as the worker has ended by itself: what it has logged must not die with it."""
        connection.initializer_error = error
        self.mailbox.put(self._workforce.let_end, connection)

    def outcomes_arrived(self, connection: Connection, sent_at: float, outcomes: Sequence[Outcome]) -> None:
        """Finish tasks and send more."""
        worker = connection.worker
        with self._lock:
            now = time.monotonic()
            if not connection.is_far:  # its clock is another
                self._scheduler.horizon.observe(now - sent_at)
            is_plain = not (self.is_closing or self.is_refusing or self._scaler.failures or self.events.listeners)
            if self._turnstile.serve(connection, outcomes, now, is_plain=is_plain):
                effects = self._effects.take()
            else:
                if self._scaler.failures:
                    self._scaler.launch_succeeded()  # only now: a worker may join and end before its first task
                connection.take_back_segments(outcomes)
                self._scheduler.outcomes(worker, outcomes, now)
                if self._must_tick_earlier() or self.is_closing:
                    self._poke()
                effects = self._settle()
        self._act(effects)

    def catch_up(self) -> None:
        """Note what was sent by its submitters."""
        self.decide(self._nothing)

    def take_subtask(self, task: Task) -> None:
        """Schedule a task of a task; for the reader of its worker."""
        self._inbox.put(task)
        self.decide(self._nothing)

    def leave_requested(self, connection: Connection) -> None:
        """Let the worker go if it is idle and more are left than must stay."""
        self.decide(self._let_leave, connection)

    def worker_retired(self, connection: Connection, ordinal: int) -> None:
        """Let the worker go, and take back what it has not started: it will start nothing beyond `ordinal`."""
        self.decide(self._let_retire, connection, ordinal)

    def _let_retire(self, connection: Connection, ordinal: int) -> None:
        self.recruiter.note_replaced(connection.worker.name)
        self._scheduler.retired(connection.worker, ordinal, time.monotonic())
        self._poke()

    def _let_leave(self, connection: Connection) -> None:
        if self.recruiter.may_leave(time.monotonic()) and self._scheduler.leave_requested(connection.worker):
            self.recruiter.note_left(connection.worker.name)

    def protocol_broken(self, connection: Connection, error: ProtocolError) -> None:
        """Kill the worker."""
        self.mailbox.put(self._workforce.kill, connection, f"it broke the protocol: {error}")

    def reader_failed(self, connection: Connection, error: BaseException) -> None:
        """Break the pool: what this worker says is lost."""
        broken = errors.BrokenCrewError(f"the reader of {connection.worker.name} failed: {error!r}")
        self.mailbox.put(self._break, broken, error)

    def reader_ended(self, connection: Connection) -> None:
        """Bury the worker once its process is over, too."""
        self.mailbox.put(self._workforce.reader_done, connection)

    # ------------------------------------------------------------------ the dispatcher's thread

    def start(self) -> None:
        """Start the thread, if it does not run."""
        pools.check_not_importing()
        if not self._is_started:
            self._employer.begin()
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
            try:
                self._thread.start()
            except BaseException:  # no more threads; or a Ctrl-C, which comes before the thread exists, or after
                until = time.monotonic() + 1
                while self._thread.ident is None and time.monotonic() < until:
                    time.sleep(0.001)
                if self._thread.ident is None:
                    self._thread = self._new_thread()
                    self._is_started = False
                raise
            self._is_running = True

    def _poke(self) -> None:
        if not self._is_poked:
            self._is_poked = True
            self.mailbox.put(self._nothing)

    def _nothing(self) -> None: ...  # only to wake the thread

    def _request_workers(self, number: int, is_done: threading.Lock) -> None:
        self._scaler.request(number)
        self._launches_asked.append(is_done)  # freed by the turn that launches them

    def _run(self) -> None:
        self._is_running = True  # a Ctrl-C may have kept the starter from saying so
        try:
            wake_at: float | None = 0.0
            while not self._is_over():
                wake_at = self._turn(wake_at)
        except BaseException as error:  # the one handler that keeps futures from waiting for ever
            logger.exception("the dispatcher of %s failed", self.name)
            self._break(errors.BrokenCrewError(f"the dispatcher of executor {self.name} failed: {error!r}"), error)
            self._workforce.close_all()
        finally:
            self._is_ended = True
            self._inbox.withdraw_ticket()
            self._refuse(self._inbox.take())
            self._employer.close()
            self._announcer.close()
            self.segments.close()

    def _turn(self, wake_at: float | None) -> float | None:
        """Wait for an event or the time, handle both; return when to wake next."""
        before, inbox = time.monotonic(), self._inbox
        timeout = None if wake_at is None else wake_at - before
        if inbox.is_glanced_at:
            timeout = GLANCE_SECONDS if timeout is None else min(timeout, GLANCE_SECONDS)
        events = self.mailbox.take(timeout)
        self._act(events)
        now = time.monotonic()
        if wake_at is not None and now - max(before, wake_at) > STALL_SECONDS:
            logger.info("the client stood still for %.1f s; deadlines are moved", now - max(before, wake_at))
            self._workforce.extend_deadlines(now - max(before, wake_at))
        if events:
            inbox.is_glanced_at = False  # whatever they were may concern what has been submitted
        self._turnstile.glance(partial(self.decide, self._nothing))
        if not events and not self._is_poked and (wake_at is None or now < wake_at):
            return wake_at
        with self._lock:
            self._turnstile.catch_up()
            self._is_poked = False
            # What a killed worker had not started is back in the queue, and nobody will be launched for it.
            cancelled = self._scheduler.cancel_all() if self._is_killing else []
            (scheduler := self._scheduler).tick(now)
            is_idle_end = self.is_closing and not (self._scheduler.tasks_open or self.broadcasts.are_open())
            for worker in self._workforce.watch(
                now, is_idle_end=is_idle_end, spare=scheduler.workers_spare, next_seconds=scheduler.next_seconds(),
                tasks_queued=scheduler.tasks_queued, workers_kept=self.recruiter.workers_kept(),
            ):  # fmt: skip
                self._scheduler.dismiss(worker)
            launches = self._decide_launches(now)
            effects = self._settle()
        self._act(effects)
        self._announcer.dropped(cancelled)
        self._workforce.kill_noted()
        self._workforce.launch(launches, now)
        while self._launches_asked:
            self._launches_asked.pop().release()
        keep_seconds = self.segments.trim()
        with self._lock:
            return self._next_wake(time.monotonic(), keep_seconds)

    def _must_tick_earlier(self) -> bool:
        """Whether a tick is due before the thread wakes by itself. Under the lock."""
        return self._scheduler.has_work_ahead and not self._is_tick_planned

    def _next_wake(self, now: float, keep_seconds: float | None) -> float | None:
        times = self._workforce.next_wake()
        if keep_seconds is not None:
            times.append(now + keep_seconds)
        tick = self._scheduler.next_tick()
        self._is_tick_planned, self._is_look_planned = tick is not None, False
        if tick is not None:
            times.append(max(tick, now + 0.001))
        if self._scheduler.tasks_held or self._scheduler.workers_spare:
            times.append(now + LOOK_SECONDS)
            self._is_look_planned = True
        if self.broken is None and self.recruiter.is_short() and self._scaler.retry_at > now:
            times.append(self._scaler.retry_at)
        return min(times) if times else None

    def _decide_launches(self, now: float) -> int:
        if self.broken is not None or self._is_killing or (self.is_closing and not self._scheduler.tasks_open):
            return 0
        if self.is_lent_a_thread and any(connection.reader is None for connection in self._connections.values()):
            return 0  # the lent thread takes one worker after the other
        number = self.recruiter.launches(now)
        return min(number, 1) if self.is_lent_a_thread else number

    # ------------------------------------------------------------------ what the workforce tells (in this thread)

    def worker_added(self, connection: Connection) -> None:
        """Count a worker among those that are on their way."""
        with self._lock:
            self._connections[connection.worker.name] = connection
            self._workforce.equip(connection)

    def worker_gone(self, connection: Connection) -> None:
        """Deliver what the worker has left, judge its tasks."""
        worker, cell = connection.worker, connection.cell
        with self._lock:
            self._turnstile.catch_up()
            now = time.monotonic()
            if worker.is_ready:
                outcomes = connection.unsent_outcomes()
                connection.take_back_segments(outcomes)
                self._scheduler.outcomes(worker, outcomes, now)
                is_taken_away = connection.exit is not None and connection.exit.is_taken_away
                self._scheduler.worker_lost(
                    worker, cell.started, now, timed_out=connection.timed_out or None, is_taken_away=is_taken_away,
                    is_last=self._is_killing,
                )  # fmt: skip
            for task in self._subtasks.orphans(connection):
                self._scheduler.cancel(task)
            effects = self._settle()
        self._act(effects)
        self.broadcasts.worker_gone(connection)
        if connection.initializer_error is not None:
            text = f"the {connection.began_with} failed in worker {worker.name}; its exception is the cause"
            self._break(errors.BrokenCrewError(text), connection.initializer_error)

    def worker_removed(self, connection: Connection) -> None:
        """Forget a worker."""
        with self._lock:
            del self._connections[connection.worker.name]
            self._workforce.strip(connection)

    def launch_failed(self, text: str, launched_at: float) -> None:
        """Count it; wait before the next try, or give the pool up."""
        if (self.is_closing and not self._scheduler.tasks_open) or self._is_killing or self.broken is not None:
            return
        with self._lock:
            row = self.recruiter.launch_failed(launched_at, time.monotonic())
        logger.warning("%s", text)
        if row:
            self._break(errors.BrokenCrewError(f"{row}; the last: {text}"), LaunchError(text))

    # ------------------------------------------------------------------ the end

    def _is_over(self) -> bool:
        with self._lock:
            return self.is_closing and not (self._connections or self._scheduler.tasks_open or self._inbox.tasks)

    def _break(self, error: errors.BrokenCrewError, cause: BaseException | None = None) -> None:
        """Fail every future with the error: the pool cannot go on."""
        error.__cause__ = cause
        with self._lock:
            self.broken = self.broken or error
            self.is_closing = self._is_killing = True
            self._inbox.withdraw_ticket()
            tasks = self._scheduler.abandon()
            # Not left to others: this thread may be about to end.
            tasks += [task for task in self._inbox.take() if self._scheduler.cancel(task)]
            self._effects.forget_losses()
        self._announcer.dropped(tasks, self.broken)
        self.broadcasts.abandon()
        self._kill_all(signal.SIGKILL)

    def _begin_end(self, cancel_futures: bool, is_done: threading.Lock) -> None:
        if cancel_futures:
            self._announcer.dropped(self.decide(self._scheduler.cancel_all))
            self.broadcasts.cancel_early()
        self._scaler.is_finishing = True
        self._poke()
        is_done.release()

    def _kill_all(self, signal_number: int) -> None:
        self._is_killing = True
        self._workforce.kill_all(signal_number)
