"""Streams over a network: NNG's tcp, inside TLS with a pre-shared key unless it is said to be left out.

Both ends know the 32 random bytes of the key, or each has a certificate that the other accepts; else the handshake
fails, in either direction, before a byte of ours has been read. TLS 1.3 alone is spoken, whose handshake always agrees
on a fresh key (X25519): who learns the others later cannot read what was recorded (docs/adr/0026). What the bytes mean
is not known here.

Rules that NNG's behaviour dictates (each measured), besides those of transport.py:
1. Neither end of a TLS stream goes on with the handshake unless somebody reads or writes there: a dial succeeds with
   the wrong key, and the first read or write then fails.
2. An aio's own time-out beside a cancel aborts the process (NNG issue 2208): nothing has a time-out but a dial, which
   nobody cancels. Whoever has waited long enough closes the stream, from any thread; what waits on it then returns.
3. A callback of NNG's runs in its threads: it may only leave word. An aio is freed by somebody else, when nothing is
   under way.
4. When the peer resets the connection, a TLS stream's pending read, or write, or both, may never end (12 of 12 trials;
   plain tcp: 0 of 12), nor does now and then a read when the peer has refused the key. A close ends them. So whoever
   sees one of them fail closes the stream, and silence is watched.
5. A closed stream that is not freed still holds the connection open: the peer may wait for what it writes to be taken.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from . import transport
from .errors import CrewError
from .framing import Buffer, FramedStream, LinkClosed
from .security import Certificates

KEY_BYTES = 32
RETRY_SECONDS = 0.1
"""Between an accept that has failed and the next."""
_IDENTITY = b"crew"
_CLOSED = "the link is closed"


class Stream:
    """One connection: blocking reads by one thread, blocking writes by one at a time, or either without waiting."""

    def __init__(self, nng: transport.Nng, pointer: Any) -> None:
        self._nng = nng
        self._pointer = pointer
        # Made when needed: most strangers are only listened to, once.
        self._reading: _Operation | None = None
        self._writing: _Operation | None = None
        self._reading_later: _Operation | None = None
        self._gate = threading.Lock()  # between "is it closed?" and the call; rule 4 of transport.py
        self._is_closed = False
        self._is_inert = False  # in a forked child
        self._written: Any = None  # the buffer of write_later(), which must live until it is done
        transport.track(self)

    def read_into(self, into: memoryview) -> int:
        """Wait for bytes, take what is there, return how many; raise LinkClosed."""
        reading = self._reading = self._reading or _Operation(self._nng)
        self._begin(reading, self._nng.lib.nng_stream_recv, self._nng.ffi.from_buffer(into), "receiving")
        got = reading.wait("receiving")
        if not got:
            raise LinkClosed(f"receiving: {_CLOSED}")
        return got

    def read_later(self, size: int, then: Callable[[bytes], None]) -> None:
        """Read up to so many bytes without waiting; `then` is called with them, in a thread of NNG's; b"": closed."""
        reading = self._reading_later = self._reading_later or _Operation(self._nng, has_callback=True)
        buffer = self._nng.ffi.new("char[]", size)

        def done() -> None:
            got = reading.result()
            then(bytes(self._nng.ffi.buffer(buffer, got)) if got > 0 else b"")

        reading.then = done
        try:
            self._begin(reading, self._nng.lib.nng_stream_recv, buffer, "receiving")
        except LinkClosed:
            reading.then = None
            then(b"")

    def write(self, data: Buffer) -> None:
        """Write all; return when it has left; raise LinkClosed."""
        writing = self._free_to_write()
        view = memoryview(data)
        while view:
            buffer = self._nng.ffi.from_buffer(view)
            self._begin(writing, self._nng.lib.nng_stream_send, buffer, "sending")
            view = view[writing.wait("sending") :]

    def write_later(self, data: bytes) -> None:
        """Begin to write a little, which the system takes without waiting for the peer."""
        writing = self._free_to_write()
        self._written = self._nng.ffi.from_buffer(data)
        with contextlib.suppress(LinkClosed):
            self._begin(writing, self._nng.lib.nng_stream_send, self._written, "sending")

    def _free_to_write(self) -> _Operation:
        writing = self._writing = self._writing or _Operation(self._nng)
        if self._written is not None:
            writing.end()
            self._written = None
        return writing

    def _begin(self, operation: _Operation, function: Any, buffer: Any, doing: str) -> None:
        if self._is_inert:
            raise LinkClosed(f"{doing}: {_CLOSED}")
        with self._gate:
            if self._is_closed:
                raise LinkClosed(f"{doing}: {_CLOSED}")
            operation.begin(function, self._pointer, buffer)

    def close(self) -> None:
        """End what is under way, and all that comes. Idempotent, from any thread."""
        if self._is_inert:
            return
        with self._gate:
            if not self._is_closed:
                self._is_closed = True
                self._nng.lib.nng_stream_close(self._pointer)

    def free(self) -> None:
        """Give the memory back. For the one who reads, when nobody else uses it any more; not in a callback."""
        if self._is_inert or self._pointer is None:
            return
        self.close()
        for operation in (self._reading, self._writing, self._reading_later):
            if operation is not None:
                operation.free()
        self._nng.lib.nng_stream_free(self._pointer)
        self._pointer = None


