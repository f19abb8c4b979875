"""The process that is tortured: one CrewExecutor, two threads that submit, rests in which everything must come to zero.

Run as `python -m chaos.client DIRECTORY SEED` by test_chaos.py, and told what to do by files in that directory. Its
findings go to files, too. Must not start or end a process by itself, and must not go on for ever if nobody tells it
anything.

    test                                client
                                        ready
    (monkey at work)                    load, rest, load, rest, ...
    stop                 ->             the rest of the load must come to its end
                         <-             settled.json
                         <-             shut: the executor is shut down
    leave                ->             exits
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crew_executor import CrewExecutor

from . import tasks
from .health import Sampler
from .launcher import ShakyLauncher
from .ledger import OK, Problems, Verdicts
from .mix import DRAIN_SECONDS, Mix

LANES = 2
"""Threads that submit."""
REST_SECONDS = 60.0
"""How long workers may take to leave when there is nothing to do."""
_ORPHANED_SECONDS = 600.0
"""How long this process waits for a word of the test before it leaves."""
_PHASE_SECONDS = (1.2, 2.5)
_LOOK_SECONDS = 0.01
_RESTS_MIN = 6
"""So many samples at rest are taken, the last of them one after the other if the run was short or slow."""


class Paths:
    """The files of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ready, self.stop, self.shut, self.leave = (directory / name for name in ("ready", "stop", "shut", "leave"))
        self.settled, self.marks, self.verdicts, self.samples = (
            directory / name for name in ("settled.json", "marks", "verdicts", "samples")
        )
        self.log, self.stacks, self.output, self.temporary = (
            directory / name for name in ("log", "stacks", "output", "tmp")
        )


