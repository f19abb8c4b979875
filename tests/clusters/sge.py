"""A real Grid Engine (8.1.9) for tests: a master at the head, and on each network host a daemon that runs jobs.

The cell lies in a temporary folder, and a user finds it by `GridEngine.environment` alone: nothing of
/var/lib/gridengine is changed. The master would listen to the whole world; a rule of the firewall keeps out whatever
does not come from the hosts' network. At the end nothing must be left, of the jobs neither: whatever was started on a
host after the cell was, by whomever, is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from .hosts import BRIDGE, Hosts, wait_until, which
from .hosts import missing as missing_for_hosts
from .slurm import Daemons

if TYPE_CHECKING:
    from typing_extensions import Self

PROGRAMS = "qconf", "qdel", "qmod", "qstat", "qsub", "sge_execd", "sge_qmaster"
PACKAGE = Path("/usr/share/gridengine")
PORT = 6444
TABLE = "crewt_sge"
RULES = f"""
table ip {TABLE} {{
chain input {{ type filter hook input priority 0
iifname != {{ "lo", "{BRIDGE}" }} tcp dport {PORT} drop
}}
}}
"""

SPOOL = "admin_hosts", "cqueues", "exec_hosts", "hostgroups", "job_scripts", "jobs", "pe", "qinstances", "submit_hosts"

FIELDS = {
    "id": "JB_job_number",
    "index": "tasks",  # of a task of an array
    "state": "state",
    "queue": "queue_name",  # with the host, as in all.q@h1, once it is there
    "slots": "slots",
    "user": "JB_owner",
    "name": "JB_name",
}
"""What `GridEngine.jobs` tells of each job, in the words of qstat's XML."""

NOTHING_SPECIAL = "user_lists NONE;xuser_lists NONE;projects NONE;xprojects NONE"

CONFIGURATION = (
    "administrator_mail none;execd_params ENABLE_ADDGRP_KILL=true;load_report_time 00:00:02;max_unheard 00:00:10;"
    "min_gid 0;min_uid 0;"  # root may run jobs
    "reporting_params accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00"
)

LIMITS = "rt", "cpu", "fsize", "data", "stack", "core", "rss", "vmem"

QUEUE = (
    "qname all.q;hostlist @allhosts;seq_no 0;load_thresholds NONE;suspend_thresholds NONE;nsuspend 1;"
    "suspend_interval 00:05:00;priority 0;min_cpu_interval 00:05:00;processors UNDEFINED;qtype BATCH INTERACTIVE;"
    "ckpt_list NONE;pe_list smp;rerun FALSE;shell /bin/sh;prolog NONE;epilog NONE;shell_start_mode posix_compliant;"
    "starter_method NONE;suspend_method NONE;resume_method NONE;terminate_method NONE;notify 00:00:05;owner_list NONE;"
    f"subordinate_list NONE;complex_values NONE;calendar NONE;initial_state default;{NOTHING_SPECIAL};"
) + ";".join(f"{s}_{what} INFINITY" for what in LIMITS for s in "sh")

SCHEDULER = (
    "algorithm default;schedule_interval 0:0:2;maxujobs 0;queue_sort_method 0;job_load_adjustments NONE;"
    "load_adjustment_decay_time 0:0:0;load_formula np_load_avg;schedd_job_info true;flush_submit_sec 1;"
    "flush_finish_sec 1;params none;reprioritize_interval 0:0:0;halftime 168;usage_weight_list cpu=1.0 mem=0.0 io=0.0;"
    "compensation_factor 5.0;weight_user 0.25;weight_project 0.25;weight_department 0.25;weight_job 0.25;"
    "weight_tickets_functional 0;weight_tickets_share 0;weight_tickets_override 0;share_override_tickets TRUE;"
    "share_functional_shares TRUE;max_functional_jobs_to_schedule 200;report_pjob_tickets TRUE;"
    "max_pending_tasks_per_job 50;halflife_decay_list none;policy_hierarchy OFS;weight_ticket 0.5;"
    "weight_waiting_time 0.278;weight_deadline 3600000.0;weight_urgency 0.5;weight_priority 0.0;max_reservation 0;"
    "default_duration INFINITY"
)

