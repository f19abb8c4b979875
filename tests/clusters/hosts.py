"""Several network hosts on one Linux machine, and what can happen to them: silence, resets, loss, a slow link, a crash.

A host is a network namespace with one address on a bridge and a host name of its own; it shares the files and the
process numbers of the machine. The machine itself is on the bridge too, as "head". Nothing is routed to the outside.

It must not leave anything behind (interfaces, namespaces, rules, names, processes); what an earlier run left that was
killed, it removes. It touches nothing that does not bear its name, `crewt`, and knows nothing of sshd or schedulers.
Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

FOLDER = Path("/run/crewt")
"""For each host h1, h2, ...: h1.net and h1.uts, which hold its namespaces even while no process is in them."""

BRIDGE = "crewt0"
NAMES = Path("/etc/hosts")
LOCK = Path("/run/crewt.lock")
SUBNET = "CREW_EXECUTOR_TEST_SUBNET"
PROGRAMS = "hostname", "ip", "nft", "nsenter", "ss", "tc", "umount", "unshare"

_one_in_this_process = threading.Lock()  # the lock on a file keeps out other processes only


def missing(programs: Sequence[str] = PROGRAMS) -> str | None:
    """Return what keeps us from making hosts on this machine, or None: a reason to skip a test."""
    if sys.platform != "linux":
        return "no Linux"
    if os.geteuid():
        return "not root"
    absent = [name for name in programs if which(name) is None]
    return f"not installed (see tests/clusters/install.sh): {', '.join(absent)}" if absent else None


def which(program: str) -> str | None:
    """Find a program also where only root's PATH leads: a test may run with a shorter one."""
    return shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Poll until `is_so()` is true; TimeoutError names `what` did not come true."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and more of it than a zombie."""
    try:
        return os.readlink(f"/proc/{pid}/exe") != ""
    except OSError:
        return False


