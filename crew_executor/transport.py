"""Links on one machine, over sockets and NNG: the only importer of pynng.

NNG's stream API carries the frames (docs/adr/0001): one code for ipc, tcp and TLS, nothing dropped silently, every
link an object of its own. What a frame looks like is the business of framing.py; links over a network, network.py's.

On a local link, which is a socket pair, most frames need no NNG: what has arrived is read from the socket itself, and
what fits is written to it (docs/adr/0017, 0021). NNG adopts the socket when a frame is larger than that (0022), and
writes the rest of it.

Rules that NNG's own behaviour dictates (each measured; see docs/adr/0001):
1. A forked child must touch nothing of NNG: it would abort, or hang at exit. `register_at_fork` makes every link of
   the parent inert in the child and unregisters pynng's exit hook there.
2. Only the thread that waits for an aio frees it. Others close the stream or shut the socket; the waiter then returns.
3. A blocked wait holds no interpreter lock, but Python's signal handlers run only after it returned.
4. A write begun on a closed stream may never end: closing must not come between the look and the call.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.machinery
import importlib.util
import os
import select
import socket
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from . import late
from .errors import CrewError
from .framing import FRAME_BYTES_MAX, LENGTH_BYTES, Buffer, FramedStream, LinkClosed, LinkTimeout
from .hatch import FRAME_BYTES_MAX as HATCH_BYTES_MAX

POLL_MS_MAX = (1 << 31) - 1
"""The longest wait that poll() takes: 24 days."""
POLL_SECONDS_MIN = 0.001
"""The shortest: select() takes shorter ones, but no descriptor from SELECT_FDS on."""
SELECT_FDS = 1024
SEND_BUFFER_BYTES = 1 << 20
"""What is asked for; Linux gives up to 416 kB where nothing else is set, twice its default."""
IOV_MAX = 1024
"""Pieces that one call writes."""

_NEEDED = (
    "nng_aio_alloc", "nng_aio_count", "nng_aio_free", "nng_aio_get_output", "nng_aio_result",
    "nng_aio_set_iov", "nng_aio_set_timeout", "nng_aio_wait", "nng_init_set_parameter", "nng_stream_close",
    "nng_stream_free", "nng_stream_listener_accept", "nng_stream_listener_alloc", "nng_stream_listener_free",
    "nng_stream_dialer_alloc", "nng_stream_dialer_dial", "nng_stream_dialer_free", "nng_stream_dialer_set_bool",
    "nng_stream_dialer_set_ptr", "nng_stream_listener_close", "nng_stream_listener_get_int",
    "nng_stream_listener_listen", "nng_stream_listener_set_bool", "nng_stream_listener_set_int",
    "nng_stream_listener_set_ptr", "nng_stream_recv", "nng_stream_send",
    "nng_tls_config_alloc", "nng_tls_config_free", "nng_tls_config_psk", "nng_tls_config_version",
)  # fmt: skip


_RECEIVING_CLOSED = "receiving: the link is closed, by the peer or here"
_NOTHING_CAME = "receiving: nothing came in time"
_SENDING_CLOSED = "sending: the link is closed"
_NOW = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)  # the latter is not on macOS


class Nng:
    """pynng's cffi library, loaded and checked at first use."""

    def __init__(self) -> None:
        library = _loadlibrary()
        # Typed as Any: cffi's names exist at run time only.
        self.lib: Any = library.lib
        self.ffi: Any = library.ffi
        missing = [name for name in _NEEDED if not hasattr(self.lib, name)]
        if missing:
            raise CrewError(
                f"the installed pynng lacks {', '.join(missing)}: crew_executor needs pynng 0.9 or a later one that "
                "keeps NNG's stream functions; try: pip install 'pynng>=0.9'"
            )
        # 12 threads on two cores by default; these suffice (2 is NNG's minimum of task threads).
        for name, count in (
            ("NNG_INIT_NUM_TASK_THREADS", 2),
            ("NNG_INIT_NUM_EXPIRE_THREADS", 1),
            ("NNG_INIT_NUM_POLLER_THREADS", 1),
            ("NNG_INIT_NUM_RESOLVER_THREADS", 1),
        ):
            self.lib.nng_init_set_parameter(getattr(self.lib, name), count)

    def check(self, code: int, doing: str) -> None:
        """Raise for an NNG error code."""
        if code == 0:
            return
        text = self.ffi.string(self.lib.nng_strerror(code)).decode()
        raise LinkClosed(f"{doing}: {text} (NNG error {code})")

    def new_aio(self) -> Any:
        """Allocate an aio without a callback."""
        pointer = self.ffi.new("nng_aio **")
        self.check(self.lib.nng_aio_alloc(pointer, self.ffi.NULL, self.ffi.NULL), "allocating an aio")
        return pointer[0]


