"""Where progress is shown: a bar of tqdm, or else a plain line on a terminal, or whole lines now and then.

tqdm, the extra `[progress]`, and not rich, because it does all that is wanted here and nothing else: one package
without dependencies, a widget in notebooks, several bars of a program side by side, and drawn when we say so, in our
thread. rich draws from a thread of its own and wants the terminal for itself, and brings three more packages.

Beside report.py, which has the command line's output, this is the only place where the package writes to a stream in a
client, and only because somebody has asked for it: options(progress=True) or progress(). Must never harm the work:
where there is no room, nothing is written instead of waiting, and whatever an own line raises is for gauge.py to take.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from importlib.util import find_spec
from typing import Any, Protocol, TextIO

from . import late
from .meter import Count, Crowd, Meter, fit, last_line, plain, running_line, troubles, workers

LIVE_SECONDS = 0.25
"""Between two looks of what is drawn in place."""
LOG_SECONDS = 10.0
"""Between two lines of a log."""
COLUMNS = 80
"""The width of a terminal that does not say how wide it is."""


class Screen(Protocol):
    """Where progress is shown."""

    seconds_between: float

    def show(self, count: Count, meter: Meter, crowd: Crowd | None) -> None:
        """Show how far the work is."""

    def close(self, count: Count, meter: Meter) -> None:
        """Show how it ended."""

    def forget(self) -> None:
        """Show nothing any more."""


def open_screen(stream: TextIO | None, description: str) -> Screen | None:
    """Return where to show progress; None: there is no place.

    Args:
        stream: where to; None: stderr, or a widget if this is a notebook.
        description: the words before the numbers.
    """
    description = plain(description)
    is_notebook = stream is None and _is_notebook()
    stream = sys.stderr if stream is None else stream
    if stream is None:  # pythonw has no stderr, nor has a program that was started without
        return None
    outlet = Outlet(stream)
    if not (is_notebook or outlet.is_live()):
        return LogLines(outlet, description)
    bar_class = _bar_class(is_notebook)
    if bar_class is not None:
        return Bar(bar_class, None if is_notebook else outlet, description)
    return LogLines(outlet, description) if is_notebook else LiveLine(outlet, description)


class Outlet:
    """A stream that nobody ever waits for. Looks enough like a file for tqdm.

    A pipe that says that it has room has room for a line of ours; a terminal that was stopped by Ctrl-S says that it
    has none. Where there is no room the text is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"
        self._number: int | None = None
        with contextlib.suppress(
            AttributeError, OSError, ValueError
        ):  # io.StringIO, a stream of a notebook, a closed one
            self._number = stream.fileno()

    def write(self, text: str) -> bool:
        """Write the text if that can be done without waiting; return whether it was written."""
        if not self._has_room():
            return False
        # Descriptions are arbitrary; an ASCII or Latin-1 stream shows the rest as \u escapes.
        data = text.encode(self.encoding, "backslashreplace")
        self._stream.flush()
        if self._number is not None and isinstance(self._stream, io.TextIOWrapper):
            # Past its buffers: what could not be written would stay there, and fail once more when the interpreter
            # ends, which gives an exit status of 120 for it.
            os.write(self._number, data)
        else:
            self._stream.write(data.decode(self.encoding))
            self._stream.flush()
        return True

    def _has_room(self) -> bool:
        if self._number is None:
            return True
        poll = select.poll()
        poll.register(self._number, select.POLLOUT)
        events = dict(poll.poll(0)).get(self._number, 0)
        if events & (select.POLLERR | select.POLLNVAL | select.POLLHUP):
            raise BrokenPipeError("nobody reads what is written here")
        return bool(events & select.POLLOUT)

    def flush(self) -> None:
        """Do nothing: what is written is out."""

    def fileno(self) -> int:
        """Return the descriptor; tqdm asks it for the terminal's width."""
        if self._number is None:
            raise OSError("the stream has no descriptor")
        return self._number

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return bool(self._stream.isatty())

    def is_live(self) -> bool:
        """Return whether a line can be written over, by a carriage return: all terminals know it but dumb ones."""
        return self.isatty() and os.environ.get("TERM") != "dumb"

    def room(self) -> int:
        """Return how many columns can be written to: behind the last one some terminals are in the next line."""
        return max(1, self._columns() - 1)

    def _columns(self) -> int:
        with contextlib.suppress(OSError):
            if (columns := os.get_terminal_size(self.fileno()).columns) > 0:  # 0: it was never told
                return columns
        said = os.environ.get("COLUMNS", "")
        return int(said) if said.isdecimal() and 0 < int(said) < 10_000 else COLUMNS


