"""Where strangers wait: connections over a network whose peers have not proved who they are.

One thread for all of them, and bounds on everything: how many there are, how long each may take, how much it may say.
Nothing that a stranger says is a pickle; core/admission.py judges it. Who is let in is handed on with its stream, who
is not is told why in a sentence. Must not wait for any stranger.

    stream --knock--> challenge --answer--> welcome    at most TALK_SECONDS after the connection
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from .core.admission import KNOCK_BYTES_MAX, NONCE_BYTES, WELCOME, Admitted, Door, Refusal, Visit, refusal, seat_of
from .log import logger
from .mailbox import Mailbox
from .network import Credentials, Listener, NetworkLink, Stream
from .reserve import AnyThread
from .thread import Thread

TALK_SECONDS = 10.0
"""From the connection to the answer. TLS over a slow link takes three round trips of it."""
STRANGERS_MAX = 64
"""So many may wait at a time. One more waits in the system's queue, until one of them is let in, or has to go."""
TURN_SECONDS = 0.25
"""So long everybody has before it has to go for others: those first who are refused, or have said nothing. Guests that
are expected take milliseconds, and a few tenths of a second when many come at once."""
PARTING_SECONDS = 1.0
"""A refusal is on its way for so long before the stream is closed."""
LENGTH_BYTES = 4
"""Before each of the things said."""
COMPLAINTS_MAX = 20
"""Refusals that are logged as warnings; then as debugging: nobody may fill a log."""


class Stranger:
    """One who waits."""

    def __init__(self, stream: Stream, came_at: float) -> None:
        self.stream = stream
        self.came_at = came_at
        self.deadline = came_at + TALK_SECONDS
        self.said = b""
        self.challenged_at = 0.0
        self.visit: Visit | None = None
        self.seat = ""  # which it says to have: nothing is proved
        self.is_parting = False


