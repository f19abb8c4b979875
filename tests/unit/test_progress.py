"""Checks meter.py, screens.py and gauge.py: rates and words with a clock of ours, futures that nobody runs."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
import types
import weakref
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FuturesTimeoutError  # another class before Python 3.11
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crew_executor
from crew_executor import gauge as gauge_module
from crew_executor.chunks import _Block, has_errors
from crew_executor.core.messages import encode_item, encode_item_error, encode_item_warnings
from crew_executor.gauge import Gauge, Tally, WatchedItems, length_of, progress
from crew_executor.meter import Count, Crowd, Meter, duration, fit, last_line, pace, plain, running_line
from crew_executor.options import TaskOptions
from crew_executor.screens import LOG_SECONDS, Bar, Outlet, open_screen

# ---------------------------------------------------------------------- how fast


@settings(deadline=None, max_examples=50)
@given(rate=st.floats(0.01, 1e6), steps=st.integers(2, 200))
def test_a_steady_rate_is_found_and_so_is_the_end(rate: float, steps: int) -> None:
    meter = Meter(0.0)
    total = 2 * steps
    for number in range(1, steps + 1):
        meter.update(number / rate, number)
    found, left = meter.rate(), meter.seconds_left(Count(steps, total))
    assert found is not None
    assert left is not None

    assert abs(found - rate) < rate * 1e-6
    assert abs(left - steps / rate) < left * 1e-6


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 1000)), max_size=60))
def test_whatever_happens_there_is_a_rate_or_none_and_the_window_is_small(looks: list[tuple[float, int]]) -> None:
    now, done = 0.0, 0
    meter = Meter(now)
    for seconds, more in looks:
        now, done = now + seconds, done + more
        meter.update(now, done)
        rate = meter.rate()

        assert rate is None or rate > 0
        assert (meter.seconds_left(Count(done, done + 5)) is None) == (rate is None)
    assert len(meter._samples) <= 20 + 30 + 2  # what is counted, and the seconds


def test_before_anything_is_done_nobody_knows() -> None:
    meter = Meter(0.0)
    meter.update(100.0, 0)

    assert meter.rate() is None
    assert meter.seconds_left(Count(0, 10)) is None


def test_the_wait_for_the_first_worker_is_forgotten() -> None:
    meter = Meter(0.0)
    for number in range(200):
        meter.update(1000.0 + number, 10 * number)

    assert meter.rate() == pytest.approx(10.0)


def test_slow_tasks_are_seen_beyond_the_window() -> None:
    meter = Meter(0.0)
    for number in range(1, 6):
        meter.update(3600.0 * number, number)

    assert meter.rate() == pytest.approx(1 / 3600)


def test_a_rate_falls_while_nothing_is_done() -> None:
    meter = Meter(0.0)
    meter.update(10.0, 10)
    before = meter.rate()
    meter.update(100.0, 10)
    assert before is not None

    assert meter.rate() == pytest.approx(before / 10)


def test_what_was_done_before_says_nothing_about_the_rate() -> None:
    meter = Meter(0.0, 500)
    meter.update(10.0, 510)

    assert meter.rate() == pytest.approx(1.0)
    assert last_line("", Count(1000, 1000), Meter(0.0, 1000)) == "100 % 1000/1000 in 0.0 s"


@pytest.mark.parametrize("total", [None, 9], ids=["unknown", "wrong"])
def test_without_a_total_there_is_a_count_and_no_end(total: int | None) -> None:
    meter = Meter(0.0)
    meter.update(10.0, 10)

    assert running_line("", Count(10, total), meter, None) == "10 done, 1/s"


# ---------------------------------------------------------------------- in words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1.0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (47 * 3600, "47 h 00 min"),
        (50 * 3600, "2 d 2 h"),
        (1e300, f"{10**15 // 86400} d {10**15 // 3600 % 24} h"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert words == duration(seconds)


@pytest.mark.parametrize(
    ("rate", "words"),
    [(12345.6, "12346/s"), (99.96, "100/s"), (12.34, "12.3/s"), (1.0, "1/s"), (0.5, "30/min"), (0.001, "3.6/h")],
)
def test_a_rate_in_words(rate: float, words: str) -> None:
    assert words == pace(rate)


def test_the_most_important_comes_first() -> None:
    meter = Meter(0.0)
    meter.update(10.0, 20)

    assert running_line("fit", Count(20, 50, 2, 1), meter, Crowd(1, 3)) == (
        "fit: 40 % 20/50, 15 s left, 2/s, 2 failed, 1 cancelled, 1 worker, 3 starting"
    )
    assert last_line("fit", Count(20, 50, 2), meter) == "fit: 40 % 20/50 after 10 s, 2/s, 2 failed"


def test_all_is_said_when_all_are_done_and_not_before() -> None:
    meter = Meter(0.0)

    assert "99 % 99999/100000" in running_line("", Count(99_999, 100_000), meter, None)
    assert "100 % 100000/100000" in running_line("", Count(100_000, 100_000), meter, None)


def test_nothing_but_printable_letters_of_one_line_is_written() -> None:
    assert plain("a\nb\r\x1b[31mc\x07é") == "a b  [31mc é"


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60), st.integers(0, 70))
def test_text_is_cut_to_the_width(text: str, columns: int) -> None:
    cut = fit(text, columns)

    assert text.startswith(cut)
    assert len(cut) <= max(columns, 1)
    assert cut or not text


def test_wide_letters_count_twice() -> None:
    assert fit("進捗表示", 5) == "進捗"


# ---------------------------------------------------------------------- on a stream


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tqdm, and an ordinary terminal of 80 columns."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.std", None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gauge_module, "time", clock)
    return clock


class Source:
    """Something that is counted."""

    def __init__(self, total: int | None = 10) -> None:
        self.now = Count(0, total)

    def count(self) -> Count:
        return self.now


def test_a_terminals_line_is_written_over_now_and_then(clock: Clock) -> None:
    stream, source = Terminal(), Source()
    gauge = Gauge("work", stream)
    gauge.begin(source)
    for number in range(1, 11):
        clock.now += 0.1
        source.now = Count(number, 10)
        gauge.tick(source)
    gauge.close(source)

    drawn = stream.getvalue().split("\r")
    assert [line.split(",")[0].strip() for line in drawn] == [
        "", "work: 30 % 3/10", "work: 60 % 6/10", "work: 90 % 9/10", "work: 100 % 10/10 in 1.0 s",
    ]  # fmt: skip
    assert stream.getvalue().endswith("\n")
    assert "\x1b" not in stream.getvalue()
    widths = [len(line.rstrip("\n")) for line in drawn[1:]]
    assert widths == sorted(widths)  # a shorter line covers the longer one before


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock: Clock) -> None:
    stream, source = io.StringIO(), Source(100)
    gauge = Gauge("", stream)
    gauge.begin(source)
    for number in range(1, 26):
        clock.now += 1.0
        source.now = Count(number, 100)
        gauge.tick(source)
    gauge.close(source)

    assert stream.getvalue().splitlines() == [
        "10 % 10/100, 1 min 30 s left, 1/s", "20 % 20/100, 1 min 20 s left, 1/s", "25 % 25/100 after 25 s, 1/s",
    ]  # fmt: skip


def test_a_dumb_terminal_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = open_screen(Terminal(), "")
    assert screen is not None

    assert screen.seconds_between == LOG_SECONDS


@pytest.mark.parametrize(("said", "room"), [("", 79), ("15", 14), ("1", 1), ("0", 79), ("-5", 79), ("x", 79)])
def test_the_width_of_a_terminal_that_has_none(said: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", said)

    assert room == Outlet(Terminal()).room()


def test_letters_that_the_stream_does_not_have_are_escaped() -> None:
    bytes_written = io.BytesIO()
    with io.TextIOWrapper(bytes_written, encoding="ascii") as stream:
        assert list(progress([done(1)], file=stream, description="é")) != []

        assert bytes_written.getvalue().startswith(b"\\xe9: 100 % 1/1")


class Broken(Terminal):
    """A stream on which nothing can be written."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.tries = 0

    def write(self, _text: str) -> int:
        self.tries += 1
        raise self.error


