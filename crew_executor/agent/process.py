"""The life of an agent: call on the client, start workers when told to, pass on what they say, leave nothing behind.

    main thread     keeps the link to the client, beats, watches the workers
    crew-orders     reads what the client says
    crew-alive      tells the supervisor that this process does not stand still
    crew-reader-... one for each worker
    crew-sender     writes to the client (conversation.py)

The client's word is law while it is there. When it has been silent for too long, or when nothing listens any more where
it was, everything here ends: a task must not go on here when the client has given this host up and runs it elsewhere.
"""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from typing import Any

from .. import invitations
from ..conversation import Conversation
from ..core.admission import Guest, Refusal
from ..core.messages import Frame, Kind, decode_control, decode_relay, encode_control, encode_relay
from ..cpus import usable_cpus
from ..errors import ProtocolError
from ..framing import LinkClosed
from ..invitations import PYTHON, AgentInvitation
from ..launchers import LocalLauncher, supervisor_handle
from ..launchers.equipment import own_devices, shared, visible_devices
from ..log import logger
from ..visit import call_at, unreached
from .berth import Berth
from .contents import Contents

TICK_SECONDS = 0.5
RETRY_FIRST, RETRY_LONGEST = 0.1, 2.0
"""Seconds between calls on a client that was not reached."""
REFUSALS_MAX = 4
"""So often an agent comes again that does not know whether it was let in: it tries both of its secrets."""
REFUSED_AT_FIRST_SECONDS = 20.0
"""So long every address of the client may refuse an agent that has just started."""
REFUSED_SECONDS = 3.0
"""So long nothing may listen where the client was: its system says so, so it is not the network that is broken."""
PATIENCE = 0.8
"""The part of lost_after that an agent waits: it is gone before its client judges its tasks."""
SUPERVISORS_PATIENCE = 0.7
"""The part of lost_after after which its supervisor ends the workers of an agent that stands still."""
SILENCE = 0.25
"""The part of that after which a silent link is dropped, and another one tried."""
BEAT = 1 / 12
"""The part of lost_after between two beats: a third of what is silence to the client."""
ENVIRONMENT = "env:"
EXIT_UNREACHABLE = 71
EXIT_REFUSED = 72
EXIT_FAILED = 73
"""Exit codes that launchers can tell from others: the client was not reached; it did not want this agent; a defect."""


class _AgentLauncher(LocalLauncher):
    """Starts workers on this host with what the client's process is like."""

    def __init__(self) -> None:
        super().__init__()
        self.main: dict[str, str | None] = {"file": None, "name": None}

    def _main_module(self) -> dict[str, str | None]:
        return self.main


