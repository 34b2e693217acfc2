"""Several gateways on one proxy: merged, in conflict, moved and deleted while it is connected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.plane import Plane, answers, ask, forward, gateway, respond
from tests.support.certificates import authority
from tests.support.client import Connection, trusting
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.envoy


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        yield plane


def test_gateways_share_a_port_and_a_host_belongs_to_the_first(plane: Plane) -> None:
    port = free_port()
    first = gateway("aa", port=port, routes=[respond("main", "/", "aa", ["x.example"])])
    challenger = gateway(
        "bb", port=port, routes=[respond("main", "/", "bb", ["x.example"]), respond("own", "/", "own", ["b.example"])]
    )
    plane.write(first, file="a.yaml")
    plane.write(challenger, file="b.yaml")
    plane.start().ready().envoy().ready()
    until(lambda: answers(port, "aa", host="x.example"), "the incumbent answers")
    assert answers(port, "own", host="b.example")
    (problem,) = plane.problems()
    assert (problem["code"], problem["subject"], problem["line"]) == ("GW0213", "GatewaySpec platform/bb", 16)

    (plane.specs / "a.yaml").unlink()
    until(lambda: answers(port, "bb", host="x.example"), "the challenger takes over")
    assert plane.problems() == []
    plane.write(first, file="a.yaml")
    until(lambda: answers(port, "aa", host="x.example"), "the incumbent is back")
    assert answers(port, "own", host="b.example")


def test_a_host_goes_to_another_gateway_and_back_without_a_refused_request(plane: Plane) -> None:
    """The proxy's set of gateways changes each time: what it loses and what it gains are one publication."""
    port = free_port()
    first, second = (
        gateway(name, port=port, routes=[respond("main", "/", name, ["x.example"])]) for name in ("aa", "bb")
    )
    plane.write(second, file="b.yaml")
    plane.start().ready().envoy().ready()
    until(lambda: answers(port, "bb", host="x.example"), "the proxy answers")

    def asked(connection: Connection) -> None:
        assert connection.request("/", "x.example").status == 200

    with Load(lambda: Connection(port), asked) as load:
        for _ in range(5):
            plane.write(first, file="a.yaml")
            until(lambda: answers(port, "aa", host="x.example"), "the challenger yields")
            (plane.specs / "a.yaml").unlink()
            until(lambda: answers(port, "bb", host="x.example"), "the challenger has it again")
    assert load.failures == []


def test_a_host_goes_to_the_tls_of_an_older_gateway_without_a_refused_request(plane: Plane) -> None:
    """New connections come to either gateway; one that was opened for the host stays with the gateway that had it."""
    port, tls, host = free_port(), trusting(None), "x.a.test"

    def save(name: str, **certificates: list[str]) -> None:
        entries = [{"hosts": hosts, "certificate": {"secretRef": secret}} for secret, hosts in certificates.items()]
        listeners = [{"name": "in", "port": port, "protocol": "HTTPS", "tls": entries}]
        routes = [respond("main", "/", name, [host] if name == "younger" else [f"{name}.b.test", host])]
        plane.write(gateway(name, listeners=listeners, routes=routes), file=f"{name}.yaml")

    def ask() -> bytes:
        with Connection(port, tls, host) as connection:
            return connection.request("/", host).body

    def comes(_: Connection) -> None:
        assert ask() in {b"older", b"younger"}

    def stays(connection: Connection) -> None:
        assert connection.request("/", host).body == b"younger"

    secrets = [f"older-{number}" for number in range(4)]
    for name in (*secrets, "own", "younger"):
        authority().leaf("*.a.test").write(plane.secrets, name)
    save("younger", younger=["*.a.test"])
    save("older", own=["older.b.test"])
    plane.start().ready()
    plane.envoy().ready()
    for secret in secrets:
        until(lambda: ask() == b"younger", "the younger gateway has it")
        with Load(lambda: Connection(port, tls, host), comes, stays) as load:
            save("older", own=["older.b.test"], **{secret: [host]})
            until(lambda: ask() == b"older", "the older gateway has it")
            load.during(20)
        with Connection(port, tls, "y.a.test") as connection:
            assert connection.request("/", host).status == 421
        save("older", own=["older.b.test"])


