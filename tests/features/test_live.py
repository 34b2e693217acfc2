"""Edits while requests flow: what a user saves is served, and nothing else notices."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from controlplane.compile.hosts import MAX_FLOATING
from tests.features.conftest import Backends
from tests.support.backends import HttpBackend
from tests.support.certificates import Pair, authority, serving, write_secret
from tests.support.client import Connection, Http2, Response, Upgrade, dial, trusting
from tests.support.controlplane import ControlPlane
from tests.support.edge import filled, gateway_text
from tests.support.envoy import Envoy
from tests.support.load import Load, answers
from tests.support.ports import free_port
from tests.support.tokens import key_set, rsa_key, token
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

GATEWAY = gateway_text("""
  listeners:
    - {name: http, port: @http@, protocol: HTTP}
    - {name: https, port: @https@, protocol: HTTPS, tls: [{hosts: [tls.example.com], certificate: {secretRef: tls}}]}
  identity:
    jwt:
      - {name: corp, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {secretRef: keys}}
  policies:
    - {name: flood, rateLimit: {local: [{requests: 1, per: hour}]}}
  backends:
    - {name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: two, members: [{static: {address: 127.0.0.1, port: @two@}}]}
  routes:
    - {name: steady, hosts: [steady.example.com], match: [{path: {prefix: /}}], public: true, websocket: true, to: [{backend: one}]}
    - {name: members, hosts: [steady.example.com], match: [{path: {prefix: /members}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: edited, hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
    - {name: secure, hosts: [tls.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
""")


class Live:
    """A control plane with one Envoy, and the spec that tests edit."""

    def __init__(self, plane: ControlPlane, ports: dict[str, int]) -> None:
        self.plane = plane
        self.mark = 0
        self.ports = {**ports, "http": free_port(), "https": free_port()}
        authority().leaf("tls.example.com").write(plane.secrets, "tls")
        write_secret(plane.secrets, "keys", {"jwks.json": key_set(rsa_key()).encode()})
        self.save()
        plane.start()
        self.envoy: Envoy = plane.envoy()

    def save(self, *edits: tuple[str, str]) -> None:
        """The spec with these texts replaced."""
        text = GATEWAY
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        self.plane.write("shop.yaml", filled(text, self.ports))

    def connect(self) -> Connection:
        return Connection(self.ports["http"])

    def ask(self, path: str = "/", host: str = "edited.example.com", **headers: str) -> Response:
        with self.connect() as connection:
            return connection.request(path, host, headers=headers)

    def becomes(
        self, check: Callable[[Response], bool], what: str, path: str = "/", host: str = "edited.example.com"
    ) -> None:
        """Wait until an answer passes the check."""
        until(lambda: check(self.ask(path, host)), what)

    def listener_version(self) -> str:
        """The version of the HTTP listener that Envoy has, and since when."""
        listeners = self.envoy.config_dump("dynamic_listeners")["configs"]
        name = f"0.0.0.0:{self.ports['http']}"
        state = next(one["active_state"] for one in listeners if one["name"] == name)
        return f"{state['version_info']} {state['last_updated']}"

    def shown(self) -> int | None:
        """The serial number of the certificate that a client gets, or None."""
        try:
            with dial(self.ports["https"], trusting(None), "tls.example.com") as connection:
                assert isinstance(connection, ssl.SSLSocket)
                found = connection.getpeercert(binary_form=True)
                return x509.load_der_x509_certificate(found).serial_number if found else None
        except OSError:
            return None


@pytest.fixture(scope="module")
def _live(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with ControlPlane(tmp_path_factory.mktemp("live")) as plane:
        live = Live(plane, ports)
        with live.envoy:
            yield live


MARK = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: mark, namespace: platform}
spec:
  gateway: platform/shop
  routes:
    - {name: mark, hosts: [mark.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: "@mark@"}}
"""


@pytest.fixture
def live(_live: Live, backends: Backends) -> Live:
    """The shared control plane, with the spec that it begins with; whatever the test before has written is served."""
    write_secret(_live.plane.secrets, "keys", {"jwks.json": key_set(rsa_key()).encode()})
    _live.save()
    _live.mark += 1
    _live.plane.write("mark.yaml", filled(MARK, {"mark": _live.mark}))
    mark = str(_live.mark).encode()
    _live.becomes(lambda answer: answer.body == mark, "everything before is served", host="mark.example.com")
    until(lambda: _live.ask("/members", "steady.example.com", authorization=f"Bearer {token()}").status == 200, "keys")
    return _live


def steady(live: Live) -> Load:
    """Requests to a host that no test edits, on one and on two segments."""
    good = f"Bearer {token()}"

    def member(connection: Connection) -> None:
        answer = connection.request("/members", "steady.example.com", headers={"authorization": good})
        assert answer.status == 200, answer

    return Load(live.connect, answers("/", "steady.example.com", check=lambda answer: answer.backend == "one"), member)


def test_a_route_is_edited(live: Live) -> None:
    edited = (
        "name: edited, hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]"
    )
    with steady(live):
        for number in range(5):
            live.save((edited, edited.replace("to: [{backend: one}]", f"respond: {{status: 200, body: v{number}}}")))
            live.becomes(lambda answer, number=number: answer.body == b"v%d" % number, "the edit")  # type: ignore[misc]


def test_a_host_becomes_crowded_and_ceases_to_be(live: Live) -> None:
    """All its shards become one table, and come back: the requests that they served in the meantime notice nothing."""
    floating = "".join(
        f'    - {{name: f{number}, hosts: [steady.example.com], match: [{{path: {{regex: "/.*[.]f{number}"}}}}],'
        f" public: true, respond: {{status: 200, body: f{number}}}}}\n"
        for number in range(MAX_FLOATING + 1)
    )
    last = b"f%d" % MAX_FLOATING
    with steady(live):
        for _ in range(2):
            live.save(("  routes:\n", f"  routes:\n{floating}"))
            live.becomes(
                lambda answer: answer.body == last, "crowded", f"/members/x.{last.decode()}", "steady.example.com"
            )
            assert live.ask("/members/x", "steady.example.com").status == 401
            live.save()
            live.becomes(
                lambda answer: answer.status == 401, "as before", f"/members/x.{last.decode()}", "steady.example.com"
            )


def test_traffic_moves_to_another_backend(live: Live) -> None:
    """The edited route itself answers 200 throughout: make before break."""
    either = answers("/", "edited.example.com", check=lambda answer: answer.backend in {"one", "two"})
    with Load(live.connect, either, either):
        for target in ("two", "one", "two"):
            live.save(
                (
                    "hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]",
                    f"hosts: [edited.example.com], match: [{{path: {{prefix: /}}}}], public: true, to: [{{backend: {target}}}]",
                )
            )
            live.becomes(lambda answer, name=target: answer.backend == name, f"backend {target}")  # type: ignore[misc]


def test_a_backend_that_is_new_and_one_that_goes(live: Live) -> None:
    """Cluster, endpoints and route come in one save, and leave in another."""
    new = "    - {name: new, loadBalancer: {policy: random}, members: [{static: {address: 127.0.0.1, port: @two@}}]}\n  routes:\n"
    either = answers("/", "edited.example.com", check=lambda answer: answer.backend in {"one", "two"})
    with Load(live.connect, either, either):
        for _ in range(3):
            live.save(
                ("  routes:\n", new),
                (
                    "hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]",
                    "hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: new}]",
                ),
            )
            live.becomes(lambda answer: answer.backend == "two", "the new backend")
            live.save()
            live.becomes(lambda answer: answer.backend == "one", "the old backend")


def test_endpoints_of_a_backend_change(live: Live) -> None:
    member = "{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}"
    either = answers("/", "edited.example.com", check=lambda answer: answer.backend in {"one", "two"})
    with Load(live.connect, either, either):
        for port in ("two", "one", "two"):
            live.save((member, member.replace("@one@", f"@{port}@")))
            live.becomes(lambda answer, name=port: answer.backend == name, f"endpoint {port}")  # type: ignore[misc]


def test_a_backend_moves_and_speaks_tls_in_one_save(live: Live, tmp_path: Path) -> None:
    """Cluster and endpoints are two resources: no endpoint hears what was meant for the former ones, nor the reverse."""
    write_secret(live.plane.secrets, "internal", {"ca.crt": authority().pem})
    edited = "hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]"
    routed = (edited, edited.replace("one", "two"))
    former = "{name: two, members: [{static: {address: 127.0.0.1, port: @two@}}]}"
    either = answers("/", "edited.example.com", check=lambda answer: answer.backend in {"two", "secure"})
    live.save(routed)
    live.becomes(lambda answer: answer.backend == "two", "the backend that will move")
    with HttpBackend("secure", serving(tmp_path, authority().leaf("secure.internal"))) as secure:
        tls = f"port: {secure.port}}}}}], tls: {{sni: secure.internal, ca: {{secretRef: internal}}}}}}"
        with Load(live.connect, *[either] * 3) as load:
            for _ in range(5):
                live.save(routed, (former, former.replace("port: @two@}}]}", tls)))
                live.becomes(lambda answer: answer.backend == "secure", "the other endpoint")
                load.during(20)
                live.save(routed)
                live.becomes(lambda answer: answer.backend == "two", "the former endpoint")


def test_a_certificate_rotates(live: Live) -> None:
    """New connections get the new one, open connections live on, and none fails."""
    trust = trusting(authority().pem)

    def connect() -> Connection:
        return Connection(live.ports["https"], trust, "tls.example.com")

    def anew(_: Connection) -> None:
        with connect() as connection:
            assert connection.request("/", "tls.example.com").status == 200

    with Load(connect, answers("/", "tls.example.com"), anew), steady(live):
        for _ in range(2):
            pair: Pair = authority().leaf("tls.example.com")
            pair.write(live.plane.secrets, "tls")
            until(lambda serial=pair.serial: live.shown() == serial, "the new certificate")  # type: ignore[misc]


def test_a_certificate_gets_another_name_and_open_connections_live_on(live: Live) -> None:
    """Another filter chain: Envoy drains the old one, and what comes on its connections is answered until they end."""
    authority().leaf("tls.example.com").write(live.plane.secrets, "other")
    trust = trusting(authority().pem)

    def connect() -> Connection:
        return Connection(live.ports["https"], trust, "tls.example.com")

    def anew(_: Connection) -> None:
        with connect() as connection:
            assert connection.request("/", "tls.example.com").status == 200

    with Load(connect, answers("/", "tls.example.com"), anew) as load, connect() as before:
        assert before.request("/", "tls.example.com").status == 200
        first = live.shown()
        live.save(("{secretRef: tls}", "{secretRef: other}"))
        until(lambda: live.shown() not in {first, None}, "the other certificate")
        load.during(40)
        assert before.request("/", "tls.example.com").status == 200


def test_a_listener_and_a_gateway_get_other_names_and_a_host_another_gateway(live: Live) -> None:
    """Each time the host has another filter chain; connections that were open before are answered until they end."""
    trust = trusting(authority().pem)

    def connect() -> Connection:
        return Connection(live.ports["https"], trust, "tls.example.com")

    def anew(_: Connection) -> None:
        with connect() as connection:
            assert connection.request("/", "tls.example.com").status == 200

    edits = [
        [("name: https,", "name: web,")],
        [("metadata: {name: shop,", "metadata: {name: store,")],
        [("metadata: {name: shop,", "metadata: {name: mall,"), ("name: https,", "name: web,")],
        [],
    ]
    with Load(connect, answers("/", "tls.example.com"), anew) as load:
        for number, edit in enumerate(edits):
            with connect() as before:
                assert before.request("/", "tls.example.com").status == 200
                live.save(
                    *edit,
                    (
                        "{path: {prefix: /}}], public: true, to: [{backend: one}]}\n",
                        f"{{path: {{prefix: /}}}}], public: true, transform: {{response: {{headers: {{set: {{x-number: number-{number}}}}}}}}}, to: [{{backend: one}}]}}\n",
                    ),
                )
                live.becomes(
                    lambda answer, number=number: answer.header("x-number") == f"number-{number}", "the edit is served"
                )  # type: ignore[misc]
                load.during(40)
                assert before.request("/", "tls.example.com").status == 200


def test_a_certificate_is_added_to_the_listener(live: Live, backends: Backends) -> None:
    """Another filter chain: those that are there keep their connections."""
    authority().leaf("more.example.com").write(live.plane.secrets, "more")
    entry = "{hosts: [tls.example.com], certificate: {secretRef: tls}}"
    trust = trusting(authority().pem, "h2")
    with (
        steady(live),
        Http2(live.ports["https"], trust, "tls.example.com") as open_before,
    ):
        assert open_before.request("/", "tls.example.com").status == 200
        live.save((entry, f"{entry}, {{hosts: [more.example.com], certificate: {{secretRef: more}}}}"))

        def serves() -> bool:
            try:
                with Connection(live.ports["https"], trusting(authority().pem), "more.example.com") as connection:
                    return connection.request("/", "more.example.com").status == 404
            except OSError:
                return False

        until(serves, "the new certificate's host")
        assert open_before.request("/", "tls.example.com").status == 200
        assert not open_before.going_away


def test_a_policy_of_the_listener_reaches_open_connections(live: Live) -> None:
    """The limit holds on connections that were open before; the listener itself does not change."""
    before = live.listener_version()
    with live.connect() as connection:
        assert connection.request("/", "edited.example.com").status == 200
        live.save(("port: @http@, protocol: HTTP", "port: @http@, protocol: HTTP, use: [flood]"))
        until(lambda: connection.request("/", "edited.example.com").status == 429, "the limit")
        live.save()
        until(lambda: connection.request("/", "edited.example.com").status == 200, "the limit is gone")
    assert live.listener_version() == before


PROVIDER = """\
      - {name: more, issuer: "https://more.example.com/", audiences: [shop-api], jwks: {inline: '@KEYS@'}, claimsToHeaders: {sub: x-more}}
  policies:
"""


def test_streams_survive_a_new_provider_and_rotated_keys(live: Live, backends: Backends) -> None:
    """A WebSocket, an HTTP/2 connection and an open HTTP/2 stream live on; the new keys are in force all the same."""
    with (
        Upgrade(live.ports["http"], "/socket", "steady.example.com") as socket,
        Http2(live.ports["http"]) as http2,
    ):
        assert socket.say("one") == "one: one"
        upload = http2.open("/upload", "steady.example.com", "POST", end=False)
        http2.send(upload, b"a")

        provider = PROVIDER.replace("@KEYS@", key_set(rsa_key("more")))
        route = "{name: more, hosts: [edited.example.com], match: [{path: {prefix: /more}}], auth: {anyOf: [{jwt: more}]}, to: [{backend: one}]}"
        live.save(("  policies:\n", provider), ("  routes:\n", f"  routes:\n    - {route}\n"))
        more = f"Bearer {token(rsa_key('more'), iss='https://more.example.com/')}"
        live.becomes(lambda answer: answer.status == 401, "the new route", "/more")
        until(lambda: live.ask("/more", authorization=more).status == 200, "the new provider")
        assert http2.request("/more", "edited.example.com").status == 401
        assert http2.request("/more", "edited.example.com", headers={"authorization": more}).status == 200

        write_secret(live.plane.secrets, "keys", {"jwks.json": key_set(rsa_key("rotated")).encode()})
        rotated = f"Bearer {token(rsa_key('rotated'))}"
        members = "/members", "steady.example.com"
        until(lambda: live.ask(*members, authorization=rotated).status == 200, "the rotated keys")
        assert live.ask(*members, authorization=f"Bearer {token()}").status == 401
        assert http2.request(*members, headers={"authorization": rotated}).status == 200

        assert socket.say("two") == "one: two"
        http2.send(upload, b"b", end=True)
        assert http2.answer(upload).json()["body"] == "ab"
        assert not http2.going_away


def test_a_provider_and_a_gateway_are_renamed_without_a_refused_request(live: Live) -> None:
    """Routes and filter are two resources: the filter knows what routes name, until no proxy has those routes."""
    authorization = f"Bearer {token()}"

    def asked(connection: Connection) -> None:
        answer = connection.request("/members", "steady.example.com", headers={"authorization": authorization})
        assert answer.status == 200, answer

    with Load(lambda: Connection(live.ports["http"]), asked) as load:
        for number in range(6):
            live.save(("name: corp,", f"name: corp{number},"), ("{jwt: corp}", f"{{jwt: corp{number}}}"))
            load.during(40)
            live.save((" shop,", f" shop{number},"))
            load.during(40)


BROKEN = {
    "spec: [": ["7:3 GW0005"],
    "kind: GatewaySpec\n": ["4:1 GW0006", "8:3 GW0005"],
    "": ["7:3 GW0005"],
    "\tx": ["4:1 GW0013"],
}
"""What stands where `spec:` was, and what is said of it."""


def test_a_broken_save_changes_nothing_and_says_why(ports: dict[str, int], backends: Backends, tmp_path: Path) -> None:
    """Nothing at all is published, on a control plane where no edit before goes on: what was kept leaves when it may."""
    shown = "/v1/gateways/platform/shop/snapshot"
    with ControlPlane(tmp_path / "plane") as plane:
        live = Live(plane, ports)

        def said() -> list[str]:
            found = plane.json("/v1/problems")["problems"]
            assert all(one["file"].endswith("/shop.yaml") for one in found)
            return [f"{one['line']}:{one['column']} {one['code']}" for one in found]

        with live.envoy, steady(live) as load:
            before = plane.json(shown)
            for broken, problems in BROKEN.items():
                text = GATEWAY.replace("spec:\n", f"{broken}\nnonsense: {{\n", 1)
                plane.write("shop.yaml", filled(text, live.ports))
                until(lambda problems=problems: said() == problems, f"problems of {broken!r}")  # type: ignore[misc]
                load.during(30)
            assert live.ask().backend == "one"
            assert plane.json(shown) == before, "the sequence number is that of before, too"


def test_one_bad_route_is_disabled_alone(live: Live) -> None:
    with steady(live):
        live.save(
            (
                "name: edited, hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]",
                "name: edited, hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: oen}]",
            )
        )
        live.becomes(lambda answer: answer.status == 503, "the bad route is disabled")


def test_a_deleted_document_takes_its_routes_along(live: Live) -> None:
    live.plane.write(
        "team.yaml",
        """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: team, namespace: platform}
spec:
  gateway: platform/shop
  routes:
    - {name: new, hosts: [team.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: team}}
""",
    )
    with steady(live):
        live.becomes(lambda answer: answer.body == b"team", "the new document", host="team.example.com")
        live.plane.remove("team.yaml")
        live.becomes(lambda answer: answer.status == 404, "its end", host="team.example.com")


def test_a_secret_that_is_missing_holds_back_its_backend_alone(live: Live) -> None:
    """Envoy waits for secrets; what waits must not be the rest of the configuration."""
    backend = "    - {name: secure, tls: {sni: a.example.com, ca: {secretRef: later}}, members: [{static: {address: 127.0.0.1, port: @one@}}]}\n"
    route = "    - {name: to-secure, hosts: [edited.example.com], match: [{path: {prefix: /secure}}], public: true, to: [{backend: secure}]}\n"
    other = "    - {name: other, hosts: [other.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: two}]}\n"
    live.save(("  routes:\n", f"{backend}  routes:\n{route}{other}"))
    live.becomes(lambda answer: answer.backend == "two", "the rest of the same save", host="other.example.com")
    assert live.ask("/secure").status == 503
    with live.plane.envoy("edge-2") as second:
        assert second.admin("/ready").strip() == "LIVE", "a new proxy does not wait for it either"
    assert "platform/later" in live.plane.get("/v1/problems")[1]


def test_after_a_crash_without_readable_specs_the_last_good_state_is_served(
    ports: dict[str, int], backends: Backends, tmp_path: Path
) -> None:
    with ControlPlane(tmp_path / "plane") as plane:
        live = Live(plane, ports)
        with live.envoy:
            live.becomes(lambda answer: answer.backend == "one", "the first answer")
            with steady(live) as load:
                plane.stop(signal.SIGKILL)
                load.during(30)
                (plane.specs / "shop.yaml").write_text("spec: [")
                plane.start()
                load.during(30)
            with plane.envoy("edge-2") as second:
                assert second.admin("/ready").strip() == "LIVE"
            live.save(
                (
                    "hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]",
                    "hosts: [edited.example.com], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: repaired}",
                )
            )
            live.becomes(lambda answer: answer.body == b"repaired", "the repaired spec")