class Hosts:
    """The hosts h1, h2, ... up to `number`, from entering the context to leaving it. One such context at a time.

    The environment variable CREW_EXECUTOR_TEST_SUBNET gives another network than 10.78.0.0/24.
    """

    def __init__(self, number: int) -> None:
        self._network = ipaddress.IPv4Network(os.environ.get(SUBNET, "10.78.0.0/24"))
        self.names = [f"h{n}" for n in range(1, number + 1)]
        self._addresses = {name: str(self._network[10 + n]) for n, name in enumerate(self.names, 1)}
        self.head = str(self._network[1])  # the machine itself
        self._started: dict[str, list[subprocess.Popen[Any]]] = {name: [] for name in self.names}
        self._relays: dict[str, subprocess.Popen[bytes]] = {}
        self._cut: set[str] = set()
        self._lost: dict[str, float] = {}  # percent
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if reason := missing():
            raise RuntimeError(f"no hosts can be made: {reason}")
        with contextlib.ExitStack() as exits:
            exits.enter_context(_alone())
            _remove()  # of an earlier run, which was killed
            exits.callback(self._end)
            self._make()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def address(self, host: str) -> str:
        """Return the address of h1, h2, ..., or of "head"."""
        return self.head if host == "head" else self._addresses[host]

    def run(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on that host; `options` are Popen's. A program that is not found ends with status 127."""
        process = subprocess.Popen([*_into(host), *argv], **options)  # becomes argv: the pid is the program's
        self._started[host].append(process)
        return process

    def processes(self, host: str) -> list[int]:
        """Return the numbers of all processes on that host, whoever started them."""
        return _processes_in(_net(host))

    def cut(self, host: str) -> None:
        """From now on, silence: what either side sends is lost. No connection ends by that, nobody is told."""
        self._cut.add(host)
        self._filter()

    def heal(self, host: str) -> None:
        """Undo `cut`. A connection goes on when TCP tries again: after a silence of n seconds, in up to n more."""
        self._cut.discard(host)
        self._filter()

    def loss(self, host: str, percent: float) -> None:
        """Lose that share of the packets, each way; 0 loses none."""
        self._lost[host] = percent
        self._filter()

    def rate(self, host: str, rate: str | None) -> None:
        """Let so much through, each way, such as "10mbit" (tc's units); None: all."""
        for prefix, device in (([], _outer(host)), (_into(host), "eth0")):
            if rate is not None:
                shape = f"tbf rate {rate} burst 64kb latency 200ms"
                _call([*prefix, "tc", "qdisc", "replace", "dev", device, "root", *shape.split()])
            else:
                _call([*prefix, "tc", "qdisc", "delete", "dev", device, "root"], check=False)  # there may be none

    def delay(self, host: str, milliseconds: float) -> None:
        """Keep each packet back for so long, each way; 0: no more. Connections live on, packets keep their order."""
        if relay := self._relays.get(host):
            if not milliseconds:
                del self._relays[host]
                _end_relay(relay)
                _ip([f"link set {_outer(host)} master {BRIDGE}", f"link delete {_outer(host)}b"])
                return
        elif milliseconds:
            relay = self._relays[host] = _start_relay(host)
        if relay is not None:
            _tell(relay, milliseconds)

    def reset(self, host: str, port: int, by: Literal["host", "head"] = "host") -> int:
        """Break the host's connections from or to that port, of either end; return how many there were.

        The side that breaks them (`by`) sends an RST, as a firewall or a rebooted machine would. The other side meets
        ECONNRESET, this side's program ECONNABORTED. Listening sockets stay. The RST of a link that is cut is lost.
        """
        side = f"dst {self.address(host)} and" if by == "head" else ""
        chosen = ["state", "connected", *f"{side} ( sport = :{port} or dport = :{port} )".split()]
        prefix = _into(host) if by == "host" else []
        show = [*prefix, "ss", "-H", "-t", "-n", *chosen]
        before = _ends(_call(show))
        killed = _call([*prefix, "ss", "-K", "-H", "-t", "-n", *chosen]).splitlines()
        # A kernel without INET_DIAG_DESTROY says nothing about it. Who was broken may have called again already.
        if left := before & _ends(_call(show, check=False)):
            raise RuntimeError(f"`ss -K` did not break: {left}")
        return len(killed)

    def crash(self, host: str) -> None:
        """Let the host lose its power: its link is silent, its processes are gone. `heal` brings it back, empty."""
        self.cut(host)  # first: the kernel would close the sockets of the processes, loudly
        _end_processes(_net(host), self._started[host])
        # Nor may the kernel go on closing them after `heal`. There may be none.
        _call([*_into(host), "ss", "-K", "-t", "-a"])

    def _make(self) -> None:
        mask = self._network.prefixlen
        FOLDER.mkdir()
        above = [f"link add {BRIDGE} type bridge", f"addr add {self.head}/{mask} dev {BRIDGE}", f"link set {BRIDGE} up"]
        for host in self.names:
            _net(host).touch()
            _uts(host).touch()
            _call(["unshare", f"--net={_net(host)}", f"--uts={_uts(host)}", "hostname", host])
            above.append(f"link add {_outer(host)} type veth peer name eth0 netns {_net(host)}")
            above.append(f"link set {_outer(host)} master {BRIDGE} up")
        _ip(above)
        for host in self.names:
            _ip(["link set lo up", f"addr add {self.address(host)}/{mask} dev eth0", "link set eth0 up"], host)
        _set_names({"head": self.head, **self._addresses})
        for host in self.names:
            state = _device(_outer(host)) / "brport/state"
            wait_until(functools.partial(_says, state, "3\n"), f"the bridge forwards to {host}")

    def _end(self) -> None:
        for relay in self._relays.values():
            _end_relay(relay)
        for host in self.names:
            _end_processes(_net(host), self._started[host])
        _remove()

    def _filter(self) -> None:
        """Replace all rules at once by those for what is cut or lossy now.

        ARP is let through. Else the head's kernel would find out within seconds and say "no route to host" to a new
        connection: a link is cut somewhere far away.
        """
        verdicts = [(host, "drop") for host in self._cut]
        verdicts += [(h, f"numgen random mod 1000 < {10 * p:.0f} drop") for h, p in self._lost.items() if p]
        chains = []
        for hook, direction in (("prerouting", "iifname"), ("postrouting", "oifname")):
            rules = "".join(f"ether type != arp {direction} {_outer(host)} {verdict}\n" for host, verdict in verdicts)
            chains.append(f"chain {hook} {{ type filter hook {hook} priority 0\n{rules}}}\n")
        _call(
            ["nft", "-f", "-"],
            f"table bridge crewt\ndelete table bridge crewt\ntable bridge crewt {{\n{''.join(chains)}}}",
        )


def _net(host: str) -> Path:
    return FOLDER / f"{host}.net"


def _uts(host: str) -> Path:
    return FOLDER / f"{host}.uts"


def _outer(host: str) -> str:
    """Return the name of the head's end of the host's link."""
    return f"crewt-{host}"


def _device(name: str) -> Path:
    return Path("/sys/class/net", name)


def _says(file: Path, text: str) -> bool:
    return file.read_text("utf-8") == text


def _into(host: str) -> list[str]:
    """Return what to put before a command; not `ip netns exec`, which mounts another /sys, without cgroups."""
    return [which("nsenter") or "nsenter", f"--net={_net(host)}", f"--uts={_uts(host)}", "--"]


def _call(argv: Sequence[str], text: str = "", check: bool = True) -> str:
    """Run a program to its end and return its output; RuntimeError has what it complained about."""
    done = subprocess.run(
        [which(argv[0]) or argv[0], *argv[1:]], input=text, capture_output=True, text=True, check=False, timeout=30
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)} {text}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _ends(listing: str) -> set[tuple[str, ...]]:
    """Return the two ends of each connection that `ss` has listed."""
    return {tuple(line.split()[3:5]) for line in listing.splitlines()}


