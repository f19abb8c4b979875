"""A small table of what the seats of controllers did: columns chosen by name or pattern, printed neatly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

COLUMNS = (
    "controller", "worker_name", "worker_connected", "worker_busy", "worker_launches", "worker_instances",
    "tasks_assigned", "tasks_complete", "popped_tasks", "popped_seconds", "popped_errors", "popped_warnings",
)  # fmt: skip


class Summary(Sequence[dict[str, Any]]):
    """Rows as dictionaries, one for each seat.

    Args:
        rows: all with the same columns.
        columns: names, or patterns as "tasks_*": one, or several; None: all.

    Raises:
        ValueError: nothing has such a name.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], columns: str | Iterable[str] | None = None) -> None:
        patterns = ["*"] if columns is None else [columns] if isinstance(columns, str) else list(columns)
        self.columns: list[str] = []
        for pattern in patterns:
            found = [name for name in COLUMNS if fnmatchcase(name, pattern)]
            if not found:
                raise ValueError(f"no column of the summary is named {pattern!r}; there are {', '.join(COLUMNS)}")
            self.columns += [name for name in found if name not in self.columns]
        self._rows = [{name: row[name] for name in self.columns} for row in rows]

    def __getitem__(self, place: Any) -> Any:
        """Return a row by its place, or a column by its name."""
        if isinstance(place, str):
            return [row[place] for row in self._rows]
        return self._rows[place]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame; raise ImportError without pandas."""
        import pandas as pd

        return pd.DataFrame(self._rows, columns=self.columns)

    def __str__(self) -> str:
        cells = [[_text(row[name]) for name in self.columns] for row in self._rows]
        lines = [self.columns, *cells]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        is_left = [all(isinstance(row[name], str) for row in self._rows) for name in self.columns]
        return "\n".join(
            "  ".join(
                text.ljust(width) if left else text.rjust(width)
                for text, width, left in zip(line, widths, is_left, strict=True)
            ).rstrip()
            for line in lines
        )

    __repr__ = __str__


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
