"""A stand-in for the API server of Kubernetes: one namespace, Pods that run here, and handles to break things.

It answers in the shapes, codes and words of the real one for what our launcher asks: Pods (also watched, their logs),
Secrets, ConfigMaps, Events. Pods run by kubernetes_node.py; what is posted is checked by kubernetes_checks.py.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from .kubernetes_checks import Undecodable, problems
from .kubernetes_node import PodRun, set_condition

Object = dict[str, Any]
KINDS = {"pods": "Pod", "secrets": "Secret", "configmaps": "ConfigMap", "events": "Event"}
SINGULAR = {404: "NotFound", 409: "AlreadyExists"}
TOKEN = "the-token-of-this-test"


class Refused(Exception):
    """An answer that is none: a Status.

    Args:
        code, reason, message: of it.
        details: of it.
    """

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "details": dict(details or {}), "code": code,
        }  # fmt: skip


class Fault(NamedTuple):
    """What is to happen to a request.

    Attributes:
        error: the answer; None: there is none, ever.
        is_done: what was asked for is done all the same.
    """

    error: Refused | None
    is_done: bool


class Request(NamedTuple):
    """What was asked."""

    verb: str
    resource: str
    name: str
    body: Any


class Kubernetes:
    """A cluster with one namespace and one node.

    Args:
        folder: for logs, and the kubeconfig.

    Attributes:
        requests: all that were made.
        has_room: False: no Pod gets a node.
        pods_max: of the namespace's quota, or None.
        forbidden: (verb, resource) that the account may not.
    """

    namespace = "crews"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.has_room = True
        self.pods_max: int | None = None
        self.forbidden: set[tuple[str, str]] = set()
        self.requests: list[Request] = []
        self.is_over = False
        self._faults: dict[tuple[str, str], list[Fault]] = {}
        self._objects: dict[tuple[str, str], Object] = {}
        self._log: list[tuple[int, str, str, Object]] = []
        self._version, self._oldest = 100, 100
        self._changed = threading.Condition(threading.RLock())
        self._runs: dict[str, PodRun] = {}
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._config()), "utf-8")

    @property
    def host(self) -> str:
        """The URL of its API server."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def _config(self) -> Object:
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.host}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": self.namespace}},
                {"name": "other", "context": {"cluster": "test", "user": "test", "namespace": "nosuch"}},
            ],
        }  # fmt: skip

    def close(self) -> None:
        """End all."""
        with self._changed:
            self.is_over = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.close_all()
        self._thread.join()
        for run in list(self._runs.values()):
            run.thread.join()

    # ------------------------------------------------------------------ handles to break things

    def fail(
        self, verb: str, resource: str, code: int, reason: str = "", message: str = "", *, times: int = 1,
        is_done: bool = False,
    ) -> None:  # fmt: skip
        """Answer the next requests of a kind with an error; code 0: not at all. is_done: what was asked is done."""
        fault = Fault(Refused(code, reason, message) if code else None, is_done)
        self._faults.setdefault((verb, resource), []).extend([fault] * times)

    def pods(self) -> list[str]:
        """Return the names of all Pods."""
        with self._changed:
            return [name for resource, name in self._objects if resource == "pods"]

    def names(self, resource: str) -> list[str]:
        """Return the names of all objects of a kind."""
        with self._changed:
            return [name for kind, name in self._objects if kind == resource]

    def run_of(self, name: str) -> PodRun:
        """Return a Pod's process, and what can be done to it."""
        return self._runs[name]

    def count(self, verb: str, resource: str) -> int:
        """Return how many requests of a kind were made."""
        return sum((each.verb, each.resource) == (verb, resource) for each in self.requests)

    def evict(self, name: str, message: str = "The node was low on resource: memory.") -> None:
        """Let the node get rid of a Pod."""
        self._disrupt(name, "TerminationByKubelet", message)
        self._runs[name].kill(phase="Failed", reason="Evicted", message=message)

    def preempt(self, name: str) -> None:
        """Let a Pod make room for another."""
        self._disrupt(name, "PreemptionByScheduler", "preempting to accommodate a higher priority pod")
        self.delete("pods", name)

    def lose_node_of(self, name: str) -> None:
        """Mark a Pod as the node lifecycle controller does when nothing is heard of its node."""
        self.update("pods", name, lambda pod: set_condition(pod["status"], "Ready", "False"))

    def give_up_node_of(self, name: str) -> None:
        """Mark a Pod as the taint manager does five minutes later: it is deleted, and stays, for nobody confirms it."""
        self._disrupt(name, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        self.update("pods", name, lambda pod: pod["metadata"].update(deletionTimestamp=self.now()))

    def _disrupt(self, name: str, reason: str, message: str) -> None:
        self.update("pods", name, lambda pod: set_condition(pod["status"], "DisruptionTarget", "True", reason, message))

    def expire(self) -> None:
        """Forget all changes until now, and end all watches with that."""
        with self._changed:
            self._version += 1
            self._oldest = self._version
            self._log.clear()
            self._changed.notify_all()

    # ------------------------------------------------------------------ objects

    @staticmethod
    def now() -> str:
        """Return the time as the API has it."""
        return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def get(self, resource: str, name: str) -> Object | None:
        """Return a copy of an object, or None."""
        with self._changed:
            return copy.deepcopy(self._objects.get((resource, name)))

    def update(self, resource: str, name: str, change: Callable[[Object], object]) -> None:
        """Change an object, if it is there, and tell those who watch."""
        with self._changed:
            found = self._objects.get((resource, name))
            if found is not None:
                change(found)
                self._note("MODIFIED", resource, found)

    def _note(self, kind: str, resource: str, thing: Object) -> None:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        self._log.append((self._version, kind, resource, copy.deepcopy(thing)))
        self._changed.notify_all()

    def create(self, resource: str, body: Object) -> Object:
        """Take an object; raise Refused."""
        try:
            wrong = problems(resource, body)
        except Undecodable as error:
            kind = KINDS[resource]
            message = f'{kind} in version "v1" cannot be handled as a {kind}: {error}'
            raise Refused(400, "BadRequest", message) from None
        name = (body.get("metadata") or {}).get("name", "")
        if wrong:
            told = ", ".join(f"{field}: {message}" for field, _reason, message in wrong)
            causes = [{"reason": why, "message": message, "field": field} for field, why, message in wrong]
            raise Refused(
                422, "Invalid", f'{KINDS[resource]} "{name}" is invalid: {told}',
                {"name": name, "kind": KINDS[resource], "causes": causes},
            )  # fmt: skip
        with self._changed:
            if (resource, name) in self._objects:
                raise Refused(409, "AlreadyExists", f'{resource} "{name}" already exists', {"name": name})
            made = copy.deepcopy(body)
            made["metadata"] |= {
                "uid": str(uuid.uuid4()), "namespace": self.namespace, "creationTimestamp": self.now(),
            }  # fmt: skip
            if resource == "pods":
                self._check_quota(name)
                made["status"] = {"phase": "Pending", "qosClass": "Guaranteed"}
            self._objects[resource, name] = made
            self._note("ADDED", resource, made)
            if resource == "pods":
                self._runs[name] = PodRun(self, name, self.folder)
            known = {each["metadata"]["uid"] for each in self._objects.values()}
            owners = {owner["uid"] for owner in made["metadata"].get("ownerReferences") or ()}
            if owners and not owners & known:  # garbage from the beginning
                self.delete(resource, name)
            return copy.deepcopy(made)

    def _check_quota(self, name: str) -> None:
        used = sum(
            each["status"]["phase"] not in ("Failed", "Succeeded")
            for (resource, _name), each in self._objects.items()
            if resource == "pods"
        )
        if self.pods_max is not None and used >= self.pods_max:
            message = (
                f'pods "{name}" is forbidden: exceeded quota: crew, requested: pods=1, used: pods={used}, limited: '
                f"pods={self.pods_max}"
            )
            raise Refused(403, "Forbidden", message, {"name": name, "kind": "pods"})

    def delete(self, resource: str, name: str, grace: int | None = None) -> Object:
        """Delete an object, a Pod with grace in seconds; raise Refused."""
        with self._changed:
            found = self._objects.get((resource, name))
            if found is None:
                raise Refused(404, "NotFound", f'{resource} "{name}" not found', {"name": name, "kind": resource})
            run = self._runs.get(name) if resource == "pods" else None
            is_running = run is not None and "nodeName" in found["spec"]
            if run is None or not is_running or found["status"]["phase"] in ("Failed", "Succeeded") or grace == 0:
                self.remove(resource, name)
                if run is not None:
                    run.kill()
                return copy.deepcopy(found)
            seconds = found["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
            metadata = found["metadata"]
            metadata.setdefault("deletionTimestamp", self.now())
            metadata["deletionGracePeriodSeconds"] = seconds
            self._note("MODIFIED", resource, found)
            run.terminate(seconds)
            return copy.deepcopy(found)

    def remove(self, resource: str, name: str) -> None:
        """Remove an object, and what belongs to it."""
        with self._changed:
            found = self._objects.pop((resource, name), None)
            if found is None:
                return
            self._note("DELETED", resource, found)
            for (kind, each), thing in list(self._objects.items()):
                owners = [owner["uid"] for owner in thing["metadata"].get("ownerReferences") or ()]
                if found["metadata"]["uid"] in owners:
                    with contextlib.suppress(Refused):  # it has just ended
                        self.delete(kind, each)

    def select(self, resource: str, labels: str = "", fields: str = "") -> tuple[list[Object], str]:
        """Return the objects with all these labels and fields, and the version of that."""
        with self._changed:
            found = [thing for (kind, _name), thing in self._objects.items() if kind == resource]
            chosen = [copy.deepcopy(thing) for thing in found if matches(thing, labels, fields)]
            return chosen, str(self._version)

    def event(self, pod: str, reason: str, message: str) -> None:
        """Record an event of a Pod."""
        name = f"{pod}.{uuid.uuid4().hex[:16]}"
        self.create("events", {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": reason, "message": message,
            "involvedObject": {"kind": "Pod", "name": pod}, "lastTimestamp": self.now(), "type": "Normal",
        })  # fmt: skip

    # ------------------------------------------------------------------ requests (threads of the server)

    def take_fault(self, verb: str, resource: str) -> Fault | None:
        """Return what is to happen to a request, or None."""
        with self._changed:
            faults = self._faults.get((verb, resource))
            return faults.pop(0) if faults else None

    def wait_for_end(self) -> None:
        """Wait until all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_over)

    def changes(self, resource: str, labels: str, version: int, seconds: float) -> Iterator[Object]:
        """Yield what a watch tells, until its time is over."""
        until = time.monotonic() + seconds
        while True:
            with self._changed:
                if self.is_over or time.monotonic() >= until:
                    return
                if version < self._oldest:
                    message = f"too old resource version: {version} ({self._oldest})"
                    yield {"type": "ERROR", "object": Refused(410, "Expired", message).status}
                    return
                new = [each for each in self._log if each[0] > version]
                if not new:
                    self._changed.wait(min(0.5, until - time.monotonic()))
                    continue
            version = new[-1][0]
            for _version, kind, which, thing in new:
                if which == resource and matches(thing, labels):
                    yield {"type": kind, "object": thing}


def matches(thing: Mapping[str, Any], labels: str, fields: str = "") -> bool:
    """Answer whether an object has all these labels and fields."""
    own = thing["metadata"].get("labels") or {}
    if not all(
        own.get(key) == value for key, _is, value in (each.partition("=") for each in labels.split(",") if each)
    ):
        return False
    for each in filter(None, fields.split(",")):
        path, _is, value = each.partition("=")
        found: Any = thing
        for word in path.split("."):
            found = found.get(word, {})
        if found != value:
            return False
    return True


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, cluster: Kubernetes) -> None:
        self.cluster = cluster
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Keep the connection, to end it."""
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Forget it."""
        self._open.discard(request)
        super().shutdown_request(request)

    def close_all(self) -> None:
        """End all connections and wait for their threads."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have hung up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("create")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, verb: str) -> None:
        cluster = self.server.cluster
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            found = re.fullmatch(r"/api/v1/namespaces/([^/]+)/(\w+)(?:/([^/]+))?(?:/(log))?", unquote(parts.path))
            if found is None or found[2] not in KINDS:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            namespace, resource, name, sub = found.groups()
            if verb == "get" and not name:
                verb = "watch" if query.get("watch", "").lower() in ("true", "1") else "list"
            if verb == "delete" and not name:
                verb = "deletecollection"
            if sub:
                resource = "pods/log"
            cluster.requests.append(Request(verb, resource, name or "", body))
            fault = cluster.take_fault(verb, resource)
            if fault is not None:
                self._suffer(fault, verb, resource, name or "", query, body)
            self._check(verb, resource, namespace, name or "")
            self._answer(verb, resource, name or "", query, body)
        except Refused as error:
            self._send(error.code, error.status)
        except ConnectionAbortedError:
            self.close_connection = True

    def _suffer(self, fault: Fault, verb: str, resource: str, name: str, query: dict[str, str], body: Any) -> None:
        cluster = self.server.cluster
        if fault.is_done:
            self._do(verb, resource, name, query, body)
        if fault.error is None:
            cluster.wait_for_end()
            raise ConnectionAbortedError
        raise fault.error

    def _check(self, verb: str, resource: str, namespace: str, name: str) -> None:
        cluster = self.server.cluster
        if (verb, resource) in cluster.forbidden:
            message = (
                f'{resource} is forbidden: User "system:serviceaccount:crews:poor" cannot {verb} resource "{resource}" '
                f'in API group "" in the namespace "{namespace}"'
            )
            raise Refused(403, "Forbidden", message, {"kind": resource})
        if namespace != cluster.namespace and verb == "create":
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found', {"name": namespace})

    def _answer(self, verb: str, resource: str, name: str, query: dict[str, str], body: Any) -> None:
        cluster = self.server.cluster
        if verb == "watch":
            self._watch(resource, query)
        elif resource == "pods/log":
            pod = cluster.get("pods", name)
            if pod is None:
                raise Refused(404, "NotFound", f'pods "{name}" not found')
            run = cluster.run_of(name)
            if run.process is None:
                message = f'container "worker" in pod "{name}" is waiting to start: ContainerCreating'
                raise Refused(400, "BadRequest", message)
            lines = run.log.read_bytes().splitlines(keepends=True)
            self._send(200, b"".join(lines[-int(query.get("tailLines", "1000")) :]))
        else:
            self._send(201 if verb == "create" else 200, self._do(verb, resource, name, query, body))

    def _do(self, verb: str, resource: str, name: str, query: dict[str, str], body: Any) -> Object:
        cluster = self.server.cluster
        grace = int(query["gracePeriodSeconds"]) if "gracePeriodSeconds" in query else None
        if verb == "create":
            return cluster.create(resource, body)
        if verb == "delete":
            return cluster.delete(resource, name, grace)
        if verb == "get":
            found = cluster.get(resource, name)
            if found is None:
                raise Refused(404, "NotFound", f'{resource} "{name}" not found', {"name": name, "kind": resource})
            return found
        items, version = cluster.select(resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if verb == "deletecollection":
            for each in items:
                with contextlib.suppress(Refused):  # it has just ended
                    cluster.delete(resource, each["metadata"]["name"], grace)
        kind = f"{KINDS[resource]}List"
        return {"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}

    def _watch(self, resource: str, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        labels, version = query.get("labelSelector", ""), int(query.get("resourceVersion") or 0)
        for event in self.server.cluster.changes(resource, labels, version, float(query.get("timeoutSeconds", "1800"))):
            data = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, code: int, answer: Object | bytes) -> None:
        is_text = isinstance(answer, bytes)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