class LiveLine:
    """One line of a terminal, written over again and again. No escape sequences."""

    seconds_between = LIVE_SECONDS

    def __init__(self, outlet: Outlet, description: str) -> None:
        self._outlet = outlet
        self._description = description
        self._width = 0

    def show(self, count: Count, meter: Meter, crowd: Crowd | None) -> None:
        """Write over the line."""
        self._write(running_line(self._description, count, meter, crowd))

    def close(self, count: Count, meter: Meter) -> None:
        """Leave the last word there, and go to the next line."""
        self._write(last_line(self._description, count, meter), "\n")

    def forget(self) -> None:
        """Do nothing."""

    def _write(self, text: str, end: str = "") -> None:
        text = fit(text, self._outlet.room())
        if self._outlet.write("\r" + text.ljust(self._width) + end):
            self._width = len(text)


class LogLines:
    """Whole lines now and then: for a file, a pipe, a dumb terminal, a notebook without tqdm."""

    seconds_between = LOG_SECONDS

    def __init__(self, outlet: Outlet, description: str) -> None:
        self._outlet = outlet
        self._description = description

    def show(self, count: Count, meter: Meter, crowd: Crowd | None) -> None:
        """Write a line."""
        self._outlet.write(running_line(self._description, count, meter, crowd) + "\n")

    def close(self, count: Count, meter: Meter) -> None:
        """Write the last line."""
        self._outlet.write(last_line(self._description, count, meter) + "\n")

    def forget(self) -> None:
        """Do nothing."""


class Bar:
    """A bar of tqdm, which has its own rate and its own estimate of what is left.

    Args:
        bar_class: what makes it.
        outlet: where it is drawn; None: a widget.
        description: the words before the bar.
    """

    seconds_between = LIVE_SECONDS

    def __init__(self, bar_class: Any, outlet: Outlet | None, description: str) -> None:
        self._bar_class = bar_class
        self._outlet = outlet
        self._description = description
        self._bar: Any = None

    def show(self, count: Count, meter: Meter, crowd: Crowd | None) -> None:
        """Move the bar."""
        if self._bar is None:
            self._bar = self._make(count, meter)
        bar = self._bar
        if self._outlet is not None:
            bar.ncols = self._outlet.room()
        if bar.total != count.known_total:
            bar.total = count.known_total
            if hasattr(bar, "container"):  # a widget keeps the total that it was made with
                bar.container.children[1].max = count.known_total or 1
        bar.set_postfix_str(", ".join([*troubles(count), *workers(crowd)]), refresh=False)
        bar.update(count.done - bar.n)

    def _make(self, count: Count, meter: Meter) -> Any:
        where: dict[str, Any] = {"dynamic_ncols": True}
        if self._outlet is not None:
            # The width is ours: tqdm shows nothing on a terminal that was never told how wide it is.
            where = {"file": self._outlet, "ncols": self._outlet.room()}
        bar = self._bar_class(
            total=count.known_total, initial=meter.done_before, desc=self._description or None, unit="task",
            mininterval=0, miniters=0, **where,
        )  # fmt: skip
        # It is made when there is something to show for the first time: the work began before.
        bar.start_t -= meter.seconds
        bar.last_print_t -= meter.seconds
        return bar

    def close(self, count: Count, meter: Meter) -> None:
        """Leave the bar as it stands."""
        self.show(count, meter, None)
        self._bar.close()

    def forget(self) -> None:
        """Keep it from drawing itself a last time when it is collected."""
        if self._bar is not None:
            self._bar.disable = True


def _bar_class(is_notebook: bool) -> Any:
    """Return the class of a bar, chosen as tqdm.auto does but without its warnings; None: tqdm is not there."""
    try:
        with late.imports():
            if is_notebook and find_spec("ipywidgets") is not None:
                from tqdm.notebook import tqdm
            else:
                from tqdm.std import tqdm
    except ImportError:
        return None
    # Its monitor, a thread, moves bars that nobody has moved for long: ours are, and it would be in a fork's way.
    return type("Bar", (tqdm,), {"monitor_interval": 0})


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
