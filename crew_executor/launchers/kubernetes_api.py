"""The way to the API server of Kubernetes: where it is, calls of its official client, and one watch of Pods.

The only import of the kubernetes library, late. Answers are the API's objects as they are in JSON; its client's own
classes differ from version to version. Decides nothing about Pods.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import LaunchError
from ..log import logger
from .kubernetes_words import CLIENT, GONE, Failure, Standing, failure_of, gone, standing_of

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
WATCH_SECONDS = 60
"""After so long the server ends a watch, and another goes on where it was: so a broken link is found out."""
WATCH_SILENCE_SECONDS = 75.0
RETRY_FIRST, RETRY_LONGEST = 0.5, 10.0
"""Seconds between tries to watch, when the server does not answer."""
END_SECONDS, END_SECONDS_AGAIN = 3.0, 1.0
"""How long the server may be silent when Pods are cancelled and all is deleted; the second once it was. An executor
waits no more than 10 s for all that, and a thread that comes out of a call later may abort an ending client."""
CLOSE_SECONDS = 1.0
GONE_MAX = 1000
"""Of so many Pods that are gone it is remembered why."""
EXPIRED = 410
LOG_LINES = 40
EVENTS_MAX = 8
_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


class Cluster:
    """A namespace of a cluster.

    Args:
        kubeconfig: the path of a file, or None: what kubectl would take, or the account of the Pod that this runs in.
        context: of it, or None: its current one.
        namespace: or None: the context's, or the Pod's.

    Attributes:
        namespace: that it is.
        host: the URL of the API server.
        is_inside: whether this process runs in a Pod, and uses its account.
        is_silent: whether the last call was not answered.

    Raises:
        LaunchError: the library is not there, or no configuration can be used.
    """

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise LaunchError(f"{CLIENT} ({error})") from None
        configuration = client.Configuration()
        configuration.retries = False  # we try again ourselves, and know what may have been done
        self.is_inside = False
        default = ""
        try:
            config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
            default = _namespace_of(config.list_kube_config_contexts(kubeconfig), context)
        except Exception as error:  # the loader's own, a file's, YAML's, a credential plugin's
            if kubeconfig is not None or context is not None or "KUBERNETES_SERVICE_HOST" not in os.environ:
                which = "" if kubeconfig is None else f"{kubeconfig}: "
                raise LaunchError(
                    f"the configuration of Kubernetes cannot be used: {which}{error}; give kubeconfig=... and "
                    "context=... with which `kubectl get pods` works, or run this in a Pod with a service account"
                ) from None
            try:
                config.load_incluster_config(client_configuration=configuration)
                with open(_NAMESPACE_FILE, encoding="utf-8") as file:
                    default = file.read().strip()
            except (config.ConfigException, OSError) as inside:
                raise LaunchError(
                    f"neither a kubeconfig ({error}) nor the service account of this Pod ({inside}) can be used"
                ) from None
            self.is_inside = True
        self.namespace = namespace or default or "default"
        self.host = str(configuration.host)
        self.is_silent = False
        self._client = client.ApiClient(configuration)
        self._api = client.CoreV1Api(self._client)

    def call(self, name: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Call a method of CoreV1Api, and return the object that is answered; raise Failure."""
        text = self.text(name, *arguments, **options)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Failure(f"{self.host} answers what is no object of Kubernetes: {text[:200]!r}", 502)
        return answer

    def text(self, name: str, *arguments: Any, **options: Any) -> str:
        """Call a method of CoreV1Api, and return the text that is answered; raise Failure."""
        try:
            with self.answer(name, *arguments, **options) as response:
                told = bytes(response.data).decode(errors="replace")
        except Failure as failure:
            self.is_silent = failure.code == 0
            raise
        self.is_silent = False
        return told

    def end(self, name: str, *arguments: Any, **options: Any) -> None:
        """Call a method that deletes, for what is not wanted any more, and wait for no long; raise Failure.

        What is gone already is no failure.
        """
        try:
            self.text(name, *arguments, seconds=END_SECONDS_AGAIN if self.is_silent else END_SECONDS, **options)
        except Failure as failure:
            if failure.code != 404:
                raise

    @contextlib.contextmanager
    def answer(self, name: str, *arguments: Any, seconds: float | None = None, **options: Any) -> Iterator[Any]:
        """Call a method of CoreV1Api; give its answer, to be read; raise Failure, also when reading fails.

        Args:
            name: of the method.
            *arguments: of it.
            seconds: that the server may be silent; None: ANSWER_SECONDS.
            **options: further arguments.
        """
        from kubernetes import config
        from kubernetes.client.exceptions import ApiException

        exceptions = importlib.import_module("urllib3.exceptions")  # it may be there without types
        response = None
        patience = ANSWER_SECONDS if seconds is None else seconds
        try:
            try:
                response = getattr(self._api, name)(
                    *arguments, _preload_content=False,
                    _request_timeout=(min(CONNECT_SECONDS, patience), patience), **options,
                )  # fmt: skip
            except (ValueError, TypeError) as error:  # of the library, which looks at what it sends
                raise Failure(f"the client refuses it, as a validation error: {error}", 422, "Invalid") from None
            yield response
        except ApiException as error:
            raise failure_of(error.status or 0, error.body, error.reason) from None
        except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError, config.ConfigException) as error:
            raise Failure(str(error)) from None
        except (exceptions.HTTPError, OSError) as error:
            raise Failure(f"{type(error).__name__}: {error}", is_unclear=True) from None
        finally:
            if response is not None:
                response.close()

    def events_of(self, pod: str) -> list[str]:
        """Return what has last been noted of a Pod, a line each."""
        try:
            found = self.call("list_namespaced_event", self.namespace, field_selector=f"involvedObject.name={pod}")
        except Failure as failure:
            return [f"(its events cannot be had: {failure})"]
        events = sorted(found["items"], key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return [f"event {event.get('reason')}: {event.get('message')}" for event in events[-EVENTS_MAX:]]

    def log_tail(self, pod: str, container: str) -> str:
        """Return the end of a container's log, in words."""
        try:
            log = self.text(
                "read_namespaced_pod_log", pod, self.namespace, container=container, tail_lines=LOG_LINES
            ).strip()
        except Failure as failure:
            return f"its log cannot be had: {failure}"
        return f"the end of its log:\n{log}" if log else "its log is empty"

    def close(self) -> None:
        """Close the connections."""
        # The client leaves that to the garbage collector, which a logged exception may keep from it for long.
        pools = self._client.rest_client.pool_manager.pools
        for key in list(pools.keys()):
            pools[key].close()
        self._client.close()


def _namespace_of(contexts: tuple[Any, Any], name: str | None) -> str:
    """Return the namespace of a kubeconfig's context, or ""."""
    every, current = contexts
    chosen = next((each for each in every if each["name"] == name), current)
    return str((chosen.get("context") or {}).get("namespace") or "")


class PodWatch:
    """Know how Pods stand, by one watch, in a thread of its own.

    Args:
        cluster: where they are.
        selector: of their labels.
        on_change: called in the thread when something has changed; must not raise.

    Attributes:
        standings: by name.
        is_current: False while the server does not answer: then they may be old.
    """

    def __init__(self, cluster: Cluster, selector: str, on_change: Callable[[], None]) -> None:
        self._cluster = cluster
        self._selector = selector
        self._on_change = on_change
        self.standings: dict[str, Standing] = {}
        self.is_current = True
        self._gone: list[str] = []
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._response: Any = None
        self._is_told = False
        self._thread = threading.Thread(target=self._run, name="crew-kubernetes-watch", daemon=True)
        self._thread.start()

    def know(self, name: str, pod: Mapping[str, Any]) -> None:
        """Take a Pod from an answer to another call, unless the watch has told of it already."""
        with self._lock:
            self.standings.setdefault(name, standing_of(pod))

    def close(self) -> None:
        """End the watch."""
        with self._lock:
            self._is_over.set()
            if self._response is not None:
                _hang_up(self._response)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.info("the watch of Pods still waits for the API server; it ends with its answer")

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        version, pause = "", RETRY_FIRST
        while not self._is_over.is_set():
            try:
                if not version:
                    version = self._list()
                self.is_current = True  # also if it cannot be watched: then they are listed now and then
                version = self._follow(version)
                pause = RETRY_FIRST
            except (Failure, ValueError) as failure:  # ValueError: what came was cut off in the middle
                if self._is_over.is_set():
                    return
                if isinstance(failure, Failure) and failure.code == EXPIRED:
                    version = ""
                    continue
                self._tell(failure)
                if not version:
                    self.is_current = False
                version = ""
                self._is_over.wait(pause)
                pause = min(2 * pause, RETRY_LONGEST)

    def _tell(self, failure: Exception) -> None:
        is_forbidden = isinstance(failure, Failure) and failure.code == 403
        if is_forbidden and not self._is_told:
            self._is_told = True
            logger.warning("how Pods stand cannot be watched; see the Role in docs/kubernetes.md: %s", failure)
        else:
            logger.info("how Pods stand is not known at the moment: %s", failure)

    def _list(self) -> str:
        """Take all Pods as they are now; return the version of that."""
        before = set(self.standings)
        answer = self._cluster.call(
            "list_namespaced_pod", self._cluster.namespace, label_selector=self._selector
        )  # fmt: skip
        found = {pod["metadata"]["name"]: pod for pod in answer["items"]}
        with self._lock:
            for name, pod in found.items():
                self.standings[name] = standing_of(pod)
            for name in before - set(found):  # those made meanwhile may not be in the list
                if self.standings[name].status.state.value != "ended":
                    self.standings[name] = GONE
                    self._note_gone(name)
        self._on_change()
        return str(answer["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> str:
        """Take changes until the server ends the watch; return the version of the last."""
        with self._cluster.answer(
            "list_namespaced_pod", self._cluster.namespace, seconds=WATCH_SILENCE_SECONDS, watch=True,
            label_selector=self._selector, resource_version=version, timeout_seconds=WATCH_SECONDS,
            allow_watch_bookmarks=True,
        ) as response:  # fmt: skip
            with self._lock:
                if self._is_over.is_set():
                    return version
                self._response = response
            try:
                for line in _lines(response):
                    version = self._take(json.loads(line), version)
            finally:
                with self._lock:
                    self._response = None
        return version

    def _take(self, event: Mapping[str, Any], version: str) -> str:
        kind, told = event["type"], event["object"]
        if kind == "ERROR":
            raise Failure(str(told.get("message")), int(told.get("code") or 0), str(told.get("reason") or ""))
        if kind != "BOOKMARK":
            name = told["metadata"]["name"]
            with self._lock:
                self.standings[name] = gone(told) if kind == "DELETED" else standing_of(told)
                if kind == "DELETED":
                    self._note_gone(name)
            self._on_change()
        return str(told["metadata"].get("resourceVersion") or version)

    def _note_gone(self, name: str) -> None:
        self._gone.append(name)
        if len(self._gone) > GONE_MAX:
            self.standings.pop(self._gone.pop(0), None)


def _lines(response: Any) -> Iterator[bytes]:
    """Yield what a watch tells, as it comes."""
    rest = b""
    for piece in response.stream(1 << 16, decode_content=True):
        *whole, rest = (rest + piece).split(b"\n")
        yield from filter(None, whole)


def _hang_up(response: Any) -> None:
    """Have another thread's wait for a response end. To close it would wait for that thread."""
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # it has just ended by itself
        if hasattr(response, "shutdown"):
            response.shutdown()
        else:  # urllib3 before 2.3
            response.connection.sock.shutdown(socket.SHUT_RD)
