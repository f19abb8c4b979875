"""The steps of `doctor --launcher ssh`: from the ssh client here to a worker on each host, and to nothing left there.

A host's first step that fails ends its examination; those after it would only fail for the same reason. Every command
goes through the SSHLauncher's own command(): what is tried is what an executor would do. It must not write on hosts.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple

from .doctor import FAIL, NOTE, OK, Doing, Finding, Misuse, Trouble, Worker, remarks_of, try_worker, version_here
from .errors import CrewError, LaunchError
from .launchers import SSHLauncher

CALL_SECONDS = 30.0
"""How long a command there may take: ssh itself gives up earlier."""
STARTUP_SECONDS = 20.0
"""How long an agent may take to come back to this machine, unless --timeout says otherwise."""
SLACK_SECONDS = 10.0
GONE_TRIES = 5
SHOWN_MAX = 300
MARK = "crew_executor doctor: "
"""Before what our own commands say: the shell there may have words of its own."""

_TRY = {
    "Permission denied": "the key is refused: put your public key there (`ssh-copy-id {host}`), or name another one "
    "(--option=-i --option=KEY); a key with a passphrase must be in ssh-agent, for nobody is asked",
    "Could not resolve": "no host has this name: look for a mistake in it, or give it a HostName in ~/.ssh/config",
    "verification failed": "the host's own key is unknown or has changed: log in by hand once (`ssh {host}`) and "
    "compare its fingerprint",
    "timed out": "the host does not answer: is it up, is the name right, is there a firewall between?",
    "refused": "nothing listens there at that port: is sshd running? Another port: --option=-p --option=PORT",
    "No route": "no way leads there from here: is a VPN needed, or a jump host (--option=-J --option=HOST)?",
}
"""What to do, by what ssh says."""

_FIND_PACKAGE = f"""
import json, sys
found = {{"python": list(sys.version_info[:3])}}
try:
    import crew_executor
    found["file"] = crew_executor.__file__
    from importlib.metadata import version
    found["version"] = version("crew_executor")
except Exception as error:
    found["error"] = type(error).__name__ + ": " + str(error)
print({MARK!r} + json.dumps(found))
"""

_LOAD_ALL = f"""
import json
found = {{}}
try:
    import crew_executor.transport
    crew_executor.transport.load()
    import crew_executor.processes, crew_executor.serialize, crew_executor.tracebacks
    import cloudpickle, tblib
    found["cloudpickle"] = cloudpickle.__version__
except Exception as error:
    found["error"] = type(error).__name__ + ": " + str(error)
    found["missing"] = getattr(error, "name", None) if isinstance(error, ImportError) else None
