"""What is edited while no control plane is there, and requests flow to a proxy that is far away from the one that comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.plane import Plane, gateway, respond
from tests.support.certificates import authority, write_secret
from tests.support.client import Connection, Response, trusting
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.relay import Pace, Relay
from tests.support.tokens import key_set, rsa_key, token
from tests.support.waiting import until

pytestmark = pytest.mark.envoy


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        yield plane


class Away:
    """A control plane with one proxy; requests must be answered with 200 whatever is edited while it is away."""

    def __init__(self, plane: Plane, relay: Relay, connect: Any, host: str) -> None:
        self.plane = plane
        self.relay = relay
        self.body = b""
        self._host = host
        self._headers = {"authorization": f"Bearer {token()}"}
        self._connect = connect

    def load(self) -> Load:
        def asked(connection: Connection) -> None:
            answer = self._ask(connection)
            assert answer.status == 200, answer
            self.body = answer.body

        return Load(self._connect, asked)

    def serves(self, body: str) -> None:
        """Wait until a new connection is answered so."""

        def answered() -> bool:
            try:
                with self._connect() as connection:
                    return self._ask(connection).body == body.encode()
            except OSError:
                return False

        until(answered, f"it answers {body}")

    def _ask(self, connection: Connection) -> Response:
        return connection.request("/", self._host, headers=self._headers)

    def edit(self, load: Load, *documents: dict[str, Any]) -> None:
        """The process is killed, and another one finds these specs."""
        self.plane.kept()
        self.plane.kill()
        self.plane.write(*documents)
        load.during(20)
        self.plane.start().ready()


@pytest.fixture
def relay(plane: Plane) -> Iterator[Relay]:
    """What the control plane sends arrives later; it runs when the test has written its specs."""
    plane.write(gateway("nobody", role="nobody"), file="nobody.yaml")
    plane.start().ready()
    with Relay(int(plane.xds.rpartition(":")[2])) as relay:
        relay.slow_down(Pace(0.05))
        yield relay


def test_a_provider_and_a_gateway_are_renamed(plane: Plane, relay: Relay) -> None:
    """The filter comes before the routes, and knows what those name that the proxy still has."""
    port = free_port()
    write_secret(plane.secrets, "keys", {"jwks.json": key_set(rsa_key()).encode()})

    def spec(name: str, provider: str, body: str) -> dict[str, Any]:
        issuer = {"issuer": "https://id.example.com/", "audiences": ["shop-api"], "jwks": {"secretRef": "keys"}}
        route = respond("main", "/", body, auth={"anyOf": [{"jwt": provider}]})
        del route["public"]
        return gateway(name, port=port, routes=[route], identity={"jwt": [{"name": provider, **issuer}]})

    away = Away(plane, relay, lambda: Connection(port), "example.com")
    plane.write(spec("edge", "corp", "first"))
    plane.envoy(bootstrap=plane.bootstrap(through=relay.port)).ready()
    away.serves("first")
    with away.load() as load:
        away.edit(load, spec("edge", "other", "second"))
        away.serves("second")
        away.edit(load, spec("shop", "other", "third"))
        away.serves("third")
        assert plane.problems() == []


def test_a_certificate_is_renamed_and_open_connections_live_on(plane: Plane, relay: Relay) -> None:
    """The proxy drains the connections of the filter chain that it had, which need routes until they end."""
    port = free_port()
    for name in ("one", "two"):
        authority().leaf("tls.example.com").write(plane.secrets, name)

    def spec(certificate: str, body: str) -> dict[str, Any]:
        tls = [{"hosts": ["tls.example.com"], "certificate": {"secretRef": certificate}}]
        listener = {"name": "https", "port": port, "protocol": "HTTPS", "tls": tls}
        return gateway(listeners=[listener], routes=[respond("main", "/", body, ["tls.example.com"])])

    def connect() -> Connection:
        return Connection(port, trusting(authority().pem), "tls.example.com")

    away = Away(plane, relay, connect, "tls.example.com")
    plane.write(spec("one", "first"))
    plane.envoy(bootstrap=plane.bootstrap(through=relay.port)).ready()
    away.serves("first")
    with away.load() as load:
        away.edit(load, spec("two", "second"))
        away.serves("second")
        until(lambda: away.body == b"second", "the connection that was open before is answered like new ones")
