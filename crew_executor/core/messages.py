"""The wire vocabulary: frames to bytes and back. Pure; payloads stay opaque bytes.

A frame is a header of 40 bytes and a body:

    length      u64   of everything after these 8 bytes
    version     u8    VERSION; a peer of another version is refused by name
    kind        u8    one of Kind
    flags       u16   reserved, 0
    run         u64   the executor's run: a stray frame of another run is refused
    sequence    u64   1, 2, 3 ... per direction of a link
    ack         u64   the highest sequence received from the peer, cumulative
    count       u32   items in the body

The sequence and the ack are there from the first version because a resend over a broken connection cannot be
added later. The body of TASKS is the ordinal of its first task (u64: a link numbers the tasks it carries) and
its task items; of OUTCOMES the worker's monotonic clock at sending (f64) and its outcome items; of the others
a JSON object and a table of payload parts.

An item ends with a table of parts: the pickle first, then what travels beside it (out-of-band buffers, warnings).
Rule 1: nothing here looks into a part. Rule 2: a decoder never trusts a length: ProtocolError, not a slice too short.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from ..errors import ProtocolError

VERSION = 8

HEADER = struct.Struct("<QBBHQQQI")
PREFIX_BYTES = 8
"""Bytes of the length field, which does not count itself."""

# A task: id, attempt, flags, extra parts, bytes of the first part, timeout (seconds; 0: none).
TASK_ITEM = struct.Struct("<QHHIQd")
# An outcome: the same without the timeout, then started (Unix seconds), seconds, cpu seconds, max_rss (bytes).
OUTCOME_ITEM = struct.Struct("<QHHIQdddQ")
OUTPUT_BYTES_MAX = 1_000_000
"""What is kept of a task's caught output, from its end."""
COPY_BYTES = 64 * 1024
"""Outcomes that are shorter together are copied once as a whole: half the time of taking views one by one."""
LARGE_PART = 4
"""What is more than one part in so many of a longer frame is not copied at all, though it keeps the whole: fresh memory
costs more."""
_new = tuple.__new__
"""Makes a named tuple of all its fields sooner than its class, whose own __new__ is a Python function."""
_U64 = struct.Struct("<Q")
_F64 = struct.Struct("<d")
_ITEMS_END = struct.Struct("<QdddQ")
_END, _LENGTH = (1 << 64) - 1, (1 << 62) - 1
IS_ERROR, IS_WARNINGS = 1 << 63, 1 << 62
"""Bits in the length of an item's record: it is an error; it is no result, but the warnings of the item after it."""


class Kind(IntEnum):
    """What a frame is for; the arrow says who sends it (c: client, w: worker)."""

    HELLO = 1  # w>c who I am, and the secret that proves I was invited
    WELCOME = 2  # c>w how to work: initializer, limits
    READY = 3  # w>c the initializer ran; or it failed, if the object is not empty
    TASKS = 4  # c>w run these in order
    OUTCOMES = 5  # w>c these are done
    LEAVE = 6  # w>c may I leave? (idle, walltime)
    GO = 7  # c>w leave after the task with this ordinal; nothing follows
    BYE = 8  # w>c the last frame of a worker that leaves
    LOG = 9  # w>c something was logged, for the client's handlers
    SUBMIT = 10  # w>c the running task submits a task: a subtask
    CANCEL = 11  # w>c cancel a subtask if that is possible
    SUBTASK = 12  # c>w what has become of a subtask
    SHARE = 13  # c>w a constant that later tasks name by its number, or that none will name any more
    CALL = 14  # c>w run this between tasks: every worker is sent it
    CALLED = 15  # w>c this has become of it
    BEAT = 16  # both: I am here, and have received so much; not numbered
    # Between a client and the agent on another host, and about its workers:
    RELAY = 17  # both: a frame of or for one worker: its number, the kind, the body
    SETTLE = 18  # c>a what the client's process is like
    HIRE = 19  # c>a start a worker
    SIGNAL = 20  # c>a send a worker's processes a signal
    RECALL = 21  # c>a withdraw all up to an ordinal
    RECALLED = 22  # a>c it keeps so much, and has this in its outbox
    STOP = 23  # c>a end the run of a task
    EXITED = 24  # a>c the worker is over: how, and what its cell says
    CONTENT = 25  # c>a a piece of what several workers are to share, or forget it; a>c of what a worker has handed over
    NOTICE = 26  # a>c this host will be taken away soon
    END = 27  # c>a end all, and leave


