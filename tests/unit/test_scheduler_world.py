"""Checks core/scheduler.py in a world as nasty as reality: frames come late, twice and in disorder, workers die at will."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .fakes import hypothesis_settings, make_outcome
from .world import FakeWorker, World

DURATIONS = {"tiny": 1e-6, "short": 3e-4, "medium": 0.01, "long": 5.0}
SURPRISES = st.sampled_from([None, None, None, 0.0, 0.002, 1.0])
KEYS = st.sampled_from(["tiny", "short", "short", "medium", "long", "wild", "new"])
PAYLOADS = [bytes(size) for size in (0, 10, 10, 10, 20_000, 60_000)]
ANY = st.integers(0, 2**16)
DEEDS = st.lists(st.sampled_from(["receive", "receive", "start", "start", "finish", "finish", "flush", "leave"]), max_size=12)


class NastyWorld(RuleBasedStateMachine):
    """The rules are what the users, the workers, the links and the clock do; the checks are in World."""

    @initialize(reaction=st.sampled_from([0.0, 0.005, 1.0]))
    def begin(self, reaction: float) -> None:
        self.world = World()
        self.world.scheduler.observe_reaction(reaction)
        for key, seconds in DURATIONS.items():
            for _ in range(20):
                self.world.scheduler.estimates.observe(key, seconds)
        self.world.join(None)

    def pick(self, number: int) -> FakeWorker | None:
        fakes = list(self.world.fakes.values())
        return fakes[number % len(fakes)] if fakes else None

    def pick_any(self, number: int) -> FakeWorker | None:
        """Pick a worker, perhaps a dead one."""
        fakes = [*self.world.fakes.values(), *self.world.dead]
        return fakes[number % len(fakes)] if fakes else None

    # ------------------------------------------------------------------ users

    @rule(key=KEYS, count=st.integers(1, 12), priority=st.sampled_from([0, 0, 0, 1, -1]), size=ANY)
    def submit(self, key: str, count: int, priority: int, size: int) -> None:
        for _ in range(count):
            self.world.submit(key, priority, PAYLOADS[size % len(PAYLOADS)])

    @precondition(lambda self: self.world.tasks)
    @rule(number=ANY)
    def cancel(self, number: int) -> None:
        self.world.cancel(self.world.tasks[number % len(self.world.tasks) + 1])

    @rule()
    def cancel_all(self) -> None:
        waiting = list(self.world.scheduler.queue)
        if len(waiting) > 20:
            assert waiting == self.world.scheduler.cancel_all()
            for task in waiting:
                self.world.lanes[task.priority].remove(task)
                self.world.done[task.task_id] = "cancelled"

    # ------------------------------------------------------------------ workers

    @precondition(lambda self: len(self.world.fakes) < 5)
    @rule(tasks_max=st.sampled_from([None, None, 1, 2, 7]))
    def join(self, tasks_max: int | None) -> None:
        self.world.join(tasks_max)

    @rule(number=ANY, deeds=DEEDS, surprise=SURPRISES)
    def work(self, number: int, deeds: list[str], surprise: float | None) -> None:
        fake = self.pick(number)
        for deed in deeds if fake else ():
            if deed == "finish" and fake.running:
                key = self.world.tasks[fake.running[1]].key
                fake.finish(DURATIONS.get(str(key), 0.0) if surprise is None else surprise)
            elif deed != "finish":
                getattr(fake, deed)()

    @rule(number=ANY, rounds=st.integers(1, 6))
    def work_hard(self, number: int, rounds: int) -> None:
        """Do many tasks at one go: receive, start, finish, and send it all."""
        self.work(number, [deed for _ in range(rounds) for deed in ("receive", "start", "finish")] + ["flush"], None)

    @rule(number=ANY, is_known=st.booleans(), is_outbox_read=st.booleans(), frames_read=st.integers(0, 3))
    def die(self, number: int, is_known: bool, is_outbox_read: bool, frames_read: int) -> None:
        """Die with whatever is held; locally the outbox is read before the judgement, elsewhere it is lost."""
        fake = self.pick(number)
        if fake is None:
            return
        while frames_read and fake.link and fake.is_alive:
            frames_read -= 1
            self.world.deliver(fake, fake.link.popleft())
        if is_outbox_read and fake.is_alive:
            self.world.deliver(fake, ("outcomes", fake.outbox))
        self.world.lose(fake, fake.started if is_known else None)

    @rule(number=ANY)
    def dismiss(self, number: int) -> None:
        fake = self.pick_any(number)
        if fake is not None:
            self.world.call(self.world.scheduler.dismiss, fake.worker, self.world.now)

    # ------------------------------------------------------------------ links

    @rule(number=ANY, count=st.integers(1, 4), is_repeated=st.booleans())
    def client_reads(self, number: int, count: int, is_repeated: bool) -> None:
        """Read the link of a worker, perhaps a dead one's; outcomes perhaps twice."""
        fake = self.pick_any(number)
        while fake is not None and fake.link and count:
            count -= 1
            frame = fake.link.popleft()
            self.world.deliver(fake, frame)
            if is_repeated and frame[0] == "outcomes":
                self.world.deliver(fake, frame)

    @rule(number=ANY, at=ANY)
    def client_reads_in_disorder(self, number: int, at: int) -> None:
        """Read outcomes from the middle of the link, and those of one frame backwards."""
        fake = self.pick_any(number)
        if fake is None or not fake.link:
            return
        index = at % len(fake.link)
        kind, content = fake.link[index]
        if kind == "outcomes":
            del fake.link[index]
            self.world.deliver(fake, (kind, content[::-1]))

    @precondition(lambda self: self.world.tasks)
    @rule(number=ANY, task=ANY, attempt=st.sampled_from([0, 2, 65535]))
    def an_outcome_of_another_attempt_comes(self, number: int, task: int, attempt: int) -> None:
        fake = self.pick_any(number)
        if fake is not None:
            outcome = make_outcome(task % len(self.world.tasks) + 1, attempt, seconds=9.0)
            self.world.deliver(fake, ("outcomes", [outcome]))

    @precondition(lambda self: self.world.tasks)
    @rule(number=ANY, task=ANY)
    def an_outcome_comes_from_who_does_not_hold_the_task(self, number: int, task: int) -> None:
        fake, task_id = self.pick_any(number), task % len(self.world.tasks) + 1
        if fake is not None and self.world.where.get(self.world.tasks[task_id]) is not fake.worker:
            self.world.deliver(fake, ("outcomes", [make_outcome(task_id), make_outcome(10**9)]))

    @precondition(lambda self: self.world.dead)
    @rule(number=ANY, is_known=st.booleans())
    def a_death_is_told_again(self, number: int, is_known: bool) -> None:
        fake = self.world.dead[number % len(self.world.dead)]
        self.world.lose(fake, fake.started if is_known else None)

    # ------------------------------------------------------------------ the clock

    @rule(seconds=st.sampled_from([0.0, 1e-5, 0.001, 0.01, 0.5, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.tick()

    @rule()
    def the_next_tick_comes(self) -> None:
        self.world.now = max(self.world.now, self.world.scheduler.next_tick() or 0.0)
        self.world.tick()

    @rule(seconds=st.sampled_from([0.0, 0.003, 0.5]))
    def the_client_reacts(self, seconds: float) -> None:
        self.world.scheduler.observe_reaction(seconds)

    # ------------------------------------------------------------------ the truth

    @invariant()
    def the_scheduler_agrees_with_the_truth(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


NastyWorld.TestCase.settings = hypothesis_settings(examples=40, steps=40)
TestNastyWorld = NastyWorld.TestCase
