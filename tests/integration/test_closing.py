"""A link that is closed by one thread while another is about to send: the sender must come back.

The dispatcher closes the links of dead workers while other threads may be on their way to send something. A sender
that never comes back keeps the dispatcher from ever ending, and with it shutdown() and the interpreter's exit.
"""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, socket, threading
from crew_executor import framing, transport

ours, theirs = socket.socketpair()
link = transport.Link(ours)
transport.load()

class Library:
    # NNG's functions; just before a send begins, another thread closes the link, unless it is kept from that.
    def __getattr__(self, name):
        return getattr(lib, name)

    def nng_stream_send(self, stream, aio):
        closer = threading.Thread(target=link.close, daemon=True)
        closer.start()
        closer.join(0.5)
        lib.nng_stream_send(stream, aio)

def send():
    try:
        link.send([bytes(10_000_000)])  # more than the socket takes at once: the rest is NNG's
        link.send([b"once more"])
    except framing.LinkClosed:
        pass

lib, transport._nng.lib = transport._nng.lib, Library()
sender = threading.Thread(target=send, daemon=True)
sender.start()
sender.join(10)
print("the sender hangs" if sender.is_alive() else "the sender came back", flush=True)
os._exit(0)  # NNG could not be ended in order with a thread that hangs in it
"""


def test_a_sender_comes_back_when_the_link_is_closed_just_before_it_sends() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.stderr) == ("the sender came back\n", "")
