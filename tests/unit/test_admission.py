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


def is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


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
    with pytest.raises(Refusal):
        guest.answer(data)
    if not is_object(data):  # {} is a welcome
        with pytest.raises(Refusal):
            guest.welcomed(data)


def test_deep_or_long_words_are_refused() -> None:
    for data in (b"[" * KNOCK_BYTES_MAX, b"{}" + b" " * KNOCK_BYTES_MAX):
        with pytest.raises(Refusal):
            make_door().challenge(data, nonce(), 0)


# ---------------------------------------------------------------------- seats with several places


def make_shared(places: int) -> Door:
    door = Door(RUN, PYTHON)
    door.offer("s1", SECRET, places)
    return door


@pytest.mark.parametrize("places", [1, 2, 5])
def test_as_many_come_in_as_there_are_places_and_no_more(places: int) -> None:
    door = make_shared(places)
    names = [f"s1/{number}" for number in range(places)]

    assert [Admitted(name, False, 0, {"host": "h1"}) for name in names] == [
        come(door, make_guest(name)) for name in names
    ]
    for name in ("s1/99", "s1", "s1/"):
        with pytest.raises(Refusal, match=f"the seat '{name}' is taken"):
            door.challenge(make_guest(name).knock(nonce(), 0), nonce(), 0)


def test_of_two_at_the_last_place_the_first_to_answer_has_it() -> None:
    door = make_shared(2)
    come(door, make_guest("s1/1"))
    guests = [make_guest("s1/2"), make_guest("s1/3")]
    visits = [(guest, *door.challenge(guest.knock(nonce(), 0), nonce(), 0)) for guest in guests]
    answers = [(visit, guest.answer(challenge)[0]) for guest, visit, challenge in visits]

    assert "s1/2" == door.admit(*answers[0]).seat
    with pytest.raises(Refusal, match="the seat 's1/3' is taken"):
        door.admit(*answers[1])


def test_each_guest_may_come_back_as_often_as_need_be() -> None:
    door = make_shared(3)
    guests = {name: make_guest(name) for name in ("s1/1", "s1/2", "s1/3")}
    for guest in guests.values():
        come(door, guest)

    for received in (5, 6):
        for name, guest in guests.items():
            assert Admitted(name, True, received, {"host": "h1"}) == come(door, guest, received, 7)


def test_who_has_the_invitation_cannot_come_in_the_name_of_another() -> None:
    door, owner, thief = make_shared(3), make_guest("s1/1"), make_guest("s1/1")
    come(door, owner)
    with pytest.raises(Refusal, match="the seat 's1/1' is taken"):
        door.challenge(thief.knock(nonce(), 0), nonce(), 0)
    come(door, make_guest("s1/2"))
    knock = json.loads(thief.knock(nonce(), 0)) | {"is_back": True}
    visit, challenge = door.challenge(json.dumps(knock).encode(), nonce(), 0)
    with pytest.raises(Refusal, match="does not know the secret"):
        thief.answer(challenge)  # it is no proof that the host knows the invitation's secret
    with pytest.raises(Refusal, match="does not know the secret"):
        door.admit(visit, json.dumps({"proof": json.loads(challenge)["proof"]}).encode())

    assert come(door, owner).is_back
    assert "s1/3" == come(door, make_guest("s1/3")).seat, "who was refused has cost no place"


def test_the_session_of_one_guest_is_of_no_use_in_the_name_of_another() -> None:
    door, guests = make_shared(2), [make_guest("s1/1"), make_guest("s1/2")]
    for guest in guests:
        come(door, guest)
    other = guests[1].knock(nonce(), 0)
    guests[0].knock(nonce(), 0)
    visit, challenge = door.challenge(other, nonce(), 0)
    guests[0]._knock = other
    with pytest.raises(Refusal, match="does not know the secret"):
        guests[0].answer(challenge)
    answer, _ = guests[1].answer(challenge)
    assert door.admit(visit, answer).is_back


def test_of_two_who_have_drawn_the_same_number_one_comes_in() -> None:
    door, guests = make_shared(3), [make_guest("s1/1"), make_guest("s1/1")]
    visits = [(guest, *door.challenge(guest.knock(nonce(), 0), nonce(), 0)) for guest in guests]
    answers = [(visit, guest.answer(challenge)[0]) for guest, visit, challenge in visits]

    assert "s1/1" == door.admit(*answers[0]).seat
    with pytest.raises(Refusal, match="the seat 's1/1' is taken"):
        door.admit(*answers[1])
    assert ["s1/2", "s1/3"] == [come(door, make_guest(name)).seat for name in ("s1/2", "s1/3")]


def test_a_recorded_visit_is_of_no_use_while_places_are_left() -> None:
    door, guest = make_shared(3), make_guest("s1/1")
    recorded = []
    for _ in range(2):  # it comes, and comes back
        knock = guest.knock(nonce(), 0)
        visit, challenge = door.challenge(knock, nonce(), 0)
        answer, _ = guest.answer(challenge)
        door.admit(visit, answer)
        guest.welcomed(WELCOME)
        recorded.append((knock, answer))

    def play() -> None:
        for knock, _ in recorded:
            for name in ("s1/1", "s1/2"):
                changed = json.dumps(json.loads(knock) | {"seat": name}, separators=(",", ":")).encode()
                for _, answer in recorded:
                    with pytest.raises(Refusal):
                        door.admit(door.challenge(changed, nonce(), 0)[0], answer)

    play()
    door.forget("s1/1")
    play()
    assert ["s1/2", "s1/3"] == [come(door, make_guest(name)).seat for name in ("s1/2", "s1/3")], "no place is lost"


def test_a_seat_that_is_forgotten_lets_no_new_guest_in_and_those_that_are_in_come_back() -> None:
    door, inside, late = make_shared(3), make_guest("s1/1"), make_guest("s1/2")
    come(door, inside)
    visit, challenge = door.challenge(late.knock(nonce(), 0), nonce(), 0)
    answer, _ = late.answer(challenge)
    door.forget("s1")

    with pytest.raises(Refusal):
        door.admit(visit, answer)
    for name in ("s1/2", "s1"):
        with pytest.raises(Refusal, match=f"the seat '{name}' is unknown, or was given up"):
            door.challenge(make_guest(name).knock(nonce(), 0), nonce(), 0)
    assert come(door, inside).is_back


def test_a_guest_that_is_forgotten_does_not_come_back_and_the_others_do() -> None:
    door, guests = make_shared(2), [make_guest("s1/1"), make_guest("s1/2")]
    for guest in guests:
        come(door, guest)
    door.forget("s1/1")

    with pytest.raises(Refusal, match="the seat 's1/1' is"):
        door.challenge(guests[0].knock(nonce(), 0), nonce(), 0)
    with pytest.raises(Refusal, match="the seat 's1/1' is taken"):
        door.challenge(make_guest("s1/1").knock(nonce(), 0), nonce(), 0)
    assert come(door, guests[1]).is_back


def test_seats_with_places_are_apart() -> None:
    door = make_shared(2)
    door.offer("s10", bytes(SECRET_BYTES), 1)
    with pytest.raises(Refusal, match="does not know the secret"):
        come(door, make_guest("s10/1"))
    come(door, make_guest("s10/1", secret=bytes(SECRET_BYTES)))

    assert ["s1/1", "s1/2"] == [come(door, make_guest(name)).seat for name in ("s1/1", "s1/2")]
