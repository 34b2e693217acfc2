"""The API server of the tests is a real one: it keeps, refuses and forgets as it does in a cluster."""

import subprocess
from pathlib import Path

import pytest

from tests.support.kubernetes import ApiError, Kubernetes, kubernetes
from tests.support.tools import needs, tool


@pytest.fixture
def cluster() -> Kubernetes:
    return kubernetes()


def test_kubectl_reads_what_was_written(cluster: Kubernetes, tmp_path: Path) -> None:
    needs("kubectl")
    namespace = cluster.namespace()
    cluster.service(namespace, "web")
    kubeconfig = cluster.kubeconfig(tmp_path / "config")
    command = [str(tool("kubectl")), "--kubeconfig", str(kubeconfig), "-n", namespace, "get", "services", "-o", "name"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("service/web", 0), done.stderr


def test_endpoints_on_loopback_are_refused(cluster: Kubernetes) -> None:
    """Why tests with a real Envoy need a network namespace of their own."""
    namespace = cluster.namespace()
    with pytest.raises(ApiError, match="loopback"):
        cluster.slice(namespace, "web-1", "web", ["127.0.0.1"])


def test_history_can_be_forgotten(cluster: Kubernetes) -> None:
    namespace = cluster.namespace()
    version = cluster.service(namespace, "web")["metadata"]["resourceVersion"]
    for port in range(81, 84):
        cluster.service(namespace, "web", {"http": port})
    cluster.compact()
    assert cluster.service(namespace, "web", {"http": 90})["metadata"]["resourceVersion"] > version