class _ErrorsAreProblems(logging.Handler):
    """Nothing the monkey does justifies a log entry of level ERROR."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(logging.ERROR)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.add("log", self.format(record))


class Client:
    """One run."""

    def __init__(self, paths: Paths, seed: str) -> None:
        self._paths = paths
        self._random = random.Random(f"{seed}/client")
        self._problems = Problems()
        logging.basicConfig(filename=paths.log, level=logging.INFO, format="%(asctime)s %(message)s")
        logging.getLogger().addHandler(_ErrorsAreProblems(self._problems))
        self._pause = threading.Event()  # never set: something to wait for
        self._launcher = ShakyLauncher(f"{seed}/launcher")
        self._settings: dict[str, Any] = {
            "max_workers": self._random.randint(3, 6),
            "idle_timeout": self._random.choice((0.1, 0.3)),
            "max_tasks_per_child": self._random.choice((None, 20, 100)),
            "max_pending": self._random.choice((None, None, 150)),
        }
        self._executor = CrewExecutor(launcher=self._launcher, **self._settings)
        self._verdicts = Verdicts(paths.verdicts)
        self._sampler = Sampler(paths.samples)
        self._mixes = [
            Mix(self._executor, seed, lane, LANES, paths.marks, self._verdicts, self._problems, paths.stop)
            for lane in range(LANES)
        ]
        self._is_hopeless = False
        self._rests, self._longest_rest_seconds = 0, 0.0

    def run(self) -> None:
        """Go through the whole life of the run; leave at once when it has become hopeless."""
        threading.Thread(target=self._hold_the_interpreter_lock, daemon=True).start()
        self._paths.ready.touch()
        is_last = False
        while not is_last and not self._is_hopeless:
            is_last = self._paths.stop.exists()
            self._load()
            self._rest()
        self._submit_once_more()
        while self._rests < _RESTS_MIN and not self._is_hopeless:
            self._rest()
        self._sampler.close()
        self._verdicts.close()
        self._settle()
        if self._is_hopeless:
            os._exit(1)  # whatever hangs would hang here, too
        self._executor.shutdown()
        self._paths.shut.touch()
        self._wait(self._paths.leave.exists, _ORPHANED_SECONDS)

    def _lose_hope(self, sort: str, text: str) -> None:
        """Note a problem after which nothing more can be tested, and what all threads are doing."""
        self._problems.add(sort, text)
        if not self._is_hopeless:
            with self._paths.stacks.open("a") as stacks:
                faulthandler.dump_traceback(stacks, all_threads=True)
        self._is_hopeless = True

    # ------------------------------------------------------------------ load and rest

    def _load(self) -> None:
        """Let all threads submit for a while, each until its last future is done."""
        seconds = self._random.uniform(*_PHASE_SECONDS)
        threads = [threading.Thread(target=mix.run, args=(seconds,), daemon=True) for mix in self._mixes]
        deadline = time.monotonic() + seconds + 2 * DRAIN_SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._lose_hope("stuck", "a thread that submits, or waits in map(), does not come back")
        for mix in self._mixes:
            if mix.open:
                mix.give_up()
                self._lose_hope("unresolved", f"the executor says {self._executor.stats()}")

    def _rest(self) -> None:
        """Wait until all workers have left for being idle; then nothing of theirs may be left in this process."""
        if self._is_hopeless:
            return
        begun = time.monotonic()
        if not self._wait(lambda: not self._executor.stats().workers, REST_SECONDS):
            self._lose_hope("restless", f"workers stay when there is nothing to do: {self._executor.stats()}")
            return
        self._rests += 1
        self._longest_rest_seconds = max(self._longest_rest_seconds, time.monotonic() - begun)
        self._executor._dispatcher.segments.trim(-1.0)  # what is kept for the next large arguments is no leak
        self._sampler.sample_at_rest()

    def _submit_once_more(self) -> None:
        """The pool still works after all that. The number is one that no mix uses."""
        if self._is_hopeless:
            return
        number = 0
        future = self._executor.submit(tasks.tiny, str(self._paths.marks), number)
        try:
            answer = future.result(DRAIN_SECONDS)
        except Exception as error:
            self._lose_hope("afterwards", f"the last submit ended with {error!r}; {self._executor.stats()}")
            return
        self._verdicts.add(number, "last", OK)
        if answer != tasks.answer(number):
            self._problems.add("afterwards", f"the last submit returned {answer!r}")
        stats = self._executor.stats()
        if stats.queued or stats.running:
            self._problems.add("unresolved", f"nothing is open, but the executor says {stats}")

    # ------------------------------------------------------------------ other

    def _hold_the_interpreter_lock(self) -> None:
        """Every now and then, keep all other threads of this process from running."""
        count = 200_000
        begun = time.perf_counter()
        sum(range(count))  # one call into C: the lock is not given away in between
        per_second = count / (time.perf_counter() - begun)
        dice = random.Random(self._random.random())
        while not self._paths.stop.exists():
            self._pause.wait(dice.uniform(0.3, 2.0))
            sum(range(int(per_second * dice.uniform(0.05, 0.4))))

    def _settle(self) -> None:
        findings = {
            "is hopeless": self._is_hopeless,
            "problems": self._problems.told(),
            "settings": self._settings,
            "verdicts": self._verdicts.counts,
            "launches": {"all": self._executor.stats().launched, **self._launcher.counts},
            "rests": self._rests,
            "longest rest": round(self._longest_rest_seconds, 1),
            "longest drain": round(max(mix.longest_drain_seconds for mix in self._mixes), 1),
        }
        unfinished = self._paths.settled.with_suffix(".new")
        unfinished.write_text(json.dumps(findings))
        unfinished.rename(self._paths.settled)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                return False
            self._pause.wait(_LOOK_SECONDS)
        return True


def main() -> None:
    """Run in this process."""
    directory, seed = sys.argv[1:]
    paths = Paths(Path(directory))
    # Hundreds of workers die of SIGSEGV: no core files.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stacks = paths.stacks.open("a")
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)  # the test asks when it has waited too long
    Client(paths, seed).run()


if __name__ == "__main__":
    main()
