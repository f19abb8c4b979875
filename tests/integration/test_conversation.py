"""What is said over a network arrives once and in order, though links are reset, cut or taken away."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from crew_executor.conversation import ACK_BYTES, Conversation
from crew_executor.core.messages import Kind
from crew_executor.errors import ProtocolError
from crew_executor.framing import LinkClosed
from crew_executor.network import NetworkLink
from crew_executor.visit import call_on

from .helpers import wait_until
from .network_helpers import RUN, Caller, Host, Relay, in_thread

BREAKS = 8


@pytest.fixture(params=["TLS", "tcp"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    host = Host(os.urandom(32) if request.param == "TLS" else None)
    yield host
    host.close()


def read_all(conversation: Conversation, into: list[bytes]) -> threading.Thread:
    """Start a thread that reads until the conversation is over."""

    def read() -> None:
        try:
            while True:
                into.append(bytes(conversation.recv().body))
        except LinkClosed:
            pass

    return in_thread(read)


def test_frames_go_both_ways_and_are_forgotten_when_they_have_arrived(host: Host) -> None:
    caller = Caller(host.address, host.key, host.guest())
    here, there = caller.conversation, host.conversations["s1"]
    for number in range(100):
        here.send(Kind.TASKS, [b"%d" % number])
        assert bytes(there.recv().body) == b"%d" % number
        there.send(Kind.OUTCOMES, [b"re", b":%d" % number])
        assert bytes(here.recv().body) == b"re:%d" % number

    readers = [read_all(there, []), read_all(here, [])]
    wait_until(lambda: there.bytes_kept == 0, "a beat has told what has arrived")
    caller.close()
    host.close()
    for reader in readers:
        reader.join(20)


def test_a_large_frame_is_acknowledged_without_a_beat(host: Host) -> None:
    caller = Caller(host.address, host.key, host.guest())
    here, there = caller.conversation, host.conversations["s1"]
    heard: list[bytes] = []
    readers = [read_all(there, heard), read_all(here, [])]
    data = os.urandom(3 * ACK_BYTES)
    here.send(Kind.TASKS, [data[:10], memoryview(data)[10:]])
    wait_until(lambda: heard == [data], "it has arrived")
    wait_until(lambda: here.bytes_kept == 0, "and need not be kept any more")
    caller.close()
    host.close()
    for reader in readers:
        reader.join(20)


@pytest.mark.parametrize("how", ["reset", "closed here", "closed there"])
def test_whatever_a_broken_link_has_swallowed_arrives_over_the_next_once(host: Host, how: str) -> None:
    dice = random.Random(1)
    relay = Relay(host.address)
    caller = Caller(relay.address, host.key, host.guest())
    here, there = caller.conversation, host.conversations["s1"]
    heard: dict[Conversation, list[bytes]] = {here: [], there: []}
    said: dict[Conversation, list[bytes]] = {here: [], there: []}
    readers = [read_all(conversation, heard[conversation]) for conversation in heard]
    is_enough = threading.Event()

    def say(conversation: Conversation) -> None:
        while not is_enough.is_set():
            said[conversation].append(os.urandom(dice.choice([1, 100, 70_000])))
            conversation.send(Kind.TASKS, [said[conversation][-1]])
            time.sleep(0.002)

    speakers = [in_thread(lambda: say(here)), in_thread(lambda: say(there))]
    for number in range(BREAKS):
        wait_until(lambda number=number: here.has_link and there.links > number, "there is a new link")  # type: ignore[misc]
        time.sleep(dice.random() * 0.03)
        if how == "reset":
            relay.reset()
        else:
            (here if how == "closed here" else there).drop_link()
    is_enough.set()
    for speaker in speakers:
        speaker.join(20)
    wait_until(lambda: heard[here] == said[there] and heard[there] == said[here], "everything has arrived, once")

    caller.close()
    host.close()
    relay.close()
    for thread in readers:
        thread.join(20)


def test_a_cut_that_heals_costs_nothing(host: Host) -> None:
    relay = Relay(host.address)
    caller = Caller(relay.address, host.key, host.guest())
    there = host.conversations["s1"]
    caller.conversation.send(Kind.TASKS, [b"before"])
    assert bytes(there.recv().body) == b"before"
    relay.cut()
    caller.conversation.send(Kind.TASKS, [b"meanwhile"])
    relay.heal()
    assert bytes(there.recv().body) == b"meanwhile"
    assert there.links == 1
    caller.close()
    host.close()
    relay.close()


def test_a_silent_link_is_dropped_by_both_and_the_next_one_goes_on(host: Host) -> None:
    relay = Relay(host.address)
    caller = Caller(relay.address, host.key, host.guest())
    here, there = caller.conversation, host.conversations["s1"]
    heard: list[bytes] = []
    readers = [read_all(here, []), read_all(there, heard)]
    wait_until(lambda: here.has_link and there.has_link, "there is a link")
    relay.cut()
    here.send(Kind.TASKS, [b"into the void"])
    wait_until(lambda: not here.has_link and not there.has_link, "both have noticed")
    relay.heal()
    wait_until(lambda: heard == [b"into the void"], "it has arrived all the same")
    assert there.links == 2
    caller.close()
    host.close()
    relay.close()
    for reader in readers:
        reader.join(20)


def test_a_returning_guest_displaces_a_link_that_is_silent(host: Host) -> None:
    relay = Relay(host.address)
    guest = host.guest()
    link, there = call_on([relay.address], host.key, guest, 0)
    conversation = Conversation("guest", RUN, 20.0, 60.0)
    conversation.attach(link, there)
    relay.cut()  # the host does not know
    conversation.send(Kind.TASKS, [b"lost on the way"])
    link, there = call_on([host.address], host.key, guest, conversation.received)
    conversation.attach(link, there)

    assert bytes(host.conversations["s1"].recv().body) == b"lost on the way"
    assert [admitted.is_back for admitted in host.admitted] == [False, True]
    relay.heal()
    conversation.close()
    relay.close()


def test_without_a_link_for_too_long_it_is_over() -> None:
    conversation = Conversation("alone", RUN, 0.05, 60.0)
    with pytest.raises(LinkClosed, match="no link for too long"):
        conversation.recv()
    with pytest.raises(LinkClosed, match="is over"):
        conversation.send(Kind.TASKS, [b""])
    conversation.close()


class Silent(NetworkLink):
    """A link that nobody hears."""

    def __init__(self) -> None:
        self.frees = 0

    def free(self) -> None:
        self.frees += 1


def test_who_comes_too_late_or_is_another_is_not_attached() -> None:
    conversation, link = Conversation("alone", RUN, 1.0, 60.0), Silent()
    conversation.send(Kind.TASKS, [b"kept, for there is no link"])
    with pytest.raises(ProtocolError, match="acknowledges frame 7"):
        conversation.attach(link, 7)
    conversation.close()
    with pytest.raises(LinkClosed, match="is over"):
        conversation.attach(link, 0)
    assert link.frees == 2
