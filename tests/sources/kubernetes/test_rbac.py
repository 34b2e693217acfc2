"""The rights of manifests/rbac are enough, and each of them is needed: the source runs with exactly these."""

import asyncio
from pathlib import Path

import pytest
import yaml

from controlplane.sources.kubernetes.client import Trouble
from controlplane.sources.kubernetes.services import FEW
from controlplane.sources.kubernetes.source import Watched
from controlplane.sources.kubernetes.watches import SAID
from tests.sources.kubernetes.rig import addresses, eventually, ref, route_ref, secret_ref, valid, watching
from tests.support.kubernetes import ApiError, Kubernetes, kubernetes

MANIFESTS = Path(__file__).resolve().parents[3] / "manifests" / "rbac"


@pytest.fixture
def cluster() -> Kubernetes:
    return kubernetes()


@pytest.fixture
def namespace(cluster: Kubernetes) -> str:
    return cluster.namespace()


def grant(cluster: Kubernetes, file: str, account: str, inside: str = "") -> None:
    """Apply a manifest for the service account `controlplane` of the namespace `account`."""
    for thing in yaml.safe_load_all((MANIFESTS / file).read_text()):
        if thing["kind"].startswith("Cluster"):
            thing["metadata"]["name"] += f"-{account}"
            if "roleRef" in thing:
                thing["roleRef"]["name"] += f"-{account}"
        else:
            thing["metadata"]["namespace"] = inside
        for subject in thing.get("subjects", ()):
            subject["namespace"] = account
        cluster.apply(thing)


def config(cluster: Kubernetes, folder: Path, account: str) -> Path:
    cluster.service_account(account, "controlplane")
    return cluster.kubeconfig(folder / "kubeconfig", {"token": cluster.token(account, "controlplane")})


def fill(cluster: Kubernetes, namespace: str) -> None:
    cluster.service(namespace, "web")
    cluster.slice(namespace, "web-1", "web", ["10.0.0.1"])
    cluster.secret(namespace, "shop-tls", {"tls.crt": b"c"})
    cluster.spec(valid(namespace))