EXEC_HOST = (
    f"load_scaling NONE;complex_values NONE;load_values NONE;processors 0;reschedule_unknown_list NONE;"
    f"usage_scaling NONE;report_variables NONE;{NOTHING_SPECIAL}"
)

PARALLEL = (
    "pe_name smp;slots 999;user_lists NONE;xuser_lists NONE;start_proc_args NONE;stop_proc_args NONE;"
    "allocation_rule $pe_slots;control_slaves FALSE;job_is_first_task TRUE;urgency_slots min;accounting_summary FALSE;"
    "qsort_args NONE"
)


def missing() -> str | None:
    """Return what keeps us from running Grid Engine on hosts, or None."""
    absent = [name for name in PROGRAMS if which(name) is None]
    if absent:
        return f"not installed (see tests/clusters/install_schedulers.sh): {', '.join(absent)}"
    if not PACKAGE.exists():
        return f"no Grid Engine of Debian: {PACKAGE} is not there"
    return missing_for_hosts()


class GridEngine:
    """A cell of all hosts within a context, with the queue "all.q" and the parallel environment "smp".

    Args:
        hosts: the hosts.
        slots: of the queue on each.
        **settings: of the queue or the global configuration, such as shell="/bin/csh"; they win over ours.

    Attributes:
        environment: what a user's programs need, beside their own environment.
        folder: where all of it lies.
    """

    def __init__(self, hosts: Hosts, slots: int = 4, **settings: str | int) -> None:
        self._hosts = hosts
        self._slots = slots
        self._settings = settings
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if reason := missing():
            raise RuntimeError(f"Grid Engine cannot be run: {reason}")
        with contextlib.ExitStack() as exits:
            self.folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="crewt-sge-")))
            self.folder.chmod(0o755)  # also other users may find the cell
            ports = {"SGE_QMASTER_PORT": str(PORT), "SGE_EXECD_PORT": str(PORT + 1)}
            self.environment = {"SGE_ROOT": str(self.folder), "SGE_CELL": "default", **ports}
            self._daemons = Daemons(self._hosts, self.folder)
            _nft(f"table ip {TABLE}\ndelete table ip {TABLE}\n{RULES}")  # it may be there, of a run that was killed
            exits.callback(_nft, f"delete table ip {TABLE}")
            exits.callback(self._daemons.end)
            self._write_cell()
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
        """Return what qstat tells of each job, and task of an array. It forgets those that have ended."""
        found = ET.fromstring(self._call("qstat", "-xml", "-g", "d", "-u", "*")).iter("job_list")
        return [{key: job.findtext(tag) or "" for key, tag in FIELDS.items()} for job in found]

    def delete(self, job: str) -> None:
        """Delete a job or an array; one that has ended is let be."""
        done = self.run(["qdel", job])
        if done.returncode and "does not exist" not in done.stdout + done.stderr:
            raise RuntimeError(f"qdel {job}: status {done.returncode}: {done.stdout}{done.stderr}")

    def disable(self) -> None:
        """From now on, start no job: they pend. What runs, goes on."""
        self._call("qmod", "-d", "all.q")

    def enable(self) -> None:
        """Undo `disable`."""
        self._call("qmod", "-e", "all.q")

    def limit_jobs(self, number: int) -> None:
        """Let each user have so many jobs at most, pending ones included, from now on; 0: any number."""
        table = self._call("qconf", "-sconf")
        (self.folder / "global").write_text(re.sub(r"(?m)^max_u_jobs .*", f"max_u_jobs {number}", table), "utf-8")
        self._call("qconf", "-Mconf", str(self.folder / "global"))

    def freeze(self) -> None:
        """Let the master hang: it answers nobody, and a command waits for minutes."""
        self._daemons.signal("sge_qmaster", signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._daemons.signal("sge_qmaster", signal.SIGCONT)

    def kill_node(self, host: str) -> None:
        """Let the host lose its power. The master notices in some 20 s, but goes on to list its jobs as running."""
        self._hosts.crash(host)
        self._daemons.forget(host)

    def restore_node(self, host: str) -> None:
        """Give the power back, and wait until the host takes jobs again."""
        self._hosts.heal(host)
        # Else the master may take the old connection for alive, and refuse the new one, for more than a minute.
        self._hosts.reset(host, PORT, by="head")
        self._start_node(host)
        wait_until(lambda: host in self.ready(), f"{host} is back", 60)

    def ready(self) -> list[str]:
        """Return the hosts that the master has heard of lately, and whose queue is not disabled."""
        self._daemons.check()
        text = self._call("qstat", "-f", "-xml", "-u", "*")
        queues = list(ET.fromstring(text).iter("Queue-List"))
        return [(queue.findtext("name") or "").partition("@")[2] for queue in queues if not queue.findtext("state")]

    def log(self) -> str:
        """Return what the master has logged so far."""
        return self._daemons.log("head", "sge_qmaster")

    def _call(self, *argv: str) -> str:
        done = self.run(argv)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _start(self) -> None:
        self._daemons.start("head", ["sge_qmaster"], {**self.environment, "SGE_ND": "1"})
        wait_until(self._answers, "the master answers", 60)
        self._call("qconf", "-Aq", str(self.folder / "all.q"))  # of a file it would not make what it has for each host
        for host in self._hosts.names:
            self._start_node(host)
        wait_until(lambda: self.ready() == self._hosts.names, "all hosts of Grid Engine take jobs", 60)

    def _answers(self) -> bool:
        self._daemons.check()
        return not self.run(["qconf", "-sh"]).returncode

    def _start_node(self, host: str) -> None:
        self._daemons.start(host, ["sge_execd"], {**self.environment, "SGE_ND": "1"})

    def _write_cell(self) -> None:
        """Write what the master would have written by its "classic" spooling; of the package, what never changes."""
        common, spool = self.folder / "default/common", self.folder / "qmaster"
        for name in ("bin", "lib", "util", "utilbin"):
            (self.folder / name).symlink_to(Path("/var/lib/gridengine") / name)
        for folder in (common, self.folder / "execd", self.folder / "tmp", *(spool / name for name in SPOOL)):
            folder.mkdir(parents=True)
        (self.folder / "tmp").chmod(0o1777)
        for name in ("centry", "usersets"):
            shutil.copytree(PACKAGE / "util/resources" / name, spool / name)

        (common / "act_qmaster").write_text("head\n", "utf-8")
        # By that name the master gets to know the programs of a user.
        (common / "host_aliases").write_text(f"head {socket.gethostname()} localhost\n", "utf-8")
        places = f"qmaster_spool_dir {spool};spooling_method classic;spooling_lib libspoolc;admin_user none"
        own = {**_table(places), "spooling_params": f"{common};{spool}"}
        _write(common / "bootstrap", {**_read(PACKAGE / "default-bootstrap"), **own})
        self._write_settings(common)

        (spool / "managers").write_text("root\n", "utf-8")
        for host in ("head", *self._hosts.names):
            _write(spool / "admin_hosts" / host, {"hostname": host})
        _write(spool / "submit_hosts/head", {"hostname": "head"})
        for host in ("global", "template", *self._hosts.names):
            _write(spool / "exec_hosts" / host, {"hostname": host, **_table(EXEC_HOST)})
        group = {"group_name": "@allhosts", "hostlist": " ".join(self._hosts.names)}
        _write(spool / "hostgroups/@allhosts", group)
        _write(spool / "pe/smp", _table(PARALLEL))

    def _write_settings(self, common: Path) -> None:
        queue = {**_table(QUEUE), "slots": self._slots, "tmpdir": self.folder / "tmp"}
        others = {key: value for key, value in self._settings.items() if key not in queue}
        own = {"conf_name": "global", **_table(CONFIGURATION), "execd_spool_dir": self.folder / "execd", **others}
        _write(common / "configuration", {**_read(PACKAGE / "default-configuration"), **own})
        _write(common / "sched_configuration", _table(SCHEDULER))
        ours = {key: value for key, value in self._settings.items() if key in queue}
        _write(self.folder / "all.q", {**queue, **ours})


def _table(text: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition(" ") for line in text.split(";"))}


def _read(path: Path) -> dict[str, str]:
    lines = [line.split(None, 1) for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {key: value.strip() for key, value in filter(None, lines)}


def _write(path: Path, table: Mapping[str, object]) -> None:
    path.write_text("".join(f"{key} {value}\n" for key, value in table.items()), "utf-8")


def _nft(commands: str) -> None:
    subprocess.run([which("nft") or "nft", "-f", "-"], input=commands, text=True, check=True, capture_output=True)
