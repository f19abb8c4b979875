"""What an agent is told before it can ask: where its client is, and how to prove that it was invited. Secret.

JSON, so that it can go through files, pipes and secret stores. Everything else it hears from its client.
"""

from __future__ import annotations

import json
import sys
from typing import NamedTuple

from .errors import ProtocolError
from .security import Certificates

VERSION = 1
PYTHON = ".".join(map(str, sys.version_info[:2]))
"""This interpreter's version, as agents and clients compare it."""


class AgentInvitation(NamedTuple):
    """What is in an invitation.

    Attributes:
        run: the executor's run.
        seat, secret: see core/admission.py.
        places: how many agents have this invitation.
        key: of TLS, or None: plain tcp, or certificates.
        certificates: of the agent's side, or None.
        addresses: where the client may be, to be tried in this order.
        lost_after: seconds of silence after which each side gives the other up.
        startup_timeout: seconds within which the agent must have come.
        environment: variables to set.
        variables: names of variables whose values the client wants to know: which of several jobs this is.
    """

    run: int
    seat: str
    secret: bytes
    places: int
    key: bytes | None
    certificates: Certificates | None
    addresses: list[tuple[str, int]]
    lost_after: float
    startup_timeout: float
    environment: dict[str, str]
    variables: list[str]

    def __repr__(self) -> str:
        return f"<AgentInvitation to seat {self.seat}>"  # never the secrets


def encode(invitation: AgentInvitation) -> bytes:
    """Return an invitation as a line of text."""
    fields = invitation._asdict() | {
        "version": VERSION, "secret": invitation.secret.hex(), "key": invitation.key and invitation.key.hex(),
    }  # fmt: skip
    return json.dumps(fields).encode() + b"\n"


def decode(data: bytes) -> AgentInvitation:
    """Return what encode() was given; raise ProtocolError if this is no invitation, or one of another version."""
    try:
        fields = json.loads(data)
        version = fields.pop("version")
        if version != VERSION:
            raise ProtocolError(
                f"the invitation is of version {version}, this crew_executor reads {VERSION}: install the same "
                "crew_executor on both hosts"
            )
        key = fields["key"]
        fields |= {
            "secret": bytes.fromhex(fields["secret"]), "key": None if key is None else bytes.fromhex(key),
            "addresses": [(host, port) for host, port in fields["addresses"]],
            "certificates": fields["certificates"] and Certificates(*fields["certificates"]),
        }  # fmt: skip
        return AgentInvitation(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # Not its repr: that of a UnicodeDecodeError has all that was to be decoded, secrets included.
        raise ProtocolError(f"this is no invitation: {type(error).__name__}: {error}") from None
