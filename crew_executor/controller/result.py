"""What a controller gives back for a task: the same kind of record whatever became of it. Makes no decision."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..calls import command_of
from ..errors import CrewError
from ..records import TaskRecord

COMMAND_MAX = 200
"""Characters of a call's text."""


@dataclass(frozen=True)
class Result(TaskRecord):
    """The record of one task: success, error, crash, timeout and cancel alike.

    Attributes, beside those of TaskRecord:
        command: the call in words, as `math.sqrt(2)`, with long arguments cut.
        seed: as given to push().
        controller: the name of the one that ran it: the backup's, if that did.
        number: results are numbered as they come, over all controllers of this process.
    """

    controller: str = ""
    number: int = 0

    @classmethod
    def of(cls, record: TaskRecord, **changes: Any) -> Result:
        """Return a record with some attributes changed."""
        return cls(**{**vars(record), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with one row; raise ImportError without pandas."""
        return Results([self]).to_frame()


class Results(list[Result]):
    """A list of records."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the attributes of each by name."""
        return [result.to_dict() for result in self]

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with one row each; raise ImportError without pandas."""
        import pandas as pd

        columns = [field.name for field in fields(Result)]
        # Columns of objects: pandas would take results apart that are lists, and make floats of large integers where
        # another is None.
        data = {name: pd.Series([getattr(result, name) for result in self], dtype=object) for name in columns}
        frame = pd.DataFrame(data, columns=columns)
        kept = frame[["result", "seed"]]
        frame = frame.infer_objects()
        frame[["result", "seed"]] = kept
        return frame


class MapError(CrewError):
    """A task of map() did not succeed.

    Attributes:
        results: the records of all tasks, in the order of the items.
    """

    def __init__(self, message: str, results: Results) -> None:
        super().__init__(message)
        self.results = results


class _Repr(reprlib.Repr):
    """Says what a value is in a few words, and never reads through a large one for that."""

    def repr_int(self, value: int, level: int) -> str:
        return super().repr_int(value, level) if abs(value) < _INT_MAX else "<a large int>"

    def repr_bytes(self, value: bytes, _level: int) -> str:
        """Return the beginning."""
        return repr(bytes(value[: self.maxother])) + ("..." if len(value) > self.maxother else "")

    repr_bytearray = repr_bytes


_INT_MAX = 10**40
_repr = _Repr().repr


def text_of_call(fn: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a call as one would write it."""
    words = [_repr(value) for value in args]
    words += [f"{name}={_repr(value)}" for name, value in kwargs.items()]
    text = f"{command_of(fn).removeprefix('builtins.').removeprefix('__main__.')}({', '.join(words)})"
    return text if len(text) <= COMMAND_MAX else text[: COMMAND_MAX - 3] + "..."