CALL_ORDINAL = -1
"""Stands for the ordinal of what CALL brings: no task has it, so no interrupt and no verdict is ever meant for it."""


FLUSH_SECONDS = 0.010
"""A worker that has more to do sends what it has finished after this time, and before a task that is unknown or longer
(docs/adr/0020)."""


class TaskFlag(IntEnum):
    """Bits of a task item."""

    FLUSH_BEFORE = 1  # send finished outcomes before this one starts: it is unknown or slow (RULES 2)
    RETRY_ON = 2  # the last part is a pickled tuple of exception classes: say whether the task's error is one of them
    CATCH_OUTPUT = 4  # send what the task writes with its outcome, instead of showing it
    ITEMS = 8  # several items of a map(): the parts are the function, a table (see pack_table) and the items' pickles
    SHARED = 16  # all of these items may have the same function object
    BESIDE = 32  # the last part is the number (8 bytes) of a segment with large buffers, or these themselves
    ANSWER = 64  # who has sent this through the hatch waits there for the outcome
    HEAD = 128  # the first part is the task's head; see Task. The bits above SAME_HEAD give it a number in this frame
    SAME_HEAD = 256  # it has the head that a task before it in this frame has brought with the same number


class OutcomeFlag(IntEnum):
    """Bits of an outcome item."""

    ERROR = 1  # the first part is a pickled exception
    WARNINGS = 2  # the part after the first is JSON: the warnings of the task
    REPORT = 4  # the last part is JSON: the error as text, for a client that cannot unpickle it
    RETRYABLE = 8  # the error is one of those that the task's RETRY_ON names
    OUTPUT = 16  # the part after the first, or after the warnings, is what the task has written
    ITEMS = 32  # some items of a map(): the first part is that of encode_item()s, see decode_items
    BESIDE = 64  # the last part is as that of a task; of an outcome of ITEMS it is the only other one
    RELEASED = 128  # nothing refers any more to the buffers that came beside the task


class Frame(NamedTuple):
    """One decoded frame; `body` is a view into the received buffer."""

    kind: int
    run: int
    sequence: int
    ack: int
    items: int
    body: memoryview


class TaskItem(NamedTuple):
    """A task as the worker sees it."""

    ordinal: int
    task_id: int
    attempt: int
    flags: int
    parts: tuple[memoryview, ...]
    timeout: float = 0.0  # seconds; 0: none
    items: int = 1  # of a map(); each has an ordinal
    head: bytes = b""  # the pickle of the function, if the first part is without it


class Outcome(NamedTuple):
    """What became of one attempt of a task, as the worker reports it."""

    task_id: int
    attempt: int
    flags: int
    parts: tuple[bytes, ...]
    started: float  # Unix seconds, the worker's clock
    seconds: float
    cpu_seconds: float
    max_rss: int  # bytes
    first: int = 0  # of several items: the place of the first
    items: int = 0  # and how many; 0: an ordinary task
    beside: Any = None  # the large buffers of its pickle, once they are at hand; opaque

    @property
    def is_error(self) -> bool:
        """Whether the task ended in an exception."""
        return bool(self.flags & OutcomeFlag.ERROR)

    def of_items(self, first: int, items: int) -> Outcome:
        """Return it for those of its items that are among these; it may have none then."""
        end = min(self.first + self.items, first + items)
        if not self.first <= first <= end:
            end = first
        return self._replace(first=first, items=end - first)


Buffer = bytes | bytearray | memoryview


def encode_header(kind: int, run: int, sequence: int, ack: int, count: int, body_bytes: int) -> bytes:
    """Return the 40 bytes that open a frame whose body has `body_bytes` bytes."""
    return HEADER.pack(HEADER.size - PREFIX_BYTES + body_bytes, VERSION, kind, 0, run, sequence, ack, count)