class _Operation:
    """A read, a write or an accept, one at a time: waited for, or followed by a call."""

    def __init__(self, nng: transport.Nng, *, has_callback: bool = False) -> None:
        self._nng = nng
        self._handle = nng.ffi.new_handle(self)
        pointer = nng.ffi.new("nng_aio **")
        callback = _callback(nng) if has_callback else nng.ffi.NULL  # it costs a change of threads
        nng.check(nng.lib.nng_aio_alloc(pointer, callback, self._handle), "allocating an aio")
        self.aio = pointer[0]
        self._iov = nng.ffi.new("nng_iov[1]")
        self.then: Callable[[], None] | None = None

    def begin(self, function: Any, target: Any, buffer: Any) -> None:
        self._iov[0].iov_buf, self._iov[0].iov_len = buffer, len(buffer)
        self._nng.lib.nng_aio_set_iov(self.aio, 1, self._iov)
        function(target, self.aio)

    def end(self) -> None:
        """Wait for the end."""
        self._nng.lib.nng_aio_wait(self.aio)

    def wait(self, doing: str) -> int:
        """Wait for the end; return how many bytes, or raise LinkClosed."""
        self.end()
        self._nng.check(self._nng.lib.nng_aio_result(self.aio), doing)
        return int(self._nng.lib.nng_aio_count(self.aio))

    def result(self) -> int:
        """Return how many bytes, after the end; -1 for an error."""
        return -1 if self._nng.lib.nng_aio_result(self.aio) else int(self._nng.lib.nng_aio_count(self.aio))

    def free(self) -> None:
        self.end()
        self._nng.lib.nng_aio_free(self.aio)


_callbacks: dict[int, Any] = {}


def _callback(nng: transport.Nng) -> Any:
    """Return the one callback for all operations: NNG calls it at the end of each, in a thread of its own."""
    callback = _callbacks.get(id(nng))
    if callback is None:

        def done(handle: Any) -> None:
            operation: _Operation = nng.ffi.from_handle(handle)
            then, operation.then = operation.then, None
            if then is not None:
                then()

        callback = _callbacks[id(nng)] = nng.ffi.callback("void(void *)", done, onerror=_log_error)
    return callback


def _log_error(kind: Any, error: BaseException, traceback: Any) -> None:
    # Named as in logging, not by log.py: this may run when the interpreter is about to end.
    logging.getLogger("crew_executor").error("a callback of NNG failed", exc_info=(kind, error, traceback))


_AT_ONCE = b"tcp-nodelay"
"""Off by default: what is small waits then until the other side has confirmed what was sent before, and that waits for
more. A task submitted while another runs took 44 ms, with it 2 ms (TLS, loopback, medians of 60)."""

