"""Checks invitations.py: what an agent is told arrives as it was, what is no invitation is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_executor.errors import ProtocolError
from crew_executor.invitations import VERSION, AgentInvitation, decode, encode
from crew_executor.security import Certificates

from .fakes import hypothesis_settings

SECRET, KEY = b"never tell this!" * 2, b"nor this, please" * 2
CERTIFICATES = Certificates("/home/a b/ca.pem", "/home/a b/own.pem", "client.example")
INVITATION = AgentInvitation(
    run=(1 << 64) - 1,
    seat="job-7",
    secret=SECRET,
    places=3,
    key=KEY,
    certificates=CERTIFICATES,
    addresses=[("10.0.0.1", 5000), ("fe80::1%ib0", 5000), ("höst.example", 65535)],
    lost_after=60.0,
    startup_timeout=300.5,
    environment={"PATH": '/opt/"a b"\n:/usr/bin', "NAME": "ä\udcff"},  # a byte that is no UTF-8
    variables=["SLURM_JOB_ID", "PBS_JOBID"],
)
_texts = st.text(max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=8,
)


def fields_of(invitation: AgentInvitation) -> dict[str, Any]:
    fields = json.loads(encode(invitation))
    assert isinstance(fields, dict)
    return fields


def refused(data: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode(data)
    return str(caught.value)


# ---------------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    "invitation", [INVITATION, INVITATION._replace(key=None, certificates=None, places=1, addresses=[], variables=[])]
)
def test_an_invitation_arrives_as_it_was(invitation: AgentInvitation) -> None:
    arrived = decode(encode(invitation))

    assert invitation == arrived
    assert type(invitation.certificates) is type(arrived.certificates)
    assert [tuple] * len(invitation.addresses) == [type(address) for address in arrived.addresses]


@hypothesis_settings(examples=25)
@given(
    st.builds(
        AgentInvitation,
        run=st.integers(0, (1 << 64) - 1),
        seat=_texts,
        secret=st.binary(max_size=40),
        places=st.integers(1, 1000),
        key=st.none() | st.binary(min_size=1, max_size=40),
        certificates=st.none() | st.builds(Certificates, *[_texts] * len(Certificates._fields)),
        addresses=st.lists(st.tuples(_texts, st.integers(0, 65535)), max_size=4),
        lost_after=st.floats(0.1, 1e9),
        startup_timeout=st.floats(0.1, 1e9) | st.just(float("inf")),
        environment=st.dictionaries(_texts, _texts, max_size=4),
        variables=st.lists(_texts, max_size=4),
    )
)
def test_any_invitation_arrives_as_it_was(invitation: AgentInvitation) -> None:
    assert invitation == decode(encode(invitation))


def test_it_is_one_line_of_plain_text() -> None:
    data = encode(INVITATION)

    assert data.isascii()
    assert data.endswith(b"}\n")
    assert 1 == data.count(b"\n")


def test_white_space_around_it_is_no_matter() -> None:
    assert INVITATION == decode(b"\r\n " + encode(INVITATION) + b"\n\n")


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("version", [VERSION + 1, 0, None, "1", [1]])
def test_another_version_is_refused_in_one_sentence(version: Any) -> None:
    fields = fields_of(INVITATION) | {"version": version, "something": "new"}
    del fields["places"]

    assert (
        f"the invitation is of version {version}, this crew_executor reads {VERSION}: install the same crew_executor "
        "on both hosts"
    ) == refused(json.dumps(fields).encode())


@pytest.mark.parametrize("name", [*AgentInvitation._fields, "version"])
def test_an_invitation_that_lacks_something_is_refused(name: str) -> None:
    fields = fields_of(INVITATION)
    del fields[name]

    text = refused(json.dumps(fields).encode())
    assert text.startswith("this is no invitation: ")
    assert name in text


def test_an_invitation_with_something_more_is_refused() -> None:
    assert "'more'" in refused(json.dumps(fields_of(INVITATION) | {"more": 1}).encode())


@pytest.mark.parametrize("size", range(0, len(encode(INVITATION)) - 2, 7))
def test_a_part_of_an_invitation_is_refused(size: int) -> None:
    assert refused(encode(INVITATION)[:size]).startswith("this is no invitation: ")


@pytest.mark.parametrize(
    "changed",
    [
        {"secret": None}, {"secret": "xyz"}, {"secret": "abc"}, {"secret": 7}, {"key": "xyz"}, {"key": 7}, {"key": []},
        {"addresses": None}, {"addresses": 7}, {"addresses": [["host"]]}, {"addresses": [["host", 1, 2]]},
        {"addresses": [7]}, {"certificates": 7}, {"certificates": ["too", "few"]}, {"certificates": ["x"] * 9},
    ],
)  # fmt: skip
def test_a_secret_or_an_address_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    text = refused(json.dumps(fields_of(INVITATION) | changed).encode())

    assert text.startswith("this is no invitation: ")


@hypothesis_settings(examples=150)
@given(st.binary(max_size=100) | _texts.map(str.encode))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert refused(data)
    assert refused(b"{" + data)


@hypothesis_settings(examples=50)
@given(_json)
def test_any_json_is_refused(value: Any) -> None:
    assert refused(json.dumps(value).encode())
    assert refused(json.dumps({"version": VERSION, "key": value}).encode())


@hypothesis_settings(examples=50)
@given(st.sampled_from([*AgentInvitation._fields, "version"]), _json)
def test_anything_in_a_field_is_refused_or_taken_and_never_another_exception(name: str, value: Any) -> None:
    data = json.dumps(fields_of(INVITATION) | {name: value}).encode()
    try:
        assert isinstance(decode(data), AgentInvitation)
    except ProtocolError:
        pass


def test_deep_words_are_refused() -> None:
    assert refused(b"[" * 200_000)


# ---------------------------------------------------------------------- secrets


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_an_invitation_does_not_show_its_secrets(show: Any) -> None:
    assert "<AgentInvitation to seat job-7>" == show(INVITATION)


def words_for_damaged(damage: bytes, place: int) -> str:
    data = encode(INVITATION)
    place %= len(data)
    try:
        return repr(decode(data[:place] + damage + data[place + 1 :]))
    except ProtocolError as error:
        return f"{error} {error!r}"


@pytest.mark.parametrize("place", [0, 5, 40, 120, -3, -1])
@pytest.mark.parametrize("damage", [b'"', b"\\", b"{", b"x", b"\n"])
def test_a_damaged_invitation_is_refused_without_its_secrets(damage: bytes, place: int) -> None:
    """The agent's words end up in a log file that others may read."""
    text = words_for_damaged(damage, place)

    for secret in (SECRET, KEY):
        assert secret.hex()[8:24] not in text


@pytest.mark.parametrize("place", [0, 40, -1])
def test_an_invitation_with_a_byte_that_is_no_text_is_refused_without_its_secrets(place: int) -> None:
    text = words_for_damaged(b"\xff", place)

    for secret in (SECRET, KEY):
        assert secret.hex()[8:24] not in text
