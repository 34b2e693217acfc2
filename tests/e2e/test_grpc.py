"""Real gRPC without a proxy: `xds:///` clients and xDS-enabled servers of the C core (grpcio) and of Go."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from controlplane.names import backend_of
from controlplane.pki.authority import Authority
from tests.e2e.commands import controlplane
from tests.e2e.plane import Plane, forward, gateway, static
from tests.support.ports import free_port
from tests.support.proxyless import Answer, Backend, Client, server
from tests.support.tokens import ec_key, key_set
from tests.support.waiting import PATIENCE, until

HOST = "shop.example.com"
HOSTS = (HOST,)
Metadata = tuple[tuple[str, str], ...]


def bootstrap(plane: Plane, node: str = "till-1", *, role: str = "edge", backend_ca: Path | None = None) -> Path:
    """What `controlplane bootstrap --grpc` prints, as a file."""
    folder = plane.folder / node
    command = ["bootstrap", "--grpc", "--state", str(plane.state), "--xds", plane.xds, "--node-id", node]
    command += ["--node-cluster", "tills", "--label", f"role={role}"]
    command += ["--insecure"] if plane.insecure else ["--certificates", str(folder)]
    command += ["--backend-ca", str(backend_ca)] if backend_ca else []
    done = controlplane(*command)
    assert done.returncode == 0, done.stderr
    file = plane.folder / f"{node}.json"
    file.write_text(done.stdout)
    return file


def route(name: str, prefix: str, backend: str = "one", **more: Any) -> dict[str, Any]:
    return forward(name, prefix, backend, HOSTS, **more)


def grpc_backend(name: str, *ports: int, **more: Any) -> dict[str, Any]:
    return static(name, *ports, protocol="GRPC", **more)


def withheld(answer: Answer) -> bool:
    said = ("Matching route has inappropriate action", "matched route does not have a supported route action type")
    return answer.code == "UNAVAILABLE" and answer.text.endswith(said)


def serve(plane: Plane, document: dict[str, Any]) -> None:
    """Save the one gateway, and wait until it is served."""
    plane.write(document)
    plane.barrier()


def unrefused(plane: Plane) -> None:
    """Nothing that was sent was refused, and everything was taken over."""

    def settled() -> bool:
        types = [one for node in plane.json("/v1/nodes")["nodes"] for one in node["types"]]
        return all(one["state"] == "synced" for one in types)

    assert not plane.said("nack")
    until(settled, "every type is acknowledged")


@pytest.fixture(scope="module", params=[True, False], ids=["insecure", "mutual TLS"])
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("grpc"), insecure=request.param) as plane:
        plane.write(gateway())
        yield plane.start().ready()


@pytest.fixture(scope="module")
def backends() -> Iterator[tuple[Backend, Backend]]:
    with Backend("one") as one, Backend("two") as two:
        yield one, two


@pytest.fixture
def write(plane: Plane, backends: tuple[Backend, Backend]) -> Callable[..., None]:
    """Save a gateway with these routes and two backends, and wait until it is served."""

    def write(*routes: dict[str, Any], **more: Any) -> None:
        one, two = backends
        made = {"backends": [grpc_backend("one", one.port), grpc_backend("two", two.port)], **more}
        serve(plane, gateway(routes=routes, **made))

    return write


families = pytest.mark.parametrize("go", [False, True], ids=["C core", "Go"])


@pytest.fixture(params=[False, True], ids=["C core", "Go"])
def client(request: pytest.FixtureRequest, plane: Plane) -> Iterator[Client]:
    with Client(bootstrap(plane), go=request.param) as client:
        yield client


@pytest.mark.parametrize("target", [HOST, f"{HOST}:10080"])
def test_a_client_calls_the_backend_of_its_route(
    plane: Plane, write: Callable[..., None], client: Client, target: str
) -> None:
    write(route("all", "/"), route("two", "/two.Two", "two"))
    assert client.call(target).text == "one"
    assert client.call(target, "/two.Two/Call").text == "two"
    assert client.call(target, "/two.TwoX/Call").text == "one"
    [node] = [one for one in plane.json("/v1/nodes")["nodes"] if one["id"] == "till-1"]
    assert (node["client"], node["variant"], node["gateways"]) == ("grpc", "sotw", ["platform/edge"])
    unrefused(plane)


def test_weights_divide_calls(plane: Plane, write: Callable[..., None], client: Client) -> None:
    write(route("all", "/", to=[{"backend": "one", "weight": 3}, {"backend": "two", "weight": 1}]))
    found = client.count(HOST, 400)
    assert 60 < found["two"] < 140  # 100 ± 4.6 standard deviations
    unrefused(plane)


def test_weights_of_members_divide_calls(
    plane: Plane, write: Callable[..., None], client: Client, backends: tuple[Backend, Backend]
) -> None:
    members = [
        {"static": {"address": "127.0.0.1", "port": backend.port}, "weight": weight}
        for backend, weight in zip(backends, (1, 4), strict=True)
    ]
    write(route("all", "/"), backends=[{"name": "one", "protocol": "GRPC", "members": members}])
    until(lambda: set(client.count(HOST, 20)) == {"one", "two"}, "both are connected")
    found = client.count(HOST, 400)
    assert 280 < found["two"] < 360  # 320 ± 5 standard deviations
    unrefused(plane)


def test_headers_choose(plane: Plane, write: Callable[..., None], client: Client) -> None:
    def match(**condition: Any) -> list[dict[str, Any]]:
        return [{"path": {"prefix": "/"}, "headers": [{"name": "x-color", **condition}]}]

    write(
        route("all", "/"),
        route("red", "/", "two", match=match(exact="red")),
        route("dark", "/", "two", match=match(regex="dark-[a-z]+")),
    )
    found = {
        color: client.call(HOST, metadata=[("x-color", color)]).text for color in ("red", "blue", "dark-blue", "dark-")
    }
    assert found == {"red": "two", "blue": "one", "dark-blue": "two", "dark-": "one"}
    write(
        route("red", "/", "one", match=match(exact="red")),
        route("rest", "/", "two", match=match(exact="red", invert=True)),
    )
    until(lambda: client.call(HOST).text == "two", "not red holds without the header")
    assert client.call(HOST, metadata=[("x-color", "red")]).text == "one"
    assert client.call(HOST, metadata=[("x-color", "blue")]).text == "two"
    unrefused(plane)


def test_templates_and_regexes_match_whole_paths(plane: Plane, write: Callable[..., None], client: Client) -> None:
    write(
        route("all", "/"),
        route("template", "/", "two", match=[{"path": {"template": "/{service}/Two"}}]),
        route("regex", "/", "two", match=[{"path": {"regex": "/[a-z]+[.]Re/.*"}}]),
    )
    found = {path: client.call(HOST, path).text for path in ("/a.A/Two", "/a.A/TwoX", "/a.Re/B", "/x/a.Re/B")}
    assert found == {"/a.A/Two": "two", "/a.A/TwoX": "one", "/a.Re/B": "two", "/x/a.Re/B": "one"}
    unrefused(plane)


def test_a_timeout_ends_a_call_and_never_early(plane: Plane, write: Callable[..., None], client: Client) -> None:
    """The C core ends calls up to 2 s early."""
    write(route("all", "/", timeouts={"request": "3s"}))
    assert client.call(HOST).ok
    answer = client.call(HOST, "/a.A/Slow")
    assert answer.code == "DEADLINE_EXCEEDED"
    assert 2.95 < answer.seconds < PATIENCE / 2, "by the timeout of the route"
    assert client.call(HOST).ok
    unrefused(plane)


def test_calls_are_retried(
    plane: Plane, write: Callable[..., None], client: Client, backends: tuple[Backend, Backend]
) -> None:
    write(route("all", "/"), route("again", "/r.R", retry={"attempts": 2, "when": ["unavailable"]}))
    until(lambda: client.call(HOST, "/a.A/Busy").code == "UNAVAILABLE", "once is too little")
    backends[0].calls.clear()
    assert client.call(HOST, "/r.R/Busy").ok
    assert backends[0].calls["/r.R/Busy"] == 3
    unrefused(plane)


def test_endpoints_change_while_calls_go_on(
    plane: Plane, write: Callable[..., None], client: Client, backends: tuple[Backend, Backend]
) -> None:
    one, two = backends
    write(route("all", "/"))
    assert client.count(HOST, 20) == {"one": 20}
    write(route("all", "/"), backends=[grpc_backend("one", two.port)])
    until(lambda: client.count(HOST, 5) == {"two": 5}, "calls go to the new endpoint")
    write(route("all", "/"), backends=[grpc_backend("one", one.port, two.port)])
    until(lambda: set(client.count(HOST, 20)) == {"one", "two"}, "calls go to both")
    unrefused(plane)


def test_routes_move_while_calls_go_on(plane: Plane, write: Callable[..., None], client: Client) -> None:
    """To a cluster that the client did not have, and away from one that is deleted with the edit."""
    write(route("all", "/"))
    assert client.call(HOST).text == "one"
    write(route("all", "/", "new"), backends=[grpc_backend("new", *_ports(plane, "two"))])
    until(lambda: client.count(HOST, 5) == {"two": 5}, "calls go to the new backend")
    unrefused(plane)


def test_a_backend_that_is_known_before_calls_move_to_it_loses_none(
    plane: Plane, write: Callable[..., None], client: Client
) -> None:
    """Else Go loses some: it follows routes a moment before its balancer has their clusters."""
    trial = [{"path": {"prefix": "/"}, "headers": [{"name": "x-trial", "exact": "yes"}]}]
    for here, there in (("one", "two"), ("two", "one")) * 5:
        write(route("all", "/", here), route("trial", "/", there, match=trial))
        until(lambda there=there: client.call(HOST, metadata=[("x-trial", "yes")]).text == there, "it is known")  # type: ignore[misc]
        plane.write(gateway(routes=[route("all", "/", there)], backends=_backends(plane)))
        until(lambda there=there: client.count(HOST, 50) == {there: 50}, "calls have moved, and none failed")  # type: ignore[misc]
    unrefused(plane)


def _backends(plane: Plane) -> list[dict[str, Any]]:
    return [grpc_backend(name, *_ports(plane, name)) for name in ("one", "two")]


def _ports(plane: Plane, backend: str) -> list[int]:
    """Where a backend of the gateway is."""
    found = plane.json("/v1/gateways/platform/edge/snapshot?client=grpc&type=eds&bodies=1")["resources"]["eds"]
    [body] = [one["body"] for one in found if backend_of(one["name"]) == backend]
    return [
        endpoint["endpoint"]["address"]["socket_address"]["port_value"]
        for locality in body["endpoints"]
        for endpoint in locality["lb_endpoints"]
    ]


LIMIT = {"name": "limit", "rateLimit": {"local": [{"requests": 1000, "per": "second"}]}}
CORP: dict[str, list[dict[str, Any]]] = {
    "jwt": [{"name": "corp", "issuer": "i", "audiences": ["a"], "jwks": {"inline": key_set(ec_key())}}]
}


def test_a_withheld_route_fails_and_no_broader_one_takes_its_calls(
    plane: Plane, write: Callable[..., None], client: Client, backends: tuple[Backend, Backend]
) -> None:
    guarded = route("guarded", "/pay.Pay")
    del guarded["public"]
    limited, moved = route("limited", "/l.L", use=["limit"]), route("moved", "/m.M", redirect={"host": "a.test"})
    del moved["to"]
    old = route("old", "/o.O", "old")
    write(
        route("all", "/"), {**guarded, "auth": {"anyOf": [{"jwt": "corp"}]}}, limited, moved, old,
        identity=CORP, policies=[LIMIT],
        backends=[grpc_backend("one", backends[0].port), static("old", backends[0].port)],
    )  # fmt: skip
    backends[0].calls.clear()
    until(lambda: withheld(client.call(HOST, "/pay.Pay/Do")), "the guarded route is withheld")
    for method in ("/pay.Pay/Do", "/pay.Pay/Do/more", "/pay.Pay", "/l.L/Do", "/m.M/Do", "/o.O/Do"):
        assert withheld(client.call(HOST, method)), method
    assert client.call(HOST, "/pay.PayX/Do").text == "one"
    assert backends[0].calls == {"/pay.PayX/Do": 1}
    said = {one["path"]: one for one in plane.problems("warning") if one["code"] == "GW0225"}
    assert {path.partition("[")[2] for path in said} == {"guarded].auth", "limited].use", "moved].redirect", "old].to"}
    assert all(one["file"].endswith("gateway.yaml") and one["line"] for one in said.values())
    found = plane.json("/v1/gateways/platform/edge/snapshot?client=grpc&type=rds&bodies=1")["resources"]["rds"]
    assert '"withheld": ["gRPC clients do not authenticate callers"]' in json.dumps(found)
    # Made public, it is served again, without a restart.
    write(route("all", "/"), route("guarded", "/pay.Pay", "two"))
    until(lambda: client.call(HOST, "/pay.Pay/Do").text == "two", "the route is served")
    unrefused(plane)
    assert not [one for one in plane.problems("warning") if one["code"] == "GW0225"]


def test_an_envoy_of_the_same_gateway_is_told_nothing_of_grpc(plane: Plane, write: Callable[..., None]) -> None:
    """Both families see the same gateway, each its own part of the snapshot."""
    write(route("all", "/"))
    names = {
        family: [one["name"] for one in plane.json(f"/v1/gateways/platform/edge/snapshot?{query}")["resources"]["lds"]]
        for family, query in {"envoy": "client=envoy", "default": "", "grpc": "client=grpc"}.items()
    }
    assert names["default"] == names["envoy"] == ["0.0.0.0:10080"]
    assert HOST in names["grpc"]
    assert plane.get("/v1/gateways/platform/edge/snapshot?client=nginx")[0] == 400


@families
def test_a_server_gets_its_listener_and_serves_what_is_public(
    plane: Plane, write: Callable[..., None], tmp_path: Path, go: bool
) -> None:
    port = free_port()
    guarded = route("guarded", "/pay.Pay")
    del guarded["public"]
    write(
        route("all", "/"), {**guarded, "auth": {"anyOf": [{"jwt": "corp"}]}},
        identity={"jwt": [{**CORP["jwt"][0], "claimsToHeaders": {"sub": "x-user"}}]},
        listeners=[{"name": "http", "address": "127.0.0.1", "port": port, "protocol": "HTTP"}],
    )  # fmt: skip
    with server(bootstrap(plane, "served-1"), f"127.0.0.1:{port}", tmp_path / "log", go=go) as child:
        found = {
            (authority, method): _called(port, authority, method)
            for authority in (HOST, f"{HOST}:{port}", "other.example.com")
            for method in ("/a.A/B", "/pay.Pay/Do")
        }
        child.check()
        for authority in (HOST, f"{HOST}:{port}"):
            assert found[authority, "/a.A/B"] == "served /a.A/B"
            assert found[authority, "/pay.Pay/Do"] == "UNAVAILABLE"
            # Nobody says by himself who he is: gRPC does not remove what Envoy removes.
            assert _called(port, authority, "/a.A/B", metadata=(("x-user", "admin"),)) == "UNAVAILABLE"
            assert _called(port, authority, "/a.A/B", metadata=(("x-other", "admin"),)) == "served /a.A/B"
        assert found["other.example.com", "/a.A/B"] == "UNAVAILABLE"
        # An edit reaches it, and its open port.
        write(
            route("all", "/a.A"), listeners=[{"name": "http", "address": "127.0.0.1", "port": port, "protocol": "HTTP"}]
        )
        until(lambda: _called(port, HOST, "/pay.Pay/Do") == "UNAVAILABLE", "the edit is served")
        assert _called(port, HOST, "/a.A/B") == "served /a.A/B"
        unrefused(plane)


def _called(
    port: int, authority: str, method: str, credentials: Any = None, metadata: Metadata = (), **options: str
) -> str:
    """The answer to a call without xDS, or its status."""
    arguments = [("grpc.default_authority", authority), ("grpc.use_local_subchannel_pool", 1), *options.items()]
    address = f"127.0.0.1:{port}"
    made = (
        grpc.insecure_channel(address, arguments)
        if credentials is None
        else grpc.secure_channel(address, credentials, arguments)
    )
    with made as channel:
        try:
            return str(
                channel.unary_unary(method)(b"", timeout=PATIENCE, wait_for_ready=True, metadata=metadata).decode()
            )
        except grpc.RpcError as error:
            return str(error.code().name)


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A control plane whose authority also signs the backends."""
    with Plane(tmp_path_factory.mktemp("mesh"), insecure=False) as plane:
        plane.write(gateway())
        yield plane.start().ready()


