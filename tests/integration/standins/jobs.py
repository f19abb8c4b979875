"""What the stand-ins have in common: jobs as processes of this machine, their state in a folder, flags that break it.

Flags are files in the folder: "hold" (no job starts), "limit" (a number: so many jobs may be there), "server" with

    refuses    no command gets an answer
    hangs      nor does it end
    forgets    a submission works, and gets no answer in time
    nonsense   answers are no answers

Runs as a script's module, without site-packages: nothing but the standard library is imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = Path(os.environ.get("CREW_TEST_STANDIN", "."))
KILL_DELAY = 0.5
"""From TERM to KILL."""
FOR_EVER = 600.0


def flag(name: str) -> str:
    """Return what a flag says, or "" if it is not raised."""
    try:
        return (STATE / name).read_text() or "yes"
    except OSError:
        return ""


def fail(words: str, code: int) -> None:
    """End as a command does that was refused."""
    sys.stdout.flush()
    sys.stderr.write(f"{words}\n")
    raise SystemExit(code)


def begin(refusal: str, code: int) -> None:
    """Begin a command: note its words, and do as the server does."""
    with open(STATE / "calls", "a") as file:
        file.write(" ".join(sys.argv[1:]).replace("\n", "\\n") + "\n")
    server = flag("server")
    if server == "refuses":
        fail(refusal, code)
    if server == "hangs":
        time.sleep(FOR_EVER)
    if server == "nonsense":
        sys.stdout.write("<html>Please log in</html>\n")
        raise SystemExit(0)


def next_number() -> int:
    """Return the number of a new submission."""
    with open(STATE / "number", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or "100") + 1
        file.truncate(0)
        file.write(str(number))
    return number


def all_jobs() -> list[dict[str, Any]]:
    """Return what is known of all jobs."""
    return sorted(map(read, STATE.glob("*.job")), key=lambda facts: (facts["number"], facts["index"] or 0))


def read(path: Path) -> dict[str, Any]:
    """Return what is known of a job."""
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def write(facts: dict[str, Any]) -> None:
    """Note what is known of a job; who reads sees all of it or the old."""
    path = STATE / f"{facts['id']}.job"
    new = path.with_suffix(f".new{os.getpid()}")
    new.write_text(json.dumps(facts))
    new.rename(path)


def has_room(number: int) -> bool:
    """Answer whether so many more jobs are allowed."""
    limit = flag("limit")
    return not limit or number + sum(facts["state"] != "ended" for facts in all_jobs()) <= int(limit)


def start(facts: dict[str, Any], script: str) -> None:
    """Take a job: it is watched by a process of its own, of which nobody here is the parent.

    Args:
        facts: id, number, index, name, log, environment, and report, if something is put behind its output.
        script: what /bin/sh runs.
    """
    write({**facts, "state": "pending", "pid": 0, "code": None, "why": ""})
    (STATE / f"{facts['id']}.sh").write_text(script)
    subprocess.Popen(
        [sys.executable, "-S", os.path.abspath(__file__), facts["id"]], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip


def cancel(job: str) -> bool:
    """Have a job ended; return whether there was something to end."""
    path = STATE / f"{job}.job"
    if not path.exists() or read(path)["state"] == "ended":
        return False
    (STATE / f"{job}.kill").touch()
    return True


# ---------------------------------------------------------------------- who watches a job


def watch(job: str) -> None:
    """Start a job when it may, wait for its end, put its output where it belongs."""
    (STATE / "pids").mkdir(exist_ok=True)
    (STATE / "pids" / str(os.getpid())).touch()
    facts = read(STATE / f"{job}.job")
    killed = STATE / f"{job}.kill"
    while flag("hold") and not killed.exists():
        time.sleep(0.02)
    if killed.exists():
        write({**facts, "state": "ended", "code": None, "why": "killed"})
        return
    spool = STATE / f"{job}.output"
    with open(spool, "wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", str(STATE / f"{job}.sh")], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **facts["environment"]}, cwd=os.environ.get("HOME", "/"),
        )  # fmt: skip
    facts = {**facts, "state": "running", "pid": process.pid}
    write(facts)
    why = _wait(process, killed)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    facts = {**facts, "state": "ended", "code": process.returncode, "why": flag(f"{job}.why") or why}
    _deliver(spool, facts)
    write(facts)


def _wait(process: subprocess.Popen[bytes], killed: Path) -> str:
    kill_at = float("inf")
    while process.poll() is None:
        time.sleep(0.02)
        now = time.monotonic()
        if killed.exists() and kill_at == float("inf"):
            os.killpg(process.pid, signal.SIGTERM)
            kill_at = now + KILL_DELAY
        if now > kill_at:
            os.killpg(process.pid, signal.SIGKILL)
    return "" if kill_at == float("inf") else "killed"


def _deliver(spool: Path, facts: dict[str, Any]) -> None:
    with contextlib.suppress(OSError), open(facts["log"], "ab") as log:
        log.write(spool.read_bytes())
        log.write(facts.get("report", "").replace("{code}", str(facts["code"])).encode())


if __name__ == "__main__":
    watch(sys.argv[1])