def decode_frame(data: memoryview) -> Frame:
    """Decode what follows the length field; raise ProtocolError for another version or a frame too short."""
    if len(data) < HEADER.size - PREFIX_BYTES:
        raise ProtocolError(f"a frame of {len(data)} bytes is shorter than its header")
    version, kind, _flags, run, sequence, ack, count = _REST.unpack_from(data)
    if version != VERSION:
        raise ProtocolError(
            f"the peer speaks version {version} of the wire, this side {VERSION}: "
            "install the same crew_executor on both"
        )
    return _new(Frame, (kind, run, sequence, ack, count, data[_REST.size :]))


_REST = struct.Struct("<BBHQQQI")  # HEADER without its length field


def encode_task(
    task_id: int, attempt: int, flags: int, payload: bytes | Sequence[Buffer], timeout: float = 0.0
) -> Sequence[Buffer]:
    """Return the pieces of one task item, not joined: large parts are not copied here. Bytes stand for one part."""
    parts: Sequence[Any] = (payload,) if type(payload) is bytes else payload
    first = parts[0]
    if len(parts) == 1:
        return TASK_ITEM.pack(task_id, attempt, flags, 0, len(first), timeout), first
    lengths = b"".join(_U64.pack(len(part)) for part in parts[1:])
    return [TASK_ITEM.pack(task_id, attempt, flags, len(parts) - 1, len(first), timeout), lengths, *parts]


def encode_frame_of_one(
    run: int, ordinal: int, task_id: int, flags: int, head: bytes, part: bytes, timeout: float
) -> bytes:
    """Return a whole TASKS frame, without a sequence, of one task of a head and a part that runs for the first time."""
    size, extras, lengths = len(part), 0, b""
    if head:
        flags, extras, lengths = flags | TaskFlag.HEAD, 1, _U64.pack(size)
    begin = _FRAME_OF_ONE.pack(
        _FRAME_OF_ONE.size - PREFIX_BYTES + len(lengths) + len(head) + size, VERSION, Kind.TASKS, 0, run, 0, 0, 1,
        ordinal, task_id, 1, flags, extras, len(head) or size, timeout,
    )  # fmt: skip
    return b"".join((begin, lengths, head, part))


_FRAME_OF_ONE = struct.Struct(HEADER.format + _U64.format[1:] + TASK_ITEM.format[1:])  # without padding, each is "<..."


def encode_first_ordinal(ordinal: int) -> bytes:
    """Return the bytes that open the body of TASKS."""
    return _U64.pack(ordinal)


def encode_clock(seconds: float) -> bytes:
    """Return the bytes that open the body of OUTCOMES."""
    return _F64.pack(seconds)


HEADS_MAX = 128
"""So many heads have a number in a frame: what the bits above SAME_HEAD hold."""
_HEAD = int(TaskFlag.HEAD)  # to ask an IntEnum takes five times as long
_HEADS = int(TaskFlag.HEAD | TaskFlag.SAME_HEAD)
_HEAD_BITS = 9


def number_head(number: int) -> int:
    """Return the flags that say which head of its frame it is."""
    return number << _HEAD_BITS


def decode_tasks(frame: Frame) -> list[TaskItem]:
    """Decode a TASKS frame."""
    body, offset, end = frame.body, _U64.size, len(frame.body)
    heads: dict[int, bytes] = {}
    try:
        (ordinal,) = _U64.unpack_from(body)
        tasks = []
        for _ in range(frame.items):
            task_id, attempt, flags, extras, length, timeout = TASK_ITEM.unpack_from(body, offset)
            offset += TASK_ITEM.size
            count = 1
            if extras:
                parts, offset = _take_parts(body, offset, length, extras)
                if flags & TaskFlag.ITEMS:
                    count = len(parts[1]) // _U64.size - 2
            else:  # as most have none, without a call
                begin, offset = offset, offset + length
                if offset > end:
                    raise ProtocolError(f"a part of {length} bytes does not fit into its frame")
                parts = (body[begin:offset],)
            if flags & _HEADS:
                if flags & _HEAD:
                    heads[flags >> _HEAD_BITS], parts = bytes(parts[0]), parts[1:]
                head = heads.get(flags >> _HEAD_BITS)
                if not (head and parts):
                    raise ProtocolError("a task has a head that its frame has not brought, or nothing else")
                flags &= _HEAD - 1
                tasks.append(_new(TaskItem, (ordinal, task_id, attempt, flags, parts, timeout, count, head)))
            else:
                tasks.append(_new(TaskItem, (ordinal, task_id, attempt, flags, parts, timeout, count, b"")))
            ordinal += count
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"a TASKS frame ends too early: {error}") from None
    if offset != end:
        raise ProtocolError(f"a TASKS frame has {end - offset} bytes too many")
    return tasks


