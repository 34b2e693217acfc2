"""Clients that say what they are told, with certificates that the authority of the state folder would never sign."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.pki.authority import Authority
from controlplane.pki.identity import ATTESTATION, DEFAULT_TRUST_DOMAIN, attestation
from controlplane.xds import types
from tests.e2e.plane import Plane
from tests.support.certificates import Pair
from tests.support.waiting import PATIENCE

AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
TRUST = DEFAULT_TRUST_DOMAIN
GOOD = f"spiffe://{TRUST}/node/n1"
HOUR = timedelta(hours=1)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass
class Client:
    """A stream that says what it is told; without a pair it shows no certificate, without TLS it speaks in clear."""

    plane: Plane
    pair: Pair | None
    node: str = "n1"
    labels: dict[str, str] = field(default_factory=dict)
    delta: bool = True
    tls: bool = True
    says: dict[str, Any] = field(default_factory=dict)
    trusts: bytes | None = None

    def __enter__(self) -> Self:
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self.tls:
            keys = (self.pair.key, self.pair.certificate) if self.pair else (None, None)
            trusts = self.trusts or Authority.open(self.plane.state).trust_bundle
            credentials = grpc.ssl_channel_credentials(trusts, *keys)
            self.channel = grpc.secure_channel(self.plane.xds, credentials, options)
        else:
            self.channel = grpc.insecure_channel(self.plane.xds, options)
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def request(self, url: str, *names: str, nonce: str = "", **node: Any) -> bytes:
        """A request for these names (none: for everything), with another node than its own where one is given."""
        node = {"id": self.node, "metadata": {"labels": self.labels}} | self.says | node
        fields: dict[str, Any] = {"type_url": url, "node": node, "response_nonce": nonce}
        message: Any
        if self.delta:
            message = discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=names, **fields)
        else:
            message = discovery_pb2.DiscoveryRequest(resource_names=names, **fields)
        return bytes(message.SerializeToString())

    def ask(self, url: str, *names: str, seconds: float = PATIENCE) -> list[Any]:
        """The resources of the first answer to a request for these names (none: for everything)."""
        done = threading.Event()

        def requests() -> Iterator[bytes]:
            yield self.request(url, *names)
            done.wait()

        method = f"{AGGREGATED}{'Delta' if self.delta else 'Stream'}AggregatedResources"
        call = self.channel.stream_stream(method)(requests(), timeout=seconds)
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


class Live:
    """A stream that stays open: requests when asked for, and what comes back in the order it came."""

    def __init__(self, client: Client, url: str = types.LISTENER, method: str | None = None) -> None:
        """Ask for everything of this type."""
        self.client = client
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        kind = "Delta" if client.delta else "Stream"
        path = method or f"{AGGREGATED}{kind}AggregatedResources"
        self._call = client.channel.stream_stream(path)(iter(self._requests.get, None))
        self.send(url)

    def send(self, url: str, *names: str, nonce: str = "", **node: Any) -> None:
        """A request, with another node than that of the client where one is given."""
        self._requests.put(self.client.request(url, *names, nonce=nonce, **node))

    def receive(self) -> Any:
        """The next response, acknowledged."""
        response = self.next()
        self.send(response.type_url, nonce=response.nonce)
        return response

    def next(self) -> Any:
        """The next response, with nothing said to it."""
        kind = discovery_pb2.DeltaDiscoveryResponse if self.client.delta else discovery_pb2.DiscoveryResponse
        return kind.FromString(next(self._call))

    def nack(self, response: Any, reason: str) -> None:
        """Refuse it."""
        kind = discovery_pb2.DeltaDiscoveryRequest if self.client.delta else discovery_pb2.DiscoveryRequest
        request = kind(type_url=response.type_url, response_nonce=response.nonce, error_detail={"message": reason})
        self._requests.put(request.SerializeToString())

    def ended(self) -> tuple[grpc.StatusCode, str]:
        """Wait until the server has ended it; the status."""
        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass
        self._requests.put(None)
        return self._call.code(), self._call.details()

    @property
    def open(self) -> bool:
        """Whether nobody has ended it."""
        return bool(self._call.is_active())

    def close(self) -> None:
        """Cancel it."""
        self._requests.put(None)
        self._call.cancel()


def issued(plane: Plane, node: str = "n1", **labels: str) -> Pair:
    """A certificate as `controlplane pki issue` makes it."""
    made = Authority.open(plane.state).issue_node(node, "edge", labels)
    return Pair(made.certificate, made.key)


def signed(
    plane: Plane,
    uris: list[str],
    *,
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool = False,
    begins: timedelta = -HOUR,
    ends: timedelta = HOUR,
    key: Key | None = None,
    labels: bytes | None = None,
) -> Pair:
    """A certificate that the authority of the state folder has signed, though it never would."""
    folder = plane.state / "ca"
    issuer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = key or ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    attested = attestation("edge", {"role": "one"})
    if labels is not None:
        attested = x509.UnrecognizedExtension(ATTESTATION, b"\x0c" + bytes([len(labels)]) + labels)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n1")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(attested, critical=False)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(builder.sign(signer, SHA256()).public_bytes(Encoding.PEM), private)
