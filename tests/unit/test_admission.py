"""Checks core/admission.py: who knows the secret comes in, once; nobody else does, whatever they say, or have heard."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_executor.core.admission import (
    KNOCK_BYTES_MAX,
    SECRET_BYTES,
    WELCOME,
    Admitted,
    Door,
    Guest,
    Refusal,
    refusal,
    seat_of,
)
from crew_executor.core.messages import VERSION

from .fakes import hypothesis_settings

RUN, PYTHON = 77, "3.12"
SECRET = bytes(range(SECRET_BYTES))
_numbers = itertools.count(1)


def nonce() -> bytes:
    return next(_numbers).to_bytes(32, "little")


def make_door(*seats: str) -> Door:
    door = Door(RUN, PYTHON)
    for seat in seats or ("s1",):
        door.offer(seat, SECRET)
    return door


def make_guest(seat: str = "s1", secret: bytes = SECRET, run: int = RUN, python: str = PYTHON) -> Guest:
    return Guest(run, seat, secret, python, {"host": "h1"})


def come(door: Door, guest: Guest, received: int = 0, has_sent: int = 0) -> Admitted:
    """Let a guest come in the ordinary way."""
    visit, challenge = door.challenge(guest.knock(nonce(), received), nonce(), has_sent)
    answer, there = guest.answer(challenge)
    assert there == has_sent
    admitted = door.admit(visit, answer)
    guest.welcomed(WELCOME)
    return admitted


def test_who_knows_the_secret_comes_in_and_may_come_back() -> None:
    door, guest = make_door(), make_guest()

    assert come(door, guest) == Admitted("s1", False, 0, {"host": "h1"})
    assert come(door, guest, 5, 7) == Admitted("s1", True, 5, {"host": "h1"})
    assert come(door, guest, 6, 9).is_back


def test_a_used_seat_is_refused_whoever_comes() -> None:
    door = make_door()
    come(door, make_guest())
    with pytest.raises(Refusal, match="the seat 's1' is taken"):
        door.challenge(make_guest().knock(nonce(), 0), nonce(), 0)
    with pytest.raises(Refusal, match="the seat 's2' is unknown"):
        door.challenge(make_guest("s2").knock(nonce(), 0), nonce(), 0)
    door.forget("s1")
    with pytest.raises(Refusal, match="unknown, or was given up"):
        door.challenge(make_guest().knock(nonce(), 0), nonce(), 0)


def test_of_two_with_one_invitation_the_first_to_answer_has_the_seat() -> None:
    door, owner, thief = make_door(), make_guest(), make_guest()
    visits = [(guest, *door.challenge(guest.knock(nonce(), 0), nonce(), 0)) for guest in (owner, thief)]
    answers = [(visit, guest.answer(challenge)[0]) for guest, visit, challenge in visits]

    assert door.admit(*answers[0]).seat == "s1"
    with pytest.raises(Refusal, match="is taken"):
        door.admit(*answers[1])


@pytest.mark.parametrize("secret", [b"", bytes(SECRET_BYTES), SECRET[:-1] + b"!"])
def test_a_wrong_secret_is_found_out_by_both(secret: bytes) -> None:
    door, guest = make_door(), make_guest(secret=secret)
    visit, challenge = door.challenge(guest.knock(nonce(), 0), nonce(), 0)
    with pytest.raises(Refusal, match="whoever listens there does not know the secret"):
        guest.answer(challenge)
    with pytest.raises(Refusal, match="the worker does not know the secret"):
        door.admit(visit, json.dumps({"proof": "0" * 64}).encode())
    assert come(door, make_guest()).seat == "s1", "the seat is there for its owner"


def test_what_was_recorded_is_of_no_use() -> None:
    door, guest = make_door(), make_guest()
    knock = guest.knock(nonce(), 0)
    visit, challenge = door.challenge(knock, nonce(), 0)
    answer, _ = guest.answer(challenge)
    door.admit(visit, answer)
    guest.welcomed(WELCOME)
    back = guest.knock(nonce(), 0)
    visit, challenge = door.challenge(back, nonce(), 0)
    back_answer, _ = guest.answer(challenge)
    door.admit(visit, back_answer)

    for recorded, its_answer in ((knock, answer), (back, back_answer)):
        try:
            visit, challenge = door.challenge(recorded, nonce(), 0)
        except Refusal:
            continue
        for said in (its_answer, answer, back_answer, challenge):
            with pytest.raises(Refusal):
                door.admit(visit, said)


def test_the_proof_of_one_side_is_none_of_the_other() -> None:
    door, guest = make_door(), make_guest()
    visit, challenge = door.challenge(guest.knock(nonce(), 0), nonce(), 0)
    with pytest.raises(Refusal):
        door.admit(visit, json.dumps({"proof": json.loads(challenge)["proof"]}).encode())


@pytest.mark.parametrize("losses", list(itertools.product([False, True], repeat=3)))
def test_a_link_that_breaks_behind_the_answer_locks_nobody_out(losses: tuple[bool, ...]) -> None:
    """The host has heard the answer, or not; the guest cannot know."""
    door, guest = make_door(), make_guest()
    for is_lost in (*losses, False):
        for _ in range(2):  # which secret is wanted? One of two.
            try:
                visit, challenge = door.challenge(guest.knock(nonce(), 0), nonce(), 0)
                break
            except Refusal as error:
                refused = error
        else:
            raise refused
        answer, _ = guest.answer(challenge)
        if not is_lost:
            door.admit(visit, answer)
    guest.welcomed(WELCOME)
    assert come(door, guest).is_back


@pytest.mark.parametrize(
    ("guest", "text"),
    [
        (make_guest(python="3.13"), "the worker runs Python '3.13', the client 3.12"),
        (make_guest(run=78), "this is another run"),
    ],
)
def test_who_does_not_fit_is_told_so_in_a_sentence(guest: Guest, text: str) -> None:
    with pytest.raises(Refusal, match=text) as caught:
        make_door().challenge(guest.knock(nonce(), 0), nonce(), 0)
    with pytest.raises(Refusal, match=text):
        guest.answer(refusal(caught.value))


def test_another_version_is_refused_by_name() -> None:
    knock = json.loads(make_guest().knock(nonce(), 0)) | {"version": VERSION + 1}
    with pytest.raises(Refusal, match="install the same crew_executor on both"):
        make_door().challenge(json.dumps(knock).encode(), nonce(), 0)


@pytest.mark.parametrize("name", ["seat", "is_back", "received", "about"])
@pytest.mark.parametrize("value", [None, [], -1, 1.5, "x" * 10, {"a": 1}, True])
def test_a_knock_with_something_odd_in_it_is_refused_or_is_none(name: str, value: Any) -> None:
    knock = json.loads(make_guest().knock(nonce(), 0)) | {name: value}
    door = make_door()
    try:
        visit, _ = door.challenge(json.dumps(knock).encode(), nonce(), 0)
    except Refusal:
        return
    with pytest.raises(Refusal):
        door.admit(visit, b"{}")


@hypothesis_settings(examples=200)
@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_nothing_but_a_refusal_comes_of_garbage(data: bytes) -> None:
    door, guest = make_door(), make_guest()
    with pytest.raises(Refusal):
        door.challenge(data, nonce(), 0)
    try:
        assert isinstance(seat_of(data), str)
    except Refusal:
        pass
    visit, _ = door.challenge(guest.knock(nonce(), 0), nonce(), 0)
    with pytest.raises(Refusal):
        door.admit(visit, data)
    for hear in (guest.answer, guest.welcomed):
        with pytest.raises(Refusal):
            hear(data)


def test_deep_or_long_words_are_refused() -> None:
    for data in (b"[" * KNOCK_BYTES_MAX, b"{}" + b" " * KNOCK_BYTES_MAX):
        with pytest.raises(Refusal):
            make_door().challenge(data, nonce(), 0)
