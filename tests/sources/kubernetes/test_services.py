"""Services and EndpointSlices of a real API server: what is referred to arrives, and follows every change."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.endpoint import Health, Locality, ServicePort
from controlplane.sources.kubernetes import catalog
from controlplane.sources.kubernetes.source import Watched
from tests.sources.kubernetes.rig import addresses, eventually, ref, states, watching
from tests.support.kubernetes import Kubernetes, Object, endpoint_slice, kubernetes


@pytest.fixture
def cluster() -> Kubernetes:
    return kubernetes()


@pytest.fixture
def namespace(cluster: Kubernetes) -> str:
    return cluster.namespace()


@pytest.fixture
def kubeconfig(cluster: Kubernetes, tmp_path: Path) -> Path:
    return cluster.kubeconfig(tmp_path / "kubeconfig")


def endpoint(address: str, *, pod: str = "", node: str = "", zone: str = "", **conditions: bool) -> Object:
    found: Object = {"addresses": [address], "conditions": conditions}
    if node:
        found["nodeName"] = node
    if zone:
        found["zone"] = zone
    return found


async def does(work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Writes to the API server beside the event loop, as somebody else would."""
    return await asyncio.to_thread(work, *arguments, **named)


def test_what_is_referred_to_arrives_and_follows(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        cluster.service(namespace, "web", {"http": 80, "admin": 9000})
        cluster.slice(namespace, "web-1", "web", ["10.0.0.2", "10.0.0.1"], {"http": 8080, "admin": 9001})
        cluster.service(namespace, "other")
        cluster.slice(namespace, "other-1", "other", ["10.0.9.9"])
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web, ref(namespace, "absent")]) as (sink, source):
            service = sink.services[web]
            assert addresses(service) == ["10.0.0.1", "10.0.0.2"]
            assert service.ports == (ServicePort("admin", 9000), ServicePort("http", 80))
            assert dict(service.endpoints[0].ports) == {"http": 8080, "admin": 9001}
            assert set(sink.services) == {web}, "what nobody refers to is not delivered"
            assert f"remove {ref(namespace, 'absent')}" in sink.calls, "what does not exist is said to be absent"

            await does(cluster.slice, namespace, "web-2", "web", ["10.0.0.3"], {"http": 8080})
            await sink.until(lambda: "10.0.0.3" in addresses(sink.services[web]))
            await does(cluster.delete, "EndpointSlice", "web-1", namespace)
            await sink.until(lambda: addresses(sink.services[web]) == ["10.0.0.3"])
            assert sink.calls[-1] == f"put {web} surely", "a deletion that was seen is certain"
            await does(cluster.delete, "EndpointSlice", "web-2", namespace)
            await sink.until(lambda: addresses(sink.services[web]) == [])
            await does(cluster.delete, "Service", "web", namespace)
            await sink.until(lambda: web not in sink.services)
            assert sink.calls[-1] == f"remove {web} surely"
            await does(cluster.service, namespace, "web", {"new": 81})
            await sink.until(lambda: web in sink.services)
            assert source.caught_up

    asyncio.run(scenario())


def test_services_that_are_referred_to_later_are_read_alone(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    async def scenario() -> None:
        for name in ("a", "b"):
            cluster.service(namespace, name)
            cluster.slice(namespace, f"{name}-1", name, ["10.0.1.1"])
        async with watching(kubeconfig, [ref(namespace, "a")]) as (sink, source):
            lists = source.kinds["endpointslices"].lists
            source.want([ref(namespace, "a"), ref(namespace, "b")], [])
            assert not source.caught_up
            await sink.until(lambda: source.caught_up)
            assert addresses(sink.services[ref(namespace, "b")]) == ["10.0.1.1"]
            await does(cluster.slice, namespace, "b-1", "b", ["10.0.1.2", "10.0.1.3"])
            await sink.until(lambda: len(addresses(sink.services[ref(namespace, "b")])) == 2)
            # Nobody refers to it any more: changes are not delivered.
            source.forget([ref(namespace, "a")], [])
            calls = len(sink.calls)
            await does(cluster.slice, namespace, "a-1", "a", ["10.0.1.9"])
            await does(cluster.slice, namespace, "b-1", "b", ["10.0.1.4"])
            await sink.until(lambda: "10.0.1.4" in addresses(sink.services[ref(namespace, "b")]))
            assert not [call for call in sink.calls[calls:] if "/a" in call]
            assert source.kinds["endpointslices"].lists == lists, "the cluster was listed once"

    asyncio.run(scenario())


def test_what_is_wanted_again_in_the_same_turn_is_pushed_again(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    """Whoever forgot it has nothing of it any more."""

    async def scenario() -> None:
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", ["10.0.0.1"])
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web]) as (sink, source):
            sink.calls.clear()
            source.forget([web], [])
            source.want([web], [])
            assert not source.caught_up
            await sink.until(lambda: sink.calls == [f"put {web}"])
            await does(cluster.slice, namespace, "web-1", "web", ["10.0.0.1", "10.0.0.2"])
            await sink.until(lambda: "10.0.0.2" in addresses(sink.services[web]))
            source.want([web], [])
            source.forget([web], [])
            assert source.caught_up is False
            await eventually(lambda: source.caught_up, "it has heard so")

    asyncio.run(scenario())


