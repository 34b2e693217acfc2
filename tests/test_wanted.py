"""What one more service costs, when there are many: as much as when there are few. Counted in instructions, not in time."""

from __future__ import annotations

from collections.abc import Callable, Collection

from controlplane.app.lane import EndpointLane
from controlplane.app.services import Services
from controlplane.compile.compiler import Compiler
from controlplane.compile.endpoints import Endpoints, EndpointTables
from controlplane.model.endpoint import Service, ServicePort
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.kubernetes.catalog import Catalog
from controlplane.sources.kubernetes.known import Read
from controlplane.sources.kubernetes.objects import Metadata
from controlplane.sources.kubernetes.objects import Service as Declared
from controlplane.sources.kubernetes.slices import Regions
from controlplane.spec.gateway import KINDS
from controlplane.spec.rows import Row, RowKey, rows
from tests.sources.rig import Remembering
from tests.support.work import instructions

SOURCE = "kubernetes/eu"
FEW, MANY = 50, 2_000
AT_MOST = 1.05
"""Times as much: sets grow now and then."""


def document(number: int) -> tuple[ObjectRef, dict[RowKey, Row]]:
    """A RouteSpec whose backend is a service of its own."""
    member = {"kubernetes": {"cluster": "eu", "service": f"shop/s{number}", "port": 80}}
    route = {"name": "r", "hosts": [f"s{number}.example"], "match": [{"path": {"prefix": "/"}}], "public": True}
    spec = {
        "gateway": "platform/edge",
        "backends": [{"name": "b", "members": [member]}],
        "routes": [{**route, "to": [{"backend": "b"}]}],
    }
    said = {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "RouteSpec", "spec": spec}
    said["metadata"] = {"name": f"r{number}", "namespace": "shop"}
    ref = ObjectRef("files", "RouteSpec", "shop", f"r{number}")
    return ref, rows(ref, KINDS["RouteSpec"].model_validate(said))


class Asked:
    """A source that notes what it is asked for."""

    name = SOURCE
    caught_up = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[ServiceRef]]] = []

    def want(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        self.calls.append(("want", list(services)))

    def forget(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        self.calls.append(("forget", list(services)))

    def confirm(self, services: Collection[ServiceRef]) -> None:
        raise AssertionError


def service(number: int) -> ServiceRef:
    return ServiceRef(SOURCE, "shop", f"s{number}")


def cost_of_a_reference(count: int) -> tuple[int, int]:
    """What one more document that names one more service costs, and its removal, beside so many."""
    source = Asked()
    lane = EndpointLane(Endpoints(EndpointTables(None)), lambda *_: None, quiet=0.0, longest=0.0)
    services = Services(lane, [source], external=lambda *_: None, keep=lambda *_: None, say=lambda *_: None)
    for number in range(count):
        services.refer(*document(number))
    services.ask()
    services.settle()
    assert source.calls == [("want", sorted(map(service, range(count))))]
    ref, more = document(count)

    def add() -> None:
        services.refer(ref, more)
        services.ask()

    def take() -> None:
        services.refer(ref, None)
        services.ask()
        services.settle()

    added, taken = instructions(add), instructions(take)
    assert source.calls[1:] == [("want", [service(count)]), ("forget", [service(count)])]
    return added, taken


def test_a_source_is_told_what_is_new_and_what_is_not_wanted_any_more() -> None:
    few, many = cost_of_a_reference(FEW), cost_of_a_reference(MANY)
    assert max(many) <= max(few) * AT_MOST


def cost_of_a_service_of_a_cluster(count: int) -> int:
    catalog, sink = Catalog(SOURCE, Regions("r")), Remembering()
    catalog.sink = sink

    def known(number: int) -> None:
        key = ("shop", f"s{number}")
        catalog.want([key])
        assert not catalog.caught_up
        assert catalog.pending() == [key]
        catalog.read_service(key, Declared(Metadata(f"s{number}", "shop", resource_version="1")), Read(1))
        catalog.read_slices(key, {}, Read(1))
        catalog.flush(0.0)
        assert catalog.caught_up
        assert not catalog.pending()

    for number in range(count):
        known(number)
    sink.history.clear()  # it copies everything at every flush
    return instructions(lambda: known(count))


def test_a_cluster_reads_what_is_new_without_looking_at_the_rest() -> None:
    assert cost_of_a_service_of_a_cluster(MANY) <= cost_of_a_service_of_a_cluster(FEW) * AT_MOST


def cost_of_what_is_heard(count: int) -> int:
    """Of the first word of a service for which one backend waits, while others wait for theirs."""
    known = ServiceRef(SOURCE, "shop", "known")
    compiler = Compiler(endpoints=Endpoints(EndpointTables(None)))
    gateway = ObjectRef("files", "GatewaySpec", "platform", "edge")

    def edit(name: Callable[[int], str]) -> None:
        members = ({"cluster": "eu", "service": f"shop/{name(number)}", "port": 80} for number in range(count))
        backends = [{"name": f"b{at}", "members": [{"kubernetes": member}]} for at, member in enumerate(members)]
        spec = {"fleet": {"selector": {"matchLabels": {"role": "edge"}}}, "backends": backends}
        spec["listeners"] = [{"name": "http", "port": 80, "protocol": "HTTP"}]
        said = {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "GatewaySpec", "spec": spec}
        said["metadata"] = {"name": "edge", "namespace": "platform"}
        compiler.put(gateway, rows(gateway, KINDS["GatewaySpec"].model_validate(said)))
        compiler.commit_now()

    compiler.endpoints.put(known, Service(ports=(ServicePort("", 80),)))
    edit(lambda _: "known")
    edit("s{}".format)
    assert compiler.endpoints.commit() == {}, "all of them wait"
    used = instructions(lambda: compiler.endpoints.put(service(0), Service(ports=(ServicePort("", 80),))))
    assert len(compiler.endpoints.tables.graph.commit_now()["pools"]) == 1
    assert compiler.endpoints.is_used(service(1))
    assert not compiler.endpoints.is_used(service(count))
    return used


def test_who_waits_for_something_else_is_not_looked_at() -> None:
    assert cost_of_what_is_heard(MANY // 4) <= cost_of_what_is_heard(FEW) * AT_MOST