def _loadlibrary() -> Any:
    """Return pynng's extension module, without the rest of pynng where that has not been imported.

    The extension takes 8 ms, the rest 90: asyncio and ssl, for an API that is not used here. Client and supervisor both
    need it before the first task can run. A program that imports pynng later finds the same extension.
    """
    name = "pynng._nng"
    if "pynng" not in sys.modules:
        package = importlib.util.find_spec("pynng")
        places = None if package is None else package.submodule_search_locations
        spec = importlib.machinery.PathFinder.find_spec(name, places)
        if spec is not None and spec.loader is not None:
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            return module
    import pynng

    return pynng


_nng: Nng | None = None
_is_used = False  # whether a link was opened in this process
_is_forked_from_user = False  # whether this process is a forked child of one that used NNG
_links: weakref.WeakSet[Any] = weakref.WeakSet()


def load() -> None:
    """Load NNG and check it. Opens nothing, so a process may still fork afterwards."""
    global _nng
    with late.imports():
        if _nng is None:
            _nng = Nng()


def track(link: Any) -> None:
    """Have the attribute `_is_inert` of what uses NNG set in forked children: it must touch nothing there."""
    _links.add(link)


def leave_open() -> None:
    """Keep NNG from being closed at the interpreter's exit: threads that cannot be ended are using it."""
    module = sys.modules.get("pynng.nng")
    if module is not None:
        atexit.unregister(module._pynng_atexit)


def library() -> Nng:
    """Return NNG, for use now: from here on this process must not be forked without care, see rule 1.

    Raises:
        CrewError: this is a forked child of a process that used NNG, or pynng is not what is needed.
    """
    global _is_used
    if _is_forked_from_user:
        raise CrewError(
            f"process {os.getpid()} was forked from a process that used NNG, which cannot be used in a forked child: "
            "create the executor in the parent, or start this process with the spawn or forkserver method"
        )
    if _nng is None:
        load()
    assert _nng is not None
    _is_used = True
    return _nng


def _after_fork_in_child() -> None:
    global _is_forked_from_user
    for link in list(_links):
        link._is_inert = True
    if not _is_used or _nng is None:
        return
    _is_forked_from_user = True
    leave_open()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Stream:
    """NNG's stream on a socket, for one sender at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._nng = nng = library()
        self._stream = _adopt(nng, sock)
        self._aio = nng.new_aio()
        self._iov = nng.ffi.new("nng_iov[1]")

    def begin(self, data: Any) -> None:
        """Begin to write; `data` is a buffer of cffi's, which must live until end() is done."""
        self._iov[0].iov_buf, self._iov[0].iov_len = data, len(data)
        self._nng.lib.nng_aio_set_iov(self._aio, 1, self._iov)
        self._nng.lib.nng_stream_send(self._stream, self._aio)

    def end(self) -> int:
        """Wait; return how much was written."""
        self._nng.lib.nng_aio_wait(self._aio)
        self._nng.check(self._nng.lib.nng_aio_result(self._aio), "sending")
        return int(self._nng.lib.nng_aio_count(self._aio))

    def buffer(self, data: memoryview) -> Any:
        """Return a buffer as begin() takes it."""
        return self._nng.ffi.from_buffer(data)

    def close(self) -> None:
        """End what is under way."""
        self._nng.lib.nng_stream_close(self._stream)

    def free(self) -> None:
        """Give the memory back; nothing may be under way."""
        self._nng.lib.nng_aio_wait(self._aio)
        self._nng.lib.nng_aio_free(self._aio)
        self._nng.lib.nng_stream_free(self._stream)


