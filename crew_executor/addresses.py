"""Where others find this machine: its addresses, and what a user means by `host=`."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from . import processes
from .errors import CrewError

ANY = "0.0.0.0"  # noqa: S104  only where the user names no address, and behind TLS unless that is switched off


def resolve(hosts: Sequence[str]) -> tuple[str, list[str]]:
    """Return the address to listen at, and those to tell agents, in the order in which they should be tried.

    Args:
        hosts: addresses, names and interfaces; none: all addresses of this machine but loopback's.

    Raises:
        CrewError: one of them is none of these.
    """
    interfaces = processes.interface_addresses()
    if not hosts:
        found = [each for addresses in interfaces.values() for each in addresses if not _is_loopback(each)]
        return ANY, found or ["127.0.0.1"]
    told: list[str] = []
    for host in hosts:
        told += interfaces.get(host) or [_checked(host, interfaces)]
    own = {address for addresses in interfaces.values() for address in addresses}
    if len(told) == 1 and _address_of(told[0]) in own:
        return _address_of(told[0]), told
    return ANY, told  # several; or a name that leads here by way of others


def _checked(host: str, interfaces: dict[str, list[str]]) -> str:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise CrewError(
            f"host={host!r} is no address, name or interface that this machine knows ({error}); its interfaces are "
            f"{', '.join(sorted(interfaces))}"
        ) from None
    return host


def _address_of(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