def _backend(plane: Plane, node: str) -> Backend:
    """A server with the certificate of a node, which asks its clients for theirs."""
    signer = Authority.open(plane.state)
    issued = signer.issue_serving(node)
    pair = [(issued.key, issued.certificate)]
    return Backend(node, grpc.ssl_server_credentials(pair, signer.trust_bundle, require_client_auth=True))


@families
def test_backends_are_verified_and_see_who_calls(mesh: Plane, go: bool) -> None:
    """Chain and name of the backend by the spec, the certificate of the client from its own bootstrap."""
    domain = Authority.open(mesh.state).trust_domain
    with _backend(mesh, "pay-1") as pay, Client(bootstrap(mesh), go=go) as client:
        tls = {"mode": "mutual", "sni": "pay.internal", "clientCertificate": {"secretRef": "me"}}

        def expect(name: str) -> None:
            verified = {**tls, "sanMatch": [f"spiffe://{domain}/node/{name}"]}
            serve(mesh, gateway(routes=[route("all", "/")], backends=[grpc_backend("one", pay.port, tls=verified)]))

        expect("pay-1")
        until(lambda: client.call(HOST, "/a.A/Who").text == f"spiffe://{domain}/node/till-1", "the client is known")
        expect("another")
        if go:
            client.close()  # it goes on to use the connections that it has
        until(lambda: client.call(HOST, timeout=2.0).code != "OK", "a backend with another name gets no call")
        unrefused(mesh)