def encode_outcome(outcome: Outcome) -> bytes:
    """Return one outcome item as bytes, ready for the outbox or a frame."""
    parts = outcome.parts
    head = OUTCOME_ITEM.pack(
        outcome.task_id,
        outcome.attempt,
        outcome.flags,
        len(parts) - 1,
        len(parts[0]),
        outcome.started,
        outcome.seconds,
        outcome.cpu_seconds,
        outcome.max_rss,
    )
    if len(parts) == 1:
        return head + parts[0]
    lengths = b"".join(_U64.pack(len(part)) for part in parts[1:])
    return b"".join((head, lengths, *parts))


def decode_outcomes(frame: Frame) -> tuple[float, list[Outcome]]:
    """Decode an OUTCOMES frame into the worker's clock at sending and the outcomes."""
    if len(frame.body) < _F64.size:
        raise ProtocolError("an OUTCOMES frame ends before its clock")
    (clock,) = _F64.unpack_from(frame.body)
    outcomes = decode_outcome_items(frame.body[_F64.size :])
    if len(outcomes) != frame.items:
        raise ProtocolError(f"an OUTCOMES frame announces {frame.items} outcomes and holds {len(outcomes)}")
    return clock, outcomes


def decode_outcome_items(items: memoryview | bytes) -> list[Outcome]:
    """Decode outcome items that stand one behind the other: the body of a frame, or a dead worker's outbox."""
    if len(items) <= COPY_BYTES:
        items = bytes(items)  # one copy; slices of bytes are then parts already
    outcomes: list[Outcome] = []
    offset, end, size, unpack = 0, len(items), OUTCOME_ITEM.size, OUTCOME_ITEM.unpack_from
    make, some_items = _new, int(OutcomeFlag.ITEMS)
    try:
        while offset < end:
            task_id, attempt, flags, extras, length, started, seconds, cpu, max_rss = unpack(items, offset)
            offset += size
            if flags & some_items:
                outcome, offset = _take_items(items, offset, task_id, attempt, flags, length)
                outcomes.append(outcome)
                continue
            if extras:
                views, offset = _take_parts(items, offset, length, extras)
                parts = tuple(map(bytes, views))
            else:
                begin, offset = offset, offset + length
                if offset > end:
                    raise ProtocolError(f"an outcome of {length} bytes ends after {end - begin}")
                parts = (_part_of(items, begin, offset),)
            fields = (task_id, attempt, flags, parts, started, seconds, cpu, max_rss, 0, 0, None)
            outcomes.append(make(Outcome, fields))
    except struct.error as error:
        raise ProtocolError(f"an outcome ends too early: {error}") from None
    return outcomes


def _part_of(items: memoryview | bytes, begin: int, end: int) -> Any:
    """Return a part, copied if it is small beside the frame that it would keep."""
    part = items[begin:end]
    return part if (end - begin) * LARGE_PART > len(items) else bytes(part)


def _take_parts(body: Any, offset: int, first: int, extras: int) -> tuple[tuple[Any, ...], int]:
    lengths = [first]
    if extras:
        if offset + extras * _U64.size > len(body):
            raise ProtocolError(f"a table of {extras} parts does not fit into its frame")
        lengths += struct.unpack_from(f"<{extras}Q", body, offset)
        offset += extras * _U64.size
    parts = []
    for length in lengths:
        if length > len(body) - offset:
            raise ProtocolError(f"a part of {length} bytes does not fit into its frame")
        parts.append(body[offset : offset + length])
        offset += length
    return tuple(parts), offset