print({MARK!r} + json.dumps(found))
"""


class Ran(NamedTuple):
    """What came of a command on a host; no exit code: it did not end in time."""

    command: str
    code: int | None
    out: str
    err: str

    def end(self) -> str:
        """Return how it ended, in words, with the last that it said."""
        how = f"did not end within {CALL_SECONDS:g} s" if self.code is None else f"ended with exit code {self.code}"
        return f"{how}\n{self.err}".strip()

    def found(self) -> dict[str, Any] | None:
        """Return what one of our scripts says, or None if it did not come to that."""
        _noise, mark, told = self.out.rpartition(MARK)
        if not mark:
            return None
        found: dict[str, Any] = json.JSONDecoder().raw_decode(told)[0]
        return found


def add_arguments(group: argparse._ActionsContainer) -> None:
    """Declare the arguments that only SSHLauncher has."""
    add = group.add_argument
    add("--host", action="append", default=[], metavar="HOST", help="a host, as ssh takes it; once for each")
    add("--ssh", default="ssh", metavar="PATH", help="the ssh client")
    option_help = "a word for ssh, before the host: --option=-p --option=2222"
    add("--option", action="append", default=[], metavar="WORD", help=option_help)
    add("--tunnel", action="store_true", help="hosts come back through ssh, as SSHLauncher(tunnel=True)")


def find(arguments: argparse.Namespace) -> Iterator[Finding | Doing]:
    """Try one worker on each host, step by step.

    Raises:
        Misuse: no host is named, or what is named is none.
    """
    if not arguments.host:
        raise Misuse("name a host to try: --launcher ssh --host HOST")
    if arguments.tunnel and arguments.address:
        raise Misuse("--tunnel leads to this machine's 127.0.0.1, whatever --address says: leave one of them out")
    try:
        launchers = [_launcher(arguments, host) for host in arguments.host]
    except ValueError as error:
        raise Misuse(str(error)) from None
    try:
        launchers[0].check()
    except LaunchError:
        what = "install one (OpenSSH), or name its path: --ssh PATH"
        yield Finding(FAIL, f"there is no ssh client {arguments.ssh!r} here: {what}")
        return
    yield Finding(OK, f"there is an ssh client here: {arguments.ssh}")
    from . import addresses  # late: with psutil, which may be what is broken here; the command's help must not fail

    try:
        addresses.resolve(launchers[0].hosts)
    except CrewError as error:
        yield Finding(FAIL, f"--address {arguments.address}: {error}")
        return
    for launcher in launchers:
        (host,) = launcher.remote_hosts
        for found in _examine(launcher, host):
            yield found._replace(text=f"{host}: {found.text}")


def _launcher(arguments: argparse.Namespace, host: str) -> SSHLauncher:
    more: dict[str, Any] = {"host": arguments.address} if arguments.address else {}
    return SSHLauncher(
        host, ssh=arguments.ssh, options=arguments.option, tunnel=arguments.tunnel, python=arguments.python,
        startup_timeout=arguments.timeout or STARTUP_SECONDS, max_failed_launches=1, **more,
    )  # fmt: skip


def _examine(launcher: SSHLauncher, host: str) -> Iterator[Finding | Doing]:
    """Take one step after the other, until one fails."""
    for step in (_get_in, _find_package, _load_all, _have_worker):
        for found in step(launcher, host):
            yield found
            if found[0] == FAIL:
                return


def _call(launcher: SSHLauncher, host: str, *remote: str) -> Ran:
    """Run something there; into files, for what ssh leaves in the background may hold a pipe open."""
    command = launcher.command(host, remote)
    words = shlex.join(command)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code: int | None = None
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=CALL_SECONDS, check=False,
                start_new_session=True,
            )  # fmt: skip
            code = done.returncode
        except subprocess.TimeoutExpired:
            pass  # it was killed, and what it has said so far is in the files
        except OSError as error:
            return Ran(words, 255, "", f"{command[0]} cannot be started: {error}")
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace").strip())
        return Ran(words, code, *said)


def _call_python(launcher: SSHLauncher, host: str, script: str) -> Ran:
    """Run a script there, in one line: not every shell takes more."""
    return _call(launcher, host, launcher.python, "-c", f"exec({script!r})")


# ---------------------------------------------------------------------- the steps


def _get_in(launcher: SSHLauncher, host: str) -> Iterator[Finding | Doing]:
    yield Doing("getting in by ssh")
    started_at = time.monotonic()
    ran = _call(launcher, host, "true")
    if ran.code != 0:
        by_hand = f"try the same by hand: {ran.command}"
        advice = next((text.format(host=host) for words, text in _TRY.items() if words in ran.err), by_hand)
        who = "ssh does not get in without asking" if ran.code in (255, None) else "ssh gets in, but runs no command"
        yield Finding(FAIL, f"{who}: it {ran.end()}\n{advice}")
        return
    yield Finding(OK, f"ssh gets in without asking, in {time.monotonic() - started_at:.2f} s")
    if ran.out:
        shown = ran.out if len(ran.out) <= SHOWN_MAX else f"{ran.out[:SHOWN_MAX]}..."
        yield Finding(NOTE, f"the shell there has words of its own, which does workers no harm:\n{shown}")
    else:
        yield Finding(OK, "the shell there says nothing of its own")


def _find_package(launcher: SSHLauncher, host: str) -> Iterator[Finding | Doing]:
    yield Doing("looking for the interpreter")
    python = launcher.python
    ran = _call_python(launcher, host, _FIND_PACKAGE)
    found = ran.found()
    if found is None:
        wrong = {127: f"there is no interpreter {python}", 126: f"{python} cannot be executed"}
        what = wrong.get(-1 if ran.code is None else ran.code, f"{python} did not run what it was told to")
        yield Finding(FAIL, f"{what}: it {ran.end()}\nname the path that it has there: --python PATH")
        return
    there, here = (".".join(map(str, version[:2])) for version in (found["python"], sys.version_info))
    if there != here:
        why = f"here it is {here}; functions travel as byte code, so both must be of one minor version"
        yield Finding(FAIL, f"{python} is Python {there}, and {why}\nname another one there: --python PATH")
        return
    yield Finding(OK, f"{python} is Python {'.'.join(map(str, found['python']))}")
    wanted = version_here()
    install = f"{python} -m pip install crew_executor" + (f"=={wanted}" if wanted else "")
    if "file" not in found:
        yield Finding(FAIL, f"crew_executor cannot be imported there: {found['error']}\ninstall it there: {install}")
    elif "version" not in found or wanted is None:
        where = f"there, in {found['file']}" if "version" not in found else "here"
        yield Finding(NOTE, f"crew_executor can be imported, but is not installed {where}: versions are not compared")
    elif found["version"] != wanted:
        why = f"crew_executor is {found['version']} there, and {wanted} here: they may not understand each other"
        yield Finding(FAIL, f"{why}\ninstall the same there: {install}")
    else:
        yield Finding(OK, f"crew_executor is {wanted} there, too")


def _load_all(launcher: SSHLauncher, host: str) -> Iterator[Finding | Doing]:
    yield Doing("loading what workers need")
    ran = _call_python(launcher, host, _LOAD_ALL)
    found = ran.found()
    if found is None or "error" in found:
        what = f"it {ran.end()}" if found is None else found["error"]
        missing = str((found or {}).get("missing") or "").partition(".")[0]
        install = missing if missing and missing != "crew_executor" else "--force-reinstall crew_executor"
        yield Finding(
            FAIL,
            f"what crew_executor needs cannot be loaded there: {what}\ntry: {launcher.python} -m pip install {install}",
        )
        return
    yield Finding(OK, "NNG can be used there, cloudpickle, psutil and tblib can be imported")
    here = metadata.version("cloudpickle")
    if found["cloudpickle"] != here:
        what = f"cloudpickle is {found['cloudpickle']} there, and {here} here"
        yield Finding(NOTE, f"{what}: what travels by value (lambdas, __main__) may not be understood")


def _have_worker(launcher: SSHLauncher, host: str) -> Iterator[Finding | Doing]:
    yield Doing(f"starting a worker, for at most {launcher.startup_timeout:g} s")
    try:
        worker = try_worker(launcher, 2 * launcher.startup_timeout + SLACK_SECONDS)
    except Trouble as trouble:
        yield Finding(FAIL, f"no worker could be had: {trouble}\n{_advice(launcher)}")
        return
    yield Finding(OK, worker.describe())
    yield from remarks_of(worker)
    yield Doing("looking for what is left there")
    yield _look_for_left(launcher, host, worker)


def _advice(launcher: SSHLauncher) -> str:
    if launcher.tunnel:
        return "if the tunnel is refused: the host's sshd must allow it (AllowTcpForwarding yes, or remote)"
    return (
        "if the host does not reach this machine: name an address of this machine that it reaches (--address ADDR), "
        "let the firewall pass what comes from it, or come back through ssh (--tunnel)"
    )


def _look_for_left(launcher: SSHLauncher, host: str, worker: Worker) -> Finding:
    """Ask whether the worker, its supervisor or its agent outlive the executor, for some seconds."""
    pids = [pid for pid in (worker.pid, *worker.ancestors) if pid > 1]
    script = (
        f"n=0; while [ $n -lt {GONE_TRIES} ]; do left=; for pid in {' '.join(map(str, pids))}; do "
        'if kill -0 $pid 2>/dev/null; then left="$left $pid"; fi; done; '
        f'if [ -z "$left" ]; then break; fi; n=$((n+1)); sleep 1; done; echo "{MARK}[$left ]"'
    )
    ran = _call(launcher, host, "sh", "-c", script)
    _noise, mark, told = ran.out.rpartition(MARK)
    if not mark:
        return Finding(NOTE, f"whether anything is left there is not known: `kill -0` {ran.end()}")
    left = told.strip("[] \n").split()
    if left:
        what = f"`kill {' '.join(left)}` there, and please report this"
        return Finding(FAIL, f"after the shutdown processes of ours are left there: {', '.join(left)}\n{what}")
    return Finding(OK, f"nothing is left there: the processes {', '.join(map(str, pids))} are gone")