@pytest.mark.parametrize(
    ("listener", "path"),
    [
        ({"address": "127.0.0.1"}, "address"),
        ({"clientIP": {"proxyProtocol": True}}, "clientIP"),
        ({"protocol": "HTTPS", "tls": [{"hosts": ["*"], "certificate": {"secretRef": "none"}}]}, "protocol"),
    ],
)
def test_a_listener_takes_nothing_from_the_gateway_that_was_there(
    plane: Plane, listener: dict[str, object], path: str
) -> None:
    """A more specific address would be asked first by the kernel: the challenger would have the incumbent's traffic."""
    port, other = free_port(), free_port()
    plane.write(gateway("aa", port=port), file="a.yaml")
    listeners = [
        {"name": "mine", "port": port, "protocol": "HTTP", **listener},
        {"name": "free", "port": other, "protocol": "HTTP"},
    ]
    plane.write(gateway("bb", listeners=listeners), file="b.yaml")
    plane.start().ready().envoy().ready()
    # A host that has a certificate redirects there from HTTP, though the certificate is missing.
    status = 308 if path == "protocol" else 200
    until(lambda: answers(other, status=status), "the challenger's other listener answers")
    assert answers(port, "aa")
    found = [one for one in plane.problems() if one["code"] == "GW0213"]
    assert f"spec.listeners[mine].{path}" in [one["path"] for one in found]
    assert plane.metric("controlplane_nacks") == 0


def test_a_node_follows_selectors_without_a_restart(plane: Plane) -> None:
    first, second = free_port(), free_port()
    plane.write(gateway("aa", port=first), file="a.yaml")
    plane.write(gateway("bb", port=second, role="other"), file="b.yaml")
    plane.start().ready().envoy().ready()
    until(lambda: answers(first, "aa"), "the node serves the first")
    assert not answers(second, "bb")

    plane.write(gateway("bb", port=second), file="b.yaml")
    until(lambda: answers(second, "bb"), "the node serves both")
    assert plane.json("/v1/nodes")["nodes"][0]["gateways"] == ["platform/aa", "platform/bb"]
    plane.write(gateway("aa", port=first, role="other"), file="a.yaml")
    until(lambda: not answers(first, "aa"), "the node drops the first")
    assert answers(second, "bb")
    (plane.specs / "b.yaml").unlink()
    until(lambda: not answers(second, "bb"), "the node drops the last")
    plane.write(gateway("aa", port=first), file="a.yaml")
    until(lambda: answers(first, "aa"), "the node serves the first again")


def test_two_proxies_with_one_node_id_are_both_served(plane: Plane) -> None:
    port = free_port()
    plane.write(gateway(port=port, role="x"))
    plane.start().ready()
    one, _two = plane.envoy("same"), plane.envoy("same")
    until(lambda: len(plane.json("/v1/nodes")["nodes"]) == 2, "both are connected")
    plane.write(gateway(port=port))
    until(lambda: len([n for n in plane.json("/v1/nodes")["nodes"] if n["settled"]]) == 2, "both have everything")
    said = "".join(plane.get(f"/v1/{path}")[1] for path in ("nodes", "nodes/status", "sources", "process"))
    assert not re.findall(r'"\w*_\w*":', said), "fields are written alike"
    one.stop()
    until(lambda: len(plane.json("/v1/nodes")["nodes"]) == 1, "one has left")
    plane.write(gateway(port=port, routes=[respond("main", "/", "after")]))
    until(lambda: answers(port, "after"), "the other is served")


def test_one_bad_route_answers_503_and_the_others_answer(plane: Plane) -> None:
    port = free_port()
    plane.write(gateway(port=port, routes=[respond("good", "/good", "good"), forward("bad", "/bad", "nobody")]))
    plane.start().ready().envoy().ready()
    until(lambda: answers(port, "good", "/good"), "the good route answers")
    assert ask(port, "/bad").status == 503
    assert ask(port, "/").status == 404
    (problem,) = plane.problems()
    assert problem["path"] == "spec.routes[bad].to[0].backend"