def test_a_backend_of_another_authority_gets_no_call_unless_the_client_trusts_it(mesh: Plane, tmp_path: Path) -> None:
    from tests.support.certificates import Authority as Stranger

    stranger = Stranger("stranger")
    pair = stranger.leaf("pay.internal")
    authorities = tmp_path / "backends.crt"
    authorities.write_bytes(stranger.pem)
    with Backend("pay", grpc.ssl_server_credentials([(pair.key, pair.certificate)])) as pay:
        backend = grpc_backend("one", pay.port, tls={"sni": "pay.internal"})
        serve(mesh, gateway(routes=[route("all", "/")], backends=[backend]))
        with Client(bootstrap(mesh, "till-2")) as client:
            assert client.call(HOST, timeout=3.0).code in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        with Client(bootstrap(mesh, "till-3", backend_ca=authorities)) as client:
            assert client.call(HOST).text == "pay"
        unrefused(mesh)


@families
def test_a_server_of_an_https_listener_shows_its_own_certificate(mesh: Plane, tmp_path: Path, go: bool) -> None:
    from tests.support.certificates import authority

    authority().leaf(HOST).write(mesh.secrets, "shop")
    port = free_port()
    entry = {"hosts": [HOST], "certificate": {"secretRef": "shop"}}
    https = {"name": "https", "address": "127.0.0.1", "port": port, "protocol": "HTTPS", "tls": [entry]}
    serve(mesh, gateway(routes=[route("all", "/")], listeners=[https], backends=[grpc_backend("one", 9)]))
    signer = Authority.open(mesh.state)
    domain = signer.trust_domain
    with (
        server(bootstrap(mesh, "served-1"), f"127.0.0.1:{port}", tmp_path / "log", go=go) as child,
        Client(bootstrap(mesh, "till-4"), go=go) as client,
    ):
        # Another gRPC client finds it by the routes of the same gateway.
        tls = {"sni": "served.internal", "sanMatch": [f"spiffe://{domain}/node/served-1"]}
        backend = grpc_backend("one", port, tls=tls)
        serve(mesh, gateway(routes=[route("all", "/")], listeners=[https], backends=[backend]))
        until(lambda: client.call(HOST, timeout=3.0).text == "served /a.A/B", "the server serves by TLS")
        child.check()
        unrefused(mesh)


