"""Certificates and authorities of the server change under live streams: none is dropped, and none is let in wrongly."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import yaml
from cryptography import x509

from controlplane.pki import issuing
from controlplane.xds import types
from tests.e2e.plane import Plane, gateway, respond
from tests.e2e.raw import Client, Live
from tests.support.certificates import Pair
from tests.support.client import dial
from tests.support.ports import free_port
from tests.support.waiting import until

DOMAIN = "edge.internal"
NODES, STREAMS = 5, 6
PORT = free_port()
LABELS = {"role": "edge"}


class Elsewhere:
    """An authority that is not the state folder's."""

    def __init__(self) -> None:
        self._signer = issuing.new_authority(DOMAIN, datetime.now(UTC))
        self.pem = issuing.certificate_pem(self._signer.certificate)

    def node(self, name: str) -> Pair:
        key, now = issuing.new_key(), datetime.now(UTC)
        life = timedelta(hours=1)
        made = issuing.node_certificate(self._signer, key.public_key(), DOMAIN, name, "edge", LABELS, life, now)
        return Pair(issuing.certificate_pem(made), issuing.key_pem(key))

    def server(self) -> Pair:
        key = issuing.new_key()
        now = datetime.now(UTC)
        made = issuing.server_certificate(self._signer, key.public_key(), DOMAIN, ["localhost", "127.0.0.1"], now)
        return Pair(issuing.certificate_pem(made), issuing.key_pem(key))


class Files:
    """The configured files, each replaced in one step."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key, self.client_ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))

    @staticmethod
    def put(file: Path, content: bytes) -> None:
        beside = file.with_suffix(".new")
        beside.write_bytes(content)
        beside.rename(file)


@pytest.fixture
def old() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def pair(old: Elsewhere) -> Pair:
    return old.server()


@pytest.fixture
def plane(tmp_path: Path, old: Elsewhere, files: Files, pair: Pair) -> Iterator[Plane]:
    files.put(files.certificate, pair.certificate)
    files.put(files.key, pair.key)
    files.put(files.client_ca, old.pem)
    tls = {"certificate": str(files.certificate), "key": str(files.key), "clientCA": str(files.client_ca)}
    configuration = tmp_path / "controlplane.yaml"
    configuration.write_text(yaml.safe_dump({"identity": {"trustDomain": DOMAIN}, "xds": {"tls": tls}}))
    with Plane(tmp_path, "--config", str(configuration), insecure=False) as plane:
        plane.write(gateway(port=PORT))
        yield plane.start().ready()


def shown(plane: Plane, pair: Pair, folder: Path) -> int:
    """The serial of the certificate that the server shows in a new handshake."""
    (folder / "client.pem").write_bytes(pair.key + pair.certificate)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(folder / "client.pem")
    context.set_alpn_protocols(["h2"])
    with dial(int(plane.xds.rpartition(":")[2]), context) as connection:
        assert connection.recv(9)  # the server's settings: it has let us in
        found = connection.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found).serial_number


def streams(stack: ExitStack, plane: Plane, authority: Elsewhere, trusts: bytes, prefix: str = "n") -> list[Live]:
    """Live streams of several nodes, that have everything."""
    made = []
    for number in range(NODES):
        name = f"{prefix}{number}"
        client = stack.enter_context(Client(plane, authority.node(name), name, trusts=trusts))
        for _ in range(STREAMS):
            live = Live(client, types.SCOPED_ROUTES)
            live.receive()
            stack.callback(live.close)
            made.append(live)
    return made


def all_get(plane: Plane, lives: list[Live], word: str) -> None:
    """A change arrives at every one of them."""
    plane.write(gateway(port=PORT, routes=[respond("main", "/", word)]))
    for live in lives:
        assert word.encode() in live.receive().SerializeToString()


@pytest.mark.parametrize("order", ["certificate first", "key first"])
def test_the_servers_pair_is_replaced_in_two_steps(
    plane: Plane, files: Files, old: Elsewhere, pair: Pair, tmp_path: Path, order: str
) -> None:
    new, me = old.server(), old.node("me")
    steps = [(files.certificate, new.certificate), (files.key, new.key)]
    if order == "key first":
        steps.reverse()
    with ExitStack() as stack:
        lives = streams(stack, plane, old, old.pem)
        assert shown(plane, me, tmp_path) == pair.serial
        files.put(*steps[0])
        assert shown(plane, me, tmp_path) == pair.serial
        found = plane.problem(lambda one: one["code"] == "GW0306", "it is said")
        assert "not the key of the certificate" in found["message"]
        all_get(plane, lives, "half")
        files.put(*steps[1])
        assert shown(plane, me, tmp_path) == new.serial
        until(lambda: not plane.problems(), "nothing is wrong any more")
        all_get(plane, lives, "whole")
        assert len(plane.said("node connected")) == len(lives)


def test_authorities_overlap_and_then_the_old_one_ends(plane: Plane, files: Files, old: Elsewhere) -> None:
    new = Elsewhere()
    with ExitStack() as stack:
        before = streams(stack, plane, old, old.pem)
        files.put(files.client_ca, new.pem + old.pem)
        after = streams(stack, plane, new, old.pem, "m")
        all_get(plane, [*before, *after], "both")
        pair = new.server()
        files.put(files.key, pair.key)
        files.put(files.certificate, pair.certificate)
        all_get(plane, [*before, *after], "new server")
        files.put(files.client_ca, new.pem)
        for live in before:
            assert live.ended()[0] is grpc.StatusCode.PERMISSION_DENIED
        all_get(plane, after, "new only")
        with Client(plane, new.node("m0"), "m0", trusts=new.pem) as client:
            assert client.ask(types.LISTENER)
        with Client(plane, old.node("n0"), "n0", trusts=new.pem) as client:
            assert client.refusal() is grpc.StatusCode.UNAVAILABLE  # by the handshake