def _ip(commands: Sequence[str], host: str | None = None, check: bool = True) -> None:
    force = [] if check else ["-force"]
    prefix = [] if host is None else _into(host)
    _call([*prefix, which("ip") or "ip", *force, "-batch", "-"], "\n".join(commands) + "\n", check)


def _start_relay(host: str) -> subprocess.Popen[bytes]:
    """Put a relay between the host and the bridge: host - bridge of its own - relay - bridge. Its addresses stay."""
    own, inner, outer = (f"{_outer(host)}{letter}" for letter in "bio")
    argv = [sys.executable, str(Path(__file__).with_name("relay.py")), inner, outer]
    relay = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        wait_until(lambda: relay.poll() is not None or _device(outer).exists(), "the relay's interfaces are there")
        _ip(
            [
                f"link add {own} type bridge",
                f"link set {own} up",
                f"link set {inner} master {own} up",
                f"link set {outer} master {BRIDGE} up",
                f"link set {_outer(host)} master {own}",
            ]
        )
    except BaseException:
        _end_relay(relay)
        raise
    return relay


def _tell(relay: subprocess.Popen[bytes], milliseconds: float) -> None:
    assert relay.stdin is not None
    assert relay.stdout is not None
    relay.stdin.write(b"%f\n" % milliseconds)
    relay.stdin.flush()
    relay.stdout.readline()


def _end_relay(relay: subprocess.Popen[bytes]) -> None:
    relay.communicate()  # its input ends, and so does it


def _processes_in(namespace: Path) -> list[int]:
    """Return the processes whose network namespace it is. A zombie has none any more."""
    if not os.path.ismount(namespace):
        return []  # it was not made
    wanted = namespace.stat()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if os.path.samestat(wanted, (entry / "ns/net").stat()):
                found.append(int(entry.name))
    return found


def _end_processes(namespace: Path, started: Sequence[subprocess.Popen[Any]] = ()) -> None:
    """Kill all that run in it, again and again: they may be forking. `started` may still be on their way into it."""
    for process in started:
        process.kill()

    def is_empty() -> bool:
        found = _processes_in(namespace)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_until(is_empty, f"all processes of {namespace.stem} are gone")
    for process in started:
        process.wait()


def _set_names(addresses: dict[str, str]) -> None:
    """Put a block with these names at the end of /etc/hosts; none: take it away, so that the file is as it was.

    In place, since the file may be a mount; written before it is cut, so that a reader never meets an empty file.
    """
    with NAMES.open("r+", encoding="utf-8") as file:
        text = old = file.read()
        text = re.sub(r"\n# crewt begin\n.*# crewt end\n", "", text, flags=re.DOTALL)
        if addresses:
            lines = "".join(f"{address} {name}\n" for name, address in addresses.items())
            text += f"\n# crewt begin\n{lines}# crewt end\n"
        if text != old:
            file.seek(0)
            file.write(text)
            file.truncate()


def _remove() -> None:
    """Remove whatever bears our name."""
    for namespace in FOLDER.glob("*.net"):
        _end_processes(namespace)
    _call(["nft", "delete", "table", "bridge", "crewt"], check=False)  # there may be none
    # Links first, explicitly: the kernel clears a namespace out only some time after its end.
    if links := [path.name for path in Path("/sys/class/net").glob("crewt*")]:
        _ip([f"link delete {name}" for name in links], check=False)  # one goes with the other
    for file in FOLDER.glob("*"):
        if os.path.ismount(file):
            _call(["umount", str(file)])
        file.unlink()
    if FOLDER.exists():
        FOLDER.rmdir()
    _set_names({})


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process has hosts on this machine.

    lockf, not flock: a forked child that outlives a killed run must not keep the lock.
    """
    if not _one_in_this_process.acquire(blocking=False):
        raise RuntimeError("this process has hosts already")
    try:
        file = _locked_file()
        try:
            yield
        finally:
            LOCK.unlink()
            file.close()
    finally:
        _one_in_this_process.release()


def _locked_file() -> IO[str]:
    while True:
        file = LOCK.open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), LOCK.stat()):
                return file
        except FileNotFoundError:
            pass  # whoever had the lock took the file away: a new one
        except BaseException:
            file.close()
            raise
        file.close()