def test_a_name_that_nobody_declares_is_not_there(mesh: Plane) -> None:
    """GRPC waits 15 s for a name that was not there before, whatever it is told."""
    serve(mesh, gateway(routes=[route("all", "/")], backends=[grpc_backend("one", 9)]))
    with Client(bootstrap(mesh)) as client:
        answer = client.call("other.example.com")
    assert answer.code == "UNAVAILABLE"
    assert "does not exist" in answer.text


def test_a_control_plane_is_known_by_the_names_that_it_is_given(tmp_path: Path) -> None:
    """GRPC verifies the name that it connects to; the authority's certificate holds those of the configuration."""
    (tmp_path / "config.yaml").write_text("xds: {names: [127.0.0.3]}\n")
    with Plane(tmp_path, "--config", str(tmp_path / "config.yaml"), insecure=False) as plane:
        plane.write(gateway(routes=[route("all", "/")], backends=[grpc_backend("one", free_port())]))
        plane.start("--xds", "0.0.0.0:0").ready()
        port = plane.xds.rpartition(":")[2]
        found = {}
        for address in ("127.0.0.2", "127.0.0.3"):
            plane.xds = f"{address}:{port}"
            with Client(bootstrap(plane, f"at-{address[-1]}")) as client:
                found[address] = client.call(HOST).text
    assert "Hostname Verification Check failed" in found["127.0.0.2"]
    assert found["127.0.0.3"].startswith("connections to all backends failing")


# -- identity and the command ----------------------------------------------------------------------------------------


def test_the_certificate_decides_which_gateways_a_client_sees(mesh: Plane) -> None:
    serve(mesh, gateway(routes=[route("all", "/")], backends=[grpc_backend("one", 9)]))
    file = bootstrap(mesh, "stranger-1", role="other")
    said = json.loads(file.read_text())
    said["node"]["metadata"]["labels"] = {"role": "edge"}
    file.write_text(json.dumps(said))
    with Client(file) as client:
        assert client.call(HOST, timeout=3.0).code == "DEADLINE_EXCEEDED"  # nothing is for it (yet)


def test_the_command_writes_files_that_only_their_owner_reads(mesh: Plane) -> None:
    document = json.loads(bootstrap(mesh, "files-1").read_text())
    [xds] = document["xds_servers"]
    config = xds["channel_creds"][0]["config"]
    assert document["certificate_providers"]["default"]["config"] == config
    assert document["certificate_providers"]["server"]["config"]["private_key_file"].endswith("/server.key")
    for name in ("certificate_file", "private_key_file", "ca_certificate_file"):
        file = Path(config[name])
        assert file.is_absolute()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "PRIVATE KEY" not in json.dumps(document)