def done(result: Any = None) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def cancelled() -> Future[Any]:
    future: Future[Any] = Future()
    future.cancel()
    return future


@pytest.mark.parametrize("error", [OSError(28, "full"), BrokenPipeError(), ValueError("closed"), RuntimeError("odd")])
def test_a_stream_that_fails_is_left_alone_and_the_work_goes_on(error: Exception, clock: Clock) -> None:
    stream, source = Broken(error), Source()
    gauge = Gauge("", stream)
    gauge.begin(source)
    for _ in range(5):
        clock.now += 10
        gauge.tick(source)
    gauge.close(source)

    assert stream.tries == 1
    assert gauge.is_off()
    assert gauge.pause(5.0) == 5.0
    assert gauge.pause(None) is None


def test_a_stream_that_is_closed_is_no_harm() -> None:
    stream = io.StringIO()
    stream.close()

    assert len(list(progress([done(), done()], file=stream))) == 2


def test_no_stderr_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    assert len(list(progress([done(), done()]))) == 2


def test_a_pipe_without_room_or_without_a_reader_is_not_written_to() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    with open(writing, "w") as stream:
        assert Outlet(stream).write("would wait for ever") is False
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            Outlet(stream).write("would be an error at the end")


def test_a_ctrl_c_while_it_is_written_reaches_the_program() -> None:
    with pytest.raises(KeyboardInterrupt):
        list(progress([done()], file=Broken(KeyboardInterrupt())))