# ---------------------------------------------------------------------- items of a map()


def pack_table(first: int, ends: Sequence[int]) -> bytes:
    """Return the table of a task of several items: the place of the first, then where each begins, and the end."""
    return struct.pack(f"<{len(ends) + 1}Q", first, *ends)


def unpack_table(table: Buffer) -> tuple[int, tuple[int, ...]]:
    """Return what pack_table() was given."""
    first, *ends = struct.unpack(f"<{len(table) // _U64.size}Q", table)
    return first, tuple(ends)


def encode_items_head(task_id: int, attempt: int, first: int, flags: int = 0, number: bytes = b"") -> bytes:
    """Return what opens an outcome of items; records follow.

    Args:
        task_id, attempt: of the task.
        first: the place of the first item.
        flags: as OutcomeFlag, besides ITEMS.
        number: of the segment with their buffers, if the flags say BESIDE: a part of 8 bytes.
    """
    place = int.from_bytes(number, "little")  # where other outcomes have a length
    head = OUTCOME_ITEM.pack(task_id, attempt, OutcomeFlag.ITEMS | flags, 0, place, 0.0, 0.0, 0.0, 0)
    return head + _U64.pack(first)


def encode_items_end(started: float, seconds: float, cpu_seconds: float, max_rss: int) -> bytes:
    """Return what ends an outcome of items; without it, it goes to the end of its frame."""
    return _ITEMS_END.pack(_END, started, seconds, cpu_seconds, max_rss)


def encode_item(data: bytes) -> bytes:
    """Return the record of one item: its pickled result."""
    return _U64.pack(len(data)) + data


def encode_item_error(error: bytes, report: bytes) -> bytes:
    """Return the record of an item that failed."""
    return b"".join(
        (_U64.pack((_U64.size + len(error) + len(report)) | IS_ERROR), _U64.pack(len(error)), error, report)
    )


def encode_item_warnings(warnings: bytes) -> bytes:
    """Return the record of an item's warnings, to stand before its own."""
    return _U64.pack(len(warnings) | IS_WARNINGS) + warnings


def decode_items(part: Buffer) -> Iterator[tuple[int, Any]]:
    """Yield the records of an outcome of items: 0 and a pickle, or IS_ERROR or IS_WARNINGS, and the bytes."""
    offset = _U64.size
    while offset < len(part):
        (length,) = _U64.unpack_from(part, offset)
        start = offset + _U64.size
        offset = start + (length & _LENGTH)
        kind = length & ~_LENGTH
        yield kind, bytes(part[start:offset]) if kind else part[start:offset]


def first_place(part: Buffer) -> int:
    """Return the place of the first item of an outcome of items."""
    (first,) = _U64.unpack_from(part)
    return int(first)


def decode_item_error(data: bytes) -> tuple[bytes, bytes]:
    """Return the pickled error and its report."""
    (length,) = _U64.unpack_from(data)
    return data[_U64.size : _U64.size + length], data[_U64.size + length :]


def _take_items(items: Any, offset: int, task_id: int, attempt: int, flags: int, number: int) -> tuple[Outcome, int]:
    """Take an outcome of items that begins behind its head, at the offset; return it and the offset behind it."""
    begin, end, count = offset, len(items), 0
    (first,) = _U64.unpack_from(items, offset)
    times: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)
    offset += _U64.size
    take = _U64.unpack_from
    while offset < end:
        (length,) = take(items, offset)
        if length == _END:
            break
        offset += _U64.size + (length & _LENGTH)
        if length & IS_WARNINGS:
            flags |= OutcomeFlag.WARNINGS
        else:
            count += 1
    part = _part_of(items, begin, offset)
    if offset < end:
        times = _ITEMS_END.unpack_from(items, offset)[1:]
        offset += _ITEMS_END.size
    if offset > end or not count:
        raise ProtocolError(f"an outcome of {count} items ends {offset - end} bytes behind its frame")
    parts = (part, _U64.pack(number)) if flags & OutcomeFlag.BESIDE else (part,)
    return Outcome(task_id, attempt, flags, parts, *times, first, count), offset