class Agent:
    """Stand for this host.

    Args:
        invitation: where the client is.
    """

    def __init__(self, invitation: AgentInvitation) -> None:
        self._invitation = invitation
        guest = f"{invitation.seat}/{os.urandom(8).hex()}" if invitation.places > 1 else invitation.seat
        self._guest = Guest(invitation.run, guest, invitation.secret, PYTHON, _about(invitation.variables))
        patience = invitation.lost_after * PATIENCE
        self._silence = patience * SILENCE
        self._beat_seconds = invitation.lost_after * BEAT
        self._conversation = Conversation("agent", invitation.run, patience - self._silence, self._silence)
        supervisor_handle.patience = invitation.lost_after * SUPERVISORS_PATIENCE
        self._launcher = _AgentLauncher()
        self._contents = Contents()
        self._berths: dict[int, Berth] = {}
        self._workers = 1
        self._gpus: tuple[str, ...] | None = None
        self._is_over = threading.Event()
        self._noticed = threading.Event()
        self._ended: list[Berth] = []  # to be closed by the main thread
        self._exit_code = 0
        self._addresses = list(invitation.addresses)  # the one that has led to the client last comes first
        self._is_refused = False  # nothing listens there
        self._refused_since: float | None = None

    def run(self) -> int:
        """Work until the client says that it is over, or is gone; return the exit code."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = self._come()  # until then whoever ends it ends it at once: there is nobody to tell, and nothing to save
        if code == 0:
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, self._take_notice)
            orders = threading.Thread(target=self._take_orders, name="crew-orders", daemon=True)
            orders.start()
            threading.Thread(target=self._say_alive, name="crew-alive", daemon=True).start()
            self._stay()
            supervisor_handle.close()  # ends all workers, unless that is done
            self._conversation.close()
            orders.join()
            for berth in [*self._berths.values(), *self._ended]:
                berth.close()
            self._contents.close()
        else:
            self._conversation.close()
        return code or self._exit_code

    def _say_alive(self) -> None:
        """Keep the supervisor from ending all: it does so if this process stands still, for then nobody else would."""
        while not self._is_over.wait(min(TICK_SECONDS, self._beat_seconds)):
            handle = supervisor_handle.running()
            if handle is not None:
                handle.say_alive()

    def _take_notice(self, number: int, _frame: Any) -> None:
        """Whoever gave this host is about to take it back. Told at once, by a thread: this may interrupt anything."""
        words = encode_control({"signal": signal.Signals(number).name})
        threading.Thread(target=self._send_notice, args=(words,), name="crew-notice", daemon=True).start()

    def _send_notice(self, words: bytes) -> None:
        self._send(Kind.NOTICE, words)
        self._noticed.set()

    # ------------------------------------------------------------------ the link

    def _come(self) -> int:
        """Find the client; try for as long as it waits."""
        until = time.monotonic() + self._invitation.startup_timeout
        pause, refusals, refused_since = RETRY_FIRST, 0, None
        while True:
            try:
                self._call()
                return 0
            except Refusal as error:
                refusals += 1
                if not self._guest.is_unsure or refusals > REFUSALS_MAX:
                    logger.error("the client does not want this agent: %s", error)
                    return EXIT_REFUSED
            except LinkClosed as error:
                # A job that has waited long in a queue may find that its client has ended meanwhile.
                refused_since = (refused_since or time.monotonic()) if self._is_refused else None
                if refused_since is not None and time.monotonic() - refused_since > REFUSED_AT_FIRST_SECONDS:
                    until = 0.0
                if time.monotonic() + pause > until:
                    logger.error("%s; is there a firewall between, or does the client have another address?", error)
                    return EXIT_UNREACHABLE
                logger.warning("%s; trying again in %.1f s", error, pause)
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  so that many agents do not come at once again
            pause = min(2 * pause, RETRY_LONGEST)

    def _call(self) -> None:
        invitation, conversation = self._invitation, self._conversation
        credentials = invitation.certificates or invitation.key
        tried: list[str] = []
        for address in self._addresses:
            if conversation.is_over:
                break
            try:
                link, received = call_at(address, credentials, self._guest, conversation.received)
            except LinkClosed as error:
                tried.append(str(error))
                continue
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            conversation.attach(link, received)
            return
        # The others tell nothing: they may be of networks that this host is not on, or of other machines there.
        self._is_refused = bool(tried) and "refused" in tried[0]
        raise unreached(tried)

    def _stay(self) -> None:
        """Keep the link, beat, and watch workers until it is over."""
        pause, retry_at, beat_at = RETRY_FIRST, 0.0, 0.0
        tick_seconds = min(TICK_SECONDS, self._beat_seconds)
        while not self._is_over.wait(tick_seconds if self._conversation.has_link else pause):
            now = time.monotonic()
            if not self._conversation.has_link and now >= retry_at:
                pause = self._call_again(now, pause)
                retry_at = time.monotonic() + pause
            if now >= beat_at:
                beat_at = now + self._beat_seconds
                self._conversation.tick()
            self._tick(now)

    def _call_again(self, now: float, pause: float) -> float:
        """Try to get the link back; return how long to wait before the next try."""
        try:
            self._call()
            logger.info("the link to the client is back")
        except (Refusal, ProtocolError) as error:
            logger.error("the client does not want this agent any more: %s", error)
            self._is_over.set()
        except LinkClosed as error:
            self._refused_since = (self._refused_since or now) if self._is_refused else None
            if self._refused_since is not None and now - self._refused_since >= REFUSED_SECONDS:
                logger.error("the client has ended: %s", error)
                self._is_over.set()
            return min(2 * pause, RETRY_LONGEST)
        self._refused_since = None
        return RETRY_FIRST

    def _tick(self, now: float) -> None:
        for berth in list(self._berths.values()):
            berth.tick(now)
        while self._ended:
            self._ended.pop().close()

    # ------------------------------------------------------------------ the client's orders

    def _take_orders(self) -> None:
        try:
            while self._take(self._conversation.recv()):
                pass
        except LinkClosed as error:
            if not self._is_over.is_set():
                logger.error("the client is out of reach, so all ends here: %s", error)
        except Exception:
            logger.exception("an order of the client's cannot be understood: all ends here")
            self._exit_code = EXIT_FAILED
            self._conversation.close()  # first: what had started here must not count as fetched back
        # By this thread: the main one may wait for a client that does not answer, while that judges our tasks.
        supervisor_handle.close()
        self._is_over.set()

    def _take(self, frame: Frame) -> bool:
        if frame.kind == Kind.RELAY:
            number, inner, has_content = decode_relay(frame)
            if inner.kind == Kind.HIRE:
                self._hire(number, decode_control(inner.body)[0])
            else:
                berth = self._berths.get(number)
                if berth is not None:  # else it is over, and the client is about to hear of it
                    berth.take(inner, has_content)
        elif frame.kind == Kind.CONTENT:
            self._contents.take(frame)
        elif frame.kind == Kind.SETTLE:
            self._settle(decode_control(frame.body)[0])
        elif frame.kind == Kind.END:
            return False
        else:
            raise ProtocolError(f"an agent has no use for a frame of kind {frame.kind}")
        return True

    def _settle(self, fields: dict[str, Any]) -> None:
        """Take what the client's process is like, as far as that makes sense here."""
        known = set(sys.path)
        sys.path += [path for path in fields["sys_path"] if path not in known and os.path.isdir(path)]
        if os.path.isdir(fields["cwd"]):
            os.chdir(fields["cwd"])
        sys.argv = fields["argv"]
        sys.setrecursionlimit(fields["recursion_limit"])
        if fields["umask"] is not None:
            os.umask(fields["umask"])
        multiprocessing.current_process().authkey = bytes.fromhex(fields["authkey"])
        self._launcher.main = fields["main"]
        self._workers = fields["workers"]
        if fields["gpus"] is not None:
            visible = visible_devices()  # what the scheduler has given, if it says so
            self._gpus = own_devices(math.ceil(fields["gpus"])) if visible is None else visible
        supervisor_handle.current()

    def _hire(self, number: int, fields: dict[str, Any]) -> None:
        share = str(max(1, usable_cpus() // self._workers))
        environment = dict.fromkeys(fields["thread_variables"], share)
        # A successor has the place of the one that leaves, not that of another.
        taken = {berth.place for berth in self._berths.values() if not berth.is_leaving}
        place = next(place for place in itertools.count() if place not in taken)
        devices = None if self._gpus is None else shared(self._gpus, place, self._workers)
        try:
            berth = Berth(
                number, self._invitation.run, fields, environment, self._launcher, self._contents, self._relay,
                self._forget, place, devices, self._noticed,
            )  # fmt: skip
        except (OSError, RuntimeError) as error:  # descriptors, memory, threads
            end = {"name": fields["name"], "reason": f"no link for it could be made on its host: {error}"}
            told = {"exit": end, "started": 0, "seconds": 0.0, "timed_out": 0, "interrupted": 0, "log": ""}
            self._relay(number, Kind.EXITED, [encode_control(told, [b""])], 0)
            return
        self._berths[number] = berth
        berth.start()

    def _forget(self, berth: Berth) -> None:
        self._berths.pop(berth.number, None)
        self._ended.append(berth)

    def _relay(self, number: int, kind: Kind, pieces: Any, count: int, owner: object = None) -> None:
        self._conversation.send(Kind.RELAY, [encode_relay(number, kind), *pieces], count, owner)

    def _send(self, kind: Kind, body: bytes) -> None:
        try:
            self._conversation.send(kind, [body])
        except LinkClosed:
            self._is_over.set()


def _about(variables: list[str]) -> dict[str, Any]:
    known = {name: os.environ[name] for name in variables if name in os.environ}
    return {"host": socket.gethostname(), "pid": os.getpid(), "variables": known}


def run(source: str) -> int:
    """Be the agent that an invitation asks for; return the exit code.

    Args:
        source: the path of a file with the invitation; "-": it comes from stdin; "env:NAME": from that variable.
    """
    logging.basicConfig(format="%(asctime)s crew_executor agent: %(message)s", level=logging.INFO)
    if source == "-":
        data = sys.stdin.buffer.readline()
    elif source.startswith(ENVIRONMENT):
        data = os.environb.pop(os.fsencode(source.removeprefix(ENVIRONMENT)), b"")  # workers and tasks have it no more
    else:
        with open(source, "rb") as file:
            data = file.read()
    invitation = invitations.decode(data)
    os.environ.update(invitation.environment)
    return Agent(invitation).run()
