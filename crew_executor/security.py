"""What proves who somebody is on a link over a network, where it is not a key that both ends know."""

from __future__ import annotations

from typing import NamedTuple


class Certificates(NamedTuple):
    """The user's own certificates, in place of a pre-shared key.

    Attributes:
        ca_file: PEM: the authority that has signed the certificates of both sides.
        own_file: PEM: this side's certificate and its key, which has no password.
        name: that the client's certificate is for: agents accept no other there.
    """

    ca_file: str
    own_file: str
    name: str
