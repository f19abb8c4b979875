"""Where a client of Kubernetes may be: in a Pod of the cluster, or with a kubeconfig; and what its page shows."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.helpers import add, wait_until
from integration.launching import SECONDS, executor_of, failure_of
from integration.test_cluster_pages import check

from crew_executor.launchers import kubernetes_api

from .kubernetes_server import TOKEN, Kubernetes
from .test_kubernetes_launcher import Make, cluster, make, no_room

__all__ = ["cluster", "make"]

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120)]


@pytest.fixture
def _inside(cluster: Kubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process seems to run in a Pod of the cluster, with a service account, and has no kubeconfig."""
    config = importlib.import_module("kubernetes.config")
    namespace = tmp_path / "namespace"
    namespace.write_text(cluster.namespace, "utf-8")

    def load(client_configuration: Any) -> None:
        client_configuration.host = cluster.host
        for name in ("BearerToken", "authorization"):  # so it is in newer clients, and in older ones
            client_configuration.api_key[name] = f"Bearer {TOKEN}"

    monkeypatch.setattr(config, "load_incluster_config", load)
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nosuch"))
    monkeypatch.setattr(kubernetes_api, "_NAMESPACE_FILE", str(namespace))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with no_room(cluster):
        spec = {"containers": [{"name": "worker", "image": "client", "command": ["sleep", "600"]}]}
        cluster.create("pods", {"metadata": {"name": "client-0"}, "spec": spec})
    yield
    if "client-0" in cluster.pods():
        cluster.delete("pods", "client-0", 0)


@pytest.mark.usefixtures("_inside")
def test_in_a_pod_all_belongs_to_that(
    cluster: Kubernetes,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POD_NAME", "client-0")
    with executor_of(make(kubeconfig=None), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        (made,) = [each for each in cluster.requests if (each.verb, each.resource) == ("create", "pods")]
        (owner,) = made.body["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Pod", "client-0")
        assert not cluster.names("configmaps")
        cluster.delete("pods", "client-0", 0)
        wait_until(lambda: not cluster.pods(), "the cluster has deleted what belonged to it", SECONDS)


@pytest.mark.usefixtures("_inside")
def test_in_a_pod_that_is_not_found_all_belongs_to_a_config_map(
    cluster: Kubernetes,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POD_NAME", "another")
    with executor_of(make(kubeconfig=None), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        assert len(cluster.names("configmaps")) == 1


def test_without_any_configuration_that_is_told(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = importlib.import_module("kubernetes.config")
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nosuch"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    text = failure_of(make(kubeconfig=None, max_failed_launches=1))
    assert "the configuration of Kubernetes cannot be used" in text
    assert "the configuration of Kubernetes cannot be used: /nowhere/config: " in failure_of(
        make(kubeconfig="/nowhere/config", max_failed_launches=1)
    )
    assert "give kubeconfig=..." in text


def test_a_template_may_be_a_file(cluster: Kubernetes, make: Make, tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text(
        "spec:\n  priorityClassName: low\n  containers:\n  - name: worker\n    env:\n    - {name: A, value: '1'}\n",
        "utf-8",
    )
    with executor_of(make(pod_template=template), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        (made,) = [each.body for each in cluster.requests if (each.verb, each.resource) == ("create", "pods")]
    assert made["spec"]["priorityClassName"] == "low"
    assert made["spec"]["containers"][0]["env"][0] == {"name": "A", "value": "1"}


def test_a_template_that_is_no_yaml_is_told(make: Make, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text("spec: [", "utf-8")
    with pytest.raises(ValueError, match="is no YAML"):
        make(pod_template=tmp_path / "pod.yaml")


def test_the_manifest_is_what_the_page_shows(tmp_path: Path) -> None:
    check("kubernetes.md", "pod_manifest", tmp_path)


def test_the_example_of_the_page_runs(
    cluster: Kubernetes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    check("kubernetes.md", "CrewExecutor", tmp_path)