class Lobby:
    """Listen at a port, and let in who proves that it was invited.

    Args:
        name: the executor's.
        host, ports, key: as for network.Listener.
        door: knows the seats. Only the lobby's thread uses it, but for offer() and forget().
        received_of: returns the number of the last frame that came from a seat.
        on_admitted: called with who was let in, its link, and the seconds of a round trip to it, in the lobby's thread;
            must not block.
        on_refused: called with the seat that somebody who was refused said to have, and why; words, nothing is proved.
        on_tick, tick_seconds: called in the lobby's thread every so many seconds; must not block.
        make_thread: called with a target and a name.

    Attributes:
        host, port: where it listens.
    """

    def __init__(
        self, name: str, host: str, ports: Iterable[int], key: Credentials, door: Door,
        received_of: Callable[[str], int], on_admitted: Callable[[Admitted, NetworkLink, float], None],
        on_refused: Callable[[str, str], None] = lambda _seat, _why: None,
        on_tick: Callable[[], None] = lambda: None, tick_seconds: float = float("inf"),
        make_thread: Callable[..., AnyThread] = Thread,
    ) -> None:  # fmt: skip
        self._door = door
        self._received_of = received_of
        self._on_admitted = on_admitted
        self._on_refused = on_refused
        self._on_tick = on_tick
        self._tick_seconds = tick_seconds
        self._mailbox = Mailbox()
        self._strangers: dict[int, Stranger] = {}  # the first to come is the first
        self._is_accepting = False
        self._taken = 0  # streams, in all: for NNG's thread
        self._arrived = 0  # of those, for this one
        self._complaints = 0
        self._is_closed = False
        self._listener = Listener(host, ports, key, self._took)
        self.host, self.port = host, self._listener.port
        self._thread = make_thread(self._run, f"crew-lobby-{name}")
        try:
            self._thread.start()
        except BaseException:
            self._listener.close()
            raise

    def close(self) -> None:
        """Free the port, send all strangers away, end the thread and wait for it. Idempotent."""
        self._listener.close()
        self._is_closed = True
        self._mailbox.put(self._nothing)
        self._thread.wait_over()

    def _nothing(self) -> None: ...  # only to wake the thread

    def _run(self) -> None:
        tick_at = time.monotonic() + self._tick_seconds
        while not self._is_closed:
            wake_at = min([tick_at, self._accept_next(), *(each.deadline for each in self._strangers.values())])
            for function, arguments in self._mailbox.take(wake_at - time.monotonic()):
                try:
                    function(*arguments)
                except Exception:  # of one stranger: the others must not suffer
                    logger.exception("a connection could not be dealt with")
            now = time.monotonic()
            if now >= tick_at:
                self._on_tick()
                tick_at = now + self._tick_seconds
            for number in [number for number, stranger in self._strangers.items() if stranger.deadline <= now]:
                self._send_away(number)
        for function, arguments in self._mailbox.take(0):
            if function == self._came:
                arguments[0].free()
        for number in list(self._strangers):
            self._send_away(number)

    # ------------------------------------------------------------------ in the lobby's thread

    def _accept_next(self) -> float:
        """Let the next one in if there is room, or somebody has had its turn; return when to try again."""
        if not self._is_accepting:
            if len(self._strangers) >= STRANGERS_MAX:
                number, stranger = min(self._strangers.items(), key=_by_turn)
                if time.monotonic() < stranger.came_at + TURN_SECONDS:
                    return stranger.came_at + TURN_SECONDS
                self._send_away(number)
            self._is_accepting = True
            self._listener.accept()
        return float("inf")

    def _took(self, stream: Stream) -> bool:
        """Take a stream, and say whether there is room for one more; in a thread of NNG's."""
        self._taken += 1
        has_room = len(self._strangers) + self._taken - self._arrived < STRANGERS_MAX
        self._is_accepting = has_room  # before the word of the stream: who hears it looks at this
        self._mailbox.put(self._came, stream)
        return has_room

    def _came(self, stream: Stream) -> None:
        self._arrived += 1
        stranger = Stranger(stream, time.monotonic())
        self._strangers[id(stream)] = stranger
        self._listen_to(stranger)

    def _listen_to(self, stranger: Stranger) -> None:
        number = id(stranger.stream)
        room = LENGTH_BYTES + KNOCK_BYTES_MAX - len(stranger.said)
        stranger.stream.read_later(room, lambda data: self._mailbox.put(self._heard, number, stranger, data))

    def _heard(self, number: int, stranger: Stranger, data: bytes) -> None:
        if self._strangers.get(number) is not stranger:
            return  # sent away meanwhile
        stranger.said += data
        length = int.from_bytes(stranger.said[:LENGTH_BYTES], "little")
        has_length = len(stranger.said) >= LENGTH_BYTES
        if not data or stranger.is_parting or (has_length and length > KNOCK_BYTES_MAX):
            self._send_away(number)
        elif not has_length or len(stranger.said) < LENGTH_BYTES + length:
            self._listen_to(stranger)
        else:
            said, rest = stranger.said[LENGTH_BYTES : LENGTH_BYTES + length], stranger.said[LENGTH_BYTES + length :]
            stranger.said = b""
            try:
                self._judge(number, stranger, said, rest)
            except Refusal as error:
                self._refuse(stranger, error)

    def _judge(self, number: int, stranger: Stranger, said: bytes, rest: bytes) -> None:
        if rest:
            raise Refusal("more was said than was asked for")
        if stranger.visit is None:
            stranger.seat = seat_of(said)
            received = self._received_of(stranger.seat)
            stranger.visit, challenge = self._door.challenge(said, os.urandom(NONCE_BYTES), received)
            stranger.challenged_at = time.monotonic()
            stranger.stream.write_later(with_length(challenge))
            self._listen_to(stranger)
            return
        admitted = self._door.admit(stranger.visit, said)
        del self._strangers[number]
        stranger.stream.write_later(with_length(WELCOME))
        round_trip = time.monotonic() - stranger.challenged_at
        self._on_admitted(admitted, NetworkLink(stranger.stream), round_trip)

    def _refuse(self, stranger: Stranger, error: Refusal) -> None:
        self._complaints += 1
        if stranger.seat:
            self._on_refused(stranger.seat, str(error))
        level = logging.WARNING if self._complaints <= COMPLAINTS_MAX else logging.DEBUG
        logger.log(level, "a connection to port %d is refused: %s", self.port, error)
        stranger.stream.write_later(with_length(refusal(error)))
        stranger.is_parting = True
        stranger.deadline = min(stranger.deadline, time.monotonic() + PARTING_SECONDS)
        self._listen_to(stranger)  # its end, mostly

    def _send_away(self, number: int) -> None:
        self._strangers.pop(number).stream.free()


def _by_turn(item: tuple[int, Stranger]) -> tuple[bool, float]:
    """Return who has to go first: who is refused or has said nothing, then who came first."""
    stranger = item[1]
    return stranger.visit is not None and not stranger.is_parting, stranger.came_at


def with_length(data: bytes) -> bytes:
    """Return what is said, behind its length."""
    return len(data).to_bytes(LENGTH_BYTES, "little") + data