class Link(FramedStream):
    """A framed stream on a connected stream socket of this machine, which is taken over."""

    join_bytes = 16 * 1024  # one call writes several pieces, and to join them would take fresh memory

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        sock.setblocking(True)  # whatever the program's socket.setdefaulttimeout() says
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._socket = sock
        self._stream: _Stream | None = None
        self._is_inert = False
        self._is_closed = False
        self._gate = threading.Lock()  # between "is it closed?" and the call; rule 4 of this file
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._poll_out = select.poll()
        self._poll_out.register(sock.fileno(), select.POLLOUT)
        track(self)

    # ------------------------------------------------------------------ receiving

    def _read(self, into: memoryview, timeout: float | None) -> int:
        """Wait for bytes and take what is there.

        By the kernel, not by NNG, which reads in a thread of its own and then wakes the one that waits (ADR 0017). And
        NNG fails a read as soon as the peer is gone: 1. the worker sends outcomes  2. it is killed with frames of ours
        unread, which the kernel calls a reset. The kernel tells of that when all that was sent has been read.
        """
        if self._is_inert:
            raise LinkClosed(_RECEIVING_CLOSED)
        if timeout is None and (got := self._read_blocking(into)):
            return got
        try:
            while True:
                if not self._poll.poll(_wait_ms(timeout)):
                    raise LinkTimeout(_NOTHING_CAME)
                try:
                    got = self._socket.recv_into(into, 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
                break
        except OSError as error:
            raise LinkClosed(f"receiving: {error}") from None
        if not got:
            raise LinkClosed(_RECEIVING_CLOSED)
        return got

    def _read_blocking(self, into: memoryview) -> int:
        """Do the same by one call of the kernel, where there is nothing else to wait for; 0 if that cannot be done."""
        try:
            got = self._socket.recv_into(into)
        except BlockingIOError:  # NNG writes to it as well by now, and has taken its waiting away
            return 0
        except OSError as error:
            raise LinkClosed(f"receiving: {error}") from None
        if not got:
            raise LinkClosed(_RECEIVING_CLOSED)
        return got

    def drain(self) -> None:
        """Let the reader finish what has arrived and then see the end, even if no end of file comes.

        For a peer that is known to be dead while others may hold copies of its end (forked children of a task). The
        kernel still hands over what it holds, then an end of file. Cancelling NNG's read instead would lose bytes or,
        beside a time-out, abort the process (NNG issue 2208).
        """
        if not self._is_inert and not self._is_closed:
            with contextlib.suppress(OSError):  # not connected: the reader has seen the end already
                self._socket.shutdown(socket.SHUT_RD)

    # ------------------------------------------------------------------ sending

    def has_room(self) -> bool:
        """Answer whether the socket takes a frame of INLINE_BYTES (pump.py) at once.

        The kernel calls a Unix socket writable as long as three quarters of its buffer, 416 kB, are free.
        """
        return self._is_inert or self._is_closed or bool(self._poll_out.poll(0))

    def _write(self, data: Buffer) -> None:
        """Hand all of `data` to the kernel."""
        self._write_rest(self._write_now([data]), [data])

    def _write_all(self, pieces: Sequence[Buffer]) -> None:
        """Hand all pieces to the kernel."""
        for start in range(0, len(pieces), IOV_MAX):
            some = pieces[start : start + IOV_MAX]
            self._write_rest(self._write_now(some), some)

    def _write_now(self, pieces: Sequence[Buffer]) -> int:
        """Hand the kernel what it takes at once; return how much that was."""
        if self._is_inert or self._is_closed:  # or even freed
            raise LinkClosed(_SENDING_CLOSED)
        with self._gate:
            if self._is_closed:
                raise LinkClosed(_SENDING_CLOSED)
            try:
                sent = (
                    self._socket.send(pieces[0], _NOW) if len(pieces) == 1 else self._socket.sendmsg(pieces, (), _NOW)
                )
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise LinkClosed(f"sending: {error}") from None
        self.bytes_sent += sent
        return sent

    def _write_rest(self, sent: int, pieces: Sequence[Buffer]) -> None:
        """Write what is left of the pieces when so many bytes have been sent."""
        for piece in pieces:
            if sent < len(piece):
                try:
                    self._wait_written(memoryview(piece)[sent:])
                except Exception as error:  # no descriptor, no NNG: half a frame is out, and nothing must follow it
                    self.close()
                    raise LinkClosed(f"sending: {error}") from error
            sent = max(0, sent - len(piece))

    def _wait_written(self, data: memoryview) -> None:
        """Let NNG write what the socket has not taken at once: it waits for the peer without a thread of ours."""
        sent = 0
        while sent < len(data):
            with self._gate:
                if self._is_closed:
                    raise LinkClosed(_SENDING_CLOSED)
                if self._stream is None:
                    self._stream = _Stream(self._socket)
                stream = self._stream
                rest = stream.buffer(data[sent:])
                stream.begin(rest)
            more = stream.end()
            sent += more
            self.bytes_sent += more

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Close the link: a blocked recv() or send() raises LinkClosed. Idempotent, from any thread."""
        if self._is_inert:
            return
        with self._gate:
            if self._is_closed:
                return
            self._is_closed = True
            if self._stream is not None:
                self._stream.close()
            with contextlib.suppress(OSError):  # not connected any more
                self._socket.shutdown(socket.SHUT_RDWR)

    def free(self) -> None:
        """Give the memory back. For the one reader, after its last recv(), when nobody will send any more."""
        if self._is_inert:
            return
        self.close()
        with self.send_lock:
            if self._stream is not None:
                self._stream.free()
                self._stream = None
            self._socket.close()


class HatchedLink(Link):
    """A worker's link, with whole frames that come besides, as datagrams: see hatch.py.

    Args:
        sock: of the stream.
        hatch: of the datagrams; both are taken over.
    """

    def __init__(self, sock: socket.socket, hatch: socket.socket) -> None:
        super().__init__(sock)
        hatch.setblocking(False)  # the client has a copy, which must not wait
        self._hatch = hatch
        self._kept: memoryview | None = None  # a frame of the stream, behind those in the hatch
        self._poll_both = select.poll()
        self._poll_both.register(hatch.fileno(), select.POLLIN)
        self._poll_both.register(sock.fileno(), select.POLLIN)
        self._fd = sock.fileno()
        self._fds = [hatch.fileno(), self._fd]  # of a worker among some hundred these may be high numbers
        self._seconds_min = POLL_SECONDS_MIN if max(self._fds) < SELECT_FDS else 0.0

    def recv(self, *, timeout: float | None = None, limit: int = FRAME_BYTES_MAX) -> memoryview:
        """Return the next frame; see FramedStream.

        The client sends over the stream only when it knows what has gone through the hatch. So whoever has a frame of
        the stream finds in the hatch all that is to come before it, and must look there now:
        1. worker: finds the hatch empty   2. client: sends through the hatch, then over the stream
        3. worker: reads the stream
        """
        if self._kept is None:
            is_stream_ready = self._start < self._end or self._large is not None  # else it is between two frames
            while not is_stream_ready:
                ready = self._wait(timeout)
                frame = self._look()
                if frame is not None:
                    return frame
                is_stream_ready = any(fd == self._fd for fd, _event in ready)
            self._kept = super().recv(timeout=timeout, limit=limit)
        frame = self._look()
        if frame is None:
            frame, self._kept = self._kept, None
        return frame

    def _wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait until there is something in the stream or in the hatch; return who says so, or raise LinkTimeout."""
        if self._is_inert:
            raise LinkClosed(_RECEIVING_CLOSED)
        if timeout is not None and timeout < self._seconds_min:
            fds, _, _ = select.select(self._fds, (), (), timeout)
            ready = [(fd, select.POLLIN) for fd in fds]
        else:
            ready = self._poll_both.poll(_wait_ms(timeout))
        if not ready:
            raise LinkTimeout(_NOTHING_CAME)
        return ready

    def _look(self) -> memoryview | None:
        """Return the next frame of the hatch, or None if it is empty."""
        try:
            return memoryview(self._hatch.recv(HATCH_BYTES_MAX))[LENGTH_BYTES:]
        except OSError:
            return None

    def answer(self, data: bytes) -> bool:
        """Say something to who waits at the hatch, if that can be done at once; return whether it was."""
        try:
            return len(data) <= HATCH_BYTES_MAX and self._hatch.send(data) == len(data)
        except OSError:  # so much lies there unread that nobody waits
            return False

    def free(self) -> None:
        """Give the memory back; see Link."""
        if not self._is_inert:
            super().free()
            self._hatch.close()


def _wait_ms(timeout: float | None) -> int | None:
    return None if timeout is None else max(1, int(min(timeout * 1000, POLL_MS_MAX)))


def _adopt(nng: Nng, sock: socket.socket) -> Any:
    """Make a stream of NNG's of a connected socket.

    NNG's `socket://` listener adopts a descriptor: no name, no port, nobody else can connect.
    """
    lib, ffi = nng.lib, nng.ffi
    listener = ffi.new("nng_stream_listener **")
    nng.check(lib.nng_stream_listener_alloc(listener, b"socket://"), "opening a socket")
    aio = nng.new_aio()
    try:
        nng.check(lib.nng_stream_listener_listen(listener[0]), "opening a socket")
        nng.check(
            lib.nng_stream_listener_set_int(listener[0], b"socket:fd", os.dup(sock.fileno())), "adopting a socket"
        )
        lib.nng_stream_listener_accept(listener[0], aio)
        lib.nng_aio_wait(aio)
        nng.check(lib.nng_aio_result(aio), "adopting a socket")
        return ffi.cast("nng_stream *", lib.nng_aio_get_output(aio, 0))
    finally:
        lib.nng_aio_free(aio)
        lib.nng_stream_listener_free(listener[0])


def was_forked_from_user() -> bool:
    """Answer whether this process is a forked child of one that used NNG, so that no link can be opened here."""
    return _is_forked_from_user