# ---------------------------------------------------------------------- control frames


def encode_control(fields: dict[str, Any], parts: Sequence[Buffer] = ()) -> bytes:
    """Return the body of a control frame: a JSON object and opaque parts."""
    if not fields and not parts:
        return _NO_FIELDS
    text = json.dumps(fields).encode()
    lengths = struct.pack(f"<{len(parts)}Q", *(len(part) for part in parts))
    return b"".join((struct.pack("<QI", len(text), len(parts)), lengths, text, *parts))


_NO_FIELDS = struct.pack("<QI", 2, 0) + b"{}"
"""READY and BYE, as a rule: a worker that has one task makes and reads JSON in cold code, and has little else to do."""


def decode_control(body: memoryview) -> tuple[dict[str, Any], tuple[memoryview, ...]]:
    """Decode the body of a control frame; nothing but JSON is interpreted."""
    if body == _NO_FIELDS:
        return {}, ()
    start = struct.calcsize("<QI")
    if len(body) < start:
        raise ProtocolError(f"a control frame of {len(body)} bytes ends too early")
    text_bytes, count = struct.unpack_from("<QI", body)
    if start + count * _U64.size > len(body):
        raise ProtocolError(f"a table of {count} parts does not fit into its frame")
    lengths = struct.unpack_from(f"<{count}Q", body, start)
    offset = start + count * _U64.size
    pieces = []
    for length in (text_bytes, *lengths):
        if length > len(body) - offset:
            raise ProtocolError(f"a part of {length} bytes does not fit into its frame")
        pieces.append(body[offset : offset + length])
        offset += length
    try:
        fields = json.loads(bytes(pieces[0]))
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deep, a few kB of "[" are enough
        raise ProtocolError(f"a control frame holds no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError(f"a control frame holds {type(fields).__name__}, not an object")
    return fields, tuple(pieces[1:])


# ---------------------------------------------------------------------- frames about one worker among several

_RELAY = struct.Struct("<QBB")
_CONTENT = struct.Struct("<QQQ")
CONTENT_BYTES = 1 << 20
"""A frame has so much of large buffers: what is sent after a broken link again is little, and others get a turn."""


def encode_relay(number: int, kind: int, *, has_content: bool = False) -> bytes:
    """Return what opens the body of RELAY; the body of the worker's own frame follows.

    Args:
        number: the worker's.
        kind: of its frame.
        has_content: the frame names content that the agent was sent before.
    """
    return _RELAY.pack(number, kind, has_content)


def decode_relay(frame: Frame) -> tuple[int, Frame, bool]:
    """Return the worker's number, its frame, and whether that names content; raise ProtocolError."""
    if len(frame.body) < _RELAY.size:
        raise ProtocolError(f"a frame of {len(frame.body)} bytes does not say which worker it is for")
    number, kind, has_content = _RELAY.unpack_from(frame.body)
    return number, frame._replace(kind=kind, body=frame.body[_RELAY.size :]), bool(has_content)


def encode_content(number: int, size: int = 0, start: int = 0) -> bytes:
    """Return what opens the body of CONTENT; a piece follows.

    Args:
        number: of what it is a piece of.
        size: bytes of the whole; 0: forget it.
        start: where the piece begins.
    """
    return _CONTENT.pack(number, size, start)


def decode_content(body: memoryview) -> tuple[int, int, int, memoryview]:
    """Return the number, the size of the whole, where the piece begins, and the piece; raise ProtocolError."""
    if len(body) < _CONTENT.size:
        raise ProtocolError(f"a piece of content of {len(body)} bytes does not say what it is a piece of")
    number, size, start = _CONTENT.unpack_from(body)
    piece = body[_CONTENT.size :]
    if start + len(piece) > size:
        raise ProtocolError(f"a piece of content ends {start + len(piece) - size} bytes behind the whole")
    return number, size, start, piece
