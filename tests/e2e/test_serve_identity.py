"""What a proxy may read follows from its certificate alone: clients that ask for more, over real mutual TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.pki.authority import Authority
from controlplane.pki.identity import DEFAULT_TRUST_DOMAIN, attestation
from controlplane.xds import types
from tests.e2e.commands import controlplane
from tests.e2e.plane import Plane, answers, gateway, respond
from tests.support.certificates import Authority as Stranger
from tests.support.certificates import Pair, authority
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.waiting import until

AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
PATIENCE = 10.0


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """Two gateways of different fleets, each with a certificate of its own."""
    with Plane(tmp_path_factory.mktemp("identity"), insecure=False) as plane:
        for name in ("one", "two"):
            authority().leaf(f"{name}.example").write(plane.secrets, name)
            entry = {"hosts": [f"{name}.example"], "certificate": {"secretRef": name}}
            listener = {"name": "https", "port": free_port(), "protocol": "HTTPS", "tls": [entry]}
            backend = {"name": name, "members": [{"static": {"address": "127.0.0.1", "port": 9}}]}
            plane.write(gateway(name, role=name, listeners=[listener], backends=[backend]), file=f"{name}.yaml")
        yield plane.start().ready()


@dataclass
class Client:
    """A stream that says what it is told; without a pair it shows no certificate, without TLS it speaks in clear."""

    plane: Plane
    pair: Pair | None
    node: str = "n1"
    labels: dict[str, str] = field(default_factory=dict)
    delta: bool = True
    tls: bool = True

    def __enter__(self) -> Self:
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self.tls:
            keys = (self.pair.key, self.pair.certificate) if self.pair else (None, None)
            credentials = grpc.ssl_channel_credentials(Authority.open(self.plane.state).trust_bundle, *keys)
            self._channel = grpc.secure_channel(self.plane.xds, credentials, options)
        else:
            self._channel = grpc.insecure_channel(self.plane.xds, options)
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, url: str, *names: str, seconds: float = PATIENCE) -> list[Any]:
        """The resources of the first answer to a request for these names (none: for everything)."""
        node: dict[str, Any] = {"id": self.node, "metadata": {"labels": self.labels}}
        request: Any
        if self.delta:
            request = discovery_pb2.DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names, node=node)
        else:
            request = discovery_pb2.DiscoveryRequest(type_url=url, resource_names=names, node=node)
        done = threading.Event()

        def requests() -> Iterator[bytes]:
            yield request.SerializeToString()
            done.wait()

        method = f"{AGGREGATED}{'Delta' if self.delta else 'Stream'}AggregatedResources"
        call = self._channel.stream_stream(method)(requests(), timeout=seconds)
        try:
            data = next(call)
        finally:
            done.set()
            call.cancel()
        if self.delta:
            return [one.resource for one in discovery_pb2.DeltaDiscoveryResponse.FromString(data).resources]
        return list(discovery_pb2.DiscoveryResponse.FromString(data).resources)

    def refusal(self, url: str = types.LISTENER, *names: str, seconds: float = PATIENCE) -> grpc.StatusCode:
        """The status with which the stream ends, before anything was answered."""
        with pytest.raises(grpc.RpcError) as refused:
            self.ask(url, *names, seconds=seconds)
        code: grpc.StatusCode = refused.value.code()
        return code


def issued(plane: Plane, node: str = "n1", **labels: str) -> Pair:
    """A certificate as `controlplane pki issue` makes it."""
    made = Authority.open(plane.state).issue_node(node, "edge", labels)
    return Pair(made.certificate, made.key)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_a_node_gets_nothing_of_another_gateway_even_by_name(plane: Plane, delta: bool) -> None:
    with Client(plane, issued(plane, role="one"), labels={"role": "one"}, delta=delta) as client:
        names = {
            types.SECRET: [f"certificate/platform/{name}" for name in ("one", "two")],
            types.CLUSTER: [],
            types.LISTENER: [],
            types.SCOPED_ROUTES: [],
        }
        content = b"".join(one.value for url, asked in names.items() for one in client.ask(url, *asked))
    assert b"certificate/platform/one" in content
    assert b"platform/one" in content
    assert b"platform/two" not in content
    assert b"two.example" not in content


def test_what_a_node_says_of_itself_opens_nothing(plane: Plane) -> None:
    """Labels in its metadata narrow what the certificate attests; a node without a gateway waits for one."""
    for said in ({"role": "two"}, {"role": "two", "x": "y"}):
        with Client(plane, issued(plane, role="one"), labels=said) as client:
            late = grpc.StatusCode.DEADLINE_EXCEEDED
            assert client.refusal(types.SECRET, "certificate/platform/two", seconds=0.5) is late
    with Client(plane, issued(plane, role="nobody"), labels={"role": "one"}) as client:
        assert client.refusal(seconds=0.5) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_node_id_is_that_of_the_certificate(plane: Plane) -> None:
    with Client(plane, issued(plane, "n1", role="one"), "n2") as client:
        assert client.refusal() is grpc.StatusCode.PERMISSION_DENIED
    until(lambda: plane.said("node id is not that of its certificate", node="n2"), "it is logged")


def test_without_a_certificate_of_this_authority_nobody_is_heard(plane: Plane) -> None:
    stranger = Stranger().leaf("n1", client=True)
    for client in (Client(plane, None), Client(plane, stranger), Client(plane, None, tls=False)):
        with client:
            assert client.refusal() is grpc.StatusCode.UNAVAILABLE


TRUST = DEFAULT_TRUST_DOMAIN
GOOD = f"spiffe://{TRUST}/node/n1"
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("uris", "change"),
    [
        ([], {}),
        ([GOOD], {"purpose": ExtendedKeyUsageOID.SERVER_AUTH}),
        ([GOOD], {"purpose": None}),
        ([GOOD], {"ca": True}),
        ([GOOD], {"begins": HOUR, "ends": 2 * HOUR}),
        ([GOOD], {"begins": -2 * HOUR, "ends": -HOUR}),
        ([GOOD, f"spiffe://{TRUST}/node/n2"], {}),
        (["spiffe://elsewhere/node/n1"], {}),
        ([f"spiffe://{TRUST}/server"], {}),
        ([f"spiffe://{TRUST}/node/n1/x"], {}),
        ([f"spiffe://{TRUST}/node/n1\0.x"], {}),
        ([f"https://{TRUST}/node/n1"], {}),
        ([""], {}),
    ],
)
def test_certificates_of_this_authority_that_identify_no_node(
    plane: Plane, uris: list[str], change: dict[str, Any]
) -> None:
    with Client(plane, signed(plane, uris, **change)) as client:
        refused = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE}  # by us, or by the handshake
        assert client.refusal() in refused


def signed(
    plane: Plane,
    uris: list[str],
    *,
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool = False,
    begins: timedelta = -HOUR,
    ends: timedelta = HOUR,
) -> Pair:
    """A certificate that the authority of the state folder has signed, though it never would."""
    folder = plane.state / "ca"
    issuer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n1")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(attestation("edge", {"role": "one"}), critical=False)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(builder.sign(signer, SHA256()).public_bytes(Encoding.PEM), private)


@pytest.mark.envoy
def test_the_authority_rotates_while_proxies_are_connected(plane: Plane) -> None:
    """Who is connected stays, who was issued a certificate before may come, and who has a new bootstrap too."""
    port = free_port()
    plane.write(gateway("three", port=port, role="three"), file="three.yaml")
    before = plane.bootstrap("old", role="three")
    plane.envoy("connected", role="three").ready()
    until(lambda: answers(port, "three"), "it answers")
    shown = controlplane("pki", "show", "--state", str(plane.state), "-o", "json")
    assert shown.returncode == 0

    rotated = controlplane("pki", "rotate", "--state", str(plane.state))
    assert rotated.returncode == 0
    old = rotated.stdout.strip()
    plane.write(gateway("three", port=port, role="three", routes=[respond("main", "/", "rotated")]), file="three.yaml")
    until(lambda: answers(port, "rotated"), "who is connected is served")
    plane.envoy("new", role="three").ready()
    with Envoy(before) as envoy:
        envoy.ready()
        assert {one["id"] for one in plane.json("/v1/nodes")["nodes"]} == {"connected", "new", "old"}
    assert len(plane.said("node connected", node="connected")) == 1

    assert controlplane("pki", "rotate", "--state", str(plane.state), "--distrust", old).returncode == 0
    with Envoy(before):
        until(lambda: plane.get("/healthz")[0] == 200, "it lives")
        plane.envoy("newest", role="three").ready()  # started later, and let in
        assert "old" not in {one["id"] for one in plane.json("/v1/nodes")["nodes"]}