Credentials = bytes | Certificates | None
"""What both ends of a link prove to each other: that they know a key of 32 bytes; or certificates; or nothing."""


def _tls(nng: transport.Nng, mode: int, credentials: bytes | Certificates) -> Any:
    pointer = nng.ffi.new("nng_tls_config **")
    nng.check(nng.lib.nng_tls_config_alloc(pointer, mode), "making a TLS configuration")
    config = pointer[0]
    # 1.3 only: its key exchange with a pre-shared key is always with a fresh one beside.
    nng.check(nng.lib.nng_tls_config_version(config, nng.lib.NNG_TLS_1_3, nng.lib.NNG_TLS_1_3), "asking for TLS 1.3")
    try:
        if isinstance(credentials, bytes):
            code = nng.lib.nng_tls_config_psk(config, _IDENTITY, credentials, len(credentials))
            nng.check(code, "setting the pre-shared key")
        else:
            _use_certificates(nng, config, mode, credentials)
    except BaseException:
        nng.lib.nng_tls_config_free(config)
        raise
    return config


def _use_certificates(nng: transport.Nng, config: Any, mode: int, certificates: Certificates) -> None:
    ca_file, own_file, name = (os.fsencode(text) for text in certificates)
    nng.check(nng.lib.nng_tls_config_ca_file(config, ca_file), f"reading the certificates in {certificates.ca_file}")
    code = nng.lib.nng_tls_config_cert_key_file(config, own_file, nng.ffi.NULL)
    nng.check(code, f"reading the certificate and its key in {certificates.own_file}")
    code = nng.lib.nng_tls_config_auth_mode(config, nng.lib.NNG_TLS_AUTH_MODE_REQUIRED)
    nng.check(code, "asking for the peer's certificate")
    if mode == nng.lib.NNG_TLS_MODE_CLIENT:  # of TLS; the other side would look for this name in its guests' ones
        nng.check(nng.lib.nng_tls_config_server_name(config, name), "naming the client")


def _check_key(credentials: Credentials) -> None:
    if isinstance(credentials, bytes) and len(credentials) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(credentials)}")


class Listener:
    """Take connections at one port, from the first accept() on.

    Args:
        host: an address or the name of this machine, as others reach it.
        ports: tried in their order; 0: any.
        key: the credentials of TLS; None: plain tcp, which anybody on the way can read and change.
        on_stream: called with each stream, in a thread of NNG's; returns whether to take the next one at once.

    Attributes:
        host, port: where it listens.

    Raises:
        CrewError: no port is free, or the address is not this machine's.
    """

    def __init__(self, host: str, ports: Iterable[int], key: Credentials, on_stream: Callable[[Stream], bool]) -> None:
        _check_key(key)
        self._nng = nng = transport.library()
        self._on_stream = on_stream
        self._is_closed = False
        self._is_inert = False
        self._gate = threading.Lock()
        self.host = host
        self._scheme = "tcp" if key is None else "tls+tcp"
        self._config = None if key is None else _tls(nng, nng.lib.NNG_TLS_MODE_SERVER, key)
        tried = []
        for port in ports:
            try:
                self._pointer = self._listen(port)
                break
            except LinkClosed as error:
                tried.append(f"{port}: {error}")
        else:
            raise CrewError(f"cannot listen at {host}; tried {'; '.join(tried) or 'no port'}")
        bound = nng.ffi.new("int *")
        nng.check(nng.lib.nng_stream_listener_get_int(self._pointer, b"tcp-bound-port", bound), "asking for the port")
        self.port: int = bound[0]
        self._accepting = _Operation(nng, has_callback=True)
        transport.track(self)

    def _listen(self, port: int) -> Any:
        nng = self._nng
        pointer = nng.ffi.new("nng_stream_listener **")
        url = _url(self._scheme, self.host, port).encode()
        nng.check(nng.lib.nng_stream_listener_alloc(pointer, url), f"listening at {url.decode()}")
        try:
            if self._config is not None:
                code = nng.lib.nng_stream_listener_set_ptr(pointer[0], b"tls-config", self._config)
                nng.check(code, "setting up TLS")
            nng.check(nng.lib.nng_stream_listener_set_bool(pointer[0], _AT_ONCE, True), "asking for no delay")
            nng.check(nng.lib.nng_stream_listener_listen(pointer[0]), f"listening at {url.decode()}")
        except BaseException:
            nng.lib.nng_stream_listener_free(pointer[0])
            raise
        return pointer[0]

    def accept(self) -> None:
        """Take the next connection. If it is not called, others wait in the system's queue."""
        with self._gate:
            if not self._is_closed:
                self._accepting.then = self._accepted
                self._nng.lib.nng_stream_listener_accept(self._pointer, self._accepting.aio)

    def _accepted(self) -> None:
        nng = self._nng
        if nng.lib.nng_aio_result(self._accepting.aio) == 0:
            pointer = nng.ffi.cast("nng_stream *", nng.lib.nng_aio_get_output(self._accepting.aio, 0))
            if self._on_stream(Stream(nng, pointer)):
                self.accept()
        elif not self._is_closed:
            # No descriptor is left, mostly: at once it would fail again, and again.
            pause = threading.Timer(RETRY_SECONDS, self.accept)
            pause.daemon = True
            pause.start()

    def close(self) -> None:
        """Free the port. Idempotent; not in a callback. Streams that were taken live on."""
        if self._is_inert:
            return
        with self._gate:
            if self._is_closed:
                return
            self._is_closed = True
            self._nng.lib.nng_stream_listener_close(self._pointer)
        self._accepting.free()
        self._nng.lib.nng_stream_listener_free(self._pointer)
        if self._config is not None:
            self._nng.lib.nng_tls_config_free(self._config)