def test_the_rights_of_a_cluster_are_enough(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        fill(cluster, namespace)
        kubeconfig = config(cluster, tmp_path, namespace)
        for file in ("endpoints.yaml", "specs.yaml", "secrets.yaml"):
            grant(cluster, file, namespace, inside=namespace)
        web, tls = ref(namespace, "web"), secret_ref(namespace, "shop-tls")
        async with watching(kubeconfig, [web], [tls], watched=Watched(specs=True)) as (sink, source):
            assert addresses(sink.services[web]) == ["10.0.0.1"]
            assert set(sink.secrets) == {tls}
            assert route_ref(namespace) in sink.objects
            assert {name: health.trouble for name, health in source.kinds.items() if health.trouble} == {}
            await asyncio.to_thread(cluster.secret, namespace, "shop-tls", {"tls.crt": b"c2"})
            await sink.until(lambda: sink.secrets[tls].get("tls.crt") == b"c2")

    asyncio.run(scenario())


def test_the_rights_of_a_namespace_are_enough(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        fill(cluster, namespace)
        account = cluster.namespace("account")
        kubeconfig = config(cluster, tmp_path, account)
        for file in ("namespace.yaml", "secrets.yaml"):
            grant(cluster, file, account, inside=namespace)
        web, tls = ref(namespace, "web"), secret_ref(namespace, "shop-tls")
        watched = Watched(specs=True, namespaces=(namespace,))
        async with watching(kubeconfig, [web], [tls], watched=watched) as (sink, source):
            assert addresses(sink.services[web]) == ["10.0.0.1"]
            assert (set(sink.secrets), set(sink.objects)) == ({tls}, {route_ref(namespace)})
            assert source.kinds["nodes"].trouble is Trouble.DENIED, "known, and no failure of the source"
            assert sink.state == "synced"

    asyncio.run(scenario())


def test_a_namespace_that_is_denied_stops_no_other(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """What is new, few or many, and what is to be read a second time."""

    async def scenario() -> None:
        fill(cluster, namespace)
        kubeconfig = config(cluster, tmp_path, namespace)
        grant(cluster, "namespace.yaml", namespace, inside=namespace)
        watched = Watched(namespaces=(cluster.namespace("denied"), namespace), region="here")
        web, more = ref(namespace, "web"), [ref(namespace, f"more-{number}") for number in range(FEW + 1)]
        assert watched.namespaces is not None
        denied = [ref(watched.namespaces[0], f"web-{number}") for number in range(FEW)]
        async with watching(kubeconfig, [web, *denied], watched=watched, ready=False) as (sink, source):
            await sink.until(lambda: web in sink.services and sink.state == "failed")
            source.want(more[:1], [])
            await sink.until(lambda: f"remove {more[0]}" in sink.calls)
            source.want(more, [])
            await sink.until(lambda: all(f"remove {one}" in sink.calls for one in more))
            source.confirm([web])
            await sink.until(lambda: sink.calls[-1] == f"put {web} surely")
            assert not any(one in sink.services or f"remove {one}" in sink.calls for one in denied)
            assert (sink.endpoints_fail, sink.lost_namespaces) == (False, {watched.namespaces[0]})

    asyncio.run(scenario())


def test_nothing_more_is_granted(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """With these rights nobody lists secrets, reads one that is not named, or writes anything."""
    fill(cluster, namespace)
    cluster.service_account(namespace, "controlplane")
    user = f"system:serviceaccount:{namespace}:controlplane"
    for file in ("endpoints.yaml", "specs.yaml", "namespace.yaml", "secrets.yaml"):
        grant(cluster, file, namespace, inside=namespace)

    def may(verb: str, resource: str, name: str = "", group: str = "") -> bool:
        where = {"namespace": namespace, "verb": verb, "resource": resource, "name": name, "group": group}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        asked = {**review, "spec": {"user": user, "resourceAttributes": where}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(cluster.call("POST", path, asked)["status"]["allowed"])

    assert may("watch", "secrets", "shop-tls")
    assert not may("list", "secrets")
    assert not may("watch", "secrets", "other")
    for resource, group in (
        ("services", ""),
        ("routespecs", "gatewayspec.dev"),
        ("endpointslices", "discovery.k8s.io"),
    ):
        for verb in ("get", "create", "update", "patch", "delete"):
            assert not may(verb, resource, group=group), (verb, resource)


def test_a_kind_that_is_denied_keeps_what_it_said(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """F30: the right to one kind is taken away; the others go on, and nothing is lost."""

    async def scenario() -> None:
        fill(cluster, namespace)
        kubeconfig = config(cluster, tmp_path, namespace)
        grant(cluster, "endpoints.yaml", namespace)
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web], watched=Watched(region="here")) as (sink, source):
            role = f"controlplane-endpoints-{namespace}"
            rules = [{"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]}]
            await asyncio.to_thread(cluster.patch, "ClusterRole", role, {"rules": rules})
            # The watch that runs goes on; the next one is refused. A restart of the server makes it come at once.
            cluster.kill()
            cluster.launch()
            await eventually(lambda: source.kinds["endpointslices"].trouble is Trouble.DENIED, "it is said")
            await sink.until(lambda: sink.state == "failed")
            assert addresses(sink.services[web]) == ["10.0.0.1"]
            assert sink.endpoints_fail
            await asyncio.to_thread(cluster.wait)
            await asyncio.to_thread(cluster.service, namespace, "web", {"http": 81})
            await sink.until(lambda: sink.services[web].ports[0].number == 81)
            assert addresses(sink.services[web]) == ["10.0.0.1"]
            await asyncio.to_thread(grant, cluster, "endpoints.yaml", namespace)
            await sink.until(lambda: sink.state == "synced")

    asyncio.run(scenario())


def test_a_secret_that_is_denied_makes_no_endpoint_older(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """What is kept of a lost source for a time only is kept: its endpoints are heard."""

    async def scenario() -> None:
        fill(cluster, namespace)
        kubeconfig = config(cluster, tmp_path, namespace)
        for file in ("endpoints.yaml", "specs.yaml"):
            grant(cluster, file, namespace)
        web, tls = ref(namespace, "web"), secret_ref(namespace, "shop-tls")
        async with watching(kubeconfig, [web], [tls], watched=Watched(specs=True), ready=False) as (sink, _):
            await sink.until(lambda: sink.state == "failed" and web in sink.services)
            assert (sink.endpoints_fail, sink.reason.startswith("secret ")) == (False, True)
            assert not sink.specs_fail

    asyncio.run(scenario())


def test_a_kind_of_specs_that_is_denied_leaves_open_what_is_declared(
    cluster: Kubernetes, namespace: str, tmp_path: Path
) -> None:
    """Routes are there, and no gateways yet: a process that knows nothing of before must not begin with that."""

    async def scenario() -> None:
        fill(cluster, namespace)
        kubeconfig = config(cluster, tmp_path, namespace)
        grant(cluster, "specs.yaml", namespace)
        role = f"controlplane-specs-{namespace}"
        rules = [{"apiGroups": ["gatewayspec.dev"], "resources": ["routespecs"], "verbs": ["list", "watch"]}]
        await asyncio.to_thread(cluster.patch, "ClusterRole", role, {"rules": rules})
        async with watching(kubeconfig, watched=Watched(specs=True, endpoints=False), ready=False) as (sink, _):
            await sink.until(lambda: sink.state == "failed" and route_ref(namespace) in sink.objects)
            assert sink.specs_fail
            await asyncio.to_thread(grant, cluster, "specs.yaml", namespace)
            await sink.until(lambda: sink.state == "synced")

    asyncio.run(scenario())


def test_of_many_that_are_denied_a_few_are_said(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """A failure is read by people, and logged as often as it changes."""

    async def scenario() -> None:
        secrets = [secret_ref(namespace, f"tls-{number}") for number in range(SAID + 7)]
        async with watching(config(cluster, tmp_path, namespace), [], secrets, ready=False) as (sink, _):
            await sink.until(lambda: sink.reason.endswith("; and 7 more"))
            assert sink.reason.count("Denied") == SAID

    asyncio.run(scenario())


def test_who_may_nothing_is_told_so(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="404"):
        cluster.get("ServiceAccount", "controlplane", namespace)

    async def scenario() -> None:
        kubeconfig = config(cluster, tmp_path, namespace)
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web], watched=Watched(region="here"), ready=False) as (sink, source):
            await sink.until(lambda: sink.state == "failed")
            assert source.caught_up
            await eventually(lambda: "Denied" in source.kinds["services"].reason, "it is said of services too")
            assert sink.services == {}
            assert not [call for call in sink.calls if call.startswith("remove")], "a refusal says nothing of services"

    asyncio.run(scenario())
