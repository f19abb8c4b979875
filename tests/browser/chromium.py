"""A headless Chromium, driven over a pipe by its DevTools protocol: what a page shows, says and answers.

It must leave no process and no file behind. It waits for the browser's own events, and knows nothing of what is tested.

Source: https://chromedevtools.github.io/devtools-protocol/; over a pipe, each message ends with a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from typing_extensions import Self

PROGRAM = "chromium"
ANSWER_SECONDS = 40.0
END_SECONDS = 15.0
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-sandbox",  # root, and containers, cannot have it; the pages are our own
    "about:blank",
)


def missing() -> str | None:
    """Return what keeps us from starting a browser, or None: a reason to skip a test."""
    return None if shutil.which(PROGRAM) else f"{PROGRAM} is not installed (see tests/browser/install.sh)"


class Chromium:
    """A browser, from entering the context to leaving it."""

    def __init__(self) -> None:
        self._pid = 0
        self._read = self._write = -1
        self._unread = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as exits:
            folder = exits.enter_context(
                tempfile.TemporaryDirectory(prefix="crew-browser-", ignore_cleanup_errors=True)
            )
            self._start(Path(folder))
            exits.callback(self._end)
            self.call("Browser.getVersion")  # it answers
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def page(self, width: int = 1280, height: int = 800, *, is_dark: bool = False) -> Page:
        """Return a new, empty page of that size."""
        return Page(self, width, height, is_dark)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; RuntimeError if it fails."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") != self._number:
                self._events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def wait_for(self, method: str, session: str) -> dict[str, Any]:
        """Return the parameters of the next such event; the others stay."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            for number, event in enumerate(self._events):
                if event.get("method") == method and event.get("sessionId") == session:
                    del self._events[number]
                    parameters: dict[str, Any] = event["params"]
                    return parameters
            self._events.append(self._next(deadline, method))

    def events(self, session: str) -> list[dict[str, Any]]:
        """Return the events of a page that have come and were not waited for."""
        return [event for event in self._events if event.get("sessionId") == session]

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._unread:
            readable, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise TimeoutError(f"after {ANSWER_SECONDS:g} s still not: {what}")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("the browser has closed its pipe")
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def _start(self, folder: Path) -> None:
        """Start it in a process group of its own; it reads from descriptor 3 and writes to 4."""
        program = shutil.which(PROGRAM) or PROGRAM
        theirs_in, self._write = _pipe()
        self._read, theirs_out = _pipe()
        environment = {**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}
        environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
        try:
            self._pid = os.posix_spawn(
                program,
                [program, f"--user-data-dir={folder / 'profile'}", *FLAGS],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                    (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                ],
                setpgroup=0,
            )
        except BaseException:
            os.close(self._read)
            os.close(self._write)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def _end(self) -> None:
        """Ask it to close, and wait for all its processes; those that stay are killed."""
        family = [psutil.Process(self._pid), *psutil.Process(self._pid).children(recursive=True)]
        with contextlib.suppress(OSError, RuntimeError):
            self.call("Browser.close")
        os.close(self._read)
        os.close(self._write)
        _gone, left = psutil.wait_procs(family, END_SECONDS)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        psutil.wait_procs(left, END_SECONDS)


class Page:
    """A tab of the browser."""

    def __init__(self, browser: Chromium, width: int, height: int, is_dark: bool) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path) -> None:
        """Open a file, and wait until it and all its scripts are loaded."""
        self._call("Page.navigate", url=path.resolve().as_uri())
        self._browser.wait_for("Page.loadEventFired", self._session)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, of a promise when it has come; RuntimeError if it throws."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        modifiers = 8 if shift else 0
        text = {"text": key} if len(key) == 1 else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Let the mouse do something: "mouseMoved", "mousePressed", "mouseReleased" or "mouseWheel"."""
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path: Path) -> None:
        """Write what is seen into a PNG file."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Return what the page has thrown or complained about so far."""
        found = []
        for event in self._browser.events(self._session):
            parameters: Mapping[str, Any] = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning", "assert"}:
                found.append(json.dumps(parameters["args"]))
            elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
                found.append(parameters["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Return the addresses of all that was fetched so far."""
        sent = [e["params"] for e in self._browser.events(self._session) if e["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)


def _pipe() -> tuple[int, int]:
    """Return a pipe none of whose ends is one of the descriptors that the browser wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