def test_a_refusal_by_an_envoy_is_reported_not_repeated_and_holds_up_nothing_else(plane: Plane) -> None:
    """The address belongs to no machine here, which only the proxy can know."""
    port, other = free_port(), free_port()
    bad = {"name": "bad", "port": port, "protocol": "HTTP", "address": "192.0.2.1"}
    good = {"name": "good", "port": other, "protocol": "HTTP"}
    plane.write(gateway(listeners=[bad, good]))
    plane.start().ready()
    plane.envoy()
    refusal = until(lambda: plane.said("nack"), "the refusal is logged")[0]
    assert (refusal["node"], refusal["type_url"]) == (
        "envoy-1",
        "type.googleapis.com/envoy.config.listener.v3.Listener",
    )
    assert f"192.0.2.1:{port}" in refusal["resources"]
    assert "cannot bind" in refusal["detail"]
    until(lambda: answers(other, "edge"), "the other listener answers")
    assert plane.metric('controlplane_nacks_total{type="Listener"}') == 1

    plane.write(gateway(listeners=[bad, good], routes=[respond("main", "/", "edited")]))
    until(lambda: answers(other, "edited"), "routes move on")
    assert plane.metric("controlplane_nacks_total") == 1
    (listeners,) = [one for one in plane.json("/v1/nodes")["nodes"][0]["types"] if one["type"] == "lds"]
    assert listeners["state"] == "nack"
    assert "cannot bind" in listeners["nack"]["detail"]
    assert [one["name"] for one in listeners["held"]] == [f"192.0.2.1:{port}"]
    (held,) = plane.json("/v1/nodes")["held"]
    assert held["refusedBy"] == ["envoy-1"]
    (problem,) = held["problems"]
    (said,) = plane.problems()
    assert said.pop("sinceSeconds") >= 0
    assert said == problem
    line = (plane.specs / "gateway.yaml").read_text().splitlines()[problem["line"] - 1]
    assert (problem["code"], problem["path"]) == ("GW0217", "spec.listeners[bad].address")
    assert line[problem["column"] - 1 :] == "192.0.2.1"
    (logged,) = plane.said("resource held back")
    assert logged["at"] == [f"{problem['file']}:{problem['line']}:{problem['column']}"]
    assert plane.metric('controlplane_held_resources{type="Listener"}') == 1

    plane.write(gateway(listeners=[good, {**bad, "address": "0.0.0.0"}], routes=[respond("main", "/", "fixed")]))
    until(lambda: answers(port, "fixed"), "the repaired listener answers")
    until(
        lambda: not any(one["nack"] for one in plane.json("/v1/nodes")["nodes"][0]["types"]), "nothing is refused now"
    )
    assert plane.json("/v1/nodes")["held"] == plane.problems() == []
    assert plane.metric("controlplane_held_resources") == 0


@contextmanager
def _moved(plane: Plane) -> Iterator[tuple[Connection, int]]:
    """A connection to a listener that has moved since, and the port where it is now."""
    port, other = free_port(), free_port()
    plane.write(gateway(port=port))
    plane.start().ready().envoy().ready()
    with Connection(port) as connection:
        assert connection.request("/", "x.example").body == b"edge"
        plane.write(gateway(port=other))
        until(lambda: answers(other, "edge"), "it has moved")
        yield connection, other


def test_connections_that_are_open_are_answered_when_their_listener_moves(plane: Plane) -> None:
    """Envoy drains them for ten minutes, and they know nothing of another port."""
    with _moved(plane) as (connection, other):
        plane.write(gateway(port=other, routes=[respond("main", "/", "edited")]))
        until(lambda: answers(other, "edited"), "routes move on")
        response = until(
            lambda: response if (response := connection.request("/", "x.example")).body != b"edge" else None,
            "here, too",
        )
        assert (response.status, response.body) == (200, b"edited")


def test_connections_that_are_drained_are_answered_when_their_gateway_gets_another_name(plane: Plane) -> None:
    """To proxies it is the same; they got 401 and then 500 for as long as they were open."""
    with _moved(plane) as (connection, other):
        plane.write(gateway("renamed", port=other))
        until(lambda: answers(other, "renamed"), "it has another name")
        for _ in range(50):
            response = connection.request("/", "x.example")
            assert (response.status, response.body in {b"edge", b"renamed"}) == (200, True)
        assert response.body == b"renamed"


def test_a_listener_that_no_proxy_takes_elsewhere_stays_where_it_was(plane: Plane) -> None:
    """An address that belongs to no machine here: the former one is open still, and has its routes."""
    port = free_port()
    plane.write(gateway(port=port))
    plane.start().ready().envoy().ready()
    moved = {"name": "http", "port": port, "protocol": "HTTP", "address": "192.0.2.1"}
    plane.write(gateway(listeners=[moved]))
    until(lambda: plane.said("resource held back"), "it is refused")
    plane.write(gateway(listeners=[moved], routes=[respond("main", "/", "edited")]))
    until(lambda: answers(port, "edited"), "routes move on")
