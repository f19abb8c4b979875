"""A real Slurm for tests: a controller at the head, a node on each network host, and the munge that they trust.

All of it lies in a temporary folder, and a user finds it by `Slurm.environment` alone: nothing of /etc/slurm or
/etc/munge is read or written. There is no accounting database, so neither sacct nor a limit for each user; the
controller remembers ended jobs for a while instead. At the end nothing must be left, of the jobs neither: whatever was
started on a host after the cluster was, by whomever, is killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hosts import Hosts, wait_until, which
from .hosts import missing as missing_for_hosts

if TYPE_CHECKING:
    from typing_extensions import Self

PROGRAMS = "mungekey", "munged", "sbatch", "scancel", "scontrol", "sinfo", "slurmctld", "slurmd", "squeue"

FIELDS = {
    "id": "%i",  # of a task of an array: of both, as in 7_1
    "state": "%T",
    "reason": "%r",
    "partition": "%P",
    "user": "%u",
    "host": "%N",
    "array": "%F",  # the job that was submitted
    "index": "%K",  # N/A if that is no array
    "name": "%j",  # the last: it may hold whatever a user likes
}
"""What `Slurm.jobs` tells of each job, in squeue's words."""


ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

CGROUPS = Path("/sys/fs/cgroup")

MARK = "CREW_EXECUTOR_TEST_SCHEDULER"
"""An environment variable of all daemons: the process that started them."""


def missing() -> str | None:
    """Return what keeps us from running Slurm on hosts, or None."""
    absent = [name for name in PROGRAMS if which(name) is None]
    if absent:
        return f"not installed (see tests/clusters/install_schedulers.sh): {', '.join(absent)}"
    return missing_for_hosts()


