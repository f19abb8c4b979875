"""Two ends of a conversation over loopback, and a relay between them that can break in each way that a network does."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from crew_executor.conversation import Conversation
from crew_executor.core.admission import Admitted, Door, Guest, Refusal
from crew_executor.framing import LinkClosed
from crew_executor.lobby import Lobby
from crew_executor.network import NetworkLink
from crew_executor.visit import Address, call_on

RUN, PYTHON, PATIENCE, SILENCE = 77, "3.12", 100.0, 1.0


class Host:
    """A lobby, and a conversation for each guest."""

    def __init__(self, key: bytes | None, seats: int = 1, ports: list[int] | None = None) -> None:
        self.key = key
        self.secrets = {f"s{number}": os.urandom(32) for number in range(1, seats + 1)}
        self.conversations = {seat: Conversation(seat, RUN, PATIENCE, SILENCE) for seat in self.secrets}
        self.admitted: list[Admitted] = []
        door = Door(RUN, PYTHON)
        for seat, secret in self.secrets.items():
            door.offer(seat, secret)
        self._is_over = threading.Event()
        self._ticker = in_thread(self._tick)
        try:
            self.lobby = Lobby("test", "127.0.0.1", ports or [0], key, door, self._received_of, self._let_in)
        except BaseException:
            self._end_conversations()
            raise

    def _tick(self) -> None:
        while not self._is_over.wait(SILENCE / 5):
            for conversation in self.conversations.values():
                conversation.tick()

    def _received_of(self, seat: str) -> int:
        return self.conversations[seat].received if seat in self.conversations else 0

    def _let_in(self, admitted: Admitted, link: NetworkLink, _round_trip: float) -> None:
        self.admitted.append(admitted)
        self.conversations[admitted.seat].attach(link, admitted.received)

    @property
    def address(self) -> Address:
        """Where it listens."""
        return "127.0.0.1", self.lobby.port

    def guest(self, seat: str = "s1", **changes: Any) -> Guest:
        """Return a guest with an invitation."""
        secret = changes.pop("secret", self.secrets.get(seat, b""))
        return Guest(changes.pop("run", RUN), seat, secret, changes.pop("python", PYTHON), {"host": "h1"})

    def close(self) -> None:
        """End everything."""
        self.lobby.close()
        self._end_conversations()

    def _end_conversations(self) -> None:
        self._is_over.set()
        self._ticker.join()
        for conversation in self.conversations.values():
            conversation.close()


class Caller:
    """A guest that comes back whenever its link is lost, as an agent does."""

    def __init__(self, address: Address, key: bytes | None, guest: Guest) -> None:
        self.conversation = Conversation("guest", RUN, PATIENCE, SILENCE)
        self._address, self._key, self._guest = address, key, guest
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_in_touch, daemon=True)
        self._thread.start()

    def _keep_in_touch(self) -> None:
        ticked_at = 0.0
        while not self.is_over.is_set():
            if not self.conversation.has_link:
                with contextlib.suppress(LinkClosed, Refusal):
                    link, there = call_on([self._address], self._key, self._guest, self.conversation.received)
                    self.conversation.attach(link, there)
            self.is_over.wait(0.005)
            if time.monotonic() > ticked_at + SILENCE / 5:
                self.conversation.tick()
                ticked_at = time.monotonic()

    def close(self) -> None:
        """End the conversation."""
        self.is_over.set()
        self.conversation.close()
        self._thread.join()


class Relay:
    """Passes bytes on between those who dial in and an address, until it is told to break."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._server.getsockname()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._is_cut = threading.Event()
        self.bytes_passed = 0
        self._is_over = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:  # nobody is there any more
                near.close()
                continue
            for sock in (near, far):
                sock.settimeout(1.0)  # who takes nothing for so long is given up
            self._pairs.append((near, far))
            thread = threading.Thread(target=self._pass_on, args=(near, far), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        while not self._is_over:
            ready, _, _ = select.select(list(other), [], [], 0.05)
            for sock in ready if not self._is_cut.is_set() else []:
                try:
                    data = sock.recv(1 << 16)
                    if data:
                        self.bytes_passed += len(data)
                        other[sock].sendall(data)
                        continue
                except OSError:
                    pass
                near.close()
                far.close()
                return
            if self._is_cut.is_set():
                self._is_cut.wait(0.01)
        near.close()
        far.close()

    def cut(self) -> None:
        """Pass nothing on, without a word."""
        self._is_cut.set()

    def heal(self) -> None:
        """Pass on what has come meanwhile."""
        self._is_cut.clear()

    def reset(self) -> None:
        """Break all connections with a reset."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """End it."""
        self._is_over = True
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()


def in_thread(function: Callable[[], object]) -> threading.Thread:
    """Start a thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread
