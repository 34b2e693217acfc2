"""A cluster takes what `manifests/` holds, and what the manifests say is how the process can be run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml

from controlplane.config import Configuration
from controlplane.pki.authority import Authority
from tests.support.children import Child
from tests.support.kubernetes import ApiError, Kubernetes, Object
from tests.support.ports import free_port
from tests.support.tools import needs, tool
from tests.support.waiting import PATIENCE, until

MANIFESTS = Path(__file__).parents[2] / "manifests"
HOME = "/var/lib/controlplane"
ACCOUNT = ("controlplane", "controlplane")

_http = build_opener(ProxyHandler({}))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    needs("kubectl")
    cluster = Kubernetes(tmp_path_factory.mktemp("kubernetes")).start()
    yield cluster
    cluster.stop()


def kubectl(cluster: Kubernetes, *words: str) -> str:
    kubeconfig = cluster.kubeconfig(cluster.folder / "kubeconfig")
    command = [str(tool("kubectl")), "--kubeconfig", str(kubeconfig), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr  # a warning is none of ours to give
    return done.stdout


@pytest.fixture(scope="module")
def applied(cluster: Kubernetes) -> list[Object]:
    """Everything, as the command of the documentation applies it, and as the server then has it."""
    kubectl(cluster, "apply", "--server-side", "-k", str(MANIFESTS))
    text = kubectl(cluster, "get", "-o", "yaml", "-k", str(MANIFESTS))
    found: list[Object] = yaml.safe_load(text)["items"]
    return found


def the(kind: str, objects: list[Object], name: str = "controlplane") -> Object:
    return next(one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name))


def container(objects: list[Object]) -> Object:
    found: Object = the("StatefulSet", objects)["spec"]["template"]["spec"]["containers"][0]
    return found


def test_a_cluster_takes_all_of_it_and_a_second_time_changes_nothing(
    cluster: Kubernetes, applied: list[Object]
) -> None:
    assert {"CustomResourceDefinition", "StatefulSet", "PodDisruptionBudget"} < {one["kind"] for one in applied}
    assert kubectl(cluster, "diff", "--server-side", "-k", str(MANIFESTS)) == ""


def test_every_manifest_is_part_of_it_or_says_where_it_goes() -> None:
    """What the kustomization leaves out is applied to namespaces that only the reader knows."""
    named = {MANIFESTS / name for name in yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]}
    there = {file for folder in ("crds", "deploy", "rbac") for file in (MANIFESTS / folder).glob("*.yaml")}
    assert {file.name for file in there - named} == {"namespace.yaml", "secrets.yaml"}
    assert named <= there


def test_pods_are_as_restricted_as_their_namespace_asks(cluster: Kubernetes, applied: list[Object]) -> None:
    """The API server refuses pods, not their templates: a StatefulSet that can never have any would be accepted."""
    template = the("StatefulSet", applied)["spec"]["template"]
    volumes = [*template["spec"]["volumes"], {"name": "state", "emptyDir": {}}]
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"generateName": "pod-"}}
    path = "/api/v1/namespaces/controlplane/pods?dryRun=All"
    cluster.call("POST", path, {**pod, "spec": {**template["spec"], "volumes": volumes}})
    with pytest.raises(ApiError, match="violates PodSecurity"):
        cluster.call("POST", path, {**pod, "spec": {**template["spec"], "volumes": volumes, "hostNetwork": True}})


def test_names_lead_somewhere(applied: list[Object]) -> None:
    """Selectors, ports, volumes and accounts: what the API server does not compare."""
    workload = the("StatefulSet", applied)["spec"]
    labels, spec = workload["template"]["metadata"]["labels"], workload["template"]["spec"]
    ports = {one["name"]: one["containerPort"] for one in container(applied)["ports"]}
    services = [one for one in applied if one["kind"] == "Service"]
    selectors = [one["spec"]["selector"] for one in services]
    selectors += [the("PodDisruptionBudget", applied)["spec"]["selector"]["matchLabels"]]
    selectors += [one["labelSelector"]["matchLabels"] for one in spec["topologySpreadConstraints"]]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert {(one["targetPort"], one["port"]) for service in services for one in service["spec"]["ports"]} == set(
        ports.items()
    )
    assert workload["serviceName"] in {one["metadata"]["name"] for one in services}
    volumes = {
        one["name"] for one in [*spec["volumes"], *(one["metadata"] for one in workload["volumeClaimTemplates"])]
    }
    mounts = {mount["name"] for one in (*spec["initContainers"], *spec["containers"]) for mount in one["volumeMounts"]}
    assert mounts == volumes
    subjects = {(one["namespace"], one["name"]) for thing in applied for one in thing.get("subjects", ())}
    assert (
        subjects == {ACCOUNT} == {(the("ServiceAccount", applied)["metadata"]["namespace"], spec["serviceAccountName"])}
    )


class Replica:
    """One pod without a kubelet: its init container and its process, in a folder, with the rights of its account."""

    def __init__(self, cluster: Kubernetes, objects: list[Object], folder: Path, authority: Path) -> None:
        folder.mkdir()
        init = the("StatefulSet", objects)["spec"]["template"]["spec"]["initContainers"][0]
        script = init["args"][0].replace("/authority/", f"{authority}/")
        subprocess.run(["/bin/sh", init["command"][1], script], cwd=folder, check=True)
        said: dict[str, Any] = yaml.safe_load(the("ConfigMap", objects)["data"]["controlplane.yaml"])
        self.ports = {}
        for name, section in (("xds", said["xds"]), ("metrics", said["metrics"])):
            (stated,) = (one["containerPort"] for one in container(objects)["ports"] if one["name"] == name)
            assert section["listen"] == f"0.0.0.0:{stated}"
            self.ports[name] = free_port()
            section["listen"] = f"127.0.0.1:{self.ports[name]}"
        assert said["state"]["path"] == f"{HOME}/state"
        said["state"]["path"] = str(folder / "state")
        said["admin"] = {"listen": "127.0.0.1:0"}
        kubeconfig = cluster.kubeconfig(folder / "kubeconfig", {"token": cluster.token(*ACCOUNT)})
        said["sources"]["kubernetes"][0]["kubeconfig"] = str(kubeconfig)
        config = folder / "controlplane.yaml"
        config.write_text(yaml.safe_dump(said))
        *words, named = container(objects)["args"]
        assert named.startswith("/etc/controlplane/")
        self._probes = {
            name: container(objects)[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness", "startup")
        }
        self.child = Child([sys.executable, "-m", "controlplane", *words, str(config)], folder / "log")

    def probe(self, name: str) -> int:
        """What the kubelet would be answered; 0 when nobody listens."""
        self.child.check()
        probe = self._probes[name]
        try:
            with _http.open(f"http://127.0.0.1:{self.ports[probe['port']]}{probe['path']}", timeout=PATIENCE) as answer:
                return int(answer.status)
        except HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0


def test_two_replicas_become_ready_with_the_rights_and_the_configuration_of_the_manifests(
    cluster: Kubernetes, applied: list[Object], tmp_path: Path
) -> None:
    """And both have the authority of the Secret, which a folder mounted as Kubernetes does brings."""
    authority, mounted = Authority.open(tmp_path / "fleet"), tmp_path / "authority"
    shutil.copytree(tmp_path / "fleet" / "ca", mounted / "..data")
    for file in (mounted / "..data").iterdir():
        file.chmod(0o440)
        (mounted / file.name).symlink_to(Path("..data") / file.name)
    replicas = [Replica(cluster, applied, tmp_path / f"pod-{number}", mounted) for number in (0, 1)]
    try:
        for replica in replicas:
            until(lambda replica=replica: replica.probe("readiness") == 200, "ready")  # type: ignore[misc]
            assert replica.probe("liveness") == replica.probe("startup") == 200
        for number in (0, 1):
            state = tmp_path / f"pod-{number}" / "state"
            assert Authority.open(state).trust_bundle == authority.trust_bundle
            assert [file for file in state.rglob("*") if file.stat().st_mode & 0o077] == []
        lease = ("Lease", "controlplane-status", "controlplane")
        until(lambda: cluster.get(*lease)["spec"].get("holderIdentity"), "one of them writes the status")
    finally:
        ends = [replica.child.stop() for replica in replicas]
    assert ends == [0, 0]
    within = Configuration().shutdown.within.total_seconds()
    pod = the("StatefulSet", applied)["spec"]["template"]["spec"]
    waits = container(applied)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waits + within < pod["terminationGracePeriodSeconds"], "killed in the middle of draining"
