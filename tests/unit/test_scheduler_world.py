"""Checks core/scheduler.py in a nasty world: frames come late, twice and in disorder, workers die or retire at will."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crew_executor.core.budget import Budget

from .fakes import hypothesis_settings, make_outcome
from .world import CANCELLED, FakeWorker, World

pytestmark = pytest.mark.timeout(300)  # a thorough run takes a minute or two, and shrinking longer

DURATIONS = {"tiny": 1e-6, "short": 3e-4, "medium": 0.01, "long": 5.0}
SURPRISES = (None, None, None, None, None, 0.0, 0.002, 1.0)
KEYS = st.sampled_from(["tiny", "tiny", "short", "short", "short", "short", "medium", "long", "wild", "new"])
BUDGETS = (
    None, None, None, Budget(timeout=1.0), Budget(retries=1), Budget(crash_retries=1), Budget(retries=3),
    Budget(timeout=1.0, retries=2, crash_retries=2, is_timeout_retried=True), Budget(timeout=1.0, crash_retries=2),
)  # fmt: skip
TASKS_MAX = (None, None, None, 7, 1)
NEEDS = (None, None, None, None, None, (("gpus", 1),), (("gpus", 2),))
GPUS = (0, 0, 0, 1, 2)
PAYLOADS = [bytes(size) for size in (0, 9, 10, 11, 12, 13, 14, 20_000, 60_000)]
NUMBER = st.integers(0, 2**16)
# Few rules with much in each: hypothesis then takes fewer decisions, and gets deeper into the world in the same time.
SCRIPT = st.binary(min_size=48, max_size=96)
DEATHS = ("die", "die_late", "die_late", "die_unread", "die_unknown")
DEEDS = (
    "receive", "receive", "start", "start", "start", "finish", "finish", "finish", "sprint", "flush", "flush", "leave",
    "read", "read", "read", "twice", "disorder", "carry_out", "carry_out", "heed", "stop", "stop", "retire", "die",
    "join", "branch",
)  # fmt: skip
TROUBLES = (
    "cancel", "cancel", "cancel_all", "stop", "stop", "join", "join", "join", "join_1", "join_7", "reaction",
    *DEATHS, "dismiss", "dismiss", "attempt", "stranger", "again",
)  # fmt: skip


class NastyWorld(RuleBasedStateMachine):
    """The rules are what the users, the workers, the links and the clock do; the checks are in World."""

    @initialize(
        reaction=st.sampled_from([0.0, 0.005, 1.0]),
        workers=st.integers(0, 4),
        tasks_max=st.sampled_from([None, 3, 9]),
        slots=st.sampled_from([1000, 2, 1]),
    )
    def begin(self, reaction: float, workers: int, tasks_max: int | None, slots: int) -> None:
        self.world = World(slots)
        self.world.scheduler.horizon.observe(reaction)
        for key, seconds in DURATIONS.items():
            for _ in range(20):
                self.world.scheduler.estimates.observe(key, seconds)
        for number in range(workers):
            self.world.join(tasks_max if number == 1 else None, number % 3)

    # ------------------------------------------------------------------ users

    @rule(key=KEYS, count=st.integers(1, 20), priority=st.sampled_from([0, 0, 0, 1, -1]), size=NUMBER)
    def submit(self, key: str, count: int, priority: int, size: int) -> None:
        for number in range(size, size + count):
            needs = NEEDS[number // 2 % len(NEEDS)]
            budget = BUDGETS[number % len(BUDGETS)]
            self.world.submit(key, priority, PAYLOADS[size % len(PAYLOADS)], budget, needs=needs)
            if not size % 3:
                self.world.take_submitted()
        if size % 3 == 1:
            self.world.take_submitted()  # all at once; else some time later

    @rule(key=KEYS, count=st.integers(1, 5), number=NUMBER)
    def submit_with_tickets(self, key: str, count: int, number: int) -> None:
        for place in range(number, number + count):
            self.world.submit_with_ticket(key, PAYLOADS[0], BUDGETS[place % len(BUDGETS)], place)

    # ------------------------------------------------------------------ workers and links

    def populate(self, number: int) -> None:
        """Let a worker join if there are few: little happens in an empty world."""
        if len(self.world.fakes) < 1 + number % 4:
            self.world.join(TASKS_MAX[number // 4 % len(TASKS_MAX)], GPUS[number // 2 % len(GPUS)])

    @rule(script=SCRIPT)
    def work(self, script: bytes) -> None:
        """Each two bytes are a deed and whose it is, the living first, then what the dead have left on their links."""
        self.populate(script[0])
        if script[0] % 4:
            self.world.take_submitted()
        for what, who in zip(script[::2], script[1::2], strict=False):
            fakes = list(self.world.fakes.values())
            if what >= 224:
                fakes += self.world.dead
            if fakes:
                self.do(DEEDS[what % len(DEEDS)], fakes[who % len(fakes)], what, who)

    def do(self, deed: str, fake: FakeWorker, what: int, who: int) -> None:
        if deed in ("read", "twice", "disorder"):
            self.read(fake, deed, who)
        elif deed == "finish":
            self.finish(fake, SURPRISES[what // len(DEEDS) % len(SURPRISES)])
        elif deed == "sprint":
            self.sprint(fake)
        elif deed == "carry_out":
            self.world.carry_out(who)
        elif deed == "stop":
            self.stop(who)
        elif deed == "join":
            self.populate(who)
        elif deed == "branch":
            self.branch(fake, who)
        elif deed == "die":
            self.die(fake, DEATHS[who // 8 % len(DEATHS)], who)
        elif fake.is_alive and not (deed == "retire" and who % 4):  # it would be of no use for the rest of the script
            getattr(fake, deed)()
            if deed == "start" and not who % 4:
                self.branch(fake, who // 4)

    def finish(self, fake: FakeWorker, surprise: float | None) -> None:
        if fake.running is not None and fake.is_alive:
            if surprise is None and self.world.open_subtasks(self.world.tasks[fake.running[1]]):
                return  # it waits, as most do
            key = str(self.world.tasks[fake.running[1]].key)
            fake.finish(DURATIONS.get(key, 0.0) if surprise is None else surprise)

    def branch(self, fake: FakeWorker, number: int) -> None:
        """Let the running task submit subtasks."""
        if fake.running is None or not fake.is_alive:
            return
        parent = fake.worker.held.get(fake.running[1])  # None: its user has stopped it, or the client has missed much
        for _ in range(1 + number % 3):
            self.world.submit(("short", "long", "new")[number % 3], number % 2, b"", BUDGETS[number % 5], parent)
        if number % 4:
            self.world.take_submitted()

    def sprint(self, fake: FakeWorker) -> None:
        """Do all that has arrived, before the next frame (a recall?) is looked at."""
        while fake.is_alive and (fake.running or fake.waiting):
            fake.start()
            self.finish(fake, None)
            if fake.running:
                break
        fake.flush()

    def read(self, fake: FakeWorker, how: str, number: int) -> None:
        """Let the client read a frame; outcomes also twice, or from the middle of the link and backwards."""
        if not fake.link:
            return
        index = number % len(fake.link) if how == "disorder" else 0
        kind, content = fake.link[index]
        if kind != "outcomes":
            index = 0
            kind, content = fake.link[0]
        del fake.link[index]
        self.world.deliver(fake, (kind, content[::-1] if kind == "outcomes" and how == "disorder" else content))
        if how == "twice" and kind == "outcomes":
            self.world.deliver(fake, (kind, content))

    @rule(rounds=st.integers(1, 6))
    def all_work_well(self, rounds: int) -> None:
        """Everybody does what a good worker does on a good day; the client reads it all."""
        self.populate(rounds)
        for fake in list(self.world.fakes.values()):
            for _ in range(rounds):
                fake.receive()
                fake.start()
                self.finish(fake, None)
            fake.flush()
            while fake.link:
                self.world.deliver(fake, fake.link.popleft())
        while self.world.orders:
            self.world.carry_out()

    # ------------------------------------------------------------------ trouble

    @rule(kind=st.sampled_from(TROUBLES), number=NUMBER)
    def trouble(self, kind: str, number: int) -> None:
        world = self.world
        fakes = [*world.fakes.values(), *world.dead]
        if kind.startswith("join"):
            if len(world.fakes) < 5:
                world.join({"join_1": 1, "join_7": 7}.get(kind), GPUS[number % len(GPUS)])
        elif kind == "reaction":
            world.scheduler.horizon.observe((0.0, 0.003, 0.5)[number % 3])
        elif kind.startswith("cancel"):
            self.cancel(kind, number)
        elif kind == "stop":
            self.stop(number)
        elif kind in DEATHS:
            if world.fakes:
                self.die(list(world.fakes.values())[number % len(world.fakes)], kind, number)
        elif fakes:
            fake = fakes[number % len(fakes)]
            troubles: dict[str, Callable[[], None]] = {
                "dismiss": lambda: world.call(world.scheduler.dismiss, fake.worker),
                "attempt": lambda: self.claim(fake, number, (0, 2, 65535)[number % 3]),
                "stranger": lambda: self.claim(fake, number, 1),
                "again": lambda: None if fake.is_alive else world.lose(fake, fake.started if number % 2 else None),
            }
            troubles[kind]()

    def cancel(self, kind: str, number: int) -> None:
        world = self.world
        waiting = [task for queue in world.scheduler.queues() for task in queue]
        if kind == "cancel_all" and len(waiting) > 20:
            assert waiting == world.scheduler.cancel_all()
            for task in waiting:
                world.lanes[task.needs, task.rank].remove(task)
                world.done[task.task_id] = CANCELLED
        elif waiting and number % 2:
            world.cancel(waiting[number % len(waiting)])
        elif world.tasks:
            world.cancel(world.tasks[number % len(world.tasks) + 1])

    def stop(self, number: int) -> None:
        """Stop a task that is at a worker, waits, is stopped already, or whatever it is."""
        world = self.world
        groups = (
            world.where, world.scheduler.queue, world.where, world.ghosts, world.inbox, world.tasks.values()
        )  # fmt: skip
        tasks = list(groups[number % len(groups)])
        if tasks:
            world.stop_task(tasks[number // len(groups) % len(tasks)])

    def die(self, fake: FakeWorker, kind: str, number: int) -> None:
        """Die with what is held, by accident or not.

        Unknown: nobody knows what had started. Unread: the last outcomes come too late. Late: for the running task's
        timeout. And whoever gave the worker may have taken it away.
        """
        if kind == "die":
            while fake.link and fake.is_alive:
                self.world.deliver(fake, fake.link.popleft())
        if kind in ("die", "die_unknown") and fake.is_alive:
            self.world.deliver(fake, ("outcomes", fake.outbox))
        fake.flush()
        if fake.is_alive:
            started = None if kind == "die_unknown" else fake.started
            timed_out = fake.running[0] if fake.running is not None and kind == "die_late" else None
            self.world.lose(fake, started, timed_out=timed_out, is_taken_away=number % 3 == 0)

    def claim(self, fake: FakeWorker, number: int, attempt: int) -> None:
        """Report a task that the worker does not hold, or one that it holds but another attempt of it."""
        candidates = list(self.world.tasks.values()) if attempt == 1 else list(fake.worker.held.values())
        task = candidates[number % len(candidates)] if candidates else None
        if task is None:
            return
        holder = self.world.where.get(task) or self.world.ghosts.get(task)
        if attempt != task.attempt or holder is not fake.worker:
            outcomes = [make_outcome(task.task_id, attempt, seconds=9.0), make_outcome(10**9)]
            self.world.deliver(fake, ("outcomes", outcomes))

    # ------------------------------------------------------------------ the clock

    @rule(seconds=st.sampled_from([None, None, 0.0, 1e-5, 0.001, 0.01, 0.5, 100.0]), is_busy=st.booleans(), ends=NUMBER)
    def time_passes(self, seconds: float | None, is_busy: bool, ends: int) -> None:
        """Go on for some seconds, or to the next tick; perhaps all are busy, and some end their tasks after it."""
        fakes = list(self.world.fakes.values()) if is_busy else []
        for fake in fakes:
            fake.receive()
            fake.start()
        if seconds is None:
            self.world.now = max(self.world.now, self.world.scheduler.next_tick() or 0.0)
        else:
            self.world.now += seconds
        self.world.tick()
        for number, fake in enumerate(fakes):
            if ends >> number & 64:
                self.world.carry_out(ends)
            if ends >> number & 1:
                self.finish(fake, None)
                fake.flush()
                fake.start()
            if ends >> number & 16:
                self.sprint(fake)
            if ends >> number & 4096:
                fake.receive()
            while ends >> number & 256 and fake.link and fake.is_alive:
                self.world.deliver(fake, fake.link.popleft())

    # ------------------------------------------------------------------ the truth

    @invariant()
    def the_scheduler_agrees_with_the_truth(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


NastyWorld.TestCase.settings = hypothesis_settings(examples=60, steps=40)
TestNastyWorld = NastyWorld.TestCase
