"""What two processes say to each other over a network: frames that arrive once and in order, while links come and go.

    send() --numbered, kept until acknowledged--> sender's thread --> link --> peer
    recv() <--each number once-------------------------------------- link <-- peer

A link breaks: by a reset, by a cut that the system gives up, or because tick() finds it silent. The conversation goes
on over the next one, for `patience` seconds without any; then it is over. It knows nothing of tasks, and nothing of how
a link is made: attach() is given one whose peer has proved who it is.

Rule 1: nobody but the sender's thread writes, for a peer that stands still, or is cut off, makes who writes wait.
Rule 2: under the lock nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .core.messages import Buffer, Frame, Kind, decode_frame, encode_header
from .core.replay import Replay
from .errors import ProtocolError
from .framing import FRAME_BYTES_MAX, FramedStream, LinkClosed
from .reserve import AnyThread
from .thread import Thread

ACK_BYTES = 1 << 20
"""After so many bytes the peer is told what has arrived, beat or not: it keeps them until then."""
_OVER = "the conversation is over"


class Conversation:
    """One side.

    recv() belongs to one thread; all else may be called by any, and does not wait.

    Args:
        name: for its thread.
        run: the executor's run.
        patience: seconds that it may be without a link.
        silence: seconds after which a link on which nothing is heard is taken for dead; see tick().
        clock: the monotonic time.
        on_unlinked: called when a link was lost, by the thread that has found out; must not wait.
        make_thread: called with a target and a name.

    Attributes:
        heard_at: when anything was heard last; when it was made, if nothing was.
        links: how many links it has had.
    """

    def __init__(
        self, name: str, run: int, patience: float, silence: float, clock: Callable[[], float] = time.monotonic,
        on_unlinked: Callable[[], None] = lambda: None, make_thread: Callable[..., AnyThread] = Thread,
    ) -> None:  # fmt: skip
        self._run = run
        self._patience = patience
        self._silence = silence
        self._clock = clock
        self._on_unlinked = on_unlinked
        self._changed = threading.Condition()  # of all that follows
        self._replay = Replay()
        self._next = 1  # the number of the frame that is to be written next on the link
        self._must_beat = False
        self._link: FramedStream | None = None
        self._reading: FramedStream | None = None  # the link that recv() is in
        self._unfreed: set[FramedStream] = set()
        self._is_over = False
        self._bytes_seen = 0  # on the link, when tick() looked last
        self._unacknowledged = 0  # bytes that have arrived and that the peer was not told of
        self.heard_at = self._lost_at = clock()
        self.links = 0
        self._sender = make_thread(self._write, f"crew-sender-{name}")
        self._sender.start()

    @property
    def received(self) -> int:
        """The number of the last frame that has arrived: what the peer of a new link must know."""
        return self._replay.received

    @property
    def bytes_kept(self) -> int:
        """How much is kept because the peer may not have it."""
        return self._replay.bytes_kept

    @property
    def has_link(self) -> bool:
        """Whether there is a link now, as far as is known."""
        return self._link is not None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    # ------------------------------------------------------------------ links

    def attach(self, link: FramedStream, received: int) -> None:
        """Go on over a link, in place of the one there may be.

        Args:
            link: to the same peer.
            received: the number of the last frame that the peer has received.

        Raises:
            ProtocolError: it has received what was never sent; the link is closed.
            LinkClosed: the conversation is over; the link is closed.
        """
        try:
            former = self._attach(link, received)
        except BaseException:
            link.free()
            raise
        if former is not None:
            self._lose(former)

    def _attach(self, link: FramedStream, received: int) -> FramedStream | None:
        with self._changed:
            if self._is_over:
                raise LinkClosed(_OVER)
            self._replay.resume(received)
            former, self._link = self._link, link
            self._next = received + 1
            self._unfreed.add(link)
            self.heard_at = self._clock()
            self.links += 1
            self._changed.notify_all()
            return former

    def _lose(self, link: FramedStream) -> None:
        """Note that a link is of no more use."""
        link.close()
        with self._changed:
            is_current = self._link is link
            if is_current:
                self._link = None
                # Both sides count from what they have heard: the one whose patience is shorter must be over first.
                self._lost_at = min(self._clock(), self.heard_at + self._silence)
                self._changed.notify_all()
        self._free(link)
        if is_current:
            self._on_unlinked()

    def _free(self, link: FramedStream) -> None:
        """Give a link back to the system, unless recv() is in it: then that does so.

        Until then the peer may wait for the system to take what it writes, although the link is closed.
        """
        with self._changed:
            is_ours = link in self._unfreed and self._reading is not link
            if is_ours:
                self._unfreed.remove(link)
        if is_ours:
            link.free()

    def drop_link(self) -> None:
        """Close the link; the conversation goes on over the next one."""
        link = self._link
        if link is not None:
            self._lose(link)

    def tick(self) -> None:
        """Tell the peer that this side is there, and drop a link that has been silent for too long.

        To be called a few times within `silence`, by both sides. A cut is never reported by anybody, nor is a reset
        always: see rule 4 of network.py.
        """
        with self._changed:
            link = self._link
            if link is not None and link.bytes_received != self._bytes_seen:  # a part of a long frame, perhaps
                self._bytes_seen = link.bytes_received
                self.heard_at = self._clock()
            is_silent = link is not None and self._clock() - self.heard_at > self._silence
        if is_silent:
            self.drop_link()
        self.beat()

    def wait_for_parting(self, timeout: float) -> bool:
        """Wait until the peer has closed the link, or there is none; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._link is None, timeout)

    def close(self) -> None:
        """End it: recv() and send() raise LinkClosed. Idempotent."""
        with self._changed:
            self._is_over = True
            link, self._link = self._link, None
            self._changed.notify_all()
        if link is not None:
            self._lose(link)
        self._sender.wait_over()

    # ------------------------------------------------------------------ sending

    def send(self, kind: Kind, pieces: Sequence[Buffer], count: int = 0, owner: object = None) -> None:
        """Send a frame; without a link, or if that breaks, it is sent over the next one.

        The pieces are kept until the peer has them, and must not change.

        Args:
            kind, pieces, count: the frame.
            owner: of the pieces' memory: kept as long.

        Raises:
            LinkClosed: the conversation is over.
        """
        size = sum(map(len, pieces))
        with self._changed:
            if self._is_over:
                raise LinkClosed(_OVER)
            replay = self._replay
            header = encode_header(kind, self._run, replay.next(), replay.received, count, size)
            replay.keep([header, *pieces], owner)
            self._unacknowledged = 0
            self._changed.notify_all()

    def beat(self) -> None:
        """Tell the peer that this side is there, and what has arrived. Not numbered, not kept."""
        with self._changed:
            self._must_beat = True
            self._changed.notify_all()

    def _write(self) -> None:
        """Write what is there to be written; the sender's thread."""
        while (found := self._wait_for_frame()) is not None:
            link, frame = found
            try:
                link.send(frame)
            except LinkClosed:
                self._lose(link)

    def _wait_for_frame(self) -> tuple[FramedStream, Sequence[Buffer]] | None:
        with self._changed:
            while not self._is_over:
                link = self._link
                if link is not None and self._must_beat:
                    self._must_beat = False
                    self._unacknowledged = 0
                    return link, [encode_header(Kind.BEAT, self._run, 0, self._replay.received, 0, 0)]
                # What the peer has read from the former link since it said what it has.
                self._next = max(self._next, self._replay.acknowledged + 1)
                if link is not None and self._next <= self._replay.sent:
                    self._next += 1
                    return link, self._replay.frame(self._next - 1)
                self._changed.wait()
        return None

    # ------------------------------------------------------------------ receiving

    def recv(self) -> Frame:
        """Return the next frame.

        Raises:
            LinkClosed: the conversation is over: closed here, or without a link for too long.
            ProtocolError: the peer says what it should not.
        """
        while True:
            link = self._wait_for_link()
            data = None
            try:
                data = link.recv(limit=FRAME_BYTES_MAX)
            except LinkClosed:
                self._lose(link)
            finally:
                self._reading = None
                if self._link is not link:  # lost, here or by another thread, while this one was in it
                    self._free(link)
            if data is None:
                continue
            frame = decode_frame(data)
            if frame.run != self._run:
                raise ProtocolError(f"a frame of run {frame.run:x} arrived on a link of run {self._run:x}")
            with self._changed:
                self.heard_at = self._clock()
                if frame.kind == Kind.BEAT:
                    self._replay.acknowledge(frame.ack)
                    continue
                if not self._replay.accept(frame.sequence, frame.ack):
                    continue
                self._unacknowledged += len(data)
                if self._unacknowledged > ACK_BYTES:
                    self._must_beat = True
                    self._changed.notify_all()
            return frame

    def _wait_for_link(self) -> FramedStream:
        with self._changed:
            while not self._is_over:
                if self._link is not None:
                    self._reading = self._link
                    return self._link
                left = self._lost_at + self._patience - self._clock()
                if left <= 0:
                    self._is_over = True
                    self._changed.notify_all()
                    break
                self._changed.wait(left)
        raise LinkClosed(f"{_OVER}: there was no link for too long, or it was closed")
