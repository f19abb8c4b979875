"""Checks core/messages.py: every frame comes back as it was, and no damaged frame gets past ProtocolError."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_executor.core import messages
from crew_executor.core.messages import HEADER, PREFIX_BYTES, VERSION, Frame, Kind, Outcome, OutcomeFlag, TaskFlag
from crew_executor.errors import CrewError, ProtocolError

from .fakes import hypothesis_settings, make_outcome

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
SECONDS = st.floats(allow_nan=False)
PARTS = st.lists(st.binary(max_size=20), min_size=1, max_size=4).map(tuple)
TASK_FLAGS = U16.map(lambda flags: flags & ~(TaskFlag.ITEMS | TaskFlag.HEAD | TaskFlag.SAME_HEAD))
OUTCOME_FLAGS = U16.map(lambda flags: flags & ~OutcomeFlag.ITEMS)
NONE = st.just(0)
OUTCOMES = st.builds(Outcome, U64, U16, OUTCOME_FLAGS, PARTS, SECONDS, SECONDS, SECONDS, U64, NONE, NONE, st.none())
JSON = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "w1", "\u00e9\u4e2d\0", [1, [None]], {"a": {}}])


@given(U64, U64, U64, TASK_FLAGS, st.binary(max_size=20), st.binary(max_size=20), SECONDS)
def test_a_frame_of_one_task_is_the_same_as_one_put_together(
    run: int, ordinal: int, task_id: int, flags: int, head: bytes, part: bytes, timeout: float
) -> None:
    parts, all_flags = ((head, part), flags | TaskFlag.HEAD) if head else ((part,), flags)
    pieces = [messages.encode_first_ordinal(ordinal), *messages.encode_task(task_id, 1, all_flags, parts, timeout)]
    body = b"".join(map(bytes, pieces))
    header = messages.encode_header(Kind.TASKS, run, 0, 0, 1, len(body))

    assert header + body == messages.encode_frame_of_one(run, ordinal, task_id, flags, head, part, timeout)


def make_frame(kind: int, body: bytes, count: int = 0) -> bytes:
    """Return a whole frame with its length field."""
    return messages.encode_header(kind, 7, 3, 2, count, len(body)) + body


def open_frame(data: bytes) -> Frame:
    """Decode a whole frame as the transport does: the length field is consumed first."""
    (length,) = struct.unpack_from("<Q", data)
    assert len(data) - PREFIX_BYTES == length
    return messages.decode_frame(memoryview(data)[PREFIX_BYTES:])


def tasks_frame(tasks: list[tuple[int, int, int, tuple[bytes, ...]]], first: int = 1) -> bytes:
    pieces: list[Any] = [messages.encode_first_ordinal(first)]
    for task in tasks:
        pieces += messages.encode_task(*task)
    return make_frame(Kind.TASKS, b"".join(pieces), len(tasks))


def outcomes_frame(outcomes: list[Outcome], clock: float = 0.5) -> bytes:
    items = b"".join(map(messages.encode_outcome, outcomes))
    return make_frame(Kind.OUTCOMES, messages.encode_clock(clock) + items, len(outcomes))


# ---------------------------------------------------------------------- the header


def test_the_header_has_40_bytes() -> None:
    assert 40 == HEADER.size == len(messages.encode_header(1, 2, 3, 4, 5, 6))


def test_the_length_counts_everything_behind_itself() -> None:
    data = messages.encode_header(Kind.READY, 1, 1, 0, 0, 100)

    assert 32 + 100 == struct.unpack_from("<Q", data)[0]


def test_the_wire_looks_the_same_for_ever() -> None:
    """Another layout needs another VERSION: this frame was written down when version 8 was."""
    frame = tasks_frame([(0x0102, 1, 1, (b"ab", b"c"))], first=9)

    assert 8 == VERSION
    assert (
        "5300000000000000" "08" "04" "0000" "0700000000000000" "0300000000000000" "0200000000000000" "01000000"
        "0900000000000000" "0201000000000000" "0100" "0100" "01000000" "0200000000000000" "0000000000000000"
        "0100000000000000" "6162" "63"
    ) == frame.hex()  # fmt: skip


@given(U32, U64, U64, U64, st.sampled_from(Kind), st.binary(max_size=30))
@hypothesis_settings(examples=40)
def test_a_header_comes_back_as_it_was(count: int, run: int, sequence: int, ack: int, kind: Kind, body: bytes) -> None:
    frame = open_frame(messages.encode_header(kind, run, sequence, ack, count, len(body)) + body)

    assert (kind, run, sequence, ack, count, body) == (*frame[:5], bytes(frame.body))


@pytest.mark.parametrize("size", [0, 1, 31])
def test_a_frame_shorter_than_its_header_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes is shorter"):
        messages.decode_frame(memoryview(bytes(size)))


@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
def test_another_version_is_refused_by_name_with_the_cure(version: int) -> None:
    data = bytearray(make_frame(Kind.READY, b""))
    data[PREFIX_BYTES] = version
    with pytest.raises(
        ProtocolError, match=f"version {version} of the wire, this side {VERSION}: install the same"
    ) as caught:
        open_frame(bytes(data))

    assert isinstance(caught.value, CrewError)


def test_the_body_is_a_view_and_not_a_copy() -> None:
    data = bytearray(make_frame(Kind.READY, b"abc"))
    frame = messages.decode_frame(memoryview(data)[PREFIX_BYTES:])
    data[-1] = ord("!")

    assert b"ab!" == bytes(frame.body)


# ---------------------------------------------------------------------- tasks


@given(st.lists(st.tuples(U64, U16, TASK_FLAGS, PARTS), max_size=5), st.integers(0, 2**63))
@hypothesis_settings(examples=60)
def test_tasks_come_back_as_they_were(tasks: list[tuple[int, int, int, tuple[bytes, ...]]], first: int) -> None:
    decoded = messages.decode_tasks(open_frame(tasks_frame(tasks, first)))

    assert [(first + index, *task) for index, task in enumerate(tasks)] == [
        (item.ordinal, item.task_id, item.attempt, item.flags, tuple(map(bytes, item.parts))) for item in decoded
    ]


def test_tasks_with_the_same_head_bring_it_once() -> None:
    head, same = TaskFlag.HEAD, TaskFlag.SAME_HEAD
    last = messages.number_head(messages.HEADS_MAX - 1)
    tasks = [
        (1, 1, head | TaskFlag.RETRY_ON, (b"first", b"a", b"b")),
        (2, 1, same | TaskFlag.ANSWER, (b"c",)),
        (3, 1, 0, (b"without",)),
        (4, 1, same, (b"d",)),
        (5, 1, head | last, (b"second", b"e")),
        (6, 1, same | last, (b"f",)),
        (7, 1, same, (b"g",)),
        (8, 1, head, (b"third", b"h")),
        (9, 1, same, (b"i",)),
    ]
    decoded = messages.decode_tasks(open_frame(tasks_frame(tasks)))

    assert [(item.head, item.flags, *map(bytes, item.parts)) for item in decoded] == [
        (b"first", TaskFlag.RETRY_ON, b"a", b"b"),
        (b"first", TaskFlag.ANSWER, b"c"),
        (b"", 0, b"without"),
        (b"first", 0, b"d"),
        (b"second", 0, b"e"),
        (b"second", 0, b"f"),
        (b"first", 0, b"g"),
        (b"third", 0, b"h"),
        (b"third", 0, b"i"),
    ]


@pytest.mark.parametrize(
    "tasks",
    [
        [(1, 1, TaskFlag.SAME_HEAD, (b"a",))],
        [(1, 1, TaskFlag.HEAD, (b"head", b"a")), (2, 1, TaskFlag.SAME_HEAD | messages.number_head(1), (b"b",))],
        [(1, 1, TaskFlag.HEAD, (b"head alone",))],
        [(1, 1, TaskFlag.HEAD, (b"", b"a"))],
    ],
)
def test_a_head_that_is_not_there_is_refused(tasks: list[tuple[int, int, int, tuple[bytes, ...]]]) -> None:
    with pytest.raises(ProtocolError, match="a head that its frame has not brought"):
        messages.decode_tasks(open_frame(tasks_frame(tasks)))


def test_a_large_part_is_not_copied_by_the_encoder() -> None:
    large, beside = bytes(100_000), bytearray(100_000)

    assert large is messages.encode_task(1, 1, 0, (large,))[-1]
    assert beside is messages.encode_task(1, 1, 0, (large, beside))[-1]


def test_parts_of_a_task_are_views_into_the_frame() -> None:
    frame = open_frame(tasks_frame([(1, 1, 0, (b"abc", b"d"))]))
    (item,) = messages.decode_tasks(frame)

    assert all(part.obj is frame.body.obj for part in item.parts)


def test_items_count_as_so_many_ordinals() -> None:
    table = messages.pack_table(5, [0, 1, 2, 3])
    chunk = (1, 1, TaskFlag.ITEMS, (b"call", table, b"abc"))
    first, second = messages.decode_tasks(open_frame(tasks_frame([chunk, (2, 1, 0, (b"x",))], first=10)))

    assert (10, 3) == (first.ordinal, first.items)
    assert (5, (0, 1, 2, 3)) == messages.unpack_table(first.parts[1])
    assert (13, 1) == (second.ordinal, second.items)


# ---------------------------------------------------------------------- outcomes


@given(st.lists(OUTCOMES, max_size=5), SECONDS)
@hypothesis_settings(examples=60)
def test_outcomes_come_back_as_they_were(outcomes: list[Outcome], clock: float) -> None:
    assert (clock, outcomes) == messages.decode_outcomes(open_frame(outcomes_frame(outcomes, clock)))


@given(st.lists(OUTCOMES, max_size=5))
@hypothesis_settings(examples=30)
def test_an_outbox_is_read_like_a_frame(outcomes: list[Outcome]) -> None:
    outbox = b"".join(map(messages.encode_outcome, outcomes))

    assert outcomes == messages.decode_outcome_items(memoryview(outbox))


def items_outcome(first: int, *records: bytes, end: bytes = b"") -> bytes:
    return messages.encode_items_head(1, 1, first) + b"".join(records) + end


RECORDS = (
    messages.encode_item(b"abc"), messages.encode_item_warnings(b"[]"), messages.encode_item(b""),
    messages.encode_item_error(b"error", b"{}"),
)  # fmt: skip


def test_items_come_back_as_they_were() -> None:
    end = messages.encode_items_end(1.5, 2.5, 3.5, 4)
    before, after = make_outcome(8), make_outcome(9)
    data = b"".join(
        (messages.encode_outcome(before), items_outcome(7, *RECORDS, end=end), messages.encode_outcome(after))
    )
    outcomes = messages.decode_outcome_items(data)

    assert [before, after] == outcomes[::2]
    (part,) = outcomes[1].parts
    flags = OutcomeFlag.ITEMS | OutcomeFlag.WARNINGS
    assert Outcome(1, 1, flags, (part,), 1.5, 2.5, 3.5, 4, first=7, items=3) == outcomes[1]
    kinds = [0, messages.IS_WARNINGS, 0, messages.IS_ERROR]
    records = list(messages.decode_items(part))
    assert (7, kinds) == (messages.first_place(part), [kind for kind, _ in records])
    assert [b"abc", b"[]", b""] == [data for _, data in records[:3]]
    assert (b"error", b"{}") == messages.decode_item_error(records[3][1])


def test_items_of_a_worker_that_died_among_them_are_read_without_their_end() -> None:
    (outcome,) = messages.decode_outcome_items(items_outcome(0, *RECORDS))

    assert (0, 3) == (outcome.first, outcome.items)


@pytest.mark.parametrize("missing", range(1, 130))
def test_damaged_items_are_refused(missing: int) -> None:
    whole = items_outcome(0, *RECORDS, end=messages.encode_items_end(1.5, 2.5, 3.5, 4))
    data = whole[: len(whole) - missing]
    try:
        outcomes = messages.decode_outcome_items(data)
    except ProtocolError:
        return
    records = [len(data) for _, data in messages.decode_items(outcomes[0].parts[0])]
    assert records == [3, 2, 0, 15][: len(records)], "what remains is whole records"


@pytest.mark.parametrize(
    ("first", "items", "expected"),
    [(0, 10, (4, 3)), (4, 3, (4, 3)), (4, 1, (4, 1)), (2, 3, (4, 1)), (0, 4, (4, 0)), (0, 2, (4, 0)), (5, 1, (4, 0))],
)
def test_an_outcome_is_narrowed_to_what_is_not_known(first: int, items: int, expected: tuple[int, int]) -> None:
    outcome = make_outcome(1)._replace(first=first, items=items).of_items(4, 3)

    assert expected == (outcome.first, outcome.items)


def test_parts_of_an_outcome_are_copies_that_outlive_the_frame() -> None:
    data = bytearray(messages.encode_outcome(make_outcome(1, parts=(b"abc", b"d"))))
    (outcome,) = messages.decode_outcome_items(memoryview(data))
    data[:] = bytes(len(data))

    assert (b"abc", b"d") == outcome.parts


def test_large_outcomes_come_back_as_they_were() -> None:
    large = [make_outcome(1, parts=(bytes(range(256)) * 8192,)), make_outcome(2, parts=(b"a" * 2**20, b"", b"c"))]
    _, decoded = messages.decode_outcomes(open_frame(outcomes_frame(large)))

    assert large == decoded


def test_a_small_part_does_not_keep_a_large_frame_in_memory_and_a_large_one_is_not_copied() -> None:
    size = messages.COPY_BYTES
    outcomes = [make_outcome(number, parts=(bytes(length),)) for number, length in enumerate((size, 10, size // 4))]
    frame = open_frame(outcomes_frame(outcomes))
    _, decoded = messages.decode_outcomes(frame)

    kept = [part.obj if isinstance(part, memoryview) else None for (part,) in (outcome.parts for outcome in decoded)]
    assert kept == [frame.body.obj, None, None]


@pytest.mark.parametrize("length", [10, messages.COPY_BYTES])
def test_records_of_items_are_bytes_but_for_the_pickles_of_a_large_frame(length: int) -> None:
    records = [
        messages.encode_item_warnings(b"w" * length), messages.encode_item(b"p" * length),
        messages.encode_item_error(b"e" * length, b"{}"),
    ]  # fmt: skip
    items = messages.encode_items_head(1, 1, 0) + b"".join(records) + messages.encode_items_end(1.0, 2.0, 3.0, 4)
    (outcome,) = messages.decode_outcome_items(memoryview(items))

    (_, warnings), (_, pickled), (_, error) = messages.decode_items(outcome.parts[0])
    assert (warnings, bytes(pickled)) == (b"w" * length, b"p" * length)
    assert messages.decode_item_error(error) == (b"e" * length, b"{}")
    assert [type(warnings), type(error)] == [bytes, bytes]


@pytest.mark.parametrize(
    ("flags", "is_error"),
    [
        (0, False),
        (OutcomeFlag.ERROR, True),
        (OutcomeFlag.WARNINGS, False),
        (OutcomeFlag.ERROR | OutcomeFlag.REPORT, True),
    ],
)
def test_an_outcome_is_an_error_when_its_flag_says_so(flags: int, is_error: bool) -> None:
    assert is_error is make_outcome(1, flags=flags).is_error


@pytest.mark.parametrize("announced", [0, 1, 3, 2**32 - 1])
def test_a_frame_that_announces_another_count_of_outcomes_is_refused(announced: int) -> None:
    body = messages.encode_clock(0.0) + messages.encode_outcome(make_outcome(1)) * 2
    with pytest.raises(ProtocolError, match=f"announces {announced} outcomes and holds 2"):
        messages.decode_outcomes(open_frame(make_frame(Kind.OUTCOMES, body, announced)))


# ---------------------------------------------------------------------- control frames


@given(st.dictionaries(st.sampled_from(["", "a", "\u00e9"]), JSON), st.lists(st.binary(max_size=10), max_size=4))
@hypothesis_settings(examples=60)
def test_a_control_frame_comes_back_as_it_was(fields: dict[str, Any], parts: list[bytes]) -> None:
    decoded, views = messages.decode_control(memoryview(messages.encode_control(fields, parts)))

    assert (fields, parts) == (decoded, list(map(bytes, views)))


def control_with_text(text: bytes) -> memoryview:
    return memoryview(struct.pack("<QI", len(text), 0) + text)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"{'a': 1}", b"nonsense"])
def test_a_control_frame_without_json_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="holds no JSON"):
        messages.decode_control(control_with_text(text))


@pytest.mark.parametrize(("text", "found"), [(b"[]", "list"), (b"3", "int"), (b"null", "NoneType"), (b'"x"', "str")])
def test_a_control_frame_that_is_no_object_is_refused(text: bytes, found: str) -> None:
    with pytest.raises(ProtocolError, match=f"holds {found}, not an object"):
        messages.decode_control(control_with_text(text))


@pytest.mark.parametrize("text", [b"[" * 4000, b'{"a":' * 600 + b"1" + b"}" * 600, b"[" * 100_000, b"9" * 5000])
def test_json_made_to_exhaust_the_decoder_is_refused(text: bytes) -> None:
    """A peer that has proved nothing yet may send 4 kB: deep nesting must not end the reader by another exception."""
    try:
        fields, _ = messages.decode_control(control_with_text(text))
    except ProtocolError:
        return

    assert isinstance(fields, dict)


def test_bytes_behind_the_last_part_of_a_control_frame_are_ignored_or_refused_but_never_a_part() -> None:
    _, parts = messages.decode_control(memoryview(messages.encode_control({}, (b"one",)) + b"tail"))

    assert [b"one"] == list(map(bytes, parts))


# ---------------------------------------------------------------------- damage

WHOLE_TASKS = tasks_frame([(1, 1, 0, (b"payload",)), (2, 1, 1, (b"pickle", b"buffer", b""))])
WHOLE_OUTCOMES = outcomes_frame([make_outcome(1), make_outcome(2, parts=(b"a", b"bb", b""))])
WHOLE_CONTROL = messages.encode_control({"name": "w1"}, (b"one", b"two"))


def decode_any(data: bytes) -> object:
    """Decode a frame by its kind."""
    frame = messages.decode_frame(memoryview(data)[PREFIX_BYTES:])
    if frame.kind == Kind.TASKS:
        return messages.decode_tasks(frame)
    return messages.decode_outcomes(frame)


@pytest.mark.parametrize("whole", [WHOLE_TASKS, WHOLE_OUTCOMES], ids=["tasks", "outcomes"])
def test_a_frame_cut_anywhere_is_refused(whole: bytes) -> None:
    for size in range(PREFIX_BYTES, len(whole)):
        with pytest.raises(ProtocolError):
            decode_any(whole[:size])


def test_a_control_frame_cut_anywhere_is_refused() -> None:
    for size in range(len(WHOLE_CONTROL)):
        with pytest.raises(ProtocolError):
            messages.decode_control(memoryview(WHOLE_CONTROL[:size]))


@pytest.mark.parametrize("whole", [WHOLE_TASKS, WHOLE_OUTCOMES], ids=["tasks", "outcomes"])
def test_a_frame_with_bytes_too_many_is_refused(whole: bytes) -> None:
    for extra in (1, 8, 100):
        with pytest.raises(ProtocolError):
            decode_any(whole + bytes(extra))


LIE = st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8))


@given(st.sampled_from([WHOLE_TASKS, WHOLE_OUTCOMES]), LIE)
@hypothesis_settings(examples=150)
def test_a_lie_in_a_frame_is_decoded_or_refused_and_never_another_exception(
    whole: bytes, lie: tuple[int, bytes]
) -> None:
    at, lies = PREFIX_BYTES + 2 + lie[0] % (len(whole) - PREFIX_BYTES - 2), lie[1]
    try:
        decode_any(whole[:at] + lies + whole[at + len(lies) :])
    except ProtocolError:
        pass


@given(st.integers(0, len(WHOLE_CONTROL) - 1), st.binary(min_size=1, max_size=8))
@hypothesis_settings(examples=150)
def test_a_lie_in_a_control_frame_is_decoded_or_refused(at: int, lies: bytes) -> None:
    try:
        fields, parts = messages.decode_control(memoryview(WHOLE_CONTROL[:at] + lies + WHOLE_CONTROL[at + len(lies) :]))
    except ProtocolError:
        return

    assert isinstance(fields, dict)
    assert sum(map(len, parts)) <= len(WHOLE_CONTROL) + len(lies)


@pytest.mark.parametrize("extras", [1, 1000, 2**32 - 1])
def test_a_table_of_parts_larger_than_its_frame_is_refused_without_allocating_it(extras: int) -> None:
    task = messages.encode_first_ordinal(1) + messages.TASK_ITEM.pack(1, 1, 0, extras, 0, 0.0)
    outcome = messages.OUTCOME_ITEM.pack(1, 1, 0, extras, 0, 0.0, 0.0, 0.0, 0)
    with pytest.raises(ProtocolError, match=f"table of {extras} parts"):
        messages.decode_tasks(open_frame(make_frame(Kind.TASKS, task, 1)))
    with pytest.raises(ProtocolError, match=f"table of {extras} parts"):
        messages.decode_outcome_items(memoryview(outcome))
    with pytest.raises(ProtocolError, match=f"table of {extras} parts"):
        messages.decode_control(memoryview(struct.pack("<QI", 0, extras)))


@pytest.mark.parametrize("length", [8, 2**40, 2**64 - 1])
def test_a_part_longer_than_its_frame_is_refused(length: int) -> None:
    task = messages.encode_first_ordinal(1) + messages.TASK_ITEM.pack(1, 1, 0, 0, length, 0.0) + b"seven.."
    outcome = messages.OUTCOME_ITEM.pack(1, 1, 0, 0, length, 0.0, 0.0, 0.0, 0) + b"seven.."
    with pytest.raises(ProtocolError, match=f"part of {length} bytes"):
        messages.decode_tasks(open_frame(make_frame(Kind.TASKS, task, 1)))
    with pytest.raises(ProtocolError, match=f"{length} bytes ends after 7"):
        messages.decode_outcome_items(memoryview(outcome))
    with pytest.raises(ProtocolError, match=f"part of {length} bytes"):
        messages.decode_control(memoryview(struct.pack("<QI", length, 0) + b"seven.."))


def test_a_control_frame_is_plain_json_on_the_wire() -> None:
    body = messages.encode_control({"name": "w1"}, (b"opaque",))

    assert json.dumps({"name": "w1"}).encode() in body
    assert body.endswith(b"opaque")