class Daemons:
    """Programs on the hosts and the head, which log to a folder and are all ended by `end`, with what they started.

    Those at the head find themselves on a machine that is called so. They inherit nothing of our environment, which the
    jobs would inherit in turn, and so find things that no cluster has. What is left at the head of an earlier run,
    which was killed, ends now; Hosts has ended what was elsewhere.
    """

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self._hosts = hosts
        self._folder = folder
        self._running: dict[tuple[str, str], subprocess.Popen[Any]] = {}
        _end_forgotten()
        self._others = {host: set(hosts.processes(host)) for host in hosts.names}  # there before us: not ours to end

    def start(self, place: str, argv: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[Any]:
        """Start it at the head or on a host, in a session of its own."""
        name = Path(argv[0]).name
        argv = [which(argv[0]) or argv[0], *argv[1:]]
        with self._path(place, name).open("a") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            # "/": a job in a folder that is gone is told to be elsewhere, in words of its own in each job's output.
            options.update(cwd="/", start_new_session=True, env={**ENVIRONMENT, MARK: str(os.getpid()), **environment})
            if place == "head":
                renamed = [which("unshare") or "unshare", "--uts", "sh", "-c", 'hostname head && exec "$@"', "sh"]
                process = subprocess.Popen([*renamed, *argv], **options)
            else:
                process = self._hosts.run(place, argv, **options)
        self._running[place, name] = process
        return process

    def log(self, place: str, name: str) -> str:
        """Return what such a program has written so far."""
        return self._path(place, name).read_text("utf-8", "replace")

    def check(self) -> None:
        """RuntimeError tells which has ended, and its last words."""
        for (place, name), process in self._running.items():
            if process.poll() is not None:
                tail = "\n".join(self.log(place, name).splitlines()[-20:])
                raise RuntimeError(f"{name} on {place} ended with status {process.returncode}: {tail}")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send one to that program at the head."""
        self._running["head", name].send_signal(number)

    def forget(self, host: str) -> None:
        """Take note that the host was crashed."""
        self._running = {key: process for key, process in self._running.items() if key[0] != host}
        self._others[host] = set()

    def end(self) -> None:
        """Kill them all, those at the head first: they would start anew what ends."""
        for _, process in sorted(self._running.items(), key=lambda item: item[0][0] != "head"):
            process.kill()
            process.wait()
        self._running.clear()
        for host in self._hosts.names:
            wait_until(functools.partial(self._is_clear, host), f"all that was started on {host} is gone")

    def _is_clear(self, host: str) -> bool:
        found = set(self._hosts.processes(host)) - self._others[host]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    def _path(self, place: str, name: str) -> Path:
        return self._folder / f"{name}-{place}.log"


def _end_forgotten() -> None:
    """Kill the daemons of other processes on our network: of these, only one at a time has hosts."""
    ours = os.stat("/proc/self/ns/net")
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            words = (entry / "environ").read_text("utf-8", "replace").split("\0")
            marks = [word for word in words if word.startswith(f"{MARK}=")]
            if marks and marks != [f"{MARK}={os.getpid()}"] and os.path.samestat(ours, (entry / "ns/net").stat()):
                os.kill(int(entry.name), signal.SIGKILL)


class Slurm:
    """A cluster of all hosts within a context: the partitions "cpu" (the default) and "short" (at most one minute).

    Args:
        hosts: the hosts.
        cpus: that each is to have.
        memory: the same, in MB. A job is killed when it takes more than it asked for; by default, its share by CPUs.
        **settings: of slurm.conf, such as MessageTimeout=2; they win over ours.

    Attributes:
        environment: what a user's programs need, beside their own environment.
        folder: where all of it lies.
    """

    def __init__(self, hosts: Hosts, cpus: int = 4, memory: int = 2000, **settings: str | int) -> None:
        self._hosts = hosts
        self._cpus = cpus
        self._memory = memory
        self._settings = settings
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if reason := missing():
            raise RuntimeError(f"Slurm cannot be run: {reason}")
        with contextlib.ExitStack() as exits:
            self.folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="crewt-slurm-")))
            self.folder.chmod(0o755)  # also other users may find the cluster
            self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
            self._daemons = Daemons(self._hosts, self.folder)
            exits.callback(self._remove_cgroups)
            exits.callback(self._daemons.end)
            self._start()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def run(self, argv: Sequence[str], timeout: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as a user at the head does; `options` are those of subprocess.run."""
        environment = {**os.environ, **self.environment, **options.pop("env", {})}
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, **options}
        return subprocess.run(list(argv), text=True, timeout=timeout, env=environment, check=False, **options)

    def jobs(self) -> list[dict[str, str]]:
        """Return what squeue tells of each job, and task of an array, that the controller remembers, ended or not."""
        form = "|".join(FIELDS.values())
        lines = self._call("squeue", "--noheader", "--array", "--states=all", f"--format={form}").splitlines()
        return [dict(zip(FIELDS, line.split("|", len(FIELDS) - 1), strict=True)) for line in lines]

    def cancel(self, job: str) -> None:
        """Cancel a job, an array or, as in 7_1, a task of one. One that has ended is let be."""
        self._call("scancel", job)

    def drain(self) -> None:
        """From now on, start no job: they pend. What runs, goes on."""
        self._call("scontrol", "update", f"NodeName={self._all}", "State=DRAIN", "Reason=test")

    def resume(self) -> None:
        """Undo `drain`."""
        self._call("scontrol", "update", f"NodeName={self._all}", "State=RESUME")

    def freeze(self) -> None:
        """Let the controller hang: it answers nobody, and each command waits for MessageTimeout (5 s)."""
        self._daemons.signal("slurmctld", signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`; what was asked meanwhile is done now, also for a command that has given up."""
        self._daemons.signal("slurmctld", signal.SIGCONT)

    def kill_node(self, host: str) -> None:
        """Let the host lose its power. The controller notices some seconds later; SlurmdTimeout (6 s) and a ping."""
        self._hosts.crash(host)
        self._daemons.forget(host)

    def restore_node(self, host: str) -> None:
        """Give the power back, and wait until the node takes jobs again."""
        self._hosts.heal(host)
        self._start_node(host)
        wait_until(lambda: self._is_ready(host), f"{host} is back", 30)

    def log(self, place: str = "head") -> str:
        """Return what the controller, or the node on that host, has logged so far."""
        return self._daemons.log(place, "slurmctld" if place == "head" else "slurmd")

    def _remove_cgroups(self) -> None:
        """Remove those of the nodes, if TaskPlugin has made some; their processes are gone."""
        for host in self._hosts.names:
            for top in CGROUPS.glob(f"*/slurm_{host}"):
                for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                    folder.rmdir()
                top.rmdir()

    @property
    def _all(self) -> str:
        return ",".join(self._hosts.names)

    def _call(self, *argv: str) -> str:
        done = self.run(argv)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _start(self) -> None:
        conf = {**self._defaults(), **self._settings}
        lines = [f"{key}={value}" for key, value in conf.items()] + self._nodes()
        (self.folder / "slurm.conf").write_text("\n".join([*lines, ""]), "utf-8")
        (self.folder / "cgroup.conf").write_text(
            "CgroupPlugin=autodetect\nIgnoreSystemd=yes\nConstrainRAMSpace=yes\n", "utf-8"
        )
        self._start_munge()
        self._daemons.start("head", ["slurmctld", "-D"], self.environment)
        for host in self._hosts.names:
            self._start_node(host)
        wait_until(lambda: all(map(self._is_ready, self._hosts.names)), "all nodes of Slurm take jobs", 30)

    def _start_munge(self) -> None:
        key, socket = self.folder / "munge.key", self.folder / "munge.socket"
        subprocess.run([which("mungekey") or "mungekey", "--create", f"--keyfile={key}"], check=True)
        places = [f"--{name}-file={self.folder}/munged.{name}" for name in ("log", "pid", "seed")]
        # --force: the folder may be one that nobody else can enter, such as a test's own.
        options = ["--foreground", "--force", f"--key-file={key}", f"--socket={socket}"]
        self._daemons.start("head", ["munged", *options, *places], {})

        def listens() -> bool:
            self._daemons.check()
            return socket.exists()

        wait_until(listens, "munged listens")

    def _start_node(self, host: str) -> None:
        (self.folder / f"spool-{host}").mkdir(exist_ok=True)
        self._daemons.start(host, ["slurmd", "-D", "-N", host], self.environment)

    def _is_ready(self, host: str) -> bool:
        self._daemons.check()
        done = self.run(["sinfo", "--noheader", f"--nodes={host}", "--format=%T"])
        return bool(done.stdout) and set(done.stdout.split()) <= {"idle", "mixed", "allocated"}

    def _defaults(self) -> dict[str, str | int]:
        return {
            "ClusterName": "crewt",
            "SlurmctldHost": f"head({self._hosts.head})",
            "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",  # listen on the hosts' network only
            "AuthInfo": f"socket={self.folder}/munge.socket",
            "SlurmUser": "root",
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool-%n",
            "SlurmctldPidFile": f"{self.folder}/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd-%n.pid",
            "ProctrackType": "proctrack/linuxproc",  # no cgroups, of which there may be none here
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SlurmdParameters": "config_overrides",  # a host has as many CPUs as we say
            "DefMemPerCPU": self._memory // self._cpus,
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=1",
            "JobAcctGatherParams": "OverMemoryKill",
            "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
            "KillWait": 2,
            "MaxArraySize": 1001,
            "MessageTimeout": 5,
            "SlurmdTimeout": 6,
            "ReturnToService": 2,
        }

    def _nodes(self) -> list[str]:
        shape = f"CPUs={self._cpus} CoresPerSocket={self._cpus} RealMemory={self._memory}"
        return [
            *(f"NodeName={host} NodeAddr={self._hosts.address(host)} {shape}" for host in self._hosts.names),
            "PartitionName=cpu Nodes=ALL Default=YES",
            "PartitionName=short Nodes=ALL MaxTime=1",
        ]
