"""The node of the stand-in for Kubernetes: runs Pods as processes of this machine, and tells how they stand.

Each Pod has a thread. What a real kubelet would say and do, and in which order, is said and done here; the images are
all this machine's own files, and `python` in them is this interpreter.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from .kubernetes_server import Kubernetes, Object

MARK = "STANDIN_POD_UID"
"""The variable by which all processes of a Pod are found: here they have no namespace of their own."""
TICK = 0.02
NODE = "node-1"


class CannotStart(Exception):
    """A container waits: reason, message."""


class PodRun:
    """A Pod on the node.

    Args:
        cluster: whose.
        name: the Pod's.
        folder: for its log.
    """

    def __init__(self, cluster: Kubernetes, name: str, folder: Path) -> None:
        self._cluster = cluster
        self.name = name
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._uid = ""
        self._kill_at: float | None = None
        self._verdict: dict[str, Any] = {}  # for the Pod's status, when its container has ended
        self._reason = ""  # of the container's end
        self.thread = threading.Thread(target=self._run, name=f"pod-{name}")
        self.thread.start()

    # ------------------------------------------------------------------ what befalls it

    def terminate(self, grace: float) -> None:
        """Tell the container, and kill it after the grace."""
        if self._kill_at is None and self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        self._kill_at = min(self._kill_at or float("inf"), time.monotonic() + grace)

    def kill(self, why: str = "", **verdict: Any) -> None:
        """Kill the container; say that it was for this."""
        self._reason, self._verdict = why, verdict
        self._kill_at = 0.0

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the container."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._uid:
                    found.append(process)
        return found

    # ------------------------------------------------------------------ its thread

    def _run(self) -> None:
        cluster = self._cluster
        if not self._wait_for_place():
            return
        pod = cluster.get("pods", self.name)
        if pod is None:
            return
        self._uid = pod["metadata"]["uid"]
        try:
            command, environment = self._prepare(pod)
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
        except CannotStart as waiting:
            self._wait_in_vain(*waiting.args)
            return
        except OSError as error:
            message = (
                f'failed to create containerd task: exec: "{command[0]}": executable file not found in $PATH: {error}'
            )
            self._tell_end({"exitCode": 128, "reason": "StartError", "message": message})
            return
        now = cluster.now()
        self._tell({"running": {"startedAt": now}}, phase="Running", startTime=now)
        cluster.event(self.name, "Started", "Started container worker")
        deadline = pod["spec"].get("activeDeadlineSeconds")
        self._watch(float("inf") if deadline is None else time.monotonic() + deadline)

    def _wait_for_place(self) -> bool:
        """Wait until there is room; return False if the Pod is gone before."""
        cluster, is_told = self._cluster, False
        while True:
            if cluster.is_over or cluster.get("pods", self.name) is None:
                return False
            if cluster.has_room:
                break
            if not is_told:
                is_told = True
                message = "0/1 nodes are available: 1 Insufficient cpu."
                self._condition("PodScheduled", "False", "Unschedulable", message)
                cluster.event(self.name, "FailedScheduling", message)
            time.sleep(TICK)
        self._condition("PodScheduled", "True")
        cluster.update("pods", self.name, lambda pod: pod["spec"].update(nodeName=NODE))
        cluster.event(self.name, "Scheduled", f"Successfully assigned {cluster.namespace}/{self.name} to {NODE}")
        return cluster.get("pods", self.name) is not None

    def _prepare(self, pod: Object) -> tuple[list[str], dict[str, str]]:
        """Return what the container runs, and its environment; raise CannotStart."""
        container = next(each for each in pod["spec"]["containers"] if each["name"] == "worker")
        image = container["image"]
        if image.lower() != image:
            raise CannotStart(
                "InvalidImageName", f'Failed to apply default image tag "{image}": invalid reference format'
            )
        if image.startswith("missing"):
            message = f'failed to pull and unpack image "{image}": not found'
            self._cluster.event(self.name, "Failed", f'Failed to pull image "{image}": {message}')
            self._tell({"waiting": {"reason": "ErrImagePull", "message": message}})
            raise CannotStart("ImagePullBackOff", f'Back-off pulling image "{image}"')
        environment = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH", "LANG") if key in os.environ}
        environment[MARK] = self._uid
        known: dict[str, str] = {}
        for variable in container.get("env") or ():
            if "valueFrom" in variable:
                known[variable["name"]] = self._secret(**variable["valueFrom"]["secretKeyRef"])
            else:
                known[variable["name"]] = expand(variable["value"], known)
        command = [expand(word, known) for word in container["command"]]
        if command[0] == "python":
            command[0] = sys.executable
        return command, environment | known

    def _secret(self, name: str, key: str) -> str:
        secret = self._cluster.get("secrets", name)
        if secret is None:
            raise CannotStart("CreateContainerConfigError", f'secret "{name}" not found')
        if key not in secret["data"]:
            raise CannotStart("CreateContainerConfigError", f"couldn't find key {key} in Secret {name}")
        return base64.b64decode(secret["data"][key]).decode()

    def _wait_in_vain(self, reason: str, message: str) -> None:
        self._tell({"waiting": {"reason": reason, "message": message}})
        while self._kill_at is None and not self._cluster.is_over:
            time.sleep(TICK)
        if self._verdict:
            self._tell_end({"exitCode": 137, "reason": self._reason or "Error"})
        self._remove_if_deleted()

    def _watch(self, deadline: float) -> None:
        assert self.process is not None
        while self.process.poll() is None:
            now = time.monotonic()
            if now > deadline:
                deadline = float("inf")
                message = "Pod was active on the node longer than the specified deadline"
                self._verdict = {"phase": "Failed", "reason": "DeadlineExceeded", "message": message}
                self.terminate(1.0)
            if (self._kill_at is not None and now >= self._kill_at) or self._cluster.is_over:
                self._kill_all()
            time.sleep(TICK)
        self._kill_all()
        code = self.process.returncode
        code = 128 - code if code < 0 else code
        self._tell_end({"exitCode": code, "reason": self._reason or ("Error" if code else "Completed")})

    def _kill_all(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    # ------------------------------------------------------------------ what is told

    def _tell(self, state: Any, **fields: Any) -> None:
        def change(pod: Object) -> None:
            status = pod["status"]
            image = pod["spec"]["containers"][0]["image"]
            is_ready = "running" in state
            status["containerStatuses"] = [
                {"name": "worker", "image": image, "ready": is_ready, "restartCount": 0, "state": state}
            ]
            status.update(fields)
            set_condition(status, "Ready", "True" if is_ready else "False")

        self._cluster.update("pods", self.name, change)

    def _tell_end(self, terminated: dict[str, Any]) -> None:
        phase = "Failed" if terminated["exitCode"] else "Succeeded"
        self._tell({"terminated": terminated}, **{"phase": phase, **self._verdict})
        self._remove_if_deleted()

    def _remove_if_deleted(self) -> None:
        while not self._cluster.is_over:
            pod = self._cluster.get("pods", self.name)
            if pod is None:
                return
            if "deletionTimestamp" in pod["metadata"]:
                self._cluster.remove("pods", self.name)
                return
            if pod["status"]["phase"] in ("Failed", "Succeeded"):
                return  # whoever deletes it finds nothing that runs, and removes it at once
            time.sleep(TICK)

    def _condition(self, kind: str, status: str, reason: str = "", message: str = "") -> None:
        self._cluster.update("pods", self.name, lambda pod: set_condition(pod["status"], kind, status, reason, message))


def set_condition(status: dict[str, Any], kind: str, value: str, reason: str = "", message: str = "") -> None:
    """Set one of a Pod's conditions."""
    condition = {"type": kind, "status": value}
    if reason:
        condition |= {"reason": reason, "message": message}
    status["conditions"] = [each for each in status.get("conditions") or () if each["type"] != kind] + [condition]


def expand(text: str, variables: dict[str, str]) -> str:
    """Return a text of a manifest with the variables in it: $(NAME); $$ is a dollar."""

    def value_of(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value_of, text)
