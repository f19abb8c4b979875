"""The thread that talks to a launcher: its methods may take as long as a scheduler takes, one after the other.

Orders are put by the fleet; what came of each goes back into the dispatcher's mailbox. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from .errors import LaunchError
from .launchers import Job, JobStatus, Launcher, LaunchRetry
from .launchers.base import SubmitTimeout
from .log import logger
from .mailbox import Mailbox
from .reserve import AnyThread

CLOSE_SECONDS = 10.0
"""How long the end of an executor waits for its launcher to cancel what is left."""


class Desk:
    """Carry out what is asked of a launcher.

    Args:
        name: the executor's.
        launcher: whose methods are called.
        answers: where the results go, as calls of the functions that came with the orders.
        make_thread: called with a target and a name.
    """

    def __init__(self, name: str, launcher: Launcher, answers: Mailbox, make_thread: Callable[..., AnyThread]) -> None:
        self._launcher = launcher
        self._answers = answers
        self._orders = Mailbox()
        self._later: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self._is_checked = self._is_polling = self._is_over = False
        self._thread = make_thread(self._run, f"crew-launcher-{name}")
        self._is_started = False
        self._told_words: dict[Hashable, str] = {}

    # ------------------------------------------------------------------ for the fleet

    def start(self) -> None:
        """Start the thread, unless it runs; raise RuntimeError if the system gives none."""
        if not self._is_started:
            self._thread.start()
            self._is_started = True

    def submit(self, job: Job, number: int, pause: float, then: Callable[..., None], *context: Any) -> None:
        """Have jobs started, after a pause in seconds; then(*context, handles, error) is called."""
        self._put(time.monotonic() + pause, self._submit, job, number, then, context)

    def poll(self, handles: Sequence[Hashable], then: Callable[..., None]) -> None:
        """Ask about jobs, unless that is being done already; then(statuses) is called if there is an answer."""
        if not self._is_polling:
            self._is_polling = True
            self._put(0.0, self._poll, list(handles), then)

    def ask(self, handles: Sequence[Hashable], then: Callable[..., None]) -> None:
        """Ask how jobs stand, besides; then(statuses) is called in any case, with none if the launcher does not say."""
        self._put(0.0, self._tell, list(handles), then)

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Have jobs ended."""
        self._put(0.0, self._cancel, list(handles))

    def explain(self, handle: Hashable | None, then: Callable[..., None], *context: Any) -> None:
        """Ask what is known of a job; then(*context, words) is called."""
        self._put(0.0, self._explain, handle, then, context)

    def close(self) -> None:
        """Let the launcher give everything back; wait for that, within CLOSE_SECONDS."""
        if not self._is_started:
            return
        self._is_over = True
        self._orders.put(self._nothing)
        if not self._thread.wait_over(CLOSE_SECONDS):
            logger.warning("%s has not closed within %g s", type(self._launcher).__name__, CLOSE_SECONDS)

    # ------------------------------------------------------------------ in the thread

    def _put(self, at: float, function: Callable[..., None], *arguments: Any) -> None:
        self._orders.put(self._note, at, function, arguments)

    def _note(self, at: float, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._later.append((at, function, arguments))

    def _nothing(self) -> None: ...  # only to wake the thread

    def _run(self) -> None:
        while True:
            wake_at = min([at for at, _function, _arguments in self._later], default=None)
            # Once it is over nobody rings: that word may have been taken together with an order.
            pause = 0.0 if self._is_over else None if wake_at is None else wake_at - time.monotonic()
            for function, arguments in self._orders.take(pause):
                function(*arguments)
            now = time.monotonic()
            due = [order for order in self._later if order[0] <= now]
            self._later = [order for order in self._later if order[0] > now]
            for _at, function, arguments in due:
                if not (self._is_over and function == self._submit):  # nobody would want the job
                    self._carry_out(function, arguments)
            if self._is_over and not due:
                break
        self._carry_out(self._launcher.close, ())

    def _carry_out(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            function(*arguments)
        except BaseException:  # a launcher may be anybody's, and call what ends programs
            logger.exception("%s failed", type(self._launcher).__name__)

    def _submit(self, job: Job, number: int, then: Callable[..., None], context: tuple[Any, ...]) -> None:
        handles: Sequence[Hashable] = ()
        error: Exception | None = None
        try:
            if not self._is_checked:
                self._launcher.check()
                self._is_checked = True
            handles = self._handles_of(self._launcher.submit(job, number), "submit()")
        except SubmitTimeout as timeout:
            handles, error = self._find(job), timeout
        except BaseException as failure:
            error = failure if isinstance(failure, Exception) else RuntimeError(f"submit() raised {failure!r}")
            if not isinstance(failure, (LaunchError, LaunchRetry)):
                logger.error("submit() of %s failed", type(self._launcher).__name__, exc_info=failure)
        if self._is_over and handles:
            self._launcher.cancel(handles)  # it took so long that the executor has ended meanwhile
        self._answers.put(then, *context, handles, error)

    def _handles_of(self, answer: Any, method: str) -> Sequence[Hashable]:
        """Return the handles that a method of the launcher has returned; raise LaunchError if they are none."""
        what = f"{method} of {type(self._launcher).__name__} must return a sequence of handles, one for each job"
        if not isinstance(answer, Sequence) or isinstance(answer, (str, bytes)):
            raise LaunchError(f"{what}, not {answer!r:.200}")
        if not all(isinstance(handle, Hashable) for handle in answer):
            raise LaunchError(f"{what}, that can be hashed; these are {answer!r:.200}")
        return answer

    def _find(self, job: Job) -> Sequence[Hashable]:
        """Look for what a submission that timed out may have started all the same."""
        try:
            return self._handles_of(self._launcher.find(job), "find()")
        except BaseException:
            logger.exception("find() of %s failed", type(self._launcher).__name__)
            return ()

    def _poll(self, handles: list[Hashable], then: Callable[..., None]) -> None:
        try:
            self._tell(handles, then)
        finally:
            self._is_polling = False

    def _tell(self, handles: list[Hashable], then: Callable[..., None]) -> None:
        statuses: Mapping[Hashable, JobStatus] = {}
        try:
            statuses = self._launcher.poll(handles)
            _check_statuses(statuses)
            self._log(statuses)
        except BaseException as error:  # a status command that fails must not hurt
            statuses = {}
            logger.warning("%s could not be asked about its jobs: %s", type(self._launcher).__name__, error)
        self._answers.put(then, statuses)

    def _log(self, statuses: Mapping[Hashable, JobStatus]) -> None:
        for handle, status in statuses.items():
            if self._told_words.get(handle) != status.words:
                self._told_words[handle] = status.words
                logger.info("job %s: %s", handle, status.words)

    def _cancel(self, handles: list[Hashable]) -> None:
        self._launcher.cancel(handles)

    def _explain(self, handle: Hashable | None, then: Callable[..., None], context: tuple[Any, ...]) -> None:
        words = ""
        try:
            words = "" if handle is None else str(self._launcher.explain(handle))
        except BaseException as error:
            words = f"(and explain() of {type(self._launcher).__name__} failed: {error})"
        self._answers.put(then, *context, words)


def _check_statuses(answer: Any) -> None:
    if not isinstance(answer, Mapping) or not all(isinstance(status, JobStatus) for status in answer.values()):
        raise TypeError(f"poll() must return a mapping of handles to JobStatus, not {answer!r:.200}")