def test_many_new_services_are_listed_at_once(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        names = [f"s{number}" for number in range(30)]
        for name in names:
            cluster.service(namespace, name)
            cluster.slice(namespace, f"{name}-1", name, ["10.0.1.1"])
        async with watching(kubeconfig, [ref(namespace, "s0")]) as (sink, source):
            lists = source.kinds["services"].lists
            source.want([ref(namespace, name) for name in names], [])
            await sink.until(lambda: source.caught_up)
            assert len(sink.services) == 30
            assert source.kinds["services"].lists == lists + 1

    asyncio.run(scenario())


def test_a_second_read_is_sure_whether_anything_changed_or_not(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    async def scenario() -> None:
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", ["10.0.0.1"])
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web]) as (sink, source):
            assert sink.calls[-1] == f"put {web}", "a first read alone is not"
            source.confirm([web])
            await sink.until(lambda: sink.calls[-1] == f"put {web} surely")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        ({}, Health.HEALTHY),
        ({"ready": True}, Health.HEALTHY),
        ({"ready": True, "serving": True, "terminating": False}, Health.HEALTHY),
        ({"ready": False}, Health.UNHEALTHY),
        ({"ready": False, "serving": True, "terminating": True}, Health.DRAINING),
        ({"ready": False, "serving": False, "terminating": True}, Health.UNHEALTHY),
        ({"ready": True, "serving": False, "terminating": True}, Health.DRAINING),
        ({"ready": False, "terminating": True}, Health.UNHEALTHY),
    ],
)
def test_conditions_say_how_an_endpoint_is(
    cluster: Kubernetes, namespace: str, kubeconfig: Path, conditions: dict[str, bool], health: Health
) -> None:
    async def scenario() -> None:
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", [endpoint("10.0.0.1", **conditions)])
        async with watching(kubeconfig, [ref(namespace, "web")]) as (sink, _):
            assert states(sink.services[ref(namespace, "web")]) == {"10.0.0.1": health}

    asyncio.run(scenario())


def test_endpoints_that_are_all_not_ready_are_not_lost(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    """F34: what to do with them is the policy's business; scaled to nothing is another thing."""

    async def scenario() -> None:
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", ["10.0.0.1", "10.0.0.2"])
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web]) as (sink, _):
            broken = [endpoint(f"10.0.0.{number}", ready=False) for number in (1, 2)]
            await does(cluster.slice, namespace, "web-1", "web", broken)
            await sink.until(lambda: set(states(sink.services[web]).values()) == {Health.UNHEALTHY})
            await does(cluster.slice, namespace, "web-1", "web", [])
            await sink.until(lambda: addresses(sink.services[web]) == [])

    asyncio.run(scenario())