def test_nothing_is_shown_of_nothing() -> None:
    stream = io.StringIO()

    assert list(progress([], file=stream)) == []
    assert stream.getvalue() == ""


def test_workers_are_named_as_far_as_they_are_known() -> None:
    class Pool:
        def stats(self) -> Any:
            states = [types.SimpleNamespace(state=state) for state in ("idle", "busy", "starting")]
            return types.SimpleNamespace(workers=states)

    class Front:
        def stats(self) -> Any:
            raise RuntimeError("only in the client")

    pool, front = Pool(), Front()

    assert Gauge(pool=pool)._crowd() == Crowd(2, 1)
    assert Gauge(pool=front)._crowd() is None
    gauge = Gauge(pool=pool)
    del pool
    gc.collect()
    assert gauge._crowd() is None  # it is not kept alive


# ---------------------------------------------------------------------- tqdm, as far as it can be tried without


class FakeBar:
    """What Bar uses of tqdm."""

    def __init__(self, total: int | None, initial: int, **options: Any) -> None:
        self.total, self.n, self.options = total, initial, options
        self.start_t = self.last_print_t = 100.0
        self.postfix, self.disable, self.is_closed = "", False, False

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        assert not refresh
        self.postfix = text

    def update(self, more: int) -> None:
        self.n += more

    def close(self) -> None:
        self.is_closed = True


def test_a_bar_moves_and_began_when_the_work_did() -> None:
    meter = Meter(0.0, 3)
    meter.update(2.0, 5)
    bar = Bar(FakeBar, Outlet(Terminal()), "work")
    bar.show(Count(5, None, 1), meter, Crowd(2))
    made = bar._bar

    assert (made.n, made.total, made.postfix, made.start_t) == (5, None, "1 failed, 2 workers", 98.0)
    bar.close(Count(9, 9, 1), meter)
    assert (made.n, made.total, made.postfix, made.is_closed) == (9, 9, "1 failed", True)
    bar.forget()
    assert made.disable


# ---------------------------------------------------------------------- futures


def shown(futures: Any, **options: Any) -> tuple[list[Future[Any]], str]:
    """Return what progress() yields, and the last line."""
    stream = io.StringIO()
    yielded = list(progress(futures, file=stream, **options))
    return yielded, stream.getvalue().splitlines()[-1]


def test_failed_and_cancelled_ones_are_told_apart() -> None:
    futures = [done(1), failed(ValueError()), failed(CancelledError()), cancelled(), cancelled()]
    yielded, line = shown(futures)

    assert set(futures) == set(yielded)
    assert line.endswith("5/5 in 0.0 s, 2 failed, 2 cancelled")


def test_a_future_is_yielded_once_however_often_it_is_given() -> None:
    one, two = done(1), done(2)
    yielded, line = shown(iter([one, two, one]), total=3)

    assert [one, two] == yielded
    assert "100 % 2/2" in line


def test_futures_come_as_they_are_done() -> None:
    futures: list[Future[int]] = [Future() for _ in range(3)]
    yielded = progress(futures, file=io.StringIO())
    for number in (2, 0, 1):
        futures[number].set_result(number)

        assert next(yielded) is futures[number]
    assert next(yielded, None) is None


