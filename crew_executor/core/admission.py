"""Who may come in: how two ends of a link over a network prove to each other that they know one secret. Pure.

    guest   knock     {version, run, python, seat or session, its nonce, what it has received}
    host    challenge {its nonce, proof that it knows the secret, what it has received}
    guest   answer    {proof that it knows the secret}
    host    welcome   {}

A seat is a place that a launcher was asked to fill, with a secret of its own that travels with the invitation. Several
jobs of one submission have one invitation: then it has as many places, and each guest calls itself by a number that it
has drawn, "seat/number". The first guests that prove a seat's secret have its places; they are burnt. Both ends then
derive the key of a session from the secret and the two nonces, and who comes back after its link broke proves that one,
as often as need be: so a recorded knock or answer is of no use to anybody, and a stolen invitation is of none once its
owner has come.

The link may break between the guest's answer and the host's look at it. Then the guest cannot know whether its seat is
burnt: until it is welcomed it keeps both secrets, and tries one after the other.

Proofs are HMAC-SHA256 over a label, all that was said before and both nonces (as in SP 800-108 and TLS). Nothing said
here is a pickle, and what is too long or not as it should be is refused in one sentence. What has not been proved must
not be believed; what is refused is told no more than why.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, NamedTuple

from ..errors import ProtocolError
from .messages import VERSION

NONCE_BYTES = 32
SECRET_BYTES = 32
KNOCK_BYTES_MAX = 1024
"""Each of the three is shorter than this; a peer that sends more has something else in mind."""


class Refusal(ProtocolError):
    """The peer is not let in; the text may be told to it."""


class Admitted(NamedTuple):
    """A guest that has proved who it is.

    Attributes:
        seat: which it has, and its number if there are several places.
        is_back: it had it before, and its former link has broken, or is about to be closed.
        received: the number of the last frame that it has received.
        about: what else it has said of itself.
    """

    seat: str
    is_back: bool
    received: int
    about: dict[str, Any]


def _proof(secret: bytes, label: bytes, *said: bytes) -> str:
    mac = hmac.new(secret, label, hashlib.sha256)
    for each in said:
        mac.update(len(each).to_bytes(4, "little") + each)
    return mac.hexdigest()


def _session_key(secret: bytes, knock: bytes, nonce: bytes) -> bytes:
    return hmac.new(secret, b"session" + hashlib.sha256(knock).digest() + nonce, hashlib.sha256).digest()


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _decode(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > KNOCK_BYTES_MAX:
        raise Refusal(f"the {what} is too long")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Refusal(f"the {what} cannot be understood")
    return fields


def _take(fields: dict[str, Any], name: str, kind: type, what: str) -> Any:
    value: Any = fields.get(name)
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise Refusal(f"the {what} lacks {name}")
    return value


class Door:
    """The host's side, for all guests of one run.

    Args:
        run: the executor's run.
        python: this interpreter's version, "3.12": a guest must have the same, for functions travel as byte code.
    """

    def __init__(self, run: int, python: str) -> None:
        self._run = run
        self._python = python
        self._seats: dict[str, bytes] = {}
        self._places: dict[str, int] = {}
        self._sessions: dict[str, bytes] = {}  # by guest

    def offer(self, seat: str, secret: bytes, places: int = 1) -> None:
        """Let so many guests come that know the secret; each once."""
        self._places[seat] = places
        self._seats[seat] = secret

    def forget(self, seat: str) -> None:
        """Let nobody come for a seat any more, nor the guest of this name come back."""
        self._seats.pop(seat, None)
        self._places.pop(seat, None)
        self._sessions.pop(seat, None)

    def _secret(self, guest: str, *, is_back: bool) -> bytes | None:
        if is_back:
            return self._sessions.get(guest)
        return None if guest in self._sessions else self._seats.get(guest.partition("/")[0])

    def challenge(self, knock: bytes, nonce: bytes, received: int) -> tuple[Visit, bytes]:
        """Answer a knock.

        Args:
            knock: as it came.
            nonce: fresh random bytes of ours.
            received: the number of the last frame that came from this seat, 0 for a new guest; see seat_of().

        Returns:
            The visit, for admit(), and what to send.

        Raises:
            Refusal: this guest is not welcome.
        """
        fields = _decode(knock, "knock")
        self._check(fields)
        seat = _take(fields, "seat", str, "knock")
        is_back = _take(fields, "is_back", bool, "knock")
        secret = self._secret(seat, is_back=is_back)
        if secret is None:
            known = seat in self._sessions or seat.partition("/")[0] in self._places
            raise Refusal(f"the seat {seat[:40]!r} is {'taken' if known else 'unknown, or was given up'}")
        answer = {"nonce": nonce.hex(), "received": received}
        answer["proof"] = _proof(secret, b"host", knock, _encode(answer))
        about = _take(fields, "about", dict, "knock")
        visit = Visit(
            seat, is_back, _take(fields, "received", int, "knock"), about, secret, knock, _encode(answer), nonce
        )
        return visit, visit.challenge

    def _check(self, fields: dict[str, Any]) -> None:
        if fields.get("version") != VERSION:
            raise Refusal(
                f"the worker speaks version {fields.get('version')!r} of the wire, the client {VERSION}: install the "
                "same crew_executor on both"
            )
        if fields.get("run") != f"{self._run:016x}":
            raise Refusal("this is another run: the executor that sent the invitation has ended")
        if fields.get("python") != self._python:
            raise Refusal(
                f"the worker runs Python {fields.get('python')!r}, the client {self._python}: functions travel as byte "
                "code, so both must be of one minor version"
            )

    def admit(self, visit: Visit, answer: bytes) -> Admitted:
        """Let a guest in that has answered; its seat is burnt.

        Raises:
            Refusal: it does not know the secret; or somebody else was faster.
        """
        secret = self._secret(visit.seat, is_back=visit.is_back)
        if secret is not visit.secret:
            raise Refusal(f"the seat {visit.seat[:40]!r} is taken")
        proof = _take(_decode(answer, "answer"), "proof", str, "answer")
        expected = _proof(secret, b"guest", visit.knock, visit.challenge)
        if not proof.isascii() or not hmac.compare_digest(proof, expected):
            raise Refusal("the worker does not know the secret of its seat")
        if not visit.is_back:
            self._sessions[visit.seat] = _session_key(secret, visit.knock, visit.nonce)
            seat = visit.seat.partition("/")[0]
            self._places[seat] -= 1
            if not self._places[seat]:
                del self._seats[seat]
        return Admitted(visit.seat, visit.is_back, visit.received, visit.about)


class Visit(NamedTuple):
    """A guest that has knocked and has proved nothing yet."""

    seat: str
    is_back: bool
    received: int
    about: dict[str, Any]
    secret: bytes
    knock: bytes
    challenge: bytes
    nonce: bytes


def seat_of(knock: bytes) -> str:
    """Return which seat somebody says to have, who has proved nothing; "" if it does not say."""
    seat = _decode(knock, "knock").get("seat")
    return seat if isinstance(seat, str) else ""


class Guest:
    """The guest's side.

    Args:
        run: of the invitation.
        seat: its.
        secret: its.
        python: this interpreter's version, "3.12".
        about: what to say of oneself: host, pid.
    """

    def __init__(self, run: int, seat: str, secret: bytes, python: str, about: dict[str, Any]) -> None:
        self._run = run
        self._seat = seat
        self._secret = secret  # the seat's
        self._session: bytes | None = None
        self._is_back = False  # in the visit that is under way
        self._is_confirmed = False
        self._python = python
        self._about = about
        self._knock = b""

    @property
    def is_unsure(self) -> bool:
        """Whether a link broke behind its answer: the seat may be burnt, so a refusal may be of one secret only."""
        return self._session is not None and not self._is_confirmed

    def knock(self, nonce: bytes, received: int) -> bytes:
        """Return the first thing to say on a link.

        Args:
            nonce: fresh random bytes.
            received: the number of the last frame that came.
        """
        # Where it is not known whether the seat is burnt, the other way than the last time.
        self._is_back = self._session is not None and (self._is_confirmed or not self._is_back)
        self._knock = _encode(
            {
                "version": VERSION, "run": f"{self._run:016x}", "python": self._python, "seat": self._seat,
                "is_back": self._is_back, "nonce": nonce.hex(), "received": received, "about": self._about,
            }
        )  # fmt: skip
        return self._knock

    def answer(self, challenge: bytes) -> tuple[bytes, int]:
        """Return what to say to the host's challenge, and the number of the last frame that it has received.

        Raises:
            Refusal: it is not the host that sent the invitation, or that does not want this guest.
        """
        fields = _decode(challenge, "challenge")
        if "refused" in fields:
            raise Refusal(str(fields["refused"]))
        nonce = _take(fields, "nonce", str, "challenge")
        received = _take(fields, "received", int, "challenge")
        proof = _take(fields, "proof", str, "challenge")
        secret = self._secret if self._session is None or not self._is_back else self._session
        expected = _proof(secret, b"host", self._knock, _encode({"nonce": nonce, "received": received}))
        if not proof.isascii() or not hmac.compare_digest(proof, expected):
            raise Refusal("whoever listens there does not know the secret of this worker's seat")
        if not self._is_back:
            self._session = _session_key(secret, self._knock, bytes.fromhex(nonce))
        return _encode({"proof": _proof(secret, b"guest", self._knock, challenge)}), received

    def welcomed(self, welcome: bytes) -> None:
        """Take the host's last word: the seat is this guest's; raise Refusal if it is not."""
        fields = _decode(welcome, "welcome")
        if "refused" in fields:
            raise Refusal(str(fields["refused"]))
        self._is_confirmed = True
        self._secret = b""


WELCOME = b"{}"


def refusal(error: Refusal) -> bytes:
    """Return what to tell a guest that is not let in, instead of a challenge or after its answer."""
    return _encode({"refused": str(error)})