def test_a_pod_that_moves_between_slices_is_never_away(
    cluster: Kubernetes, namespace: str, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F33: whichever slice is written first, and while it stands in both it is one endpoint."""
    monkeypatch.setattr(catalog, "MOVE_SECONDS", 4.0)  # a test on a busy machine writes slower than a controller

    async def scenario() -> None:
        web = ref(namespace, "web")
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", ["10.0.0.1", "10.0.0.2"])
        cluster.slice(namespace, "web-2", "web", ["10.0.0.3"])
        async with watching(kubeconfig, [web]) as (sink, _):
            for there, back in (("web-2", "web-1"), ("web-1", "web-2")):
                begin = len(sink.history)
                await does(cluster.slice, namespace, back, "web", [])
                await does(cluster.slice, namespace, there, "web", ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
                await does(cluster.slice, namespace, back, "web", ["10.0.0.2"])
                await does(cluster.slice, namespace, there, "web", ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])
                await sink.until(lambda: "10.0.0.4" in addresses(sink.services[web]))
                await does(cluster.slice, namespace, there, "web", ["10.0.0.1", "10.0.0.3"])
                await sink.until(lambda: "10.0.0.4" not in addresses(sink.services[web]))
                assert begin < len(sink.history)
            for service in sink.versions[web]:
                assert {"10.0.0.1", "10.0.0.2", "10.0.0.3"} <= set(addresses(service))
                assert len(set(addresses(service))) == len(addresses(service))

    asyncio.run(scenario())


def test_an_endpoint_in_two_slices_is_in_its_better_state(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    async def scenario() -> None:
        cluster.service(namespace, "web", {"http": 80, "admin": 90})
        cluster.slice(namespace, "web-1", "web", [endpoint("10.0.0.1", ready=False)], {"admin": 1, "http": 2})
        cluster.slice(namespace, "web-2", "web", [endpoint("10.0.0.1", ready=True)], {"http": 3})
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web]) as (sink, _):
            (one,) = sink.services[web].endpoints
            assert (one.health, dict(one.ports)) == (Health.HEALTHY, {"admin": 1, "http": 3})

    asyncio.run(scenario())


def test_named_target_ports_differ_by_slice(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-old", "web", ["10.0.0.1"], {"http": 8080})
        cluster.slice(namespace, "web-new", "web", ["10.0.0.2"], {"http": 9090})
        async with watching(kubeconfig, [ref(namespace, "web")]) as (sink, _):
            found = {one.address: dict(one.ports) for one in sink.services[ref(namespace, "web")].endpoints}
            assert found == {"10.0.0.1": {"http": 8080}, "10.0.0.2": {"http": 9090}}

    asyncio.run(scenario())


def test_of_two_families_the_first_counts(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        for name, families in (("four", ["IPv4", "IPv6"]), ("six", ["IPv6", "IPv4"]), ("only", ["IPv4", "IPv6"])):
            cluster.service(namespace, name, ipFamilies=families, ipFamilyPolicy="RequireDualStack")
            if name != "only":
                cluster.slice(namespace, f"{name}-4", name, ["10.0.0.1"])
            cluster.slice(namespace, f"{name}-6", name, ["2001:db8::1"], family="IPv6")
        wanted = [ref(namespace, name) for name in ("four", "six", "only")]
        async with watching(kubeconfig, wanted) as (sink, _):
            found = {one.name: addresses(service) for one, service in sink.services.items()}
            assert found == {"four": ["10.0.0.1"], "six": ["2001:db8::1"], "only": ["2001:db8::1"]}

    asyncio.run(scenario())


def test_headless_and_external_services(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        cluster.service(namespace, "headless", clusterIP="None")
        cluster.slice(namespace, "headless-1", "headless", ["10.0.0.1"])
        name = {"name": "partner", "namespace": namespace}
        spec = {"type": "ExternalName", "externalName": "api.partner.example."}
        cluster.apply({"kind": "Service", "metadata": name, "spec": spec})
        for portless, ports in (("portless", []), ("datagrams", [{"name": "dns", "port": 53, "protocol": "UDP"}])):
            meta = {"name": portless, "namespace": namespace}
            cluster.create({"kind": "Service", "metadata": meta, "spec": {"clusterIP": "None", "ports": ports}})
            one = endpoint_slice(namespace, f"{portless}-1", portless, ["10.0.0.2"])
            cluster.create({**one, "ports": ports})
        wanted = [ref(namespace, name) for name in ("headless", "partner", "portless", "datagrams")]
        async with watching(kubeconfig, wanted) as (sink, _):
            assert addresses(sink.services[wanted[2]]) == ["10.0.0.2"]
            assert addresses(sink.services[wanted[3]]) == [], "UDP alone is nothing to send requests to"
            assert addresses(sink.services[wanted[0]]) == ["10.0.0.1"]
            assert sink.services[wanted[1]].external_name == "api.partner.example"

    asyncio.run(scenario())


def test_slices_of_names_are_no_endpoints_and_that_is_said(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    async def scenario() -> None:
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", ["db.example.com"], family="FQDN")
        web, subject = ref(namespace, "web"), f"service {namespace}/web"
        async with watching(kubeconfig, [web]) as (sink, source):
            assert addresses(sink.services[web]) == []
            [said] = sink.said[subject]
            assert "addressType: FQDN" in said.message
            cluster.delete("EndpointSlice", "web-1", namespace)
            cluster.slice(namespace, "web-2", "web", ["10.0.0.1"])
            await sink.until(lambda: addresses(sink.services[web]) == ["10.0.0.1"] and subject not in sink.said)
            cluster.slice(namespace, "web-3", "web", ["db.example.com"], family="FQDN")
            await eventually(lambda: subject in sink.said, "it is said beside good ones, too")
            source.forget([web], [])
            assert subject not in sink.said

    asyncio.run(scenario())


def test_zone_and_region_are_the_locality(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    """The slice says the zone, else the node does; the region is what nodes of that zone say, or the configuration."""

    async def scenario() -> None:
        labels = {"topology.kubernetes.io/region": "eu-1", "topology.kubernetes.io/zone": f"{namespace}-a"}
        cluster.apply({"kind": "Node", "metadata": {"name": f"node-{namespace}", "labels": labels}})
        cluster.service(namespace, "web")
        ready = True
        told = [
            endpoint("10.0.0.1", zone=f"{namespace}-a", ready=ready),
            endpoint("10.0.0.2", node=f"node-{namespace}", ready=ready),
            endpoint("10.0.0.3", zone="elsewhere", ready=ready),
        ]
        cluster.slice(namespace, "web-1", "web", told)
        web = ref(namespace, "web")
        async with watching(kubeconfig, [web]) as (sink, source):
            a = Locality("eu-1", f"{namespace}-a")
            assert [one.locality for one in sink.services[web].endpoints] == [a, a, Locality("", "elsewhere")]
            lists = source.kinds["endpointslices"].lists
            for name, zone in (("other", f"{namespace}-b"), ("same", f"{namespace}-a"), ("none", "")):
                node = {"name": f"{name}-{namespace}", "labels": labels | {"topology.kubernetes.io/zone": zone}}
                await does(cluster.apply, {"kind": "Node", "metadata": node})
            labels["topology.kubernetes.io/zone"] = "elsewhere"
            node = {"kind": "Node", "metadata": {"name": f"late-{namespace}", "labels": labels}}
            await does(cluster.apply, node)
            await sink.until(lambda: sink.services[web].endpoints[2].locality == Locality("eu-1", "elsewhere"))
            assert source.kinds["endpointslices"].lists == lists + 1, "nodes without endpoints cost no list"
        async with watching(kubeconfig, [web], watched=Watched(region="configured")) as (sink, source):
            assert {one.locality.region for one in sink.services[web].endpoints} == {"configured"}
            assert "nodes" not in source.kinds, "nodes are not read when nobody needs them"

    asyncio.run(scenario())


def test_only_namespaces_of_the_configuration_are_read(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        outside = cluster.namespace("outside")
        for where in (namespace, outside):
            cluster.service(where, "web")
            cluster.slice(where, "web-1", "web", ["10.0.0.1"])
        wanted = [ref(namespace, "web"), ref(outside, "web")]
        async with watching(kubeconfig, wanted, watched=Watched(namespaces=(namespace,))) as (sink, source):
            assert set(sink.services) == {wanted[0]}
            assert f"endpointslices in {namespace}" in source.kinds
            (said,) = sink.said["namespaces"]
            assert outside in said.message

    asyncio.run(scenario())


def test_an_object_that_was_made_again_is_the_new_one(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        web = ref(namespace, "web")
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", ["10.0.0.1"])
        async with watching(kubeconfig, [web]) as (sink, _):
            for number in range(2, 6):
                await does(cluster.delete, "EndpointSlice", "web-1", namespace)
                await does(cluster.slice, namespace, "web-1", "web", [f"10.0.0.{number}"])
                await sink.until(lambda: addresses(sink.services[web]) == [f"10.0.0.{number}"])  # noqa: B023

    asyncio.run(scenario())


def test_each_write_of_a_slice_is_delivered(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        web = ref(namespace, "web")
        cluster.service(namespace, "web")
        cluster.slice(namespace, "web-1", "web", ["10.0.0.1"])
        async with watching(kubeconfig, [web]) as (sink, _):
            for number in range(2, 12):
                await does(cluster.slice, namespace, "web-1", "web", ["10.0.0.1", f"10.0.0.{number}"])
                await sink.until(lambda: f"10.0.0.{number}" in addresses(sink.services[web]))  # noqa: B023

    asyncio.run(scenario())