def dial(host: str, port: int, key: Credentials, timeout: float) -> Stream:
    """Connect; raise LinkClosed if nobody answers there.

    Args:
        host, port: where.
        key: the credentials of TLS; None: plain tcp. Wrong ones are found out by the first read or write.
        timeout: seconds.
    """
    _check_key(key)
    nng = transport.library()
    url = _url("tcp" if key is None else "tls+tcp", host, port)
    pointer = nng.ffi.new("nng_stream_dialer **")
    nng.check(nng.lib.nng_stream_dialer_alloc(pointer, url.encode()), f"dialling {url}")
    config = None
    dialling = _Operation(nng)
    try:
        if key is not None:
            config = _tls(nng, nng.lib.NNG_TLS_MODE_CLIENT, key)
            nng.check(nng.lib.nng_stream_dialer_set_ptr(pointer[0], b"tls-config", config), "setting up TLS")
        nng.check(nng.lib.nng_stream_dialer_set_bool(pointer[0], _AT_ONCE, True), "asking for no delay")
        nng.lib.nng_aio_set_timeout(dialling.aio, int(timeout * 1000))
        nng.lib.nng_stream_dialer_dial(pointer[0], dialling.aio)
        dialling.wait(f"dialling {url}")
        return Stream(nng, nng.ffi.cast("nng_stream *", nng.lib.nng_aio_get_output(dialling.aio, 0)))
    finally:
        dialling.free()
        nng.lib.nng_stream_dialer_free(pointer[0])
        if config is not None:
            nng.lib.nng_tls_config_free(config)


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class NetworkLink(FramedStream):
    """Frames on a stream over a network."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def _read(self, into: memoryview, timeout: float | None) -> int:
        if timeout is not None:
            raise ValueError("a link over a network is waited for as long as it lives: rule 2 of network.py")
        return self._stream.read_into(into)

    def _write(self, data: Buffer) -> None:
        self._stream.write(data)

    def drain(self) -> None:
        """Let the reader see the end: what had arrived and was not read is sent again over the next link."""
        self.close()

    def close(self) -> None:
        """Close it: a blocked recv() or send() raises LinkClosed. Idempotent, from any thread."""
        self._stream.close()

    def free(self) -> None:
        """Give the memory back. For the one reader, after its last recv(), when nobody will send any more."""
        with self.send_lock:
            self._stream.free()
