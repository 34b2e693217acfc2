"""What a proxy may read follows from its certificate alone: clients that ask for more, over real mutual TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from controlplane.pki import issuing
from controlplane.pki.authority import Authority
from controlplane.xds import types
from tests.e2e.commands import controlplane
from tests.e2e.plane import Plane, answers, gateway, respond
from tests.e2e.raw import GOOD, HOUR, TRUST, Client, Live, issued, signed
from tests.support.certificates import Authority as Stranger
from tests.support.certificates import Pair, authority
from tests.support.client import dial, trusting
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.waiting import until


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


NODE = {"role": "one"}


def forged(pair: Pair) -> Pair:
    """Other labels in a certificate, under the signature of before."""
    der = x509.load_pem_x509_certificate(pair.certificate).public_bytes(Encoding.DER)
    changed = der.replace(b'"role":"one"', b'"role":"two"')
    assert changed != der
    return Pair(x509.load_der_x509_certificate(changed).public_bytes(Encoding.PEM), pair.key)


def itself() -> Pair:
    """A node's certificate that its own key signed."""
    signer = issuing.new_authority(TRUST, datetime.now(UTC))
    key = signer.key.public_key()
    made = issuing.node_certificate(signer, key, TRUST, "n1", "edge", NODE, HOUR, datetime.now(UTC))
    return Pair(issuing.certificate_pem(made), issuing.key_pem(signer.key))


def truncated(plane: Plane) -> Pair:
    """Of an authority that the trusted one has signed, and without that authority's certificate."""
    signer, now = Authority.open(plane.state)._read().signer, datetime.now(UTC)
    middle = issuing.new_authority(TRUST, now)
    middle = issuing.Signer(issuing.cross_signed(middle.certificate, signer, now), middle.key)
    key = issuing.new_key()
    made = issuing.node_certificate(middle, key.public_key(), TRUST, "n1", "edge", NODE, HOUR, now)
    return Pair(issuing.certificate_pem(made), issuing.key_pem(key))


def server_pair(plane: Plane) -> Pair:
    """What the server shows."""
    material = Authority.open(plane.state).server_credentials_material()
    return Pair(material.chain, material.key)


def authority_pair(plane: Plane) -> Pair:
    """What signs."""
    folder = plane.state / "ca"
    return Pair((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes())


RSA, CURVE = rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP224R1())
DOUBLED = b'{"cluster":"edge","labels":{"role":"two","role":"one"}}'

BAD: dict[str, Callable[[Plane], Pair]] = {
    "no URI": lambda plane: signed(plane, []),
    "a server's purpose": lambda plane: signed(plane, [GOOD], purpose=ExtendedKeyUsageOID.SERVER_AUTH),
    "no purpose": lambda plane: signed(plane, [GOOD], purpose=None),
    "an authority": lambda plane: signed(plane, [GOOD], ca=True),
    "not yet valid": lambda plane: signed(plane, [GOOD], begins=HOUR, ends=2 * HOUR),
    "expired": lambda plane: signed(plane, [GOOD], begins=-2 * HOUR, ends=-HOUR),
    "two nodes": lambda plane: signed(plane, [GOOD, f"spiffe://{TRUST}/node/n2"]),
    "another trust domain": lambda plane: signed(plane, ["spiffe://elsewhere/node/n1"]),
    "the server's name": lambda plane: signed(plane, [f"spiffe://{TRUST}/server"]),
    "more than a node": lambda plane: signed(plane, [f"spiffe://{TRUST}/node/n1/x"]),
    "a NUL": lambda plane: signed(plane, [f"spiffe://{TRUST}/node/n1\0.x"]),
    "another scheme": lambda plane: signed(plane, [f"https://{TRUST}/node/n1"]),
    "an empty name": lambda plane: signed(plane, [""]),
    "a weak RSA key": lambda plane: signed(plane, [GOOD], key=RSA),
    "a weak curve": lambda plane: signed(plane, [GOOD], key=CURVE),
    "labels that nobody attested": lambda plane: signed(plane, [GOOD], labels=DOUBLED),
    "labels changed after signing": lambda plane: forged(issued(plane, **NODE)),
    "an authority of its own": lambda plane: Stranger().leaf("n1", client=True),
    "self-signed": lambda plane: itself(),
    "a chain without its middle": truncated,
    "the server's own certificate": server_pair,
    "the authority's own certificate": authority_pair,
    "none": lambda plane: Pair(b"", b""),
}


@pytest.mark.parametrize("kind", BAD)
def test_certificates_that_identify_no_node(plane: Plane, kind: str) -> None:
    pair = BAD[kind](plane)
    for method in (None, "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"):
        with Client(plane, pair if pair.key else None) as client:
            live = Live(client, types.SECRET if method else types.LISTENER, method=method)
            code, _ = live.ended()
            refused = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE}  # by us, or by the handshake
            assert code in refused


def test_tls_1_2_is_not_spoken(plane: Plane, tmp_path: Path) -> None:
    pair = issued(plane, **NODE)
    (tmp_path / "pair.pem").write_bytes(pair.key + pair.certificate)

    def speaks(version: ssl.TLSVersion) -> bool:
        context = trusting(Authority.open(plane.state).trust_bundle, "h2")
        context.check_hostname = False
        context.load_cert_chain(tmp_path / "pair.pem")
        context.minimum_version = context.maximum_version = version
        try:
            with dial(int(plane.xds.rpartition(":")[2]), context) as connection:
                return bool(connection.recv(9))  # the server's settings
        except (ssl.SSLError, OSError):
            return False

    assert speaks(ssl.TLSVersion.TLSv1_3)
    assert not speaks(ssl.TLSVersion.TLSv1_2)


def nodes(plane: Plane) -> set[str]:
    """Who is connected."""
    return {one["id"] for one in plane.json("/v1/nodes")["nodes"]}


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
        until(lambda: nodes(plane) == {"connected", "new", "old"}, "these are connected")
    assert len(plane.said("node connected", node="connected")) == 1

    until(lambda: nodes(plane) == {"connected", "new"}, "it has left")
    assert controlplane("pki", "rotate", "--state", str(plane.state), "--distrust", old).returncode == 0
    with Envoy(before):
        until(lambda: plane.get("/healthz")[0] == 200, "it lives")
        plane.envoy("newest", role="three").ready()  # started later, and let in
        assert "old" not in nodes(plane)
