"""The row `bandwidth` of network.py: large arrays to and from a far worker, and the same bytes on a bare stream."""

from __future__ import annotations

import json
import os
import queue
import statistics
import subprocess
import sys
import time
from pathlib import Path

from network_loopback import LoopbackLauncher
from network_row import Figures, Settings, wait_for_workers

from crew_executor import CrewExecutor
from crew_executor.network import KEY_BYTES, Listener, Stream, dial

MEGABYTE = 1_000_000
ARGUMENT = "MB/s as argument"
RESULT = "MB/s as result"
WAIT_SECONDS = 60.0


def of_arrays(settings: Settings) -> Figures:
    """Measure a fresh array as the argument and as the result of a task: the median of some, after one to warm up.

    Arrays are made before, and looked at after, the time that is measured.
    """
    from network_tasks import fresh, give, is_kept, prepare, take

    size = settings.megabytes * MEGABYTE
    seconds: dict[str, list[float]] = {ARGUMENT: [], RESULT: []}
    with CrewExecutor(1, min_workers=1, launcher=LoopbackLauncher()) as executor:
        wait_for_workers(executor, 1)
        for seed in range(settings.repeats + 1):
            array = fresh(size, seed)
            began = time.perf_counter()
            taken = executor.submit(take, array).result()
            seconds[ARGUMENT].append(time.perf_counter() - began)
            if taken != array.nbytes or not executor.submit(is_kept, size, seed).result():
                raise AssertionError("another array arrived at the worker")
            executor.submit(prepare, size, seed).result()
            began = time.perf_counter()
            result = executor.submit(give).result()
            seconds[RESULT].append(time.perf_counter() - began)
            if not bool((result == array).all()):
                raise AssertionError("another array came back")
            del array, result
    return {name: settings.megabytes / statistics.median(found[1:]) for name, found in seconds.items()}


def of_a_stream(settings: Settings) -> Figures:
    """Measure the same number of bytes on a stream, each way, until the receiver has said that all is there.

    Nothing is framed, copied or allocated in the time that is measured: each side reads into one buffer.
    """
    key, streams = os.urandom(KEY_BYTES), queue.SimpleQueue[Stream]()

    def take(stream: Stream) -> bool:
        streams.put(stream)
        return False  # one is enough

    listener = Listener("127.0.0.1", [0], key, take)
    listener.accept()
    script = str(Path(__file__).with_name("network_stream.py"))
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            told = {"port": listener.port, "key": key.hex(), "size": settings.megabytes * MEGABYTE}
            process.stdin.write(json.dumps(told | {"repeats": settings.repeats + 1}))
            process.stdin.close()
            stream = streams.get(timeout=WAIT_SECONDS)
            try:
                return _carry(stream, settings)
            finally:
                stream.free()
        finally:
            listener.close()
            process.kill()


def _carry(stream: Stream, settings: Settings) -> Figures:
    sent, got = bytearray(os.urandom(settings.megabytes * MEGABYTE)), bytearray(settings.megabytes * MEGABYTE)
    seconds: dict[str, list[float]] = {ARGUMENT: [], RESULT: []}
    word = bytearray(1)
    for _ in range(settings.repeats + 1):
        read_all(stream, word)  # the other side is ready
        seconds[ARGUMENT].append(_exchange(stream, sent, word))
        seconds[RESULT].append(_exchange(stream, b"!", got))
        if got != sent:
            raise AssertionError("other bytes came back")
        got[:] = bytes(len(got))
    return {name: settings.megabytes / statistics.median(found[1:]) for name, found in seconds.items()}


def _exchange(stream: Stream, data: bytes | bytearray, answer: bytearray) -> float:
    """Write, and wait for all of the answer; return the seconds."""
    began = time.perf_counter()
    stream.write(data)
    read_all(stream, answer)
    return time.perf_counter() - began


def read_all(stream: Stream, into: bytearray) -> None:
    """Fill a buffer."""
    view = memoryview(into)
    while view:
        view = view[stream.read_into(view) :]


def echo() -> None:
    """Be the other side: take, say that it is there, and give it back when asked."""
    told = json.load(sys.stdin)
    stream = dial("127.0.0.1", told["port"], bytes.fromhex(told["key"]), WAIT_SECONDS)
    content, word = bytearray(told["size"]), bytearray(1)
    for _ in range(told["repeats"]):
        stream.write(b"!")
        read_all(stream, content)
        stream.write(b"!")
        read_all(stream, word)
        stream.write(content)
    read_until_closed(stream)


def read_until_closed(stream: Stream) -> None:
    """Wait until the peer has closed the stream: what was written last is there then."""
    from crew_executor.framing import LinkClosed

    try:
        read_all(stream, bytearray(1))
    except LinkClosed:
        stream.free()