def test_what_is_no_future_is_refused() -> None:
    stream = io.StringIO()
    with pytest.raises(TypeError, match=r"progress\(\) needs futures of concurrent\.futures, not int"):
        list(progress([1], file=stream))  # type: ignore[list-item]
    assert stream.getvalue() == ""
    with pytest.raises(TypeError, match="not iterable"):
        progress(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total": "5"}, "total must be an integer or None, not str"),
        ({"description": 5}, "description must be a string, not int"),
        ({"executor": 5}, "executor must be a CrewExecutor or a view of one, not int"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        progress([], **options)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_who_waits_too_long_is_told_as_by_as_completed(timeout: float) -> None:
    finished, pending = done(), Future[None]()
    yielded = progress([finished, pending], timeout=timeout, file=io.StringIO())

    assert next(yielded) is finished
    with pytest.raises(FuturesTimeoutError, match=r"1 \(of 2\) futures unfinished"):
        next(yielded)


def test_the_given_total_is_shown_while_an_iterator_submits(clock: Clock) -> None:
    stream = Terminal()

    def submit() -> Any:
        for _ in range(4):
            clock.now += 1.0
            yield done()

    assert len(list(progress(submit(), total=8, file=stream))) == 4
    assert "12 % 1/8" in stream.getvalue()
    assert "100 % 4/4" in stream.getvalue()


def test_nothing_is_kept_of_a_loop_that_was_left() -> None:
    futures: list[Future[Any]] = [Future() for _ in range(10)]
    yielded = progress(futures, file=io.StringIO())
    futures[0].set_result(None)
    next(yielded)
    yielded.close()  # type: ignore[attr-defined]
    result = io.StringIO()
    known = weakref.ref(result)
    futures[5].set_result(result)
    del futures[5], result
    gc.collect()

    assert known() is None


def test_a_future_lives_as_long_as_the_consumer_wants() -> None:
    futures = [done(io.StringIO()), done(io.StringIO())]
    known = [weakref.ref(future) for future in futures]
    yielded = progress(futures, file=io.StringIO())
    del futures
    next(yielded)
    gc.collect()

    assert known[0]() is None
    assert known[1]() is not None


# ---------------------------------------------------------------------- the items of a map


@pytest.mark.parametrize(
    ("iterables", "length"),
    [([], None), ([[1, 2]], 2), ([[1, 2], "abc"], 2), ([iter([1])], None), ([[1], iter([1])], None)],
)
def test_the_length_of_a_map_is_that_of_the_shortest(iterables: list[Any], length: int | None) -> None:
    assert length == length_of(iterables)


def test_a_length_that_cannot_be_told_is_none() -> None:
    assert length_of([type("Odd", (), {"__len__": lambda _self: 1 / 0})()]) is None


def test_items_are_counted_by_their_futures() -> None:
    futures: list[Future[Any]] = []
    watched = WatchedItems(iter([(number,) for number in range(5)]), Gauge("", io.StringIO()), None)
    tally = Tally(watched)
    items = tally.read(watched)

    def submit(*chunk: Any) -> Future[Any]:
        futures.append(Future())
        return futures[-1]

    watching = tally.watch(submit)
    for size in (2, 2, 1):
        watching(*[next(items) for _ in range(size)])
    assert tally.count() == Count(0, None)
    futures[1].set_result(None)
    futures[2].set_exception(ValueError())
    futures[0].cancel()
    assert list(tally.all_read()) == []

    assert tally.count() == Count(5, 5, 1, 2)
    tally.has_failed()
    assert tally.count() == Count(5, 5, 2, 2)


def test_failed_items_of_a_block_are_counted_without_unpickling() -> None:
    records = [
        encode_item(b"no pickle"),
        encode_item_warnings(b"[]") + encode_item_error(b"no pickle", b"{}"),
        encode_item(b""),
        encode_item_error(b"", b""),
    ]
    part = bytes(8) + b"".join(records)

    assert has_errors(part)
    assert not has_errors(bytes(8) + records[0] + encode_item_warnings(b"[]") + records[2])
    assert _Block(0, 4, part, None, 0).troubles() == (2, 0)
    assert _Block(0, 2, part, None, 2).troubles() == (1, 0)  # the first two were delivered before
    assert _Block(0, 2, part, None, 0).troubles() == (1, 0)
    assert _Block(0, 3, b"", ValueError(), 0).troubles() == (3, 0)
    assert _Block(0, 3, b"", CancelledError(), 0).troubles() == (0, 3)


def test_progress_is_an_option_that_can_be_taken_back() -> None:
    options = TaskOptions().add(progress=True)

    assert options.progress
    assert options.allows_chunks  # it is shown how far they are, no more
    assert not options.add(progress=False).progress
    with pytest.raises(TypeError, match="progress must be True or False, not 1"):
        TaskOptions(progress=1)  # type: ignore[arg-type]


def test_the_function_is_what_the_package_has_under_its_name() -> None:
    assert crew_executor.progress is progress
    assert "progress" in crew_executor.__all__
